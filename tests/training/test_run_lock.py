"""One driver per run directory: who may take it over, when, and what the one that lost it does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bolt_ray.core.errors import CheckpointError, RunError
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.run_lock import RunLock
from bolt_ray.training.telemetry.state import started_ticks, this_process

HERE = {**this_process(), "host": "here"}
ELSEWHERE = {"pid": 7, "pid_started": 99, "pid_space": "another machine", "host": "there"}


class Time:
    """A clock that moves when somebody waits; ``meanwhile`` is called then."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.now = 0.0
        self.meanwhile = meanwhile

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


def lock(
    root: Path,
    me: dict[str, Any],
    time: Time | None = None,
    said: list[str] | None = None,
    dead_after_s: float = 7200.0,
) -> RunLock:
    """Its thread looks once an hour: the tests look themselves."""
    time = time or Time()
    said = [] if said is None else said
    return RunLock(
        RunDirectory(root),
        say=said.append,
        heartbeat_s=3600.0,
        dead_after_s=dead_after_s,
        clock=time,
        wait=time.wait,
        me=me,
    )


def numbers(root: Path) -> list[int]:
    return sorted(int(path.stem) for path in (root / "driver").glob("*.json"))


def test_the_second_driver_on_this_machine_is_refused_by_name(tmp_path: Path) -> None:
    with lock(tmp_path, HERE) as first:
        with pytest.raises(CheckpointError, match=rf"process {os.getpid()} on here trains in this run directory"):
            lock(tmp_path, HERE).acquire()
        first.check()
    with lock(tmp_path, HERE) as second:  # the first has released it
        second.check()
    assert numbers(tmp_path) == [2]


def test_a_dead_driver_on_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = {**HERE, "pid": child.pid, "pid_started": started_ticks(child.pid)}
    lock(tmp_path, dead).acquire()
    with pytest.raises(CheckpointError, match=f"process {child.pid} on here"):
        lock(tmp_path, HERE).acquire()
    child.kill()
    child.wait()
    time = Time()
    with lock(tmp_path, HERE, time):
        assert time.now == 0.0
    assert numbers(tmp_path) == [2]


def test_another_process_with_the_number_of_a_dead_one_is_not_it(tmp_path: Path) -> None:
    lock(tmp_path, {**HERE, "pid_started": -1}).acquire()
    with lock(tmp_path, HERE) as mine:
        mine.check()


def test_a_silent_driver_elsewhere_is_replaced_after_a_while_and_stops(tmp_path: Path) -> None:
    zombie = lock(tmp_path, ELSEWHERE)
    zombie.acquire()
    time, said = Time(), []
    with lock(tmp_path, HERE, time, said) as mine:
        assert 7200.0 < time.now < 7200.0 + 3600.0
        assert re.search("belongs to process 7 on there, which cannot be looked for from here", said[0])
        assert len(said) == 1
        mine.check()
        with pytest.raises(
            RunError, match=rf"process {os.getpid()} on here has taken it over; it stops without writing"
        ):
            zombie.check()
        with pytest.raises(RunError, match="no longer this driver's"):
            zombie.check_last_seen()
        zombie.release()  # takes nothing from the owner
        mine.check()
    assert numbers(tmp_path) == [2]


def test_a_heartbeat_that_is_old_already_is_believed_sooner(tmp_path: Path) -> None:
    lock(tmp_path, ELSEWHERE).acquire()
    os.utime(tmp_path / "driver" / "000001.json", (0, 0))
    time = Time()
    with lock(tmp_path, HERE, time, dead_after_s=100 * 3600.0):
        assert 3 * 3600.0 < time.now < 4 * 3600.0  # a living one would have moved it by then


def test_a_driver_elsewhere_that_gives_a_sign_is_left_alone(tmp_path: Path) -> None:
    lock(tmp_path, ELSEWHERE).acquire()
    file = tmp_path / "driver" / "000001.json"
    time = Time(meanwhile=lambda: os.utime(file, (0, time.now)))
    with pytest.raises(CheckpointError, match="process 7 on there trains in this run directory; wait for it"):
        lock(tmp_path, HERE, time).acquire()
    assert time.now < 3600.0
    assert numbers(tmp_path) == [1]


def test_of_many_that_take_over_one_wins(tmp_path: Path) -> None:
    lock(tmp_path, {**HERE, "pid_started": -1}).acquire()
    won: list[RunLock] = []
    refused: list[str] = []
    ready = threading.Barrier(8)

    def contend() -> None:
        mine = RunLock(RunDirectory(tmp_path), say=print, heartbeat_s=0.2, me=HERE)
        ready.wait()
        try:
            mine.acquire()
            won.append(mine)
        except CheckpointError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7), refused
    won[0].check()
    won[0].release()


def test_a_number_made_late_beside_a_higher_one_is_given_up(tmp_path: Path) -> None:
    lock(tmp_path, {**HERE, "pid_started": -1}).acquire()

    class Late(RunLock):
        """Others take over twice between its look and its own file."""

        overtaken = False

        def _wait_until_free(self, file: Path) -> None:
            super()._wait_until_free(file)
            if not self.overtaken:
                self.overtaken = True
                lock(tmp_path, {**HERE, "pid_started": -1}).acquire()
                lock(tmp_path, HERE).acquire()

    time = Time()
    late = Late(RunDirectory(tmp_path), say=print, heartbeat_s=3600.0, clock=time, wait=time.wait, me=HERE)
    with pytest.raises(CheckpointError, match="trains in this run directory"):
        late.acquire()
    assert numbers(tmp_path) == [3]


def test_a_directory_that_was_removed_is_lost(tmp_path: Path) -> None:
    mine = lock(tmp_path, HERE)
    mine.acquire()
    (tmp_path / "driver" / "000001.json").unlink()
    with pytest.raises(RunError, match="it was taken over or removed"):
        mine.check()
    mine.release()
    assert numbers(tmp_path) == []


def test_the_heartbeat_moves_and_finds_out_about_a_loss(tmp_path: Path) -> None:
    mine = RunLock(RunDirectory(tmp_path), say=print, heartbeat_s=0.02)
    mine.acquire()
    try:
        file = tmp_path / "driver" / "000001.json"
        os.utime(file, (0, 0))
        poll(lambda: file.stat().st_mtime > 1)
        mine.check_last_seen()
        (tmp_path / "driver" / "000002.json").write_text("{}")

        def lost() -> bool:
            try:
                mine.check_last_seen()
            except RunError:
                return True
            return False

        poll(lost)
    finally:
        mine.release()


def poll(done: Callable[[], bool]) -> None:
    event = threading.Event()
    for _ in range(3000):
        if done():
            return
        event.wait(0.01)
    raise AssertionError("it did not come")
