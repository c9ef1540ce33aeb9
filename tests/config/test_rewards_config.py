from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from bolt_ray.actors.settings import ScoringSettings
from bolt_ray.config.loading import build_config
from bolt_ray.config.rewards import Reward
from bolt_ray.core.errors import ConfigError
from bolt_ray.rewards.function import FunctionSettings
from bolt_ray.rewards.mathematics import MathSettings
from bolt_ray.rewards.process.wire import from_message, to_message
from bolt_ray.rewards.registry import REWARDS as REGISTRY
from bolt_ray.rewards.registry import reward_class
from bolt_ray.rewards.settings import check_reward_references, definite_rewards, reward_names

REWARDS: TypeAdapter[list[Any]] = TypeAdapter(list[Reward])

REQUIRED: dict[str, dict[str, Any]] = {
    "regex": {"pattern": "x"},
    "length": {"target_tokens": 10, "tolerance_tokens": 5},
    "overlong": {"max_tokens": 10, "cache_tokens": 5},
    "function": {"function": "module:name"},
    "reward_model": {"model": "path"},
    "http": {"url": "https://host/score"},
    "llm_judge": {"url": "https://host/v1", "model": "judge"},
}
"""The settings that a reward cannot be without; the others load from their name alone."""


def load(*rewards: Any) -> list[Any]:
    return REWARDS.validate_python(list(rewards))


def test_the_short_form_loads_as_it_stands() -> None:
    (reward,) = load({"type": "math", "weight": 0.5})
    assert isinstance(reward, MathSettings)
    assert (reward.weight, reward.name, reward.shaping, reward.extract) == (0.5, None, False, "auto")
    assert load("exact")[0].weight == 1.0


def test_every_type_has_a_section_and_an_implementation() -> None:
    types = sorted(set(REGISTRY) - {"callable"})
    loaded = load(*({"type": name, **REQUIRED.get(name, {})} for name in types))
    assert [reward.type for reward in loaded] == types
    assert all(isinstance(reward, reward_class(reward.type).settings) for reward in loaded)
    definite = definite_rewards(loaded, timeout_s=7.0, memory_mb=512)
    messages = json.loads(json.dumps([to_message(reward) for reward in definite]))
    assert [to_message(from_message(message)) for message in messages] == messages
    by_type = {reward.type: reward for reward in definite}
    assert (by_type["exact"].ignore_case, by_type["exact"].ignore_space) == (False, True)
    assert (by_type["exact"].timeout_s, by_type["exact"].memory_mb) == (7.0, 512)
    assert (by_type["reward_model"].timeout_s, by_type["reward_model"].memory_mb) == (120.0, 16384)
    assert {name for name, each in by_type.items() if each.shaping} == {"length", "overlong"}


def test_a_function_may_stand_as_the_type() -> None:
    reward, other = load(
        {"type": "my.module:score", "weight": 2}, {"type": "dir/my_rewards.py:score", "options": {"a": [1]}}
    )
    assert isinstance(reward, FunctionSettings) and reward.function == "my.module:score"
    assert other.options == {"a": [1]}


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"type": "maths"}, "unknown reward type 'maths'; did you mean 'math'"),
        ({"type": "llm_jugde"}, "did you mean 'llm_judge'"),
        ({"type": "zzz"}, "known: arithmetic, code,"),
        ({"weight": 1.0}, "type"),
        ({"type": "math", "wieght": 1.0}, "wieght"),
        ({"type": "math", "weight": float("nan")}, "finite"),
        ({"type": "math", "extract": "first"}, "'auto', 'boxed' or 'last_number'"),
        ({"type": "math", "timeout_s": 0}, "greater than 0"),
        ({"type": "regex"}, "Field required"),
        ({"type": "regex", "pattern": "("}, "not a regular expression"),
        ({"type": "format", "structure": "json_schema"}, "json_schema is needed"),
        ({"type": "format", "json_schema": {}}, "json_schema is needed"),
        ({"type": "format", "structure": "json_schema", "json_schema": {"type": "x"}}, "not a JSON Schema"),
        ({"type": "format", "structure": "xml"}, "tags are needed"),
        ({"type": "format", "structure": "xml", "tags": ["a", "a"]}, "differ"),
        ({"type": "format", "structure": "xml", "tags": ["<a>"]}, "are not all names"),
        ({"type": "overlong", "max_tokens": 10, "cache_tokens": 11}, "cache_tokens must not be above"),
        ({"type": "length", "target_tokens": 10}, "tolerance_tokens"),
        ({"type": "code", "wall_s": 10, "timeout_s": 5}, "must be above wall_s"),
        ({"type": "function"}, "Field required"),
        ({"type": "function", "function": "no_colon"}, "pattern"),
        ({"type": "a:b", "function": "c:d"}, "give the function once"),
        ({"type": "a:b", "options": {"x": object()}}, "plain values"),
        ({"type": "http", "url": "ftp://x"}, "pattern"),
        ({"type": "http"}, "Field required"),
        ({"type": "llm_judge", "url": "https://x/v1"}, "model"),
        ({"type": "llm_judge", "url": "https://x", "model": "m", "pattern": "x"}, "group named score"),
        ({"type": "llm_judge", "url": "https://x", "model": "m", "prompt": "x"}, "must contain {completion}"),
        ({"type": "llm_judge", "url": "https://x", "model": "m", "min_score": 10}, "must be below"),
        ({"type": "http", "url": "https://me:hunter2@x"}, "must hold no user, password or key"),
        ({"type": "http", "url": "https://x/score?api_key=hunter2"}, "must hold no user, password or key"),
        (
            {"type": "http", "url": "http://judge:8000", "api_key_env": "KEY"},
            "key of api_key_env to judge in clear",
        ),
        ({"type": "http", "url": "http://[1", "api_key_env": "KEY"}, "Invalid IPv6 URL"),
        ({"type": "exact", "env": ["KEY=hunter2"]}, "takes names of environment variables"),
        ({"type": "reward_model"}, "Field required"),
        (3, "Unable to extract tag"),
    ],
)
def test_what_cannot_be_is_refused(reward: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        load(reward)
    assert message in str(caught.value)


def test_a_key_goes_over_https_or_stays_on_this_machine() -> None:
    for url in ("https://judge.example/v1", "http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]:8000"):
        assert load({"type": "http", "url": url, "api_key_env": "KEY"})[0].variables == ("KEY",)
    assert load({"type": "http", "url": "http://judge:8000/v1?model=m"})[0].variables == ()


def test_a_secret_in_a_url_is_not_repeated_in_the_message() -> None:
    tree = {"datasets": [{"name": "rows.jsonl"}], "rewards": [{"type": "http", "url": "https://me:hunter2@x"}]}
    with pytest.raises(ConfigError, match=r"rewards.*url.*api_key_env") as caught:
        build_config(tree)
    assert "hunter2" not in str(caught.value)


def test_the_variables_of_a_reward_are_its_own_or_those_of_all() -> None:
    loaded = load(
        "exact",
        {"type": "math", "env": []},
        {"type": "http", "url": "https://x", "api_key_env": "KEY", "env": ["TEAM"]},
        {"type": "reward_model", "model": "m"},
    )
    definite = definite_rewards(loaded, timeout_s=7.0, memory_mb=512, env=["SHARED"])
    assert [reward.variables for reward in definite] == [("SHARED",), (), ("TEAM", "KEY"), ("HF_TOKEN",)]


def test_names() -> None:
    rewards = load(
        {"type": "regex", "pattern": "a"},
        {"type": "regex", "pattern": "b"},
        {"type": "exact", "name": "regex_2"},
        {"type": "m:style"},
        {"type": "regex", "pattern": "c"},
    )
    assert reward_names(rewards) == ["regex", "regex_3", "regex_2", "style", "regex_4"]
    twice = load({"type": "exact", "name": "a"}, {"type": "math", "name": "a"})
    with pytest.raises(ValueError, match="several are named a"):
        reward_names(twice)


def test_references_of_datasets() -> None:
    check_reward_references(["math", "style"], ["style"], place="datasets[0].reward")
    check_reward_references(["math"], [], place="datasets[0].reward")
    with pytest.raises(ValueError, match=r"datasets\[0\].*no reward is named 'styles'; did you mean 'style'\?"):
        check_reward_references(["math", "style"], ["styles"], place="datasets[0].reward")


def test_scoring_limits() -> None:
    assert ScoringSettings().max_unscored_fraction == 0.5
    with pytest.raises(ValueError, match="max_unscored_fraction must be at most 1"):
        ScoringSettings(max_unscored_fraction=1.5)
    with pytest.raises(ValueError, match="num_scorers must be at least 1"):
        ScoringSettings(num_scorers=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval": {"success_part": "maths"}}, r"eval.success_part: no reward is named 'maths'; did you mean 'math'\?"),
        ({"eval": {"num_samples": 4, "temperature": 0}}, r"eval.num_samples: 4 at temperature 0 gives every problem"),
        (
            {"advantage": {"diversity_bonus": 0.1, "diversity_within": "group"}},
            r"advantage.diversity_within 'group' needs rollout.group_size of 2 or more",
        ),
    ],
)
def test_how_completions_count_must_be_possible(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config({"datasets": [{"name": "a.jsonl"}], "rewards": ["math"], **settings})
