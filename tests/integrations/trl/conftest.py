"""What the TRL tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.models import make_model

OF_A_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def of_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed's tests in the same process leave these behind, and a trainer would join their group."""
    for name in OF_A_RANK:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model to train, untrained."""
    import bolt_ray.integrations.trl.trainer  # noqa: F401

    # A trainer collects garbage when it ends: over the million objects of the imports half of a short training.
    gc.freeze()
    yield make_model(tmp_path_factory.mktemp("trl-model") / "tiny", tie_embeddings=True)
    gc.unfreeze()
