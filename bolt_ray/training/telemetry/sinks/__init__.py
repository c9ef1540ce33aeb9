"""Where a run's numbers and samples go beside its directory: each service in a process of its own."""
