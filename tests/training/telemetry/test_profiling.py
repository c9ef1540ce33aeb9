"""Which steps and roles are recorded, what the driver's recording holds, and what a wrong setting says."""

from __future__ import annotations

import pstats
from pathlib import Path
from typing import Any

import pytest
from support.effects import SMALL, Workplace, config_of
from support.models import make_model
from support.wired_run import called, run_once

from bolt_ray.config.loading import build_config
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError
from bolt_ray.engines.profiler import ProfileTarget
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.settings import ProfileSettings
from bolt_ray.training.telemetry.profiling import Profiling, target_of


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    make_model(tmp_path / "model", tie_embeddings=True)
    monkeypatch.chdir(tmp_path)
    return Workplace(directory=tmp_path, model=tmp_path / "model")


def run_of(config: RunConfig, here: Workplace) -> dict[str, Any]:
    done = run_once(config, here)
    assert not done["problem"]
    assert len(called(done, "learner", "train")) == config.train.max_steps
    return done


def test_the_steps_asked_for_are_recorded(here: Workplace) -> None:
    config = config_of({"profile.steps": [2, 3], "profile.roles": ["generator", "driver"]})
    done = run_of(config, here)
    targets = called(done, "generators", "profile")
    assert [target and target.name for target in targets] == ["step-000002", None, "step-000003", None]
    profile = here.directory / "run" / "profile"
    for step in ("step-000002", "step-000003"):
        stats: Any = pstats.Stats(str(profile / f"{step}-driver.pstats"))
        assert any(name == "_one_step" or name == "build" for _, _, name in stats.stats)
        assert "cumulative" in (profile / f"{step}-driver.txt").read_text(encoding="utf-8")
    assert len(list(profile.iterdir())) == 4


def test_memory_of_the_driver(here: Workplace) -> None:
    run_of(config_of({"profile.steps": [2, 2], "profile.roles": ["driver"], "profile.tool": "memory"}), here)
    text = (here.directory / "run" / "profile" / "step-000002-driver.txt").read_text(encoding="utf-8")
    assert "MiB were held at once" in text
    assert ".py:" in text


def test_the_learner_is_told_its_steps() -> None:
    run, profile = RunDirectory(Path("/run")), ProfileSettings(steps=(2, 3))
    assert [target_of(run, profile, "learner", step) is not None for step in (1, 2, 3, 4)] == [False, True, True, False]
    assert target_of(run, profile, "driver", 2) is None
    assert target_of(run, profile, "learner", 3) == ProfileTarget(
        directory="/run/profile", name="step-000003", tool="torch"
    )


def test_a_recording_that_fails_is_a_warning_with_its_reason(tmp_path: Path) -> None:
    settings = ProfileSettings(steps=(1, 4), roles=("driver", "generator"))

    def spoiled(target: ProfileTarget | None) -> None:
        if target is not None:
            target.failed("generator-0", ValueError("no room"))

    profiling = Profiling(RunDirectory(tmp_path), settings, first_step=0, generators=spoiled)
    profiling.phase_began("wait_rollouts")
    with pytest.raises(RuntimeError, match="nothing recorded of generator-0: ValueError: no room"):
        profiling.close()


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ({"steps": [8, 5]}, r"profile.steps.* are the first and the last, counted from 1, not \[8, 5\]"),
        ({"steps": [0, 2]}, r"counted from 1, not \[0, 2\]"),
        ({"steps": [5, 8]}, r"profile.steps \[5, 8\] go beyond the last step: train.max_steps is 4"),
        ({"roles": ["lerner"]}, "did you mean 'learner'"),
        ({"tool": "nsys"}, "profile.tool"),
    ],
)
def test_a_wrong_setting_is_refused(profile: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_config({**SMALL, "profile": profile})
