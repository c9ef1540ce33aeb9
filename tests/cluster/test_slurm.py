"""The SLURM script, with stand-ins for SLURM's commands and for Ray: what it starts, and how it ends."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm.sh"

PROGRAMS = {
    "scontrol": 'echo "scontrol $*" >> "$CALLS"; [ "$1" = show ] && printf "node-a\\nnode-b\\n" || true',
    # Runs the command here; its own options end where a program's name begins.
    "srun": 'echo "srun $*" >> "$CALLS"; while [ "${1#-}" != "$1" ]; do [ "$1" = -w ] && shift; shift; done; exec "$@"',
    "hostname": "echo 10.0.0.1",
    "ray": 'echo "ray $* $(stat -c %a "$RAY_AUTH_TOKEN_PATH")" >> "$CALLS"; exec sleep 600',
    # Counts nodes, makes tokens, and trains until it is told to stop.
    "python": """
        case "$*" in
          *secrets*) printf 0123456789abcdef ;;
          *ray.nodes*) echo 2 ;;
          *) echo "python $*" >> "$CALLS"
             trap 'echo saved >> "$CALLS"; exit 130' TERM
             [ "$ENDING" = wait ] || exit "$ENDING"
             while true; do sleep 0.05; done ;;
        esac""",
}


@dataclass(frozen=True, slots=True)
class Place:
    directory: Path

    @property
    def calls(self) -> str:
        file = self.directory / "calls"
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def start(self, ending: str, **environ: str) -> subprocess.Popen[str]:
        slurm = {"SLURM_SUBMIT_DIR": str(self.directory), "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node-[a-b]"}
        slurm |= {"SLURM_CPUS_PER_TASK": "32", "SLURM_GPUS_ON_NODE": "4"}
        return subprocess.Popen(
            ["bash", str(SCRIPT), "config.yaml", "seed=1"],
            env=os.environ | slurm | {"CALLS": str(self.directory / "calls"), "ENDING": ending} | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f"export PATH={programs}:$PATH\n")
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    return Place(tmp_path)


def wait_until(done: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_it_ends_with_the_run_s_code_and_leaves_no_token(place: Place, code: int) -> None:
    process = place.start(str(code))
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == code, printed
    assert not list(place.directory.glob(".ray-token-*"))
    assert "python -m bolt_ray.cli train config.yaml seed=1 resume=if_any" in place.calls


def test_one_ray_over_all_nodes_with_a_token_that_nobody_else_reads(place: Place) -> None:
    process = place.start("wait")
    wait_until(lambda: place.calls.count("\nray start") == 2 and "\npython -m" in place.calls, process)
    process.terminate()
    process.communicate(timeout=60)
    calls = place.calls.splitlines()
    (head,) = [line for line in calls if line.startswith("ray start --head")]
    (other,) = [line for line in calls if line.startswith("ray start --address=10.0.0.1:")]
    assert "--dashboard-host=127.0.0.1" in head and "--num-cpus=32 --num-gpus=4" in head
    assert head.endswith(" 600") and other.endswith(" 600")
    assert any(line.startswith("srun") and "-w node-b" in line and "--address" in line for line in calls)


def test_the_signal_before_the_end_reaches_the_run_which_is_waited_for(place: Place) -> None:
    process = place.start("wait", BOLT_RAY_REQUEUE="1")
    wait_until(lambda: "\npython -m" in place.calls, process)
    process.terminate()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "saved" in place.calls and "scontrol requeue 77" in place.calls
