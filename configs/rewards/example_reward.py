"""A reward of your own, ready to copy.

In the configuration:

    rewards:
      - {type: arithmetic, weight: 1.0}
      - {type: "configs/rewards/example_reward.py:short_answer", weight: 0.1, options: {max_words: 12}}

A function gets one completion and returns a number, or ``None`` where it has no verdict. With ``batched: true`` it
gets a list and returns a list of the same length. Either may be ``async def``. It runs in a process of its own: if
it raises, hangs, crashes or returns NaN, the completions it failed on are left out of training, and the metrics say
why. They never count as 0.

What a completion brings with it:

    item.prompt       the prompt: text, or chat messages [{"role": ..., "content": ...}]
    item.completion   the model's answer, as text
    item.answer       the dataset's reference answer ("" if it has none)
    item.metadata     the row's other columns
    item.source       the dataset's name
    item.truncated    True if the length limit cut the completion off
    item.num_tokens   its length in tokens
    item.evaluation   True for a held-out problem
"""

from __future__ import annotations

import asyncio

from bolt_ray.rewards import RewardInput


def short_answer(item: RewardInput, *, max_words: int = 20) -> float | None:
    """1.0 up to ``max_words`` words, falling to 0.0 at twice as many; no verdict on a completion cut off."""
    if item.truncated:
        return None
    words = len(item.completion.split())
    return max(0.0, min(1.0, 2.0 - words / max_words))


def distinct(items: list[RewardInput]) -> list[float]:
    """``batched: true``: 1.0 for a completion no other one in the batch repeats, 1/n for one that occurs n times."""
    texts = [item.completion.strip() for item in items]
    return [1.0 / texts.count(text) for text in texts]


async def polite(item: RewardInput) -> float:
    """An async function may wait for something, as a service; many completions are then waited for at once."""
    await asyncio.sleep(0)
    return float("please" in item.completion.lower())
