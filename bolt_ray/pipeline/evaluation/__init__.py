"""Evaluation: the evaluator that training uses too, and ``bolt-ray evaluate``."""
