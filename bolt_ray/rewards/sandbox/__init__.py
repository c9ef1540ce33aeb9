"""A sandbox for programs a model wrote; see ``box.py``."""
