"""The files for GitHub and pre-commit: they parse, call what they should, and pin what the lock pins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
YAML = sorted([*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"])
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def read(path: Path) -> dict[str, Any]:
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(tree, dict)
    return tree


@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_files_are_yaml(path: Path) -> None:
    assert read(path)


def test_the_workflow_runs_what_ci_runs() -> None:
    workflow = read(ROOT / ".github" / "workflows" / "ci.yml")
    # YAML 1.1 reads the key "on" as true.
    assert set(workflow[True]) == {"push", "pull_request"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    (job,) = workflow["jobs"].values()
    assert 0 < job["timeout-minutes"] <= 120
    (python,) = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert python == "3.11"
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    commands = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert commands[-2:] == ["make test", "make lint"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_asks_something_and_each_field_has_its_own_id(path: Path) -> None:
    form = read(path)
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(set(ids)) == len(ids)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_pre_commit_uses_the_locked_ruff_and_changes_nothing_but_style() -> None:
    lock = (ROOT / "requirements" / "cpu.lock").read_text(encoding="utf-8")
    (locked,) = re.findall(r"^ruff==(\S+)", lock, re.MULTILINE)
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["rev"] == f"v{locked}"
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff-check", "ruff-format"]
