"""The embedded arithmetic task: problems, a tiny model, its reward."""
