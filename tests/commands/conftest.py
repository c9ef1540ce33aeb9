"""What the end-to-end tests share: untrained models, and a config that trains in seconds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.models import make_model
from support.training_runs import write_run_config


@pytest.fixture(scope="session")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tied", tie_embeddings=True)


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "untied", tie_embeddings=False)


@pytest.fixture
def write_config(tmp_path: Path, tied_model: Path) -> Callable[..., Path]:
    """``write_run_config`` in ``tmp_path``, for the tied model."""
    return partial(write_run_config, tmp_path, model_path=tied_model)
