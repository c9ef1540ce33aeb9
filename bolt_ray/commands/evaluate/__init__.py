"""``bolt-ray evaluate``: pass@k of models on held-out problems, compared."""
