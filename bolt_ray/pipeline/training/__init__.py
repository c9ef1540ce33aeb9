"""Training: the loop, its parts on both sides, and what puts them together (``run``)."""
