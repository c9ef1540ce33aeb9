"""Settings of the rewards: seen in what the reward process builds from the message it gets, and in sums.

Places are ``<type>.<setting>``; the settings that every reward has stand below ``any``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from support.effects import SMALL, Effect, Look, Workplace, effect, state_of
from support.setting_effects.run import scorer_limits

from bolt_ray.commands.shared.inference import start_scorers
from bolt_ray.commands.shared.inputs import RunInputs
from bolt_ray.config.loading import build_config
from bolt_ray.config.own_code import with_absolute_files
from bolt_ray.config.resolve import resolve
from bolt_ray.config.schema import RunConfig
from bolt_ray.rewards.process.wire import from_message, to_message
from bolt_ray.rewards.program import CodeReward, CodeSettings
from bolt_ray.rewards.protocol import Reward, RewardInput
from bolt_ray.rewards.registry import build_reward
from bolt_ray.rewards.reward_model import RewardModelReward
from bolt_ray.rewards.reward_set import combine
from bolt_ray.rewards.settings import RewardSettings


def own_reward(item: RewardInput, **options: Any) -> float:
    return 1.0


REQUIRED: Mapping[str, dict[str, Any]] = {
    "regex": {"pattern": "4"},
    "length": {"target_tokens": 10, "tolerance_tokens": 5},
    "overlong": {"max_tokens": 10, "cache_tokens": 5},
    "function": {"function": "own.py:first"},
    "callable": {"function": own_reward},
    "reward_model": {"model": "model"},
    "http": {"url": "http://localhost:1/score"},
    "llm_judge": {"url": "http://localhost:1/v1", "model": "judge"},
}
"""The settings without a default, of the rewards that have some."""


def config_with(place: str, settings: Mapping[str, Any]) -> RunConfig:
    """A configuration whose one reward is of the type in a place of this table, with these settings."""
    kind = place.partition(".")[0]
    kind = "exact" if kind == "any" else kind
    entry = {"type": kind, **REQUIRED.get(kind, {}), **settings}
    return resolve(build_config({**SMALL, "rewards": [entry]}), use_gpu=False)


def spec_of(config: RunConfig, here: Workplace) -> RewardSettings:
    """The settings as a reward process reads them."""
    given: dict[str, Any] = {}
    inputs = RunInputs(model_path=here.model, train=(), heldout=(), context_tokens=64)
    start_scorers(with_absolute_files(config, here.directory), inputs, start=given.update)
    (spec,) = given["specs"]
    return from_message(to_message(spec))


def reward_of(config: RunConfig, here: Workplace) -> Reward:
    (here.directory / "own.py").write_text(
        "def first(item, **options): return 1.0\n\ndef second(item, **options): return 2.0\n"
    )
    return build_reward(spec_of(config, here))


def built(config: RunConfig, here: Workplace) -> Any:
    return state_of(reward_of(config, here))


def scored(config: RunConfig, here: Workplace) -> Any:
    """The values of some completions."""
    texts = ['{"a": 1}', "<a>1</a>", "<think>1</think><answer>2</answer>", "<think>1</think>", "[1]"]
    return reward_of(config, here).score([RewardInput(prompt="p", completion=text, answer="4") for text in texts])


def called(config: RunConfig, here: Workplace) -> Any:
    """The function behind a reward, and how it is called."""
    try:
        reward = vars(reward_of(config, here))
    except ValueError as error:
        return str(error)
    return [reward["_function"].__name__, state_of({**reward, "_function": None})]


def gym(config: RunConfig, here: Workplace) -> Any:
    pytest.importorskip("reasoning_gym")
    return built(config, here)


def program(config: RunConfig, here: Workplace) -> Any:
    """What a sandbox is made from, and the rest of the reward."""
    spec = spec_of(config, here)
    assert isinstance(spec, CodeSettings)
    return state_of(CodeReward(spec, sandbox=dict, service=lambda settings, limits: {"at": settings.url}))  # type: ignore


def endpoint(config: RunConfig, here: Workplace) -> Any:
    try:
        return built(config, here)
    except ValueError as error:
        return str(error)


def model(config: RunConfig, here: Workplace) -> Any:
    """A model that scores, made from the tiny model here."""
    if not (here.directory / "another").exists():
        (here.directory / "another").symlink_to(here.model)
    try:
        reward = reward_of(config, here)
    except (RuntimeError, AssertionError) as error:
        return type(error).__name__
    assert isinstance(reward, RewardModelReward)
    loaded = vars(reward)["_model"]
    return [loaded.config._name_or_path, str(loaded.dtype), str(loaded.device), state_of(reward)]


def sums(config: RunConfig, here: Workplace) -> Any:
    spec = spec_of(config, here)
    return combine([spec], {spec.part_name: 0.5})


def kind(config: RunConfig, here: Workplace) -> Any:
    return type(reward_of(config, here)).__name__


def of(kind: str, look: Look, beside: Mapping[str, Any] | None = None, **settings: Any) -> list[Effect]:
    """One line for each setting of a reward."""
    return [effect(f"{kind}.{name}", value, look, **(beside or {})) for name, value in settings.items()]


ENDPOINT = {
    "url": "http://localhost:2/other",
    "api_key_env": "NO_SUCH_KEY",
    "request_timeout_s": 7.0,
    "max_retries": 1,
    "backoff_s": 0.25,
    "concurrency": 2,
}
OBJECTS = {"structure": "json_schema", "json_schema": {"type": "object"}}
GRADE = r"Grade (?P<score>\d)"

EFFECTS: tuple[Effect, ...] = (
    *of("any", kind, type="contains"),
    *of("any", sums, name="own", weight=2.0, shaping=True),
    *of("any", scorer_limits, timeout_s=3.0, memory_mb=512, env=("NAME",)),
    *of("exact", built, ignore_case=True, ignore_space=False),
    *of("contains", built, texts=["a"], ignore_case=False, ignore_space=False),
    *of("regex", built, pattern="5", full=True, ignore_case=True),
    *of("format", scored, structure="json"),
    *of("format", scored, OBJECTS, json_schema={"type": "array"}),
    *of("format", scored, {"structure": "xml", "tags": ["a"]}, tags=["b"]),
    *of("format", scored, partial=True),
    *of("length", built, target_tokens=8, tolerance_tokens=4),
    *of("overlong", built, max_tokens=8, cache_tokens=4),
    *of("arithmetic", built, partial=0.5),
    *of("reasoning_gym", gym, strict=True),
    *of("math", built, extract="boxed", decimals=3, parse_timeout_s=1, unfinished=True, partial=0.5),
    *of("math", built, solution_column="worked"),
    *of("code", program, check="output", tests_column="tests", partial=True, wall_s=3.0, cpu_s=2, file_mb=4),
    *of("code", program, memory_mb_program=128, max_processes=4, output_kb=32, allow_unsafe=True),
    *of("code", program, {"url": "http://localhost:1"}, sandbox="http"),
    *of("code", endpoint, {"sandbox": "http", "url": "http://localhost:1"}, **ENDPOINT),
    *of("function", called, function="own.py:second", batched=True, options={"a": 1}, concurrency=2),
    *of("callable", called, function=abs, batched=True, options={"a": 1}, concurrency=2),
    *of("reward_model", model, model="another", output="score", label=1, batch_size=2, max_tokens=64),
    *of("reward_model", model, device="cpu" if torch.cuda.is_available() else "cuda", dtype="bfloat16"),
    *of("http", endpoint, **ENDPOINT, batch_size=4),
    *of("llm_judge", endpoint, **ENDPOINT, model="other", prompt="{completion}?", pattern=GRADE),
    *of("llm_judge", endpoint, min_score=1.0, max_score=5.0, max_tokens=32, temperature=0.5),
)
