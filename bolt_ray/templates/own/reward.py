"""The reward of this task: one completion in, one number out.

    item.prompt       the prompt: text, or chat messages
    item.completion   the model's answer, as text
    item.answer       the dataset's reference answer ("" if it has none)
    item.metadata     the row's other columns: item.metadata["topic"]
    item.source       the row's data_source, else the dataset's name
    item.truncated    True if the length limit cut the completion off
    item.num_tokens   its length in tokens
    item.token_ids    its tokens, the end-of-sequence token among them
    item.evaluation   True for a held-out problem

If the function raises, hangs, crashes or returns NaN, the completion is left out of training and the metrics say why;
it never counts as 0. It may be ``async def``, and with ``batched: true`` in the config it gets a list of items and
returns a list of numbers. A function written for TRL, verl or OpenRLHF may stand in its place as it is.
"""

from __future__ import annotations

import re

from bolt_ray.rewards import RewardInput

NUMBER = re.compile(r"-?\d+")


def score(item: RewardInput, *, wrong: float = 0.0) -> float | None:
    """1 for the right number, ``wrong`` for another one, 0 for none; no verdict on a row without an answer."""
    if not item.answer:
        return None
    numbers = NUMBER.findall(item.completion)
    if not numbers:
        return 0.0
    return 1.0 if numbers[-1] == item.answer else wrong
