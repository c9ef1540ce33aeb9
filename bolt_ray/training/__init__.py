"""Everything that runs while a model trains: the loop, its parts, and the files of a run."""
