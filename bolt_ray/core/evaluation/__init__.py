"""Statistics of an evaluation: pass@k, intervals, votes."""
