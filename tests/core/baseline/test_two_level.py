"""The default estimator: the policy's level, and each prompt's difference from it (core/baseline/two_level.py)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bolt_ray.core.baseline import BaselineSettings, BaselineStore
from bolt_ray.core.baseline.level import STRENGTHS
from bolt_ray.core.settings import SettingError

OUTCOMES = Path(__file__).parent / "outcomes"
"""Outcomes of two real runs: one completion a prompt, 200 steps of 256; 20,000 prompts (sparse), 4,000 (dense)."""


def per_visit(**changes: Any) -> BaselineStore:
    """A store in which a visit keeps 7/8 of what was known."""
    return BaselineStore(**{"forgetting": "constant", "rho_max": 0.875} | changes)


def columns(store: BaselineStore, key: str) -> list[float]:
    """(s - l, c) of a tracked prompt."""
    snapshot = store.snapshot()
    i = snapshot.keys.strings().index(key)
    return [float(snapshot.columns[name][i]) for name in ("residual", "count")]


def test_commit_by_commit() -> None:
    store = per_visit(strength=2.0)
    levels = []
    commits = (
        {"a": (1, 1), "b": (0, 1)},
        {"a": (1, 1), "c": (1, 1)},
        {"b": (0, 1), "a": (3, 4)},
        {"c": (0, 2), "d": (1, 1)},
    )
    for number, commit in enumerate(commits):
        store.update_many(list(commit), [s for s, _ in commit.values()], [n for _, n in commit.values()])
        levels.append(store.level.mean)
        if number == 2:
            assert columns(store, "a") == pytest.approx([4.640625 - 3.65364583, 5.640625], abs=1e-8)
            assert columns(store, "b") == pytest.approx([0 - 1.14583333, 1.875], abs=1e-8)
    assert levels == pytest.approx([0.5, 0.70833333, 0.64861996, 0.56564173], abs=1e-8)
    v_hat, n_eff = store.get_many(["a", "b", "c", "d", "unseen"])
    assert v_hat.tolist() == pytest.approx([0.69481692, 0.26994281, 0.38928483, 0.68276842, 0.56564173], abs=1e-8)
    assert n_eff.tolist() == pytest.approx([5.640625, 1.875, 2.875, 1.0, 0.0])
    assert (store.strength, store.metrics()["baseline/strength"]) == (2.0, 2.0)


@pytest.mark.parametrize(("name", "least"), [("sparse", 0.40), ("dense", 0.625)])
def test_outcomes_of_real_runs_are_predicted(name: str, least: float) -> None:
    """1 - Σ(r - v̂)²/Σ(r - r̄)² over the second half, v̂ read before each step's outcomes, r̄ the step's own mean."""
    with np.load(OUTCOMES / f"{name}.npz") as file:
        steps, prompts, rewards = file["step"], file["prompt"], file["reward"].astype(np.float64)
    store = per_visit()
    ours = theirs = 0.0
    for step in range(1, 201):
        here = steps == step
        keys = [f"p{number}" for number in prompts[here]]
        if step > 100:
            v_hat, _ = store.get_many(keys)
            ours += float(np.sum((rewards[here] - v_hat) ** 2))
            theirs += float(np.sum((rewards[here] - rewards[here].mean()) ** 2))
        store.update_many(keys, rewards[here], np.ones(len(keys), dtype=np.int64))
    assert 1.0 - ours / theirs >= least
    assert store.strength < 2.0


@pytest.mark.parametrize("gap", [7, 15, 78])
def test_rare_visits_are_worth_something(gap: int) -> None:
    """3,000 prompts of fixed p ~ Beta(.6, .6), one completion each, eight visits ``gap`` versions apart."""
    rng = np.random.default_rng(gap)
    store = BaselineStore()
    truth = rng.beta(0.6, 0.6, size=3000)
    keys = [f"p{number}" for number in range(truth.size)]
    for visit in range(1, 9):
        rewards = (rng.random(truth.size) < truth).astype(np.float64)
        read, _ = store.get_many(keys)
        if visit >= 4:
            assert 1.0 - np.var(rewards - read) / np.var(rewards) >= 0.30, visit
        order = rng.permutation(truth.size)
        for part in np.array_split(order, gap):
            store.update_many([keys[i] for i in part], rewards[part], np.ones(part.size, dtype=np.int64), drift=0.01)


def test_a_prompt_that_stays_behind_is_seen_when_the_level_rises() -> None:
    """What a mean of a prompt's own outcomes would lag behind."""
    store = per_visit(strength=1.0)
    for n in range(40):
        share = n / 40
        store.update_many(["all", "behind"], [share * 100, 0.0], [100, 1])
    level = store.level.mean
    assert level > 0.7
    assert store.get("behind")[0] < 0.25 < store.get("never seen")[0] == level


def test_a_level_for_each_data_set() -> None:
    store = per_visit()
    store.register(["a", "b", "c", "d"], ["easy", "hard", "easy", "hard"])
    store.update_many(["a", "b"], [90, 10], [100, 100])
    easy, hard = 90.5 / 101, 10.5 / 101
    assert [store.get(key)[0] for key in ("c", "d", "unregistered")] == pytest.approx([easy, hard, 0.5])
    metrics = store.metrics()
    assert metrics["baseline/level/easy"] == pytest.approx(easy)
    assert metrics["baseline/level/hard"] == pytest.approx(hard)
    assert metrics["baseline/level"] == pytest.approx(100.5 / 201)
    store.update_many(["b"], [100], [100])  # no outcome of the other: its level stays
    assert store.get("c")[0] == pytest.approx(easy)
    assert store.get("d")[0] == pytest.approx((0.9 * 10 + 100.5) / (0.9 * 100 + 101))


def test_one_data_set_has_no_level_of_its_own_name() -> None:
    store = per_visit()
    store.register(["a"], ["only"])
    store.update("a", 1.0)
    assert [name for name in store.metrics() if name.startswith("baseline/level")] == ["baseline/level"]


def test_the_strength_that_predicts_best_is_used() -> None:
    """Alike prompts ask for much of the level, prompts that are always right or always wrong for none of it."""
    rng = np.random.default_rng(3)
    keys = [f"p{number}" for number in range(64)]
    alike, decided = per_visit(), per_visit()
    for commit in range(6):
        assert (alike.strength, decided.strength) == (2.0, 2.0) or commit > 4
        alike.update_many(keys, (rng.random(64) < 0.5).astype(float), np.ones(64, dtype=int))
        decided.update_many(keys, np.arange(64) % 2, np.ones(64, dtype=int))
    assert (alike.strength, decided.strength) == (64.0, 0.25)
    assert {alike.strength, decided.strength} <= set(STRENGTHS)
    assert per_visit(strength=3.5).strength == 3.5


def test_the_larger_of_equal_strengths_is_used() -> None:
    """Where every outcome is the level's own, no strength predicts better than another."""
    store = per_visit()
    for _ in range(6):
        store.update_many([f"p{number}" for number in range(64)], [0.5] * 64, [1] * 64)
    assert store.strength == 64.0


def test_a_warm_start_is_evidence_and_a_level() -> None:
    store = per_visit(strength=2.0)
    store.seed(["a", "b"], [6, 1], [2, 7])
    mean = (0.75 + 0.125) / 2
    assert columns(store, "a") == pytest.approx([6 - 8 * mean, 8])
    level = (2 * mean + 0.5) / 3  # one outcome's weight for each key of the file
    assert store.get("unseen") == (pytest.approx(level), 0.0)
    assert store.get("a") == (pytest.approx(level + (6 - 8 * mean) / 10), 8.0)
    many = per_visit()
    many.seed([f"p{n}" for n in range(1000)], [3] * 1000, [1] * 1000)
    assert many.level.mean == pytest.approx((256 * 0.75 + 0.5) / 257)


def test_drift_decides_how_much_a_visit_keeps() -> None:
    store = BaselineStore(strength=2.0)
    store.update_many(["a"], [1], [1], drift=0.06)
    store.update_many(["a"], [1], [1], drift=5.0)
    level = (1 + 0.5) / (1 + 1)
    assert columns(store, "a") == pytest.approx([0.92018765 * (1 - 0.5) + (1 - level), 1.92018765], abs=1e-7)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"forgetting": "event"}, "forgetting"),
        ({"prior": "mean"}, "prior"),
        ({"estimator": "beta", "strength": 1.0}, "strength"),
        ({"estimator": "beta", "forgetting": "event", "d_half": 0.06}, "d_half"),
        ({"estimator": "beta", "forgetting": "event", "rho_max": 0.9}, "rho_max"),
        ({"forgetting": "constant", "d_half": 0.06}, "d_half"),
        ({"forgetting": "constant", "kl_source": "batch"}, "kl_source"),
        ({"strength": -1.0}, "strength"),
    ],
)
def test_settings_that_would_do_nothing_are_refused_by_name(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingError) as refused:
        BaselineSettings(**changes)
    assert refused.value.key == name


ENTRIES = st.lists(
    st.lists(
        st.tuples(st.sampled_from([f"k{n}" for n in range(6)]), st.integers(0, 4), st.floats(0, 0.05)),
        max_size=8,
    ),
    max_size=8,
)


@given(ENTRIES, st.randoms(use_true_random=False))
def test_neither_the_order_of_entries_nor_a_restart_changes_a_bit(commits: list[Any], random: Any) -> None:
    whole, cut = BaselineStore(), BaselineStore()
    for entries in commits:
        drift = max((drift for *_, drift in entries), default=0.0)
        for store in (whole, cut):
            if store is cut:
                again = BaselineStore()
                again.restore([cut.snapshot()])
                store = cut = again
                random.shuffle(entries)
            store.update_many(
                [key for key, *_ in entries], [right / 4 for _, right, _ in entries], [1] * len(entries), drift=drift
            )
        keys = [f"k{n}" for n in range(6)] + ["unseen"]
        assert [v.tolist() for v in whole.get_many(keys)] == [v.tolist() for v in cut.get_many(keys)]
        assert (whole.level, whole.strength) == (cut.level, cut.strength)
        assert all(0.0 <= v <= 1.0 and math.isfinite(v) for v in whole.get_many(keys)[0])
