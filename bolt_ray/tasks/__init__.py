"""Tasks that need no data set: generators of problems with their rewards."""
