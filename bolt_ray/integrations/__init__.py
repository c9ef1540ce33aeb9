"""bolt-ray's algorithms inside other trainers: a package for each, which needs that trainer's library."""
