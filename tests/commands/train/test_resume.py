"""Which run directory a training opens, what it goes on from, and which settings may differ then."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.effects import SMALL

from bolt_ray.commands.train.resume import (
    OpenedRun,
    changed_settings,
    open_run,
    with_commit,
    with_saved_revision,
    write_config,
)
from bolt_ray.config.loading import build_config
from bolt_ray.config.presets import merge
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.digests import FileDigest
from bolt_ray.core.errors import CheckpointError, ConfigError
from bolt_ray.training.checkpoints import write_checkpoint
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.run_lock import RunLock


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config_with(**settings: Any) -> RunConfig:
    tree = SMALL
    for key, value in settings.items():
        for part in reversed(key.split("__")):
            value = {part: value}
        tree = merge(tree, value)
    return build_config(tree)


def save(run: RunDirectory, step: int, config: RunConfig | None = None) -> Path:
    def write_parts(directory: Path) -> dict[str, FileDigest]:
        write_config(directory / "config.yaml", config or config_with())
        return {}

    return write_checkpoint(run, step=step, state={"step": step}, write_parts=write_parts, keep=9)


def opened(said: list[str] | None = None, **settings: Any) -> OpenedRun:
    """The directory is let go at once."""
    with open_run(config_with(**settings), say=([] if said is None else said).append) as found:
        return found


def test_a_new_run_takes_no_directory_that_holds_one(tmp_path: Path) -> None:
    first = opened(run_dir="a")
    assert (first.run.root, first.checkpoint, first.saved) == (tmp_path / "a", None, {})
    opened(run_dir="a")  # it never began
    first.run.config.write_text("seed: 0")
    with pytest.raises(CheckpointError, match=r"already holds a run; .*resume=auto, or resume=if_any"):
        opened(run_dir="a")


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew_in_its_directory(tmp_path: Path) -> None:
    for _ in range(2):  # as often as it is killed
        found = opened(run_dir="a", resume="if_any")
        assert (found.run.root, found.checkpoint, found.state) == (tmp_path / "a", None, None)
        found.run.config.write_text("seed: 0")
        (found.run.checkpoints / ".writing-step-000002").mkdir(parents=True, exist_ok=True)
    saved = save(found.run, 2)
    found = opened(run_dir="a", resume="if_any")
    assert (found.run.root, found.checkpoint, found.state) == (tmp_path / "a", saved, {"step": 2})


def test_if_any_wants_a_directory_that_every_start_finds() -> None:
    with pytest.raises(ConfigError, match="resume 'if_any' needs run_dir"):
        opened(resume="if_any")


@pytest.mark.parametrize("resume", ["auto", "if_any", "a"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(resume: str, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "a")
    older, newest = save(run, 2), save(run, 4)
    (newest / "state.json").write_text("{")
    said: list[str] = []
    found = opened(said, run_dir="a", resume=resume)
    assert (found.checkpoint, found.state) == (older, {"step": 2})
    assert said[0].startswith("Warning: checkpoint step-000004 cannot be used, going on from step-000002: ")
    # None is whole: never a start from nothing beside checkpoints that somebody may mend.
    (older / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state\.json: missing"):
        opened(run_dir="a", resume=resume)
    with pytest.raises(CheckpointError, match=r"step-000004/state\.json: changed or truncated"):
        opened(run_dir="a", resume=str(newest))


def test_a_directory_in_which_another_driver_trains_is_left_alone(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "a")
    save(run, 2)
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*") if path.is_file()}
    with RunLock(run, say=print):
        for settings in ({"resume": "auto"}, {"resume": "if_any"}, {"resume": "a/checkpoints/step-000002"}, {}):
            with pytest.raises(CheckpointError, match=f"process {os.getpid()} on .* trains in this run directory"):
                opened(run_dir="a", **settings)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_checkpoint_copied_elsewhere_is_gone_on_from_in_a_new_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "a")
    copied = tmp_path / "backup" / "step-000002"
    shutil.copytree(save(run, 2), copied)
    found = opened(run_dir="b", resume="backup/step-000002")
    assert (found.run.root, found.checkpoint, found.state) == (tmp_path / "b", copied, {"step": 2})
    assert found.saved["train"]["max_steps"] == 4


# What may change.


def changes(change: Callable[[dict[str, Any]], None] | None = None, **settings: Any) -> list[str]:
    """What is said of ``settings`` beside those of a checkpoint."""
    path = save(RunDirectory(Path("saved").absolute()), 7)
    with open_run(config_with(resume=str(path)), say=print) as found:
        if change is not None:
            change(found.saved)
        return changed_settings(found, config_with(**settings))


def test_nothing_is_said_of_the_same_settings_and_of_those_a_resume_does_not_read() -> None:
    assert changes() == []
    assert changes(run_dir="b", resume="auto", name="other", baseline__warm_start="scores.json") == []


def test_settings_that_changed_are_said_with_both_values() -> None:
    assert changes(train__max_steps=9, kl__coef=0.5, cluster__num_generators=3) == [
        "Changed since step-000007: kl.coef 0.0 → 0.5",
        "Changed since step-000007: train.max_steps 4 → 9",
        "Changed since step-000007: cluster.num_generators 1 → 3",
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": 3}, "seed 0 → 3"),
        ({"data__heldout_size": 2}, "data.heldout_size 0 → 2"),
        ({"data__heldout_fraction": 0.5}, "data.heldout_fraction 0.0 → 0.5"),
        ({"rollout__group_size": 2}, "rollout.group_size 1 → 2"),
        ({"rollout__rollouts_per_step": 8}, "rollout.rollouts_per_step 4 → 8"),
        ({"curriculum__update_freq": 3}, "curriculum.update_freq 10 → 3"),
        ({"model__use_peft": True}, "model.use_peft false → true"),
    ],
)
def test_settings_the_state_was_made_with_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=rf"cannot change within a run: .*{said}.*Set them as they were"):
        changes(**settings, resume_changes=["model", "rewards"])


@pytest.mark.parametrize(
    ("settings", "part", "said"),
    [
        ({"model__name_or_path": "other"}, "model", "model.name_or_path model → other"),
        ({"model__prefill": "<think>"}, "model", "model.prefill  → <think>"),
        ({"rewards": [{"type": "contains"}]}, "rewards", r"rewards\[0\].type exact → contains"),
        ({"rewards": [{"type": "exact", "weight": 2.0}]}, "rewards", r"rewards\[0\].weight 1.0 → 2.0"),
        ({"rewards": [{"type": "exact"}, {"type": "contains"}]}, "rewards", r"rewards\[1\].type – → contains"),
        ({"baseline__reward_range": [0.0, 3.0]}, "rewards", "baseline.reward_range null → "),
    ],
)
def test_model_and_rewards_change_on_purpose_only(settings: dict[str, Any], part: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{said}.*on purpose, say resume_changes=\[{part}\]"):
        changes(**settings)
    assert changes(**settings, resume_changes=[part])


def test_how_long_a_reward_may_take_is_no_other_reward() -> None:
    assert changes(rewards=[{"type": "exact", "timeout_s": 5.0}])
    # A job's working directory is unpacked at another place every time.
    function = {"type": "function", "function": "/tmp/ray/_ray_pkg_1/reward.py:score"}
    moved = {"type": "function", "function": "/tmp/ray/_ray_pkg_2/reward.py:score"}

    def was(saved: dict[str, Any]) -> None:
        saved["rewards"] = config_with(rewards=[function]).model_dump(mode="json")["rewards"]

    assert changes(was, rewards=[moved]) == []
    with pytest.raises(CheckpointError, match=r"rewards\[0\].function .*:score → .*:other"):
        changes(was, rewards=[{**moved, "function": "reward.py:other"}])


def test_a_checkpoint_of_an_earlier_version_says_less() -> None:
    def older(saved: dict[str, Any]) -> None:
        del saved["kl"]["coef"]
        saved["train"]["gone"] = 1

    assert changes(older, kl__coef=0.5) == []
    assert changes(dict.clear, seed=3) == []


def test_no_secret_is_in_a_checkpoint(tmp_path: Path) -> None:
    write_config(tmp_path / "config.yaml", config_with(datasets=[{"name": "https://me:password@host/rows.jsonl"}]))
    assert "password" not in (tmp_path / "config.yaml").read_text()


def test_the_commit_a_run_began_with_is_kept() -> None:
    config = config_with(model__name_or_path="owner/model")
    began = with_commit(config, Path("/cache/models--owner--model/snapshots/abc123"))
    assert began.model.revision == "abc123"
    saved = began.model_dump(mode="json")
    assert with_saved_revision(config, saved).model.revision == "abc123"
    named = config.model_copy(update={"model": replace(config.model, revision="main")})
    assert with_saved_revision(named, saved).model.revision == "main"
    other = config_with(model__name_or_path="owner/other")
    assert with_saved_revision(other, saved).model.revision is None
    assert with_saved_revision(config, {}) == config
    assert with_commit(config_with(), Path("/models/a")).model.revision is None
