"""``bolt-ray inspect``: the baseline store of a run in numbers and pictures."""
