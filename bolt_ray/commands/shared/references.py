"""The check of the reference answers, as training, evaluation and ``validate`` make it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bolt_ray.commands.shared.inference import rewards_by_source
from bolt_ray.commands.shared.inputs import RunInputs
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError
from bolt_ray.core.records import Prompt
from bolt_ray.data.store import PromptStore
from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.references import check_references


def verify_references(
    store: PromptStore,
    rows: NDArray[np.int64],
    config: RunConfig,
    inputs: RunInputs,
    *,
    evaluation: bool,
    say: Callable[[str], None],
) -> None:
    """Score some rows' own answers, say how many are right, and refuse a dataset where most are not.

    Args:
        store: where the rows are.
        rows: int64 [n]; of these `scoring.check_references` are scored, spread evenly.
        config: resolved.
        evaluation: the rows are held-out problems, whose datasets may name other rewards.

    Raises:
        ConfigError: most answers of a dataset do not get the full reward of their own reward.
    """
    count = min(len(rows), config.scoring.check_references)
    if count == 0:
        return
    chosen = rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
    checks = check_references(
        config.rewards,
        reference_inputs(store.read(chosen), evaluation=evaluation),
        place=lambda index: store.place(int(chosen[index])),
        by_source=rewards_by_source(inputs.train),
        eval_by_source=rewards_by_source(inputs.heldout or inputs.train),
        startup_timeout_s=config.scoring.startup_timeout_s,
    )
    for check in checks:
        if check.mostly_wrong and (check.is_conclusive or count == len(rows)):
            raise ConfigError(
                f"{check}\nMost completions would get no reward whatever they say. Most likely columns.answer of the "
                "dataset is not the answer's column, or the reward is not made for these answers "
                "(scoring.check_references: 0 goes on all the same)"
            )
        say(f"{'Warning: ' if check.mostly_wrong else ''}{check}")


def reference_inputs(prompts: Sequence[Prompt], *, evaluation: bool) -> list[RewardInput]:
    """What rewards get of rows whose completions are still to be written."""
    return [
        RewardInput(
            prompt=prompt.prompt,
            completion="",
            answer=prompt.answer,
            metadata=prompt.metadata,
            source=prompt.source,
            dataset=prompt.dataset,
            num_tokens=1,
            evaluation=evaluation,
        )
        for prompt in prompts
    ]
