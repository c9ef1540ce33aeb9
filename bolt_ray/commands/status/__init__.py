"""``bolt-ray status``: what a run is doing now, from its files alone."""
