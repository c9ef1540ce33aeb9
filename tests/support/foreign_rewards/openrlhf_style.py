# ruff: noqa: B905
"""Reward functions as people write them for OpenRLHF (``--remote_rm_url file.py``); they know nothing of bolt-ray."""

import torch


def label_match(queries, prompts, labels, **kwargs):
    """Rewards for the advantage, scores for filtering, numbers for the log."""
    replies = [query[len(prompt) :] for query, prompt in zip(queries, prompts)]
    rewards = torch.tensor([1.0 if label in reply else 0.0 for reply, label in zip(replies, labels)])
    return {"rewards": rewards, "scores": rewards, "extra_logs": {"reply_chars": torch.tensor([len(replies[0])])}}


def never_empty(queries, prompts, labels):
    """A tensor, one number a query."""
    return torch.tensor([len(query) > len(prompt) for query, prompt in zip(queries, prompts)]).float()


def length_penalty(queries, prompts, labels, scale=0.01, **kwargs):
    """A list."""
    return [-scale * (len(query) - len(prompt)) for query, prompt in zip(queries, prompts)]
