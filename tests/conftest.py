"""Fixtures every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
os.environ.pop("RAY_ADDRESS", None)

# No deadline per example and no random seed: a loaded machine must not fail a test, nor luck pass one.
hypothesis.settings.register_profile("bolt-ray", deadline=None, derandomize=True)
hypothesis.settings.load_profile("bolt-ray")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for all tests of the session, with more logical CPUs than cores: actors mostly wait."""
    import ray

    ray.init(
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        address="local",
        _system_config={"metrics_report_interval_ms": 2000},  # a test waits for them; Ray's own is ten seconds
    )
    yield
    ray.shutdown()
