"""Where a process finds its model: the same name on nodes whose caches lie elsewhere."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from bolt_ray.core.errors import ModelError
from bolt_ray.engines.model_directory import model_directory

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(home: Path, commit: str = COMMIT) -> Path:
    """A model in the cache of a node whose ``HF_HOME`` is ``home``."""
    repository = home / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return snapshot


def found_on(home: Path, model: str) -> str:
    code = f"from bolt_ray.engines.model_directory import model_directory; print(model_directory({model!r}))"
    environ = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_every_node_finds_the_model_in_its_own_cache(tmp_path: Path) -> None:
    here, there = cached(tmp_path / "head"), cached(tmp_path / "worker")
    name = f"owner/name@{here.name}"
    assert found_on(tmp_path / "head", name) == str(here)
    assert found_on(tmp_path / "worker", name) == str(there)


def test_a_node_takes_the_commit_that_the_driver_has(tmp_path: Path) -> None:
    cached(tmp_path / "worker", commit="f" * 40)
    assert COMMIT in found_on(tmp_path / "worker", f"owner/name@{COMMIT}")
    assert "cannot be had from the Hugging Face hub on the node" in found_on(
        tmp_path / "worker", f"owner/name@{COMMIT}"
    )


def test_a_directory_that_a_node_does_not_see_is_named_with_the_node(tmp_path: Path) -> None:
    assert model_directory(str(tmp_path)) == tmp_path
    with pytest.raises(ModelError, match=f"no directory .*/gone on the node {platform.node()}; put it on storage that"):
        model_directory(str(tmp_path / "gone"))


def test_an_at_sign_in_a_path_is_no_revision(tmp_path: Path) -> None:
    (tmp_path / "model@1").mkdir()
    assert model_directory(str(tmp_path / "model@1")) == tmp_path / "model@1"
