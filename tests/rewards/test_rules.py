from __future__ import annotations

import pytest
from support.rewards import make_reward

from bolt_ray.rewards.protocol import Reward, RewardInput, Unscored


def values(reward: Reward, *completions: str, answer: str = "") -> list[object]:
    return list(reward.score([RewardInput(prompt="", completion=text, answer=answer) for text in completions]))


def lengths(reward: Reward, *tokens: int) -> list[object]:
    return list(reward.score([RewardInput(prompt="", completion="", num_tokens=n) for n in tokens]))


def test_exact() -> None:
    assert values(make_reward("exact"), "Paris", " Paris\n", "paris", "Paris.", "", answer="Paris") == [1, 1, 0, 0, 0]
    assert values(make_reward("exact", ignore_case=True), "paris", answer="PARIS") == [1.0]
    assert values(make_reward("exact", ignore_space=False), "Paris ", answer="Paris") == [0.0]
    assert values(make_reward("exact")) == []
    (missing,) = values(make_reward("exact"), "x")
    assert isinstance(missing, Unscored) and missing.kind == "no_answer"


def test_contains() -> None:
    assert values(make_reward("contains"), "It is  PARIS.", "London", answer="paris") == [1.0, 0.0]
    assert values(make_reward("contains", texts=["a", "b", "c"]), "a and B", "xyz") == [pytest.approx(2 / 3), 0.0]
    assert values(make_reward("contains", texts=["A"], ignore_case=False), "a") == [0.0]
    (missing,) = values(make_reward("contains"), "x")
    assert isinstance(missing, Unscored)


def test_regex() -> None:
    assert values(make_reward("regex", pattern=r"\d+"), "a 1", "a") == [1.0, 0.0]
    assert values(make_reward("regex", pattern=r"\d+", full=True), "12", "12a") == [1.0, 0.0]
    named = make_reward("regex", pattern=r"Answer: (?P<answer>\w+)")
    assert values(named, "Answer: 3. Answer: 4", "Answer: 4. Answer: 3", "none", answer="4") == [1.0, 0.0, 0.0]
    assert values(make_reward("regex", pattern="(?P<answer>x)?y", ignore_case=True), "Y", answer="x") == [0.0]
    (missing,) = values(named, "Answer: 3")
    assert isinstance(missing, Unscored)


def test_json() -> None:
    good = ['{"a": 1}', "[1, 2]", '```json\n{"a": 1}\n```', "```\n[]\n```", ' {"a": 1}\n']
    bad = ["{'a': 1}", '{"a": 1} done', "3", "", "[" * 100_000, "text\n```json\n{}\n```"]
    assert values(make_reward("format", structure="json"), *good, *bad) == [1.0] * 5 + [0.0] * 6


def test_json_schema() -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 0}}}
    reward = make_reward("format", structure="json_schema", json_schema=schema)
    assert values(reward, '{"n": 3}', '{"n": -1}', '{"m": 3}', "[]", "n") == [1.0, 0.0, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="not a JSON Schema"):
        make_reward("format", structure="json_schema", json_schema={"type": "objekt"})


def test_xml_tags() -> None:
    texts = ["<a>1</a> and <b>2</b>", "<b>2</b><a>1</a>", "<a>1</a>", "<a>1</a><b>2</b><b>3</b>", "<a>1<b>2</b>"]
    assert values(make_reward("format", structure="xml", tags=["a", "b"]), *texts) == [1.0, 0.0, 0.0, 0.0, 0.0]
    partial = make_reward("format", structure="xml", tags=["a", "b"], partial=True)
    assert values(partial, *texts) == [1.0, 0.5, 0.5, 0.5, 0.5]


def test_think_answer() -> None:
    texts = [
        "<think>hm</think>\n<answer>4</answer>\n",
        "<think>hm</think> so <answer>4</answer>",
        "<think>hm</think>",
        "<think></think><answer>4</answer>",
        "<answer>4</answer><think>hm</think>",
        "<think>a</think><think>b</think><answer>4</answer>",
        "4",
    ]
    assert values(make_reward("format"), *texts) == [1.0] + [0.0] * 6
    assert values(make_reward("format", partial=True), *texts) == [1.0, 0.75, 0.25, 0.75, 0.75, 0.5, 0.0]


@pytest.mark.parametrize(
    ("prefill", "completion", "value"),
    [
        ("<think>\n", "hm</think>\n<answer>4</answer>", 1.0),
        ("Let me think.\n<think>", "hm</think><answer>4</answer>", 1.0),
        ("<think>\n", "<think>hm</think><answer>4</answer>", 0.0),
        ("<think>\n", "</think><answer>4</answer>", 0.0),
        ("<think>\n", "hm <answer>4</answer>", 0.0),
        ("Let me think.\n", "<think>hm</think><answer>4</answer>", 1.0),
        ("", "hm</think><answer>4</answer>", 0.0),
    ],
)
def test_a_think_block_that_the_prompt_opened_counts(prefill: str, completion: str, value: float) -> None:
    item = RewardInput(prompt="", prefill=prefill, completion=completion)
    assert make_reward("format").score([item]) == [value]


def test_json_and_tags_begun_in_the_prompt() -> None:
    begun = RewardInput(prompt="", prefill='{"a":', completion="1}")
    assert make_reward("format", structure="json").score([begun]) == [1.0]
    tag = RewardInput(prompt="", prefill="<json>\n", completion='{"a": 1}')
    assert make_reward("format", structure="json").score([tag]) == [1.0]
    opened = RewardInput(prompt="", prefill="<a>", completion="1</a>")
    assert make_reward("format", structure="xml", tags=["a"]).score([opened]) == [1.0]


def test_length() -> None:
    reward = make_reward("length", target_tokens=100, tolerance_tokens=50)
    assert lengths(reward, 100, 75, 150, 25, 1000, 0) == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0]


def test_overlong_of_dapo() -> None:
    reward = make_reward("overlong", max_tokens=100, cache_tokens=20)
    assert lengths(reward, 0, 80, 85, 90, 100, 101) == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
    cut = RewardInput(prompt="", completion="", num_tokens=90, truncated=True)
    assert reward.score([cut]) == [-1.0]
    assert reward.score([]) == []
