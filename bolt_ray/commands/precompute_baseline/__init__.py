"""``bolt-ray precompute-baseline``: v̂ of every prompt before training."""
