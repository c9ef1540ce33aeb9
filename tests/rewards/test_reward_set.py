from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.rewards import reward_spec

from bolt_ray.core.errors import ConfigError, UnhealthyTrainingError
from bolt_ray.core.records import UnscoredReason
from bolt_ray.rewards.protocol import RewardInput, Unscored
from bolt_ray.rewards.reward_set import RewardResult, RewardSet, combine, reason_of
from bolt_ray.rewards.settings import RewardSettings
from bolt_ray.rewards.unscored import check_unscored, count_reasons, unscored_fraction, unscored_metric

HOSTILE = Path(__file__).parents[1] / "support" / "hostile_rewards.py"
EXAMPLE = Path(__file__).parents[2] / "configs" / "rewards" / "example_reward.py"


def item(completion: str, *, answer: str = "4", source: str = "", num_tokens: int = 0) -> RewardInput:
    return RewardInput(prompt="2+2", completion=completion, answer=answer, source=source, num_tokens=num_tokens)


def unscored(reward: str, kind: str, detail: str = "") -> UnscoredReason:
    return UnscoredReason(reward=reward, kind=kind, detail=detail)


def score(
    specs: Sequence[RewardSettings], inputs: Sequence[RewardInput], by_source: dict[str, list[str]] | None = None
) -> list[RewardResult | UnscoredReason]:
    rewards = RewardSet(specs=specs, by_source=by_source, startup_timeout_s=120.0)
    try:
        rewards.start()
        return rewards.score(inputs)
    finally:
        rewards.close()


def test_parts_are_combined_by_weight_and_shaping_stays_out_of_the_trackers_reward() -> None:
    specs = [
        reward_spec(name="right", type="exact", weight=2.0),
        reward_spec(name="has_4", type="contains", weight=-0.5, options={"texts": ["4"]}),
        reward_spec(
            name="long", type="overlong", weight=0.5, shaping=True, options={"max_tokens": 10, "cache_tokens": 4}
        ),
    ]
    results = score(specs, [item("4", num_tokens=8), item("14", num_tokens=3)])
    assert results == [
        RewardResult(reward=1.25, tracker_reward=1.5, parts={"right": 1.0, "has_4": 1.0, "long": -0.5}),
        RewardResult(reward=-0.5, tracker_reward=-0.5, parts={"right": 0.0, "has_4": 1.0, "long": 0.0}),
    ]


def test_combine_leaves_out_what_does_not_apply() -> None:
    specs = [reward_spec(name="a", type="exact", weight=3.0), reward_spec(name="b", type="exact")]
    assert combine(specs, {"b": 0.5}) == RewardResult(reward=0.5, tracker_reward=0.5, parts={"b": 0.5})
    assert combine(specs, {}) == RewardResult(reward=0, tracker_reward=0, parts={})


def test_datasets_choose_their_rewards() -> None:
    specs = [reward_spec(name="right", type="exact"), reward_spec(name="has", type="contains")]
    inputs = [item("is 4", source="a"), item("is 4", source="b"), item("is 4", source="none")]
    results = score(specs, inputs, {"a": ["right"], "none": []})
    assert [r.parts if isinstance(r, RewardResult) else r for r in results] == [
        {"right": 0.0},
        {"right": 0.0, "has": 1.0},
        unscored("rewards", "no_reward", "no reward applies to this dataset"),
    ]


def test_a_dataset_chooses_by_the_data_source_of_its_rows() -> None:
    specs = [reward_spec(name="right", type="exact"), reward_spec(name="has", type="contains")]
    names = [("mixed", "gsm8k"), ("mixed", "code"), ("mixed", "web"), ("plain", "gsm8k")]
    inputs = [replace(item("is 4", source=source), dataset=dataset) for dataset, source in names]
    results = score(specs, inputs, {"mixed": [], "mixed: gsm8k": ["has"], "mixed: code": ["right"], "plain": ["right"]})
    assert [r.parts if isinstance(r, RewardResult) else r.kind for r in results] == [
        {"has": 1.0},
        {"right": 0.0},
        "no_reward",
        {"right": 0.0},
    ]


def test_a_heldout_dataset_of_the_same_name_chooses_its_own_rewards() -> None:
    specs = [reward_spec(name="right", type="exact"), reward_spec(name="has", type="contains")]
    rewards = RewardSet(specs=specs, eval_by_source={"a": ["right"]}, startup_timeout_s=120.0)
    try:
        rewards.start()
        trained, heldout = rewards.score([item("4", source="a"), replace(item("4", source="a"), evaluation=True)])
    finally:
        rewards.close()
    assert isinstance(trained, RewardResult) and trained.parts == {"right": 1.0, "has": 1.0}
    assert isinstance(heldout, RewardResult) and heldout.parts == {"right": 1.0}


def test_a_completion_without_one_part_has_no_reward() -> None:
    specs = [
        reward_spec(name="own", type="function", options={"function": f"{HOSTILE}:score"}),
        reward_spec(name="right", type="exact"),
    ]
    results = score(specs, [item("4"), item("_exit"), item("raise"), item("nan"), item("0.5", answer="")])
    assert results == [
        RewardResult(reward=5.0, tracker_reward=5.0, parts={"own": 4.0, "right": 1.0}),
        unscored("own", "crash", "it exited with status 3"),
        unscored("own", "exception", "ValueError: on purpose"),
        unscored("own", "not_finite", "returned nan"),
        unscored("right", "no_answer", "the row has no reference answer"),
    ]


def test_a_completion_without_a_verdict_is_not_handed_to_the_next_reward(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    specs = [
        reward_spec(name="first", type="function", options={"function": f"{HOSTILE}:score"}),
        reward_spec(
            name="costly", type="function", options={"function": f"{HOSTILE}:record", "options": {"file": str(asked)}}
        ),
    ]
    results = score(specs, [item("1"), item("raise"), item("none"), item("2")])
    assert [r.parts if isinstance(r, RewardResult) else r for r in results] == [
        {"first": 1.0, "costly": 0.0},
        unscored("first", "exception", "ValueError: on purpose"),
        unscored("first", "no_verdict", "returned None"),
        {"first": 2.0, "costly": 0.0},
    ]
    assert asked.read_text().split() == ["1", "2"]


def test_a_reward_that_cannot_start_leaves_no_process() -> None:
    specs = [
        reward_spec(name="right", type="exact"),
        reward_spec(name="own", type="function", options={"function": "nowhere:f"}),
    ]
    rewards = RewardSet(specs=specs, startup_timeout_s=120.0)
    with pytest.raises(ConfigError, match=r"own cannot be built: .* module 'nowhere' cannot be imported"):
        rewards.start()
    assert rewards.pids == []


def test_the_example_file_works_as_it_stands() -> None:
    specs = [
        reward_spec(
            name="short",
            type="function",
            options={"function": f"{EXAMPLE}:short_answer", "options": {"max_words": 2}},
        ),
        reward_spec(name="distinct", type="function", options={"function": f"{EXAMPLE}:distinct", "batched": True}),
        reward_spec(name="polite", type="function", options={"function": f"{EXAMPLE}:polite"}),
    ]
    results = score(specs, [item("yes"), item("yes"), item("one two please")])
    assert [r.parts for r in results if isinstance(r, RewardResult)] == [
        {"short": 1.0, "distinct": 0.5, "polite": 0.0},
        {"short": 1.0, "distinct": 0.5, "polite": 0.0},
        {"short": 0.5, "distinct": 1.0, "polite": 1.0},
    ]
    cut = RewardInput(prompt="", completion="yes", truncated=True)
    assert score(specs[:1], [cut]) == [unscored("short", "no_verdict", "returned None")]


def test_reasons_are_counted_by_kind() -> None:
    math = unscored("math", "timeout")
    reasons = [math, unscored("own", "exception", "ValueError: a"), unscored("own", "exception", "KeyError: b: c")]
    assert list(count_reasons(reasons).items()) == [(unscored("own", "exception"), 2), (math, 1)]
    assert count_reasons([]) == {}
    assert [str(reason) for reason in reasons[:2]] == ["math: timeout", "own: exception: ValueError: a"]
    assert unscored_metric(reasons[1]) == "reward/unscored/own/exception"


def test_too_many_unscored_completions_stop_the_run() -> None:
    counted = {unscored("own", "timeout"): 2, unscored("own", "crash"): 4}
    check_unscored(num_scored=6, reasons=counted, max_unscored_fraction=0.5)
    check_unscored(num_scored=0, reasons={}, max_unscored_fraction=0.0)
    check_unscored(num_scored=0, reasons={unscored("own", "crash"): 3}, max_unscored_fraction=0.5, min_completions=4)
    with pytest.raises(UnhealthyTrainingError, match="1 of 1 completions"):
        check_unscored(num_scored=0, reasons={unscored("own", "crash"): 1}, max_unscored_fraction=0.5)
    with pytest.raises(UnhealthyTrainingError, match="not one of 1 completions"):
        check_unscored(num_scored=0, reasons={unscored("own", "crash"): 1}, max_unscored_fraction=1.0)
    with pytest.raises(UnhealthyTrainingError, match="2 of 4 completions"):
        check_unscored(
            num_scored=2, reasons={unscored("own", "crash"): 2}, max_unscored_fraction=0.4, min_completions=4
        )
    with pytest.raises(UnhealthyTrainingError, match=r"6 of 11 .*55%.*50%.*: 4 × own: crash; 2 × own: timeout"):
        check_unscored(num_scored=5, reasons=counted, max_unscored_fraction=0.5)
    with pytest.raises(UnhealthyTrainingError, match="not one of 3 completions could be scored: 3 × own: crash"):
        check_unscored(num_scored=0, reasons={unscored("own", "crash"): 3}, max_unscored_fraction=1.0)
    assert unscored_fraction(num_scored=3, num_unscored=1) == 0.25
    assert unscored_fraction(num_scored=0, num_unscored=0) == 0.0


def test_a_reason_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exceptions of users' functions quote addresses and keys; reasons are logged and kept with the samples."""
    monkeypatch.setenv("JUDGE_API_KEY", "swordfish-77")
    verdict = Unscored("raised", "401 for https://me:hunter2@judge.example/\nwith key swordfish-77")
    assert reason_of("judge", verdict) == unscored("judge", "raised", "401 for https://***@judge.example/ with key ***")
