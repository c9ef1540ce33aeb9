"""Reinforcement learning for language models on Ray, with a persistent baseline per prompt."""
