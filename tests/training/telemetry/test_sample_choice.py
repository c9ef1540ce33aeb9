"""Which completions of a step are kept, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.samples import rollout

from bolt_ray.training.telemetry.sample_choice import REASONS, choose


def chosen(*items: dict[str, Any], limit: int = 16, surprise: list[float | None] | None = None) -> dict[int, Any]:
    rollouts = [rollout(i, **item) for i, item in enumerate(items)]
    if surprise is None:
        surprise = [None if item.get("reward", 0.0) is None else 0.0 for item in items]
    return choose(rollouts, surprise, limit=limit)


def test_each_reason_finds_its_completion() -> None:
    found = chosen(
        {"reward": 0.5},
        {"reward": 1.0},
        {"reward": 0.5, "tokens": 9},
        {"reward": None},
        {"reward": 0.5, "tokens": 5, "truncated": True},
        {"reward": 0.5},
        {"reward": 0.0},
        surprise=[0.1, 0.2, 0.1, None, 0.3, 0.9, 0.0],
    )
    assert found == {
        1: ("best",),
        2: ("longest",),
        3: ("unscored",),
        4: ("truncated",),
        5: ("surprise",),
        6: ("worst",),
    }


def test_a_completion_is_kept_once_with_all_its_reasons() -> None:
    found = chosen(
        {"reward": 0.0, "tokens": 9, "truncated": True}, {"reward": 1.0}, {"reward": 1.0}, surprise=[0.9, 0.0, 0.0]
    )
    assert found == {0: ("worst", "longest", "truncated", "surprise"), 1: ("best",), 2: ("best",)}


def test_reasons_take_turns_and_there_are_never_more_than_the_limit() -> None:
    items = [{"reward": float(i % 2), "tokens": 2 + i} for i in range(40)]
    surprise = [i / 40 for i in range(40)]
    for limit in range(30):
        found = chosen(*items, limit=limit, surprise=list(surprise))
        assert len(found) == limit
        assert found == chosen(*items, limit=limit, surprise=list(surprise)), "the same every time"
        assert all(reasons for reasons in found.values())
    counts = {reason: sum(reason in reasons for reasons in chosen(*items, limit=9).values()) for reason in REASONS}
    assert counts["best"] >= 3 and counts["worst"] >= 3 and counts["longest"] >= 3


def test_no_reason_runs_down_to_what_it_does_not_fit() -> None:
    rewards = [0.0, 0.1, 0.5, 0.9, 1.0]
    found = chosen(*({"reward": reward} for reward in rewards), surprise=[0.0, 0.0, 0.0, 0.0, 0.1])
    assert found == {0: ("worst",), 1: ("worst",), 3: ("best",), 4: ("best", "surprise")}


def test_where_all_are_equal_none_is_best_and_some_are_still_kept() -> None:
    assert chosen(*({"reward": 1.0} for _ in range(5)), limit=3) == dict.fromkeys(range(3), ("surprise",))
    assert chosen() == {}
    assert chosen({"reward": None}, {"reward": None}) == dict.fromkeys(range(2), ("unscored",))


def test_among_equals_different_prompts_come_first() -> None:
    """Groups of three: the first answers of all prompts before second answers."""
    rollouts = [rollout(i, reward=1.0, sample_index=i % 3) for i in range(9)]
    assert list(choose(rollouts, [0.5] * 9, limit=4)) == [0, 1, 3, 6]


@pytest.mark.parametrize("seed", range(5))
def test_any_step_is_chosen_from_within_the_limit(seed: int) -> None:
    random = np.random.default_rng(seed)
    items = [
        {
            "reward": None if random.random() < 0.1 else float(random.integers(3)),
            "tokens": int(random.integers(1, 30)),
            "truncated": bool(random.random() < 0.2),
        }
        for _ in range(50)
    ]
    surprise = [None if item["reward"] is None else float(random.random()) for item in items]
    for limit in (1, 6, 16, 50, 1000):
        found = chosen(*items, limit=limit, surprise=surprise)
        assert 0 < len(found) <= limit
        for i, reasons in found.items():
            assert ("truncated" in reasons) == items[i]["truncated"]
            assert ("unscored" in reasons) == (items[i]["reward"] is None)
            assert reasons and list(reasons) == [reason for reason in REASONS if reason in reasons]
