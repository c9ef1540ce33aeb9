"""bolt-ray's algorithms inside other trainers; each in a package of its own, which that trainer's library is needed for."""
