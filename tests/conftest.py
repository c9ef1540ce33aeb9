"""Fixtures every test may use."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
os.environ.pop("RAY_ADDRESS", None)

# No deadline per example and no random seed: a loaded machine must not fail a test, nor luck pass one.
hypothesis.settings.register_profile("bolt-ray", deadline=None, derandomize=True)
hypothesis.settings.load_profile("bolt-ray")


@functools.cache
def _scope(file: str) -> str:
    return "ray" if "pytest.mark.ray" in (ROOT / file).read_text(encoding="utf-8") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers (make test): files that use Ray share one worker and its cluster, the others go one by one.

    By the files' text, because the process that hands out the tests has no marks; xdist's own groups need a nodeid that
    can be written to, which pytest 9 has no more.
    """
    from xdist.scheduler import LoadScopeScheduling

    class RayInOneWorker(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid.partition("::")[0])

    return RayInOneWorker(config, log)


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
