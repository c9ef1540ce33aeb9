"""BoltGRPOTrainer on real TRL: advantages are the core's, outcomes are taken once, evaluation leaves the store."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from support.trl_runs import NUM_ROWS, Kill, KilledError, Poison, by_completion, by_prompt, evidence, rows, trainer
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from bolt_ray.core.advantages import compute_advantages
from bolt_ray.core.errors import ConfigError, DataError
from bolt_ray.integrations.trl import BoltConfig, BoltGRPOTrainer, UnifiedBaseline
from bolt_ray.integrations.trl.baseline import row_key


class Recording(BoltGRPOTrainer):
    """Keeps what each generation batch was made of."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        keys = [row_key(row) for row in inputs]
        before = self.baseline.store.read(keys)
        output = super()._generate_and_score_completions(inputs)
        self.batches = [*getattr(self, "batches", []), (keys, before, output, list(self._logs["completion"]))]
        return output


class Count(TrainerCallback):
    """The commits, and optimizer steps, seen at the end of each step."""

    def __init__(self) -> None:
        self.updates: list[int] = []
        self.baseline: UnifiedBaseline | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.baseline is not None
        self.updates.append(self.baseline.store.counters.num_updates)


@pytest.mark.parametrize(
    ("group", "normalize", "expected"),
    [(1, None, "token"), (1, "batch", "batch"), (2, "group", "group"), (2, "none", "none")],
)
def test_advantages_are_the_cores(
    tmp_path: Path, tiny_model: Path, group: int, normalize: str | None, expected: str
) -> None:
    changes = {"num_generations": group, "baseline_normalize": normalize, "max_completion_length": 32}
    run = trainer(tiny_model, tmp_path, kind=Recording, **changes)
    run.train()
    assert len(run.batches) == 3
    assert any(len(np.unique(output["completion_mask"].sum(1))) > 1 for _, _, output, _ in run.batches)
    for keys, before, output, texts in run.batches:
        lengths = output["completion_mask"].sum(1).numpy()
        wanted = compute_advantages(
            by_completion(texts[-len(keys) :]),
            before.v_hat,
            before.n_eff,
            np.arange(len(keys)) // group,
            lengths,
            normalize=expected,
        )
        assert np.allclose(output["advantages"].numpy(), wanted.advantages, atol=1e-6)
    assert len(np.unique(run.batches[-1][1].v_hat)) > 1


def test_every_outcome_is_taken_once(tmp_path: Path, tiny_model: Path) -> None:
    """Two passes over the rows without a curriculum: each prompt was visited twice, with its own reward."""
    run = trainer(tiny_model, tmp_path, reward=by_prompt, max_steps=6, curriculum_enabled=False, baseline_rho_max=0.875)
    run.train()
    found = evidence(run.baseline.store)
    assert len(found) == NUM_ROWS
    by_key = {row_key(row): by_prompt([row["prompt"]])[0] for row in rows()}
    assert all(each["visits"] == 2 and each["count"] == 1.875 for each in found.values())
    assert all((each["solved_streak"] == 2) == (by_key[key] == 1.0) for key, each in found.items())
    assert run.baseline.store.counters.version == 5


@pytest.mark.parametrize(
    ("changes", "updates", "completions"),
    [
        ({"gradient_accumulation_steps": 2}, [1, 2, 3, 4], 64),
        ({"steps_per_generation": 2}, [1, 2, 3, 4], 32),
        ({"num_iterations": 2}, [1, 2, 3, 4], 16),
        ({"gradient_accumulation_steps": 3, "steps_per_generation": 2}, [1, 2, 3, 4], 96),
    ],
)
def test_accumulation_and_reuse_take_outcomes_once(
    tmp_path: Path, tiny_model: Path, changes: dict[str, Any], updates: list[int], completions: int
) -> None:
    """A commit after each optimizer step; one over completions seen before counts its drift alone."""
    count = Count()
    data = Dataset.from_list(rows(96))
    run = trainer(tiny_model, tmp_path, max_steps=4, data=data, curriculum_enabled=False, **changes)
    count.baseline = run.baseline
    run.add_callback(count)
    seen: list[int] = []
    observe = run.baseline.observe

    def counting(keys: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(keys))
        return observe(keys, *args, **kwargs)

    run.baseline.observe = counting
    run.train()
    found = evidence(run.baseline.store)
    assert sum(each["visits"] for each in found.values()) == sum(seen) == completions
    assert count.updates == updates
    assert run.baseline.store.counters.drift_total > 0.0
    assert run.baseline.pending == ()


def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing(tmp_path: Path, tiny_model: Path) -> None:
    run = trainer(tiny_model, tmp_path, max_steps=2, curriculum_enabled=False, callbacks=[Poison(1)])
    run.train()
    found = evidence(run.baseline.store)
    assert len(found) == 8 and run.baseline.store.counters.num_updates == 1
    assert all(bool(torch.isfinite(parameter).all()) for parameter in run.model.parameters())
    skipped = [record["optim/skipped"] for record in run.state.log_history if "optim/skipped" in record]
    assert skipped == [0.0, 1.0]


def test_a_completion_without_a_reward_is_no_evidence(tmp_path: Path, tiny_model: Path) -> None:
    def some(prompts: list[str], **_: Any) -> list[float | None]:
        return [None if i % 2 else float(i % 4 == 0) for i, _ in enumerate(prompts)]

    run = trainer(tiny_model, tmp_path, kind=Recording, reward=some, max_steps=1)
    run.train()
    (keys, _, output, _) = run.batches[0]
    assert set(evidence(run.baseline.store)) == set(keys[::2])
    assert (output["advantages"][1::2] == 0).all() and (output["advantages"][::2] != 0).any()


def test_the_weighted_sum_of_rewards_is_the_outcome(tmp_path: Path, tiny_model: Path) -> None:
    run = trainer(
        tiny_model,
        tmp_path,
        reward=[by_prompt, lambda prompts, **_: [0.5] * len(prompts)],
        reward_weights=[2.0, -1.0],
        baseline_reward_range=[-0.5, 1.5],
        baseline_rho_max=0.875,
        max_steps=1,
    )
    run.train()
    for row in rows():
        found = evidence(run.baseline.store).get(row_key(row))
        assert found is None or found["solved_streak"] == by_prompt([row["prompt"]])[0]


def test_a_trainer_that_trains_again_goes_on_learning(tmp_path: Path, tiny_model: Path) -> None:
    """Its steps are counted from 0 once more; its baseline is kept."""
    run = trainer(tiny_model, tmp_path, max_steps=2, save_strategy="no")
    run.train()
    first = evidence(run.baseline.store)
    run.train()
    second = evidence(run.baseline.store)
    assert sum(each["visits"] for each in first.values()) == 16
    assert sum(each["visits"] for each in second.values()) == 32


def test_a_training_that_was_broken_off_leaves_no_outcomes(tmp_path: Path, tiny_model: Path) -> None:
    """No step was made with them: the next training of the same trainer does not take them."""
    kill = Kill(0)
    run = trainer(tiny_model, tmp_path, max_steps=1, curriculum_enabled=False, callbacks=[kill])
    with pytest.raises(KilledError):
        run.train()
    assert len(run.baseline.pending) == 1
    run.remove_callback(kill)
    run.train()
    assert sum(each["count"] for each in evidence(run.baseline.store).values()) == 8


def test_evaluation_never_touches_the_store(tmp_path: Path, tiny_model: Path) -> None:
    run = trainer(
        tiny_model,
        tmp_path,
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=8,
        eval_dataset=Dataset.from_list([{"prompt": f"{i}*{i}=", "answer": ""} for i in range(8)]),
    )
    run.train()
    before = evidence(run.baseline.store)
    run.evaluate()
    assert evidence(run.baseline.store) == before
    known = {row_key(row) for row in rows()}
    assert set(before) <= known and len(before) > 8
    assert run.baseline.pending == ()


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"])
def test_every_loss_of_trl_runs_at_one_completion_a_prompt(tmp_path: Path, tiny_model: Path, loss: str) -> None:
    level = "sequence" if loss == "luspo" else "token"
    run = trainer(tiny_model, tmp_path, max_steps=1, loss_type=loss, importance_sampling_level=level)
    run.train()
    assert run.state.log_history[0]["grad_norm"] > 0.0


def test_metrics_go_through_trls_logging(tmp_path: Path, tiny_model: Path) -> None:
    run = trainer(tiny_model, tmp_path, beta=0.1, kl_adaptation_method="clip+dynamic")
    run.train()
    record = run.state.log_history[1]
    for name in (
        "baseline/avg_v_hat",
        "baseline/num_prompts",
        "baseline/brier",
        "baseline/level",
        "curriculum/coverage",
        "curriculum/mean_weight",
        "adaptive_kl/raw_kl",
        "adaptive_kl/adapted_kl",
        "adaptive_kl/current_beta",
        "advantage/std",
    ):
        assert math.isfinite(record[name]), name
    assert record["baseline/num_prompts"] > 8
    assert record["adaptive_kl/current_beta"] == pytest.approx(0.1)


def test_metrics_are_there_when_trl_logs_by_epochs(tmp_path: Path, tiny_model: Path) -> None:
    run = trainer(tiny_model, tmp_path, logging_strategy="epoch")
    run.train()
    record = run.state.log_history[0]
    assert record["baseline/num_prompts"] > 8 and record["curriculum/coverage"] > 0.0


def test_without_switches_it_trains_as_trl_does(tmp_path: Path, tiny_model: Path) -> None:
    """Same weights after the same steps, and no store."""
    off = {"num_generations": 4, "baseline_enabled": False, "curriculum_enabled": False}
    ours = trainer(tiny_model, tmp_path, **off)
    ours.train()
    theirs = trainer(tiny_model, tmp_path, kind=GRPOTrainer, config=GRPOConfig, num_generations=4)
    theirs.train()
    pairs = zip(ours.model.parameters(), theirs.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert len(ours.baseline.store) == 0


def test_the_curriculum_alone_keeps_trls_advantages(tmp_path: Path, tiny_model: Path) -> None:
    run = trainer(
        tiny_model,
        tmp_path,
        kind=Recording,
        num_generations=4,
        use_baseline_advantages=False,
        curriculum_update_freq=1,
    )
    run.train()
    for _, _, output, texts in run.batches:
        rewards = np.array(by_completion(texts[-8:])).reshape(2, 4)
        wanted = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
        assert np.allclose(output["advantages"].numpy(), wanted.ravel(), atol=1e-5)
    assert len(evidence(run.baseline.store)) >= 2
    assert len(np.unique(run._bolt_sampler.weights)) > 1


def test_what_does_not_go_together_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="args: is a GRPOConfig; BoltGRPOTrainer takes a BoltConfig"):
        trainer(tiny_model, tmp_path, config=GRPOConfig, num_generations=4)
    stream = IterableDataset.from_generator(lambda: iter(rows()))
    with pytest.raises(ConfigError, match="curriculum_enabled: the curriculum draws rows by number"):
        trainer(tiny_model, tmp_path, data=stream)
    with pytest.raises(ConfigError, match="takes 8 prompts at num_generations 1, and the data set has 5 rows"):
        trainer(tiny_model, tmp_path, data=Dataset.from_list(rows(5)))
    with pytest.raises(DataError, match="add a column prompt_id"):
        trainer(tiny_model, tmp_path, data=Dataset.from_list([{"prompt": [{"role": "user", "content": None}]}] * 9))


def test_a_stream_has_a_baseline(tmp_path: Path, tiny_model: Path) -> None:
    stream = IterableDataset.from_generator(lambda: iter(rows()))
    run = trainer(tiny_model, tmp_path, data=stream, curriculum_enabled=False, max_steps=2)
    run.train()
    assert len(evidence(run.baseline.store)) == 16


def test_config_is_a_config_of_trl() -> None:
    assert issubclass(BoltConfig, GRPOConfig) and issubclass(BoltGRPOTrainer, GRPOTrainer)
