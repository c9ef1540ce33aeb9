"""Sinks run beside the driver: what fails, hangs or lags there is one warning, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
from support.sinks import (
    FailingSink,
    HangingEndSink,
    HangingServiceSink,
    HangingSink,
    KeepingSink,
    kept,
    start_of,
    wait_for,
)

from bolt_ray.training.telemetry.sinks.processes import PENDING_RECORDS, PENDING_SAMPLES, Sinks


def test_everything_arrives_in_order_before_the_run_ends(tmp_path: Path) -> None:
    said: list[str] = []
    sinks = Sinks([start_of(KeepingSink, tmp_path)], say=said.append)
    for step in range(1, 301):
        sinks.recorded({"step": step, "reward/mean": 0.5, "text": "is none of its business"})
    sinks.sampled("step-000300", [{"prompt": "1+1="}, {"prompt": "1+2="}])
    sinks.sampled("eval-000300", [{"prompt": "1+1="}])
    sinks.sampled("eval-000301", [])
    sinks.sampled("step-000301", [{"prompt": "1+1="}])
    sinks.close()
    start, *records, training, evaluation, closed = kept(tmp_path)
    assert start == {"start": {"a": 1}}
    assert records == [{"step": step, "reward/mean": 0.5} for step in range(1, 301)]
    assert [training, evaluation] == [{"samples": ["train", 300, 2]}, {"samples": ["eval", 300, 1]}]
    assert closed == {"closed": True}
    assert said == ["it keeps"]


def test_a_sink_that_fails_is_one_warning_without_its_secret_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    said: list[str] = []
    starts = [start_of(FailingSink, tmp_path), start_of(KeepingSink, tmp_path / "other")]
    sinks = Sinks(starts, say=said.append)
    for step in (1, 2):
        sinks.recorded({"step": step})
    failing = sinks._processes[0]
    wait_for(lambda: failing.said and "Warning" in failing.said[-1])  # type: ignore[arg-type,return-value]
    for step in (3, 4):
        sinks.recorded({"step": step})
    sinks.close()
    (warning,) = [line for line in said if "Warning" in line]
    assert "ConnectionError: http://***@server is down" in warning and "training goes on" in warning
    assert [line["step"] for line in kept(tmp_path / "other") if "step" in line] == [1, 2, 3, 4]


def test_a_sink_that_hangs_is_one_warning_and_its_process_ends(tmp_path: Path) -> None:
    said: list[str] = []
    sinks = Sinks([start_of(HangingSink, tmp_path)], say=said.append, close_s=0.1)
    (process,) = sinks._processes
    sinks.recorded({"step": 0})
    wait_for(lambda: len(kept(tmp_path)) == 2)
    # A pipe holds some as well: so many that it and the queue are full, which the sink has no part in.
    for step in range(20 * PENDING_RECORDS):
        sinks.recorded({"step": step, **{f"metric/{number}": 0.25 for number in range(20)}})
    for _ in range(PENDING_SAMPLES + 1):
        sinks.sampled("step-000002", [{"prompt": "1+1="}])
    assert len([line for line in said if "does not keep up" in line]) == 1
    sinks.close()
    assert process.pid is not None and not psutil.pid_exists(process.pid)
    assert len([line for line in said if "it did not end in time" in line]) == 1
    assert said[-1].endswith("records or tables of samples were left out")
    assert len(kept(tmp_path)) == 2


def test_with_a_sink_that_hangs_ends_what_it_started(tmp_path: Path) -> None:
    sinks = Sinks([start_of(HangingServiceSink, tmp_path)], say=lambda text: None, close_s=0.1)
    sinks.recorded({"step": 1})
    wait_for(lambda: len(kept(tmp_path)) == 3)
    service = psutil.Process(kept(tmp_path)[1]["pid"])
    sinks.close()
    wait_for(lambda: not service.is_running() or service.status() == psutil.STATUS_ZOMBIE)


def test_a_sink_whose_interpreter_does_not_end_is_left(tmp_path: Path) -> None:
    said: list[str] = []
    sinks = Sinks([start_of(HangingEndSink, tmp_path)], say=said.append, close_s=0.1)
    (process,) = sinks._processes
    sinks.recorded({"step": 1})
    wait_for(lambda: len(kept(tmp_path)) == 2)
    sinks.close()
    assert process.pid is not None and not psutil.pid_exists(process.pid)
    assert [line for line in said if "Warning" in line] == [said[-1]] and "did not end in time" in said[-1]


def test_a_sink_that_cannot_be_made_is_one_warning(tmp_path: Path) -> None:
    said: list[str] = []
    start = replace(start_of(KeepingSink, tmp_path), kind="support.sinks:NoSuchSink")
    sinks = Sinks([start], say=said.append)
    sinks.recorded({"step": 1})
    sinks.close()
    (warning,) = said
    assert "has no attribute 'NoSuchSink'" in warning


DRIVER = """
import os, sys
from pathlib import Path
import support.sinks
from support.sinks import kept, start_of, wait_for
from bolt_ray.training.telemetry.sinks.processes import Sinks
run = Path(sys.argv[1])
sinks = Sinks([start_of(getattr(support.sinks, sys.argv[2]), run)], say=print, close_s=float(sys.argv[3]))
sinks.recorded({"step": 1})
wait_for(lambda: len(kept(run)) == 2)
print(sinks._processes[0].pid)
sys.stdout.flush()
os.kill(os.getpid(), 9)
"""


def killed_driver(run: Path, sink: type, *, close_s: float) -> int:
    """The process of a sink whose driver was killed."""
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER, str(run), sink.__name__, str(close_s)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert driver.returncode == -9, driver.stderr
    return int(driver.stdout.split()[-1])


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_sinks_end_in_order_when_the_driver_is_killed(tmp_path: Path) -> None:
    killed_driver(tmp_path, KeepingSink, close_s=60.0)
    wait_for(lambda: kept(tmp_path)[-1] == {"closed": True})


def test_a_sink_that_hangs_ends_after_a_driver_that_was_killed(tmp_path: Path) -> None:
    pid = killed_driver(tmp_path, HangingSink, close_s=0.1)
    wait_for(lambda: not running(pid))
    assert len(kept(tmp_path)) == 2
