"""``bolt-ray precompute-baseline``: every prompt scored before training, for a warm start."""
