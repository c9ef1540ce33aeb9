"""The guides and the README's "Bring your own": their settings exist, and their examples run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.training_runs import check_adapters, check_printed_agreement, steps_of
from typer.testing import CliRunner

from bolt_ray.cli import app
from bolt_ray.commands.docs import TOPICS, guide
from bolt_ray.config.loading import build_config
from bolt_ray.core.errors import ConfigError

README = Path(__file__).parents[2] / "README.md"
IN_README = ("data", "reward", "model")
"""The guides whose example the README shows too."""
EXAMPLE_TIMEOUT_S = 580.0
"""Of one example; the first to use the embedded model may have to teach it."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def own_section() -> str:
    text = README.read_text(encoding="utf-8")
    return text[text.index("## Bring your own") : text.index("## Algorithms")]


def examples() -> dict[str, str]:
    """Every example there is to copy and run, by name: the README's, and that of a guide which is not in it."""
    shown = dict(zip([*IN_README, "starter"], blocks(own_section(), "bash"), strict=True))
    return shown | {topic: blocks(guide(topic), "bash")[0] for topic in TOPICS if topic not in IN_README}


@pytest.mark.parametrize("topic", TOPICS)
def test_a_guide_has_one_example(topic: str) -> None:
    assert len(blocks(guide(topic), "bash")) == 1


@pytest.mark.parametrize("topic", IN_README)
def test_the_readme_shows_the_guides_example(topic: str) -> None:
    assert blocks(guide(topic), "bash") == [examples()[topic]]


@pytest.mark.parametrize("topic", TOPICS)
def test_settings_a_guide_shows_are_accepted(topic: str) -> None:
    for block in blocks(guide(topic), "yaml"):
        tree: dict[str, Any] = {"datasets": [{"name": "arithmetic"}], "rewards": [{"type": "math"}]}
        build_config(tree | yaml.safe_load(block))


def test_help_leads_to_the_guides() -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["docs"])
    assert listed.exit_code == 0
    assert [line.split()[2] for line in listed.output.splitlines()] == list(TOPICS)
    assert runner.invoke(app, ["docs", "reward"]).output == guide("reward")
    with pytest.raises(ConfigError, match="no guide 'rewrad'; did you mean reward"):
        guide("rewrad")


def run_example(example: str, directory: Path, **environment: str) -> str:
    """Run it as it stands; returns what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example],
        cwd=directory,
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=EXAMPLE_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize(
    ("topic", "names"),
    [
        ("algorithm", ["my_loss.py:penalized", "my_strategy.py:Frontier"]),
        ("reward", ["my_reward.py:score"]),
        ("data", ["problems.jsonl", "more.csv"]),
        ("names", ["problems.jsonl"]),
    ],
)
def test_an_example_is_accepted(tmp_path: Path, topic: str, names: list[str]) -> None:
    """Its files are written, loaded and checked; runs of such data and code: tests/commands/train, tests/core."""
    start = examples()[topic].replace("bolt-ray train", "bolt-ray validate")
    assert start.count("bolt-ray validate") >= 1
    printed = "".join(run_example(start, tmp_path).split())
    assert all(name in printed for name in names)


@pytest.mark.slow
def test_the_example_inside_trl_runs_as_it_stands(tmp_path: Path) -> None:
    printed = run_example(examples()["trl"], tmp_path)
    steps = re.findall(r"^step (\d+): reward (0\.\d\d), (\d+) prompts known, level 0\.\d\d$", printed, re.MULTILINE)
    assert [int(step) for step, _, _ in steps] == [3, 6, 9, 12]
    assert int(steps[-1][2]) > 200
    assert f"{steps[-1][2]} prompts: baseline.warm_start=warm.json" in printed


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "starter", "runs"])
def test_an_example_runs_as_it_stands(ray_cluster: None, tmp_path: Path, name: str) -> None:
    """With the session's Ray, as a submitted job would; test_end_to_end.py has runs that start their own."""
    import ray

    printed = run_example(examples()[name], tmp_path, RAY_ADDRESS=ray.get_runtime_context().gcs_address)
    (run,) = tmp_path.glob("*/run")
    steps = steps_of(run)
    assert len(steps) >= 3
    assert all(record["policy/logprob_gap_max"] < 1e-3 for record in steps)
    if run.parent.name == "own-model":
        assert (run.parent / "merged-model" / "model.safetensors").is_file()
        check_printed_agreement(printed, sent="a LoRA adapter")
        check_adapters(run, whole=run.parent / "my-model")
    if run.parent.name == "seen":
        assert (run / "report.html").is_file()
        assert list((run / "tensorboard").rglob("*tfevents*"))
        assert (run / "profile" / "step-000003-learner-0.json.gz").is_file()
    if run.parent.name == "my-task":
        assert "pass@4" in printed
