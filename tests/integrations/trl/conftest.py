"""What the TRL tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.models import make_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("trl-model") / "tiny", tie_embeddings=True)
