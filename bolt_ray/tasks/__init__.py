"""Tasks that need no dataset: generators of problems with their rewards."""
