"""The files of a run, whatever wrote them: readable after SIGKILL, and without a secret in any of them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.models import make_model

from bolt_ray.training.telemetry.record import read_metrics

TESTS = Path(__file__).parents[1]
DEADLINE_S = 300.0

SECRETS = {
    "key in options": "sesame-of-the-options",
    "header": "blue-of-the-header",
    "variable of a judge": "swordfish-of-the-judge",
    "variable of wandb": "0123456789abcdef0123456789abcdef01234567",
    "variable of the hub": "hf_ofTheEnvironment0123456789",
}
CONFIGURED: dict[str, Any] = {
    "rewards": [
        {"type": "exact"},
        {
            "type": "http",
            "url": "https://judge.example/score",
            "api_key_env": "JUDGE_API_KEY",
            "weight": 0.5,
        },
        {
            "type": "reward.py:score",
            "options": {"api_key": "sesame-of-the-options", "headers": {"X-Team": "blue-of-the-header"}},
        },
    ],
    "data.heldout_size": 3,
    "eval.every_steps": 2,
}
ENVIRONMENT = {
    "JUDGE_API_KEY": SECRETS["variable of a judge"],
    "WANDB_API_KEY": SECRETS["variable of wandb"],
    "HF_TOKEN": SECRETS["variable of the hub"],
}


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    make_model(tmp_path / "model", tie_embeddings=True)
    (tmp_path / "reward.py").write_text("def score(item, **options):\n    return 1.0\n", encoding="utf-8")
    return tmp_path


def start(settings: dict[str, Any], directory: Path, **environment: str) -> subprocess.Popen[str]:
    """A training with stand-ins, as a process of its own."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "support.wired_process", json.dumps(settings)],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def bolt_ray(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bolt_ray.cli", *arguments],
        cwd=directory,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def contents(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


@pytest.mark.slow
def test_no_file_of_a_run_has_a_secret(workplace: Path) -> None:
    """Every kind of file there is: those of the sinks, of samples, of recordings, and what report makes of them."""
    everywhere = {
        "profile.steps": [2, 2],
        "profile.roles": ["driver"],
        "logging.tensorboard": True,
        "logging.wandb": "offline",
    }
    process = start(CONFIGURED | everywhere, workplace, **ENVIRONMENT)
    printed, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, printed
    run = workplace / "run"
    assert max(record["step"] for record in read_metrics(run / "metrics.jsonl")) == 4
    shown = [printed]
    for command in (["report", "run"], ["status", "run"], ["inspect", "run", "--samples"]):
        said = bolt_ray(*command, directory=workplace)
        assert "Traceback" not in said.stderr
        shown.append(said.stdout + said.stderr)
    files = [path for path in run.rglob("*") if path.is_file()]
    names = {path.relative_to(run).parts[0] for path in files}
    wanted = {
        "config.yaml",
        "run.log",
        "metrics.jsonl",
        "trace.json",
        "profile",
        "samples",
        "state.json",
        "report.html",
    }
    assert wanted | {"tensorboard", "wandb"} <= names
    found = {
        f"{what} in {path.relative_to(run)}"
        for path in files
        for what, secret in SECRETS.items()
        if secret.encode() in contents(path)
    }
    found |= {f"{what} printed" for text in shown for what, secret in SECRETS.items() if secret in text}
    assert found == set()


@pytest.mark.slow
def test_a_run_that_was_killed_is_reported_and_has_a_status(workplace: Path) -> None:
    process = start({"train.max_steps": 10_000, "data.heldout_size": 3, "eval.every_steps": 2}, workplace)
    run, deadline = workplace / "run", time.monotonic() + DEADLINE_S
    while len(read_metrics(run / "metrics.jsonl")) < 8:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=DEADLINE_S)
    status = bolt_ray("status", "run", directory=workplace)
    assert status.returncode == 4, status.stdout + status.stderr
    assert "10,000" in status.stdout or "10000" in status.stdout
    reported = bolt_ray("report", "run", directory=workplace)
    assert reported.returncode == 0, reported.stdout + reported.stderr
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    # The trace opens as it stands: every line but the first is an event.
    assert all(json.loads(line.removesuffix(",")) for line in (run / "trace.json").read_text().splitlines()[1:])
