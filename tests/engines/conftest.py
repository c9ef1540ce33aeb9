"""A tiny model, learners on it, and two ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.learner_cases import make_model
from support.ranks import RankPool
from support.settings import learner_settings

from bolt_ray.engines.learner.learner import DeepSpeedLearner


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def learner_of(model_path: str) -> Iterator[Any]:
    """Make learners on the tiny model; all are closed at the end."""
    made: list[DeepSpeedLearner] = []

    def make(**changes: Any) -> DeepSpeedLearner:
        settings: dict[str, Any] = {"model_path": model_path, "dtype": "float32", "learning_rate": 1e-2} | changes
        made.append(DeepSpeedLearner(learner_settings(**settings)))
        return made[-1]

    yield make
    for learner in made:
        learner.close()


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    """Two rank processes for all tests of the session."""
    pool = RankPool(num_ranks=2, directory=tmp_path_factory.mktemp("ranks"))
    yield pool
    pool.close()
