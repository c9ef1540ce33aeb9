"""The run's prompt stream under every strategy: what it draws, held-out rows, resume; with the real Ray Data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.fakes import logprobs_of, tokens_of

from bolt_ray.core.baseline import BaselineSettings, BaselineStore
from bolt_ray.core.baseline.level import Level
from bolt_ray.core.curriculum import STRATEGIES, Curriculum, CurriculumSettings
from bolt_ray.core.records import DrawnPrompt, Prompt, PromptColumns, ScoredRollout
from bolt_ray.data.ingest.build import build_store
from bolt_ray.data.settings import DatasetSettings
from bolt_ray.data.stream.window_reader import Tokenize
from bolt_ray.training.curriculum_stream import CurriculumPrompts, PromptSchedule
from bolt_ray.training.rollout import StepRollouts
from bolt_ray.training.settings import RolloutSettings

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

NUM_ROWS, PER_STEP = 120, 8


def one_token() -> Tokenize:
    """Made inside a function, so that it travels to Ray's workers by value."""

    def tokenize(prompts: Sequence[Prompt]) -> list[NDArray[np.int32]]:
        return [np.array([prompt.row], dtype=np.int32) for prompt in prompts]

    return tokenize


class NotingStore(BaselineStore):
    """Notes at which policy version its columns were asked for."""

    def __init__(self, settings: BaselineSettings) -> None:
        super().__init__(settings)
        self.asked: list[int | None] = []

    def columns(self, version: int | None = None, *, level: Level | None = None) -> PromptColumns:
        self.asked.append(version)
        return super().columns(version, level=level)


class Fixture:
    """A stream over 120 rows, 20 of them held out; row n is of level n mod 3 and is solved n / 120 of the time."""

    def __init__(self, home: Path, prompts: CurriculumPrompts, baseline: NotingStore, rows: NDArray[np.int64]) -> None:
        self.home, self.prompts, self.baseline, self.rows = home, prompts, baseline, rows
        self.step = 0

    def run_step(self) -> list[DrawnPrompt]:
        drawn = self.prompts.stream.take(PER_STEP)
        items = [_scored(one) for one in drawn]
        self.baseline.update_many(
            [one.prompt.key for one in drawn],
            [item.tracker_reward for item in items],
            [1] * PER_STEP,
            versions=[self.step] * PER_STEP,
            update_id=f"step-{self.step}",
        )
        self.step += 1
        self.prompts.after_step(self.step, _step_of(items), version=self.step)
        return drawn

    def record(self) -> dict[str, float]:
        """The metrics of a step, in the order in which the training loop collects them."""
        return {**self.baseline.metrics(), **self.baseline.get_curriculum_stats(), **self.prompts.metrics()}


def _scored(drawn: DrawnPrompt) -> ScoredRollout:
    reward = float((drawn.group_id * 37) % NUM_ROWS < drawn.prompt.row)
    return ScoredRollout(
        request_id=drawn.group_id,
        token_ids=np.array(tokens_of(drawn.group_id), dtype=np.int32),
        logprobs=np.array(logprobs_of(drawn.group_id), dtype=np.float32),
        text="",
        truncated=False,
        oldest_version=0,
        newest_version=0,
        reward=reward,
        tracker_reward=reward,
        prompt=drawn.prompt,
        prompt_token_ids=drawn.token_ids,
        group_id=drawn.group_id,
        sample_index=0,
        v_hat=0.5,
        n_eff=2.0,
        last_version=-1,
        policy_version=0,
    )


def _step_of(items: Sequence[ScoredRollout]) -> StepRollouts:
    return StepRollouts(trainable=tuple(items), unscored=(), baseline_only=(), dropped=(), refilled=0)


@contextmanager
def opened(
    home: Path,
    *,
    name: str,
    refresh_steps: int = 2,
    group_size: int = 1,
    allocate_rollouts: bool = False,
    category: str | None = None,
    **curriculum: Any,
) -> Iterator[Fixture]:
    data = home / "rows.jsonl"
    if not data.exists():
        rows = [{"prompt": f"{n}?", "prompt_id": f"row-{n}", "level": n % 3} for n in range(NUM_ROWS)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = build_store(
        [DatasetSettings(name=str(data))],
        store_dir=home / "stores",
        on_bad_row="error",
        max_prompt_chars=1_000_000,
        stall_timeout_s=120.0,
    )
    rows, heldout = store.split_heldout(fraction=0.0, size=20)
    assert len(heldout) == 20
    baseline = NotingStore(BaselineSettings())
    baseline.register(store.keys().take(rows).to_pylist())
    prompts = CurriculumPrompts(
        store=store,
        rows=rows,
        schedule=PromptSchedule(
            rollout=RolloutSettings(rollouts_per_step=PER_STEP * group_size, group_size=group_size),
            max_steps=50,
            reward_range=(0.0, 1.0),
            seed=0,
            source_weights=None,
            max_prompt_tokens=4,
            on_long_prompt="skip",
            stall_timeout_s=120.0,
        ),
        curriculum=Curriculum(
            CurriculumSettings(
                update_freq=refresh_steps, allocate_rollouts=allocate_rollouts, category=category, **curriculum
            ),
            seed=0,
        ),
        baseline=baseline,
        tokenize=one_token(),
        draws_dir=home / f"draws-{name}",
    )
    try:
        yield Fixture(home, prompts, baseline, rows)
    finally:
        prompts.close()


def options_of(strategy: str) -> dict[str, Any]:
    return {"strategy": strategy, **({"category": "level"} if strategy == "sec" else {})}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_drives_the_stream_and_goes_on_after_a_resume(tmp_path: Path, strategy: str) -> None:
    with opened(tmp_path, name="whole", **options_of(strategy)) as whole:
        drawn = [one.prompt.row for _ in range(6) for one in whole.run_step()]
        record = whole.record()
    assert set(drawn) <= set(whole.rows.tolist())
    steps = [drawn[start : start + PER_STEP] for start in range(0, 6 * PER_STEP, PER_STEP)]
    assert all(len(set(step)) == PER_STEP for step in steps), "none twice within a step"
    assert record["curriculum/coverage"] == len(set(drawn))

    with opened(tmp_path, name="cut", **options_of(strategy)) as first:
        begun = [one.prompt.row for _ in range(3) for one in first.run_step()]
        state = json.loads(json.dumps(first.prompts.state_dict()))
        first.prompts.save_draws(tmp_path / "draws-saved")
        first.baseline.save(tmp_path / "baseline.npz")
    with opened(tmp_path, name="cut", **options_of(strategy)) as again:
        again.baseline.load(tmp_path / "baseline.npz")
        again.prompts.load_state_dict(state, draws_dir=tmp_path / "draws-saved")
        again.step = 3
        begun += [one.prompt.row for _ in range(3) for one in again.run_step()]
        assert again.record() == pytest.approx(record)
    assert begun == drawn


def test_a_step_shows_the_prompts_tracked_after_it(tmp_path: Path) -> None:
    """Not those of the last refresh of the weights, which at step 1 was before any outcome."""
    with opened(tmp_path, name="counted", strategy="uncertainty", refresh_steps=4, window_steps=4) as fixture:
        fixture.prompts.stream.prefetch_next()
        for step in (1, 2, 3):
            fixture.run_step()
            record = fixture.record()
            assert record["curriculum/n_tracked"] == record["baseline/num_prompts"] == PER_STEP * step
            assert record["curriculum/coverage"] == PER_STEP * step
            assert record["curriculum/mean_v_hat"] == record["baseline/avg_v_hat"]
            assert record["curriculum/mean_weight"] > 0.0


def test_a_window_is_drawn_with_what_the_new_policy_knows(tmp_path: Path) -> None:
    """Not as of the newest outcome, which an older policy made."""
    with opened(tmp_path, name="versions", strategy="uncertainty") as fixture:
        fixture.run_step()
        assert fixture.baseline.asked == [0, 1] and fixture.baseline.counters.version == 0


def test_what_is_solved_least_surely_is_drawn_most(tmp_path: Path) -> None:
    with opened(tmp_path, name="drawn", strategy="uncertainty", epsilon=0.01) as fixture:
        keys = [f"row-{row}" for row in fixture.rows]
        sure = np.array([row % 2 for row in fixture.rows], dtype=float)  # odd rows are always solved, even ones half
        fixture.baseline.update_many(keys, 10 * (0.5 + 0.5 * sure), [10] * len(keys))
        drawn = [one.prompt.row for one in fixture.run_step()]
    assert sum(row % 2 == 0 for row in drawn) >= 6


def test_a_group_is_divided_by_uncertainty(tmp_path: Path) -> None:
    with opened(tmp_path, name="groups", strategy="uniform", group_size=4, allocate_rollouts=True) as fixture:
        keys = [f"row-{row}" for row in fixture.rows]
        right = [10.0 * (row % 2) + 5.0 * (1 - row % 2) for row in fixture.rows]
        fixture.baseline.update_many(keys, right, [10] * len(keys))
        window = fixture.prompts.stream.take(2 * PER_STEP)
    assert sum(one.num_samples for one in window) == 2 * PER_STEP * 4
    even = [one.num_samples for one in window if one.prompt.row % 2 == 0]
    odd = [one.num_samples for one in window if one.prompt.row % 2 == 1]
    assert min(even) >= max(odd) >= 1
    assert np.mean(even) > np.mean(odd) + 1


def test_the_bins_averages_see_what_is_left_out_of_training(tmp_path: Path) -> None:
    """A group that is all right is refilled, and is an outcome all the same; rows are counted without held-out ones."""
    with opened(tmp_path, name="averages", strategy="easy_first", ema_alpha=0.5) as fixture:
        first, second, *_ = [_scored(one) for one in fixture.prompts.stream.take(PER_STEP)]
        step = replace(_step_of([first]), baseline_only=(second,))
        fixture.prompts.after_step(1, step, version=1)
        averages = fixture.prompts.state_dict()["curriculum"]["strategy_state"]["averages"]
    wanted = {int(np.searchsorted(fixture.rows, one.prompt.row)): one.tracker_reward for one in (first, second)}
    assert dict(zip(averages["rows"], averages["values"], strict=True)) == wanted
