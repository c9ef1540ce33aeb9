"""One file or folder per command of ``bolt-ray``, named like it; ``shared`` has what several need."""
