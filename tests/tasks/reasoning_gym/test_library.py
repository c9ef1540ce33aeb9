"""Without the library: one message that says how to get it."""

from __future__ import annotations

import pytest

from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.tasks.reasoning_gym.library import require_library


def test_a_missing_extra_is_told_with_the_command() -> None:
    require_library()
    with pytest.raises(EnvironmentProblem, match=r'pip install "bolt-ray\[reasoning-gym\]"'):
        require_library("a_library_that_nobody_has")
