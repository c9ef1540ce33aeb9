"""What the TRL tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.models import make_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model to train, untrained."""
    import bolt_ray.integrations.trl.trainer  # noqa: F401

    # A trainer collects garbage when it ends: over the million objects of the imports half of a short training.
    gc.freeze()
    yield make_model(tmp_path_factory.mktemp("trl-model") / "tiny", tie_embeddings=True)
    gc.unfreeze()
