"""A loss, strategy or reward in a file of the user's: found beside the config, from any working directory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bolt_ray.commands.validate import print_validation
from bolt_ray.config.loading import build_config, dump_config, load_config
from bolt_ray.config.own_code import check_own_code, with_absolute_files
from bolt_ray.core.errors import ConfigError
from bolt_ray.core.plugins import absolute_reference, load_object
from bolt_ray.rewards.function import FunctionSettings

OWN = """
def loss(tokens, options):
    raise AssertionError("only loaded here")

class Strategy:
    pass

def reward(item):
    return 1.0

def trl(completions, **kwargs):
    return [1.0] * len(completions)

def decorate(function):
    return function

@decorate
async def decorated(*, data_source, solution_str, ground_truth, extra_info=None):
    return 1.0

def neither(completion, answer):
    return 1.0

decorated_neither = decorate(neither)
number = 3
"""

CONFIG = """
datasets: [{name: arithmetic}]
loss: {type: "own.py:loss"}
curriculum: {strategy: "own.py:Strategy"}
rewards: [{type: "own.py:reward"}]
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    path = folder / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_files_are_found_beside_the_config(config_file: Path) -> None:
    config = load_config(config_file)
    own = config_file.parent / "own.py"
    assert (config.loss.type, config.curriculum.strategy) == (f"{own}:loss", f"{own}:Strategy")
    (reward,) = config.rewards
    assert isinstance(reward, FunctionSettings)
    assert (reward.function, reward.default_name) == (f"{own}:reward", "reward")
    assert load_object(config.loss.type).__name__ == "loss"
    check_own_code(config)


def test_a_chat_template_is_found_beside_the_config(config_file: Path) -> None:
    config = load_config(config_file, ["model.chat_template=mine.jinja"])
    assert config.model.chat_template == str(config_file.parent / "mine.jinja")
    assert with_absolute_files(config, Path("/elsewhere")) == config


def test_an_override_names_a_file_the_same_way(config_file: Path) -> None:
    config = load_config(config_file, ["loss.type=own.py:reward", "curriculum.strategy=uniform"])
    assert config.loss.type == f"{config_file.parent / 'own.py'}:reward"
    assert config.curriculum.strategy == "uniform"


def test_a_config_made_in_python_gets_the_directory_from_its_caller(config_file: Path) -> None:
    made = build_config({"datasets": [{"name": "x"}], "rewards": ["math"], "loss": {"type": "own.py:loss"}})
    config = with_absolute_files(made, config_file.parent)
    assert config.loss.type == f"{config_file.parent / 'own.py'}:loss"
    assert with_absolute_files(config, Path("/elsewhere")) == config
    assert (
        with_absolute_files(build_config({"datasets": [{"name": "x"}], "rewards": ["math"]}), Path()).loss.type
        == "dapo"
    )


def test_the_dumped_config_means_the_same_elsewhere(config_file: Path, tmp_path: Path) -> None:
    config = load_config(config_file)
    copy = tmp_path / "elsewhere.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert load_config(copy).loss.type == config.loss.type


def test_validate_loads_and_shows_them(config_file: Path) -> None:
    out = io.StringIO()
    print_validation(load_config(config_file), console=Console(file=out, width=400))
    assert f"type: {config_file.parent / 'own.py'}:loss" in out.getvalue()
    assert "\nreward own.py:reward: bolt-ray's shape (item, **options)\n" in out.getvalue()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss.type=own.py:los", r"loss\.type: .*own\.py has no 'los'; it has: Strategy, decorate, decorated, "),
        ("loss.type=other.py:loss", r"loss\.type: there is no file .*run/other\.py"),
        ("loss.type=no_such_package.losses:loss", r"loss\.type: .*module 'no_such_package\.losses' cannot be imported"),
        ("curriculum.strategy=own.py:number", r"curriculum\.strategy: .* is of type int; it must be callable"),
        ("rewards=[{type: 'other.py:reward'}]", r"rewards\.0\.type: other.py:reward: there is no file .*run/other\.py"),
        ("curriculum.strategy=broken.py:C", r"curriculum\.strategy: .*broken\.py:C cannot be loaded: SyntaxError"),
    ],
)
def test_what_cannot_be_loaded_is_said_before_anything_starts(config_file: Path, setting: str, message: str) -> None:
    (config_file.parent / "broken.py").write_text("class C\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        check_own_code(load_config(config_file, [setting]))


@pytest.mark.parametrize(
    ("rewards", "lines"),
    [
        ([{"type": "own.py:reward"}, "math"], ["reward own.py:reward: bolt-ray's shape (item, **options)"]),
        ([{"type": "own.py:trl"}], ["reward own.py:trl: TRL's shape (completions, **columns)"]),
        # What a decorator makes of it, only its process can tell.
        (
            [{"type": "own.py:decorated"}],
            ["reward own.py:decorated: verl's shape (data_source, solution_str, ground_truth, extra_info)"],
        ),
        ([lambda queries, prompts, labels: 1.0], ["reward lambda: OpenRLHF's shape (queries, prompts, labels)"]),
    ],
)
def test_what_a_reward_is_taken_for_is_said(config_file: Path, rewards: list[Any], lines: list[str]) -> None:
    config = with_absolute_files(build_config({"datasets": [{"name": "x"}], "rewards": rewards}), config_file.parent)
    assert check_own_code(config) == lines


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            "own.py:neither",
            r"rewards\.0\.type: own\.py:neither: a reward function cannot have the parameters \(completion",
        ),
        ("own.py:decorated_neither", r"rewards\.0\.type: own\.py:decorated_neither: .*cannot have the parameters"),
        ("own.py:no_such", r"rewards\.0\.type: own\.py:no_such: .*own\.py has no 'no_such'"),
        ("broken.py:score", r"rewards\.0\.type: broken\.py:score: .*SyntaxError"),
        (lambda completion, answer: 1.0, r"rewards\.0\.type: lambda: a reward function cannot have the parameters"),
    ],
)
def test_a_reward_without_a_shape_is_refused_before_anything_starts(
    config_file: Path, reward: Any, message: str
) -> None:
    (config_file.parent / "broken.py").write_text("def score(item\n", encoding="utf-8")
    config = build_config({"datasets": [{"name": "x"}], "rewards": [{"type": reward}]})
    with pytest.raises(ConfigError, match=message) as refused:
        check_own_code(with_absolute_files(config, config_file.parent))
    if "cannot have" in message:
        shapes = ("(item, **options)", "(completions, **columns)", "(data_source, ", "(queries, prompts, labels)")
        assert all(shape in str(refused.value) for shape in shapes)


def test_a_plain_function_is_known_without_running_its_file(config_file: Path) -> None:
    own = config_file.parent / "own.py"
    own.write_text(f"open({str(own.parent / 'ran')!r}, 'w')\n{OWN}", encoding="utf-8")
    config = load_config(config_file, ["loss.type=dapo", "curriculum.strategy=uniform"])
    assert check_own_code(config) == ["reward own.py:reward: bolt-ray's shape (item, **options)"]
    assert not (own.parent / "ran").exists()


def test_only_files_are_made_absolute(tmp_path: Path) -> None:
    assert absolute_reference("dapo", tmp_path) == "dapo"
    assert absolute_reference("package.module:name", tmp_path) == "package.module:name"
    assert absolute_reference("/a/b.py:name", tmp_path) == "/a/b.py:name"
    assert absolute_reference("b.py:name", tmp_path) == f"{tmp_path}/b.py:name"
