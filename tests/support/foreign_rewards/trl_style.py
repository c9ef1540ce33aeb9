# ruff: noqa: B905
"""Reward functions as people write them for TRL's GRPOTrainer; they know nothing of bolt-ray."""

import asyncio
import re


def token_count(completion_ids, **kwargs):
    """Longer is better."""
    return [float(len(ids)) for ids in completion_ids]


def digits_format(completions, **kwargs):
    """For conversations: whether the reply is digits and nothing else."""
    replies = [completion[0]["content"] for completion in completions]
    return [1.0 if re.fullmatch(r"\d+", reply) else 0.0 for reply in replies]


def accuracy(completions, solution, log_extra=None, log_metric=None, **kwargs):
    """Whether the last number is the column ``solution``; tells what it saw."""
    found = [(re.findall(r"-?\d+", completion[0]["content"]) or ["none"])[-1] for completion in completions]
    rewards = [1.0 if number == right else 0.0 for number, right in zip(found, solution)]
    if log_extra:
        log_extra("extracted", found)
        log_extra("gold", list(solution))
    if log_metric:
        log_metric("accuracy", sum(rewards) / len(rewards))
    return rewards


def sums_only(prompts, completions, task, **kwargs):
    """One of two functions for a mixed dataset."""
    return [1.0 if kind == "sum" else None for _, _, kind in zip(prompts, completions, task)]


def products_only(prompts, completions, task, **kwargs):
    """The other one."""
    return [-1.0 if kind == "product" else None for _, _, kind in zip(prompts, completions, task)]


async def brevity(prompts, completions, **kwargs):
    """Waits as for a service, for all completions at once."""

    async def one(completion):
        await asyncio.sleep(0.001)
        return 1.0 / (1 + len(completion[0]["content"]))

    return await asyncio.gather(*(one(completion) for completion in completions))


def annealed(completions, trainer_state, *, per_step=1.0, **kwargs):
    """Grows while training goes on."""
    return [per_step * trainer_state.global_step] * len(completions)
