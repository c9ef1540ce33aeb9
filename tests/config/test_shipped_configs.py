"""Every config file that ships loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from bolt_ray.config.loading import load_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_it_loads(path: Path) -> None:
    assert load_config(path).datasets


def test_there_are_some() -> None:
    assert "quickstart.yaml" in {path.name for path in CONFIGS}
