"""A tiny decoder for demonstrations and tests: its architecture, a character tokenizer, teaching, sampling."""
