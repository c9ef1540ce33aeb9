"""How a wait is told."""

from __future__ import annotations

import time

from bolt_ray.core.waits import since


def test_a_wait_is_told_by_its_beginning_and_its_length() -> None:
    now = time.mktime((2026, 3, 1, 10, 52, 13, 0, 0, -1))
    assert since(600.0, now=lambda: now) == "since 10:42:13 (600 s)"
