"""The parts one by one, with TRL's own GRPOTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from support.trl_runs import Kill, KilledError, Poison, by_prompt, evidence, rows, trainer
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from bolt_ray.core.curriculum import Curriculum, CurriculumSettings
from bolt_ray.core.errors import CheckpointError, ConfigError
from bolt_ray.integrations.trl import (
    BaselineUpdateCallback,
    CurriculumCallback,
    DynamicWeightedSampler,
    UnifiedBaseline,
)

GROUP = 4


def parts() -> tuple[UnifiedBaseline, BaselineUpdateCallback]:
    baseline = UnifiedBaseline()
    return baseline, BaselineUpdateCallback(baseline)


def plain(model: Path, directory: Path, *, kind: Any = GRPOTrainer, **changes: Any) -> Any:
    return trainer(model, directory, kind=kind, config=GRPOConfig, num_generations=GROUP, **changes)


def test_a_watched_reward_fills_the_baseline(tmp_path: Path, tiny_model: Path) -> None:
    """After the optimizer step, never in an evaluation, and its metrics go through TRL's logging."""
    baseline, update = parts()
    run = plain(
        tiny_model,
        tmp_path,
        reward=update.watch(by_prompt),
        callbacks=[Poison(1), update],
        eval_strategy="steps",
        eval_steps=2,
        per_device_eval_batch_size=8,
        eval_dataset=Dataset.from_list([{"prompt": f"{i}*{i}="} for i in range(8)]),
    )
    run.train()
    found = evidence(baseline.store)
    # Two prompts a batch, and the second of three batches was skipped.
    assert len(found) == 4 and all(each["visits"] == 1 and each["count"] == GROUP for each in found.values())
    assert run.reward_func_names == ["by_prompt"]
    logged = [each["baseline/num_prompts"] for each in run.state.log_history if "baseline/num_prompts" in each]
    assert logged == [0.0, 2.0, 2.0]


def test_the_curriculum_draws_for_a_trainer_of_trl(tmp_path: Path, tiny_model: Path) -> None:
    baseline, update = parts()
    baseline.register(rows())
    sampler = DynamicWeightedSampler(len(rows()), mini_repeat_count=GROUP, batch_size=2, repeat_count=1, seed=1)
    curriculum = Curriculum(CurriculumSettings(update_freq=1), seed=1)

    class Drawn(GRPOTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return sampler

    run = plain(
        tiny_model,
        tmp_path,
        kind=Drawn,
        reward=update.watch(by_prompt),
        callbacks=[update, CurriculumCallback(baseline, sampler, curriculum)],
        save_strategy="steps",
        save_steps=3,
    )
    run.train()
    assert len(np.unique(sampler.weights)) > 1
    assert np.array_equal(
        sampler.weights, curriculum.weights(baseline.store.columns(), step=3, total_steps=3, window=3, version=3)
    )
    assert len(evidence(baseline.store)) in (4, 5, 6)

    fresh, update = parts()
    fresh.register(rows())
    seen: list[Any] = []

    class Look(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(evidence(fresh.store))

    plain(tiny_model, tmp_path, reward=update.watch(by_prompt), callbacks=[update, Look()], max_steps=4).train(
        resume_from_checkpoint=True
    )
    assert seen == [evidence(baseline.store)]


def test_resuming_what_was_not_saved_with_it_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    plain(tiny_model, tmp_path, save_strategy="steps", save_steps=1, max_steps=1).train()
    _, update = parts()
    run = plain(tiny_model, tmp_path, reward=update.watch(by_prompt), callbacks=[update])
    with pytest.raises(CheckpointError, match="written without bolt_ray"):
        run.train(resume_from_checkpoint=True)


def test_a_trainer_that_is_killed_twice_resumes_twice(tmp_path: Path, tiny_model: Path) -> None:
    """What was learned after the checkpoint is forgotten each time."""
    baseline, update = parts()
    kill = Kill(2)
    run = plain(
        tiny_model,
        tmp_path,
        reward=update.watch(by_prompt),
        callbacks=[update, kill],
        save_strategy="steps",
        save_steps=1,
    )
    for checkpoint in (None, True, True):
        with pytest.raises(KilledError):
            run.train(resume_from_checkpoint=checkpoint)
    (tmp_path / "checkpoint-2").rename(tmp_path / "later-2")
    run.remove_callback(kill)
    run.train(resume_from_checkpoint=True)
    assert sum(each["visits"] for each in evidence(baseline.store).values()) == 6


def test_what_cannot_be_watched_is_refused() -> None:
    async def score(prompts: list[str], **_: Any) -> list[float]:
        return [0.0] * len(prompts)

    _, update = parts()
    for reward in (score, "a/model"):
        with pytest.raises(ConfigError, match="watch: takes a reward function that is not async"):
            update.watch(reward)  # type: ignore[arg-type]
