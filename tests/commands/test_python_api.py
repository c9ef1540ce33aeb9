"""``from bolt_ray import …``: what a script or a notebook uses; train/test_own_data.py trains with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import bolt_ray
from bolt_ray import RewardInput, RunConfig, load_config
from bolt_ray.config.loading import dump_config
from bolt_ray.core.errors import ConfigError
from bolt_ray.rewards.process.wire import from_message, to_message
from bolt_ray.rewards.registry import build_reward
from bolt_ray.rewards.settings import definite_rewards

README = Path(__file__).parents[2] / "README.md"
SMALL: dict[str, Any] = {"datasets": [{"name": "problems.jsonl"}], "rewards": ["math"]}


def test_every_public_name_is_there_and_importing_costs_nothing() -> None:
    assert all(getattr(bolt_ray, name) is not None for name in bolt_ray.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = bolt_ray.trian
    code = "import sys, bolt_ray; print([m for m in ('torch', 'ray', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_config_made_in_python_has_its_preset_below_it() -> None:
    config = RunConfig(**SMALL, algo="GRPO", rollout={"rollouts_per_step": 32})
    assert (config.algo, config.rollout.group_size, config.rollout.rollouts_per_step) == ("grpo", 8, 32)
    assert (config.advantage.baseline, config.loss.type) == ("group", "grpo")
    assert RunConfig.model_validate(yaml.safe_load(dump_config(config))) == config


def test_the_readmes_script_makes_a_configuration() -> None:
    (script,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    made: dict[str, Any] = {}
    exec(compile(script.partition("outcome = train(config)")[0], "README.md", "exec"), made)
    config = made["config"]
    assert (config.train.max_steps, [reward.default_name for reward in config.rewards]) == (20, ["score"])


def test_a_function_is_a_reward_wherever_it_was_defined() -> None:
    bonus = 0.5

    def score(item: RewardInput) -> float:
        return float(item.completion == item.answer) + bonus

    config = RunConfig(**SMALL | {"rewards": [score, {"type": score, "weight": 2.0, "name": "again"}]})
    rewards = definite_rewards(config.rewards, timeout_s=1.0, memory_mb=64)
    assert [(reward.name, reward.weight) for reward in rewards] == [("score", 1.0), ("again", 2.0)]
    # As the process gets it that scores: through JSON.
    arrived = build_reward(from_message(json.loads(json.dumps(to_message(rewards[0])))))
    items = [RewardInput(prompt="", completion=text, answer="4") for text in ("4", "5")]
    assert list(arrived.score(items)) == [1.5, 0.5]


def test_a_file_cannot_hold_a_function(tmp_path: Path) -> None:
    def score(item: RewardInput) -> float:
        return 0.0

    path = tmp_path / "config.yaml"
    path.write_text(dump_config(RunConfig(**SMALL | {"rewards": [score]})))
    with pytest.raises(ConfigError, match=r"'score' was given as a function in Python.*file.py:function"):
        load_config(path)
