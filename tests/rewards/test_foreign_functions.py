"""Reward functions written for TRL, verl and OpenRLHF: recognized, called and read as their library does it."""

from __future__ import annotations

import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.foreign_rewards import openrlhf_style, trl_style, verl_style
from support.rewards import make_reward, reward_spec

from bolt_ray.core.records import UnscoredReason
from bolt_ray.rewards.function import signature_of
from bolt_ray.rewards.function_shapes import shape_of
from bolt_ray.rewards.function_signature import signature_in
from bolt_ray.rewards.protocol import MAX_NOTES, NOTE_CHARS, Noted, RewardInput, Unscored, verdict_of
from bolt_ray.rewards.registry import REWARDS, reward_class
from bolt_ray.rewards.reward_set import RewardResult, RewardSet

FOREIGN = Path(__file__).parents[1] / "support" / "foreign_rewards"
NOT_MEANT = Unscored("not_applicable", "returned None")


def chat(completion: str, *, answer: str = "7", **given: Any) -> RewardInput:
    prompt = [{"role": "system", "content": "Reply."}, {"role": "user", "content": "3+4"}]
    return RewardInput(prompt=prompt, completion=completion, answer=answer, **given)


def text(completion: str, *, answer: str = "7", **given: Any) -> RewardInput:
    return RewardInput(prompt="3+4=", completion=completion, answer=answer, **given)


def scores(function: Any, *inputs: RewardInput, **options: Any) -> list[Any]:
    """What the reward says, as the scorer would read it."""
    return [verdict_of(value) for value in make_reward("callable", function=function, options=options).score(inputs)]


# TRL ------------------------------------------------------------------------------------------------------------------


def test_trl_length_of_the_token_ids() -> None:
    assert scores(trl_style.token_count, text("7", token_ids=(5, 6, 2)), text("", token_ids=(2,))) == [3.0, 1.0]


def test_trl_format_of_a_conversations_reply() -> None:
    assert scores(trl_style.digits_format, chat("42"), chat("is 42")) == [1.0, 0.0]


def test_trl_accuracy_by_a_column_with_its_metric_and_extra_columns() -> None:
    rows = [chat("it is 7", metadata={"solution": "7"}), chat("it is 8", metadata={"solution": "9"}), chat("?")]
    assert scores(trl_style.accuracy, *rows) == [
        Noted(value=1.0, metrics={"accuracy": 1 / 3}, extras={"extracted": "7", "gold": "7"}),
        Noted(value=0.0, metrics={"accuracy": 1 / 3}, extras={"extracted": "8", "gold": "9"}),
        # The row's reference stands for a column that it was read from.
        Noted(value=0.0, metrics={"accuracy": 1 / 3}, extras={"extracted": "none", "gold": "7"}),
    ]


def test_trl_none_means_that_another_function_is_asked() -> None:
    rows = [text("1", metadata={"task": "sum"}), text("1", metadata={"task": "product"}), text("1")]
    assert scores(trl_style.sums_only, *rows) == [1.0, NOT_MEANT, NOT_MEANT]
    assert scores(trl_style.products_only, *rows) == [NOT_MEANT, -1.0, NOT_MEANT]


def test_trl_async_and_the_trainers_state() -> None:
    assert scores(trl_style.brevity, chat("abc"), chat("")) == [0.25, 1.0]
    assert scores(trl_style.annealed, text("", policy_version=3), text("", policy_version=4), per_step=0.5) == [2, 2]


def test_trl_all_that_a_function_is_given() -> None:
    seen: dict[str, Any] = {}

    def named(completions: Any, **kwargs: Any) -> Any:
        seen.update(kwargs, completions=completions)
        return np.array([0.5, 1.0])

    rows = [chat("a", metadata={"task": "x", "prompt": "no"}), text("b", metadata={"n": {"k": 1}})]
    assert scores(named, *rows, level=3) == [0.5, 1.0]
    assert seen["completions"] == [[{"role": "assistant", "content": "a"}], "b"]
    assert seen["prompts"] == [rows[0].prompt, "3+4="]
    assert (seen["task"], seen["n"], seen["level"]) == (["x", None], [None, {"k": 1}], 3)
    assert seen["answer"] == seen["ground_truth"] == ["7", "7"]
    assert set(seen) >= {"completion_ids", "trainer_state", "log_extra", "log_metric"} and "prompt" not in seen
    with pytest.raises(AttributeError, match="trainer_state has global_step here, and no max_steps"):
        _ = seen["trainer_state"].max_steps


def test_trl_a_column_that_no_row_has_is_named() -> None:
    def reward(completions: Any, difficulty: Any) -> Any:
        raise AssertionError

    with pytest.raises(TypeError, match="asks for the column 'difficulty', which no row here has"):
        scores(reward, text("a"))


def test_trl_extra_columns_have_one_value_a_completion() -> None:
    def reward(completions: Any, log_extra: Any) -> Any:
        log_extra("half", completions[:1])

    with pytest.raises(ValueError, match=r"log_extra\('half'\) got 1 values for 2 completions"):
        scores(reward, text("a"), text("b"))


def test_trls_own_functions_run() -> None:
    trl_rewards = pytest.importorskip("trl.rewards")
    think = chat("<think>\n3 and 4\n</think>\n7"), chat("7")
    assert scores(trl_rewards.think_format_reward, *think) == [1.0, 0.0]
    ids = [text("", token_ids=tuple(range(n))) for n in (4, 9, 12)]
    overlong = trl_rewards.get_soft_overlong_punishment(max_completion_len=10, soft_punish_cache=4)
    assert scores(overlong, *ids) == [0.0, -0.75, -1.0]


# verl -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "options", "score"),
    [
        ("so #### 7", {}, 1.0),
        ("so #### 8", {}, 0.1),
        ("so 7", {}, 0.0),
        ("so 7", {"method": "flexible"}, 1.0),
        ("so 8", {"method": "flexible", "format_score": 0.3}, 0.3),
    ],
)
def test_verl_gsm8k_strict_and_flexible(completion: str, options: dict[str, Any], score: float) -> None:
    assert scores(verl_style.gsm8k, text(completion), **options) == [score]


def test_verl_a_mapping_is_a_score_with_metrics_and_extras() -> None:
    assert scores(verl_style.math_dict, text("7"), text("no")) == [
        Noted(value=1.0, metrics={"acc": 1.0}, extras={"pred": "7"}),
        Noted(value=-1.0, metrics={"acc": 0.0}, extras={"pred": "[INVALID]"}),
    ]
    with pytest.raises(TypeError, match="returned a mapping without 'score': acc"):
        scores(lambda solution_str, ground_truth: {"acc": 1}, text("7"))


def test_verl_source_and_reference_come_from_the_row() -> None:
    seen: list[Any] = []

    def compute_score(data_source: Any, solution_str: Any, ground_truth: Any, extra_info: Any) -> float:
        seen.append((data_source, ground_truth, extra_info))
        return 0.0

    row = {"data_source": "toy/sums", "reward_model": {"style": "rule", "ground_truth": ["7"]}, "extra_info": {"i": 1}}
    scores(compute_score, text("", metadata=row), text("", source="rows", metadata={"level": 2}))
    assert seen == [("toy/sums", ["7"], {"i": 1}), ("rows", "7", {"level": 2})]


def test_verl_switch_by_data_source_with_numpys_numbers() -> None:
    odd = text("", metadata={"data_source": "toy/sums", "extra_info": {"index": 3}})
    assert scores(verl_style.by_source, odd, text("", source="toy/products")) == [1.25, 0.5]
    with pytest.raises(NotImplementedError, match="no reward for other"):
        scores(verl_style.by_source, text("", source="other"))


def test_verl_async_with_keywords_only() -> None:
    assert scores(verl_style.judge, text("abcd"), text("")) == [
        Noted(value=0.5, metrics={"asked": 1.0}),
        Noted(value=0.0, metrics={"asked": 1.0}),
    ]


# OpenRLHF -------------------------------------------------------------------------------------------------------------


def test_openrlhf_tensors_with_logs() -> None:
    assert scores(openrlhf_style.label_match, text("is 7"), chat("8")) == [
        Noted(value=1.0, metrics={"scores": 1.0, "reply_chars": 4.0}),
        Noted(value=0.0, metrics={"scores": 0.0, "reply_chars": 1.0}),
    ]
    with pytest.raises(TypeError, match="returned a mapping without 'rewards': scores"):
        scores(lambda queries, prompts, labels: {"scores": [1.0]}, text("7"))


def test_openrlhf_a_tensor_or_a_list() -> None:
    assert scores(openrlhf_style.never_empty, text("x"), text("")) == [1.0, 0.0]
    assert scores(openrlhf_style.length_penalty, text("abcd"), chat("ab"), scale=0.5) == [-2.0, -1.0]


def test_openrlhf_a_query_begins_with_its_prompt() -> None:
    seen: list[Any] = []
    scores(lambda queries, prompts, labels: seen.append((queries, prompts, labels)) or [0.0], text("7"), chat("8"))
    assert seen == [(["3+4=7"], ["3+4="], ["7"]), (["Reply.\n3+4\n8"], ["Reply.\n3+4\n"], ["7"])]


# bolt-ray's own -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [1, True, np.float32(1), np.array(1.0), np.array([1.0]), torch.tensor(1.0), torch.tensor([1.0]), np.True_]
)
def test_numbers_of_numpy_and_torch_are_numbers(value: Any) -> None:
    assert scores(lambda item: value, text("")) == [1.0]
    assert scores(lambda completions: [value], text("")) == [1.0]


def test_an_array_of_several_is_no_number() -> None:
    (verdict,) = scores(lambda item: np.array([1.0, 2.0]), text(""))
    assert verdict == Unscored("wrong_type", "returned ndarray, expected a number")


def test_a_function_of_ones_own_reads_the_token_ids() -> None:
    assert scores(lambda item: item.token_ids[-1], text("", token_ids=(5, 2))) == [2.0]


def test_one_event_loop_serves_all_calls() -> None:
    loops = []

    async def score(item: RewardInput) -> float:
        loops.append(asyncio.get_running_loop())
        return 1.0

    reward = make_reward("callable", function=score)
    reward.score([text("")])
    reward.score([text("")])
    assert loops[0] is loops[1]


def test_a_callable_object_may_be_async() -> None:
    class Waits:
        async def __call__(self, completions: Any, **kwargs: Any) -> list[float]:
            return [0.5] * len(completions)

    assert scores(Waits(), text(""), text("")) == [0.5, 0.5]


# Recognition ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "shape"),
    [
        ("item", "bolt-ray's shape (item, **options)"),
        ("item, *, bonus=0.0", "bolt-ray's shape (item, **options)"),
        ("*anything", "bolt-ray's shape (item, **options)"),
        ("completions: list[RewardInput]", "bolt-ray's shape (item, **options)"),
        ("completions", "TRL's shape (completions, **columns)"),
        ("completion_ids, **kwargs", "TRL's shape (completions, **columns)"),
        ("prompts, completions, level, **kwargs", "TRL's shape (completions, **columns)"),
        ("prompts, **kwargs", "TRL's shape (completions, **columns)"),
        ("*, data_source, solution_str, ground_truth", "verl's shape (data_source, solution_str, ground_truth, "),
        ("solution_str, ground_truth, extra_info=None", "verl's shape (data_source, solution_str, ground_truth, "),
        ("queries, prompts, labels", "OpenRLHF's shape (queries, prompts, labels)"),
        ("queries, prompts", "OpenRLHF's shape (queries, prompts, labels)"),
    ],
)
def test_a_shape_is_known_by_its_parameters(written: str, shape: str) -> None:
    """The same from the file's text as from the function."""
    source = f"class RewardInput: ...\n\ndef score({written}): ...\n"
    module: dict[str, Any] = {}
    exec(source, module)
    for signature in (signature_in(source, "score"), signature_of(module["score"])):
        assert signature is not None
        assert str(shape_of(signature, options={}, batched=False)).startswith(shape)


@pytest.mark.parametrize(
    ("written", "options", "problem"),
    [
        ("completion, answer", {}, "taken for bolt-ray's shape .*missing a required argument: 'answer'"),
        ("", {}, "too many positional arguments"),
        ("**kwargs", {}, "too many positional arguments"),
        ("item", {"bonus": 1}, "unexpected keyword argument 'bonus'"),
        ("completions", {"bonus": 1}, "taken for TRL's shape .*unexpected keyword argument 'bonus'"),
        ("data_source, solution_str, ground_truth, tokenizer", {}, "taken for verl's .*argument: 'tokenizer'"),
        ("queries, prompts, labels, model", {}, "taken for OpenRLHF's .*argument: 'model'"),
    ],
)
def test_what_has_no_shape_is_refused_with_all_four(written: str, options: dict[str, Any], problem: str) -> None:
    signature = signature_in(f"def score({written}): ...", "score")
    assert signature is not None
    with pytest.raises(ValueError, match=problem) as refused:
        shape_of(signature, options=options, batched=False)
    for part in (f"({written})", "(item, **options)", "(completions, **columns)", "(queries, prompts, labels)"):
        assert part in str(refused.value)


def test_a_signature_is_read_without_running_the_file() -> None:
    source = """
raise SystemExit("the file was run")

async def score(a, b: int = 1, /, c=2, *rest, d, e=3, **more):
    score = 1
    return score
"""
    assert str(signature_in(source, "score")) == "(a, b: 'int' = Ellipsis, /, c=Ellipsis, *rest, d, e=Ellipsis, **more)"


@pytest.mark.parametrize(
    "source",
    [
        "@wraps\ndef score(item): ...",
        "def make(): ...\nscore = make()",
        "from other import score",
        "def score(item): ...\nfrom other import *",
        "def score(item): ...\nscore = wrap(score)",
        "if fast:\n    def score(item): ...\nelse:\n    def score(a, b): ...",
        "class score: ...",
        "def score(item: ...",
        "def other(item): ...",
    ],
)
def test_what_only_running_the_file_can_tell_is_left_open(source: str) -> None:
    assert signature_in(source, "score") is None


def test_a_function_that_does_not_say_what_it_takes_is_ones_own() -> None:
    with pytest.raises(ValueError, match="no signature"):
        inspect.signature(min)
    assert str(shape_of(signature_of(min), options={}, batched=False)).startswith("bolt-ray's")


def test_a_reward_that_has_no_shape_is_not_built() -> None:
    with pytest.raises(ValueError, match="four shapes"):
        make_reward("callable", function=lambda completion, answer: 1.0)


# Through the reward processes -----------------------------------------------------------------------------------------


def spec(file: str, function: str, **given: Any) -> Any:
    return reward_spec(name=function, type="function", options={"function": f"{FOREIGN / file}.py:{function}"}, **given)


def test_notes_none_and_token_ids_cross_the_processes() -> None:
    rewards = RewardSet(
        specs=[
            spec("trl_style", "token_count", weight=0.5),
            spec("trl_style", "accuracy"),
            spec("trl_style", "sums_only"),
            spec("trl_style", "products_only"),
            spec("verl_style", "math_dict", weight=0.0),
        ],
        by_source={"unknown": ["sums_only", "products_only"]},
        startup_timeout_s=120.0,
    )
    try:
        rewards.start()
        results = rewards.score(
            [
                chat("7", token_ids=(1, 7, 2), metadata={"task": "sum"}),
                chat("8", token_ids=(1, 2), metadata={"task": "product"}),
                chat("8", metadata={"task": "other"}, source="unknown"),
            ]
        )
    finally:
        rewards.close()
    parts = {"token_count": 3.0, "accuracy": 1.0, "sums_only": 1.0, "math_dict": 1.0}
    assert results[0] == RewardResult(
        reward=3.5,
        tracker_reward=3.5,
        parts=parts,
        metrics={"accuracy": 0.5, "acc": 1.0},
        extras={"accuracy": {"extracted": "7", "gold": "7"}, "math_dict": {"pred": "7"}},
    )
    assert isinstance(results[1], RewardResult)
    assert results[1].parts == {"token_count": 2.0, "accuracy": 0.0, "products_only": -1.0, "math_dict": -1.0}
    assert results[1].reward == 0.0
    assert results[2] == UnscoredReason(reward="sums_only", kind="not_applicable", detail="returned None")


def test_a_number_that_two_rewards_give_is_their_mean() -> None:
    rewards = RewardSet(
        specs=[
            spec("verl_style", "judge"),
            reward_spec(
                name="other", type="callable", options={"function": lambda solution_str: {"score": 1, "asked": 2.0}}
            ),
        ],
        startup_timeout_s=120.0,
    )
    try:
        rewards.start()
        (result,) = rewards.score([text("7")])
    finally:
        rewards.close()
    assert isinstance(result, RewardResult) and result.metrics == {"asked": 1.5}


def test_what_is_said_beside_a_verdict_is_bounded_and_never_costs_it() -> None:
    loop: list[Any] = []
    loop.append(loop)
    extras = {"long": "x" * 10**6, "loop": loop, "nan": [float("nan")], "deep": {"a": [1, None]}, "object": {1: {2}}}
    verdict = verdict_of(
        Noted(value=1, metrics={"a b/ß?": 2, "text": "3", "nan": float("nan"), "list": [1]}, extras=extras)
    )
    assert isinstance(verdict, Noted) and verdict.value == 1.0
    assert verdict.metrics == {"a_b/ß_": 2.0}
    assert verdict.extras["long"] == "x" * NOTE_CHARS
    assert (verdict.extras["nan"], verdict.extras["deep"]) == (["NaN"], {"a": [1, None]})
    assert json.dumps(dict(verdict.extras))
    many = verdict_of(Noted(value=1, metrics=dict.fromkeys(map(str, range(100)), 1.0)))
    assert isinstance(many, Noted) and len(many.metrics) == MAX_NOTES
    assert verdict_of(Noted(value=None, metrics={"a": 1.0})) == Unscored("no_verdict", "returned None")


def test_only_functions_are_sent_the_token_ids() -> None:
    item = text("", token_ids=(1, 2))
    assert "token_ids" not in item.to_dict() and item.to_dict(token_ids=True)["token_ids"] == (1, 2)
    assert {name for name in REWARDS if reward_class(name).settings.reads_token_ids} == {"function", "callable"}
