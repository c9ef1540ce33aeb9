"""Runs whose checkpoints are in cloud storage, too: uploaded while they train, found again on another machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.effects import Workplace, config_of
from support.s3 import S3Endpoint, s3_endpoint
from support.wired_run import run_once

from bolt_ray.commands.train.resume import OpenedRun, open_run
from bolt_ray.core.errors import CheckpointError
from bolt_ray.training.checkpoint_storage import CheckpointStorage


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3Endpoint]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    monkeypatch.chdir(tmp_path)
    with s3_endpoint() as server:
        yield server


@pytest.fixture
def workplace(tmp_path: Path, tied_model: Path) -> Workplace:
    (tmp_path / "model").symlink_to(tied_model)
    return Workplace(directory=tmp_path, model=tmp_path / "model")


def trained(here: Workplace, url: str) -> dict[str, Any]:
    settings = {"checkpoint.storage": url, "checkpoint.every_steps": 1, "checkpoint.keep": 1, "train.max_steps": 2}
    return run_once(config_of(settings), here)


def opened(**settings: Any) -> OpenedRun:
    with open_run(config_of({name.replace("__", "."): value for name, value in settings.items()}), say=print) as found:
        return found


def test_a_run_is_continued_on_a_machine_that_has_the_storage_alone(endpoint: S3Endpoint, workplace: Workplace) -> None:
    endpoint.fail(0.3)
    run = trained(workplace, endpoint.url)
    assert (run["problem"], run["checkpoints"][-1]) == ("", "step-000002")
    assert CheckpointStorage(endpoint.url).names() == ["step-000002"]
    with pytest.raises(CheckpointError, match=r"checkpoint\.storage s3://bucket/run already holds checkpoints"):
        opened(checkpoint__storage=endpoint.url)
    path, query = endpoint.url.split("?")
    for number, resume in enumerate(("auto", "if_any", endpoint.url, f"{path}/step-000002?{query}")):
        found = opened(resume=resume, run_dir=f"elsewhere-{number}", checkpoint__storage=endpoint.url)
        assert found.run.root == Path.cwd() / f"elsewhere-{number}"
        assert found.checkpoint == found.run.checkpoints / "step-000002"
        assert found.state is not None and found.state["step"] == 2
        assert found.saved["train"]["max_steps"] == 2


def test_the_newest_of_both_places_is_taken(endpoint: S3Endpoint, workplace: Workplace) -> None:
    trained(workplace, endpoint.url)
    here = workplace.directory / "run" / "checkpoints"
    there = CheckpointStorage(endpoint.url)
    older = here / "step-000001"
    shutil.rmtree(older, ignore_errors=True)  # there if it was still being uploaded when the next one came
    shutil.copytree(here / "step-000002", older)
    shutil.rmtree(here / "step-000002")
    found = opened(resume="auto", run_dir=str(here.parent), checkpoint__storage=endpoint.url)
    assert found.checkpoint == here / "step-000002"
    there.set_aside("step-000002")
    shutil.rmtree(here / "step-000002")
    found = opened(resume="auto", run_dir=str(here.parent), checkpoint__storage=endpoint.url)
    assert found.checkpoint == older


def test_no_secret_is_in_what_a_run_leaves(endpoint: S3Endpoint, workplace: Workplace) -> None:
    trained(workplace, endpoint.url)
    left = [path for path in (workplace.directory / "run").rglob("*") if path.is_file()]
    assert left and not [path for path in left if b"testing-secret" in path.read_bytes()]
    assert "s3://bucket/run" in json.dumps([path.read_text() for path in left if path.name == "config.yaml"])


def test_nothing_in_storage_is_said(endpoint: S3Endpoint) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        opened(resume=endpoint.url, run_dir="new")
