"""Usage is measured from outside, while the processes measured come and go."""

from __future__ import annotations

import subprocess

from bolt_ray.rewards.sandbox.usage import memory_of_tree


def test_processes_that_end_while_they_are_counted_do_no_harm() -> None:
    restless = subprocess.Popen(["sh", "-c", "while :; do sh -c 'sh -c :; :' & sh -c :; wait; done"])
    try:
        largest = max(memory_of_tree(restless.pid, enough=1 << 40) for _ in range(3000))
    finally:
        restless.kill()
        restless.wait()
    assert largest > 0
