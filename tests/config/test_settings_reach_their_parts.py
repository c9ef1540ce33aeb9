"""No setting is accepted and then ignored: each one, changed alone, is seen where it takes effect.

The tables of ``support.setting_effects`` have a line for every setting; a new one without a line fails here, and so
does one whose line sees no difference.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.effects import Effect, Look, Workplace, config_of, plain
from support.models import make_model
from support.setting_effects import arithmetic, core, data, generation, learner, rewards, run
from support.wired_run import run_once

from bolt_ray.config.schema import RunConfig
from bolt_ray.config.tree import walk
from bolt_ray.rewards.registry import REWARDS, reward_class
from bolt_ray.rewards.settings import RewardSettings

TABLES = (run, core, generation, learner, data, arithmetic)
EFFECTS = [line for table in TABLES for line in table.EFFECTS]
NAMES = [f"{table.__name__.rpartition('.')[2]}-{line.place}" for table in TABLES for line in table.EFFECTS]

Seen = Callable[[Look, RunConfig], str]

WITHOUT: dict[tuple[Look, str], str] = {}
"""What a look finds before anything is changed, by look and configuration: many lines begin with the same."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model", tie_embeddings=True)


@pytest.fixture
def seen(model: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What a look finds, as a text, in a fresh directory of always the same name."""

    def found(look: Look, config: RunConfig) -> str:
        here = Workplace(directory=model.parent / "here", model=model)
        monkeypatch.chdir(model.parent)
        shutil.rmtree(here.directory, ignore_errors=True)
        here.directory.mkdir()
        (here.directory / "model").symlink_to(model)
        monkeypatch.chdir(here.directory)
        return str(plain(look(config, here)))

    return found


def check(line: Effect, seen: Seen, config: Callable[[Mapping[str, Any]], RunConfig], *, name: str) -> None:
    for number, look in enumerate(line.looks):
        base = config(line.beside)
        if (look, repr(base)) not in WITHOUT:
            WITHOUT[look, repr(base)] = seen(look, base)
            assert seen(look, base) == WITHOUT[look, repr(base)], f"look {number} differs by itself"
        changed = seen(look, config({**line.beside, name: line.value}))
        assert changed != WITHOUT[look, repr(base)], f"look {number} sees no difference"


@pytest.mark.parametrize("line", EFFECTS, ids=NAMES)
def test_a_setting_is_seen_where_it_takes_effect(line: Effect, seen: Seen) -> None:
    check(line, seen, config_of, name=line.place)


@pytest.mark.parametrize("line", rewards.EFFECTS, ids=[line.place for line in rewards.EFFECTS])
def test_a_setting_of_a_reward_is_seen_where_it_takes_effect(line: Effect, seen: Seen) -> None:
    def config(settings: Mapping[str, Any]) -> RunConfig:
        return rewards.config_with(line.place, settings)

    check(line, seen, config, name=line.place.partition(".")[2])


def test_two_runs_of_one_configuration_are_the_same(seen: Seen) -> None:
    def look(config: RunConfig, here: Workplace) -> Any:
        found = run_once(config, here)
        # The last two hold times of day.
        names = {"run_name", "store", "tokenize", "curriculum", "row_key", "_telemetry", "_totals"}
        found["made"] = {
            part: {name: value for name, value in given.items() if name not in names}
            for part, given in found["made"].items()
        }
        return found

    config = config_of({"data.heldout_size": 3})
    assert seen(look, config) == seen(look, config)


def test_every_setting_has_a_line() -> None:
    places = {".".join(place) for place, _ in walk()}
    # Entries of eval.datasets are of the same record, and arrive whole; rewards have a table of their own.
    places = {place for place in places if not place.startswith(("rewards[].", "eval.datasets[]."))}
    assert {line.place for line in EFFECTS} == places | {"eval.datasets"}


def test_every_setting_of_a_reward_has_a_line() -> None:
    common = {field.name for field in dataclasses.fields(RewardSettings)}
    own = {
        f"{kind}.{field.name}"
        for kind in REWARDS
        for field in dataclasses.fields(reward_class(kind).settings)
        if field.name not in common
    }
    assert {line.place for line in rewards.EFFECTS} == own | {f"any.{name}" for name in common}


def test_a_line_never_gives_the_default() -> None:
    defaults = {".".join(place): field.default for place, field in walk()}
    assert [line.place for line in EFFECTS if line.value == defaults.get(line.place)] == []
