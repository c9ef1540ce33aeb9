"""Programs per second of the ``code`` reward: an interpreter started for each, and forked by a server.

    python jobs/benchmarks/sandbox.py --before ../bolt-ray-before

The ways take turns, a process each; CPU time is that of all processes that a way started. ``--before`` is a checkout of
another version, such as the last without a fork server (``git worktree add``), and adds its way.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from bolt_ray.rewards.program import CodeReward, CodeSettings
from bolt_ray.rewards.protocol import RewardInput

PROGRAM = "```python\nn = int(input()) if __name__ == '__main__' else 0\nprint(n * 2)\ndef add(a, b): return a + b\n```"
WANTED = {
    "output": [{"input": "21", "output": "42"}],
    "tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'"],
}


def cpu_s() -> float:
    """CPU time of this process and of all its descendants that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def measure(check: str, programs: int, *, server_for_each: bool) -> dict[str, list[float]]:
    """Seconds of each program, and CPU seconds of a program in the mean."""
    reward = CodeReward(CodeSettings(type="code", check=check))  # type: ignore[arg-type]
    item = RewardInput(prompt="", completion=PROGRAM, answer=json.dumps(WANTED[check]))
    sandbox = vars(reward)["_sandbox"]
    close = getattr(sandbox, "close", lambda: None)  # a version without a fork server has none
    seconds, before = [], cpu_s()
    for _ in range(programs):
        start = time.perf_counter()
        assert reward.score([item]) == [1.0]
        if server_for_each:
            close()
        seconds.append(time.perf_counter() - start)
    close()
    return {"seconds": seconds, "cpu": [(cpu_s() - before) / programs]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=25, help="of each way and round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--before", type=Path, help="a checkout of another version")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        check, way = args.measure
        print(json.dumps(measure(check, args.programs, server_for_each=way == "each")))
        return
    here = Path(__file__).resolve().parents[2]
    ways = {"a server for each": (here, "each"), "fork server": (here, "one")}
    if args.before:
        ways = {"before": (args.before.resolve(), "one"), **ways}
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}\n")
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: {"seconds": [], "cpu": []})
    for _ in range(args.rounds):
        for check in WANTED:
            for way, (checkout, mode) in ways.items():
                command = [sys.executable, __file__, "--measure", check, mode, "--programs", str(args.programs)]
                environment = {**os.environ, "PYTHONPATH": str(checkout)}
                ran = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
                for name, values in json.loads(ran.stdout).items():
                    found[check, way][name] += values
    print(f"{'':28} {'median s':>9} {'CPU s':>7} {'programs/s':>11} {'× fork server':>14} {'× its CPU':>10}")
    for (check, way), values in found.items():
        seconds, cpu = statistics.median(values["seconds"]), statistics.median(values["cpu"])
        server = found[check, "fork server"]
        ratios = seconds / statistics.median(server["seconds"]), cpu / statistics.median(server["cpu"])
        line = f"{check + ', ' + way:28} {seconds:9.3f} {cpu:7.3f} {1 / seconds:11.1f}"
        print(f"{line} {ratios[0]:14.1f} {ratios[1]:10.1f}")


if __name__ == "__main__":
    main()
