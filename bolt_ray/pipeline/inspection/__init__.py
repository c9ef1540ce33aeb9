"""``bolt-ray inspect``: what a run's baseline knows."""
