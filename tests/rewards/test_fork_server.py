"""The fork server: one for many programs, none of which can tell of another; replaced when it dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.rewards.sandbox.box import Sandbox
from bolt_ray.rewards.sandbox.results import SandboxLimits
from bolt_ray.rewards.sandbox.usage import descendants

LIMITS = SandboxLimits(wall_s=30.0, cpu_s=20, memory_mb=256, max_processes=12, file_mb=8, output_kb=64)
DEADLINE_S = 30.0


@pytest.fixture(params=["namespaces", "landlock"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    try:
        made = Sandbox(limits=LIMITS, mechanism=request.param)
    except EnvironmentProblem as problem:
        pytest.skip(f"this machine has no {request.param}: {problem}")
    yield made
    made.close()


def server_of(sandbox: Sandbox) -> int:
    pid = vars(sandbox)["_server"].pid
    assert isinstance(pid, int)
    return pid


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


LEAVE_TRACES = """
import builtins, os, random, sys, json
open('left', 'w').write('x')
open(os.environ['TMPDIR'] + '/left_too', 'w').write('x')
os.environ['LEFT'] = 'x'
builtins.left = sys.modules['left'] = json.left = 'x'
json.dumps = None
sys.path.insert(0, '/left')
random.seed(0)
os.umask(0o777)
for fd in range(3, 1024):
    try: os.write(fd, b'reap 1'); print('WROTE TO', fd)
    except OSError: pass
"""
LOOK_FOR_TRACES = """
import builtins, json, os, random, sys
print(os.listdir('.'), os.listdir(os.environ['TMPDIR']), 'LEFT' in os.environ, hasattr(builtins, 'left'))
print('left' in sys.modules, '/left' in sys.path, json.dumps(1), oct(os.umask(0o22)), sorted(os.environ))
print([name for name in globals() if not name.startswith('__')])
print(random.random(), file=sys.stderr)
"""


def test_a_program_leaves_nothing_for_the_next(sandbox: Sandbox) -> None:
    server = server_of(sandbox)
    first = sandbox.run(LOOK_FOR_TRACES)
    assert first.ok
    left = sandbox.run(LEAVE_TRACES)
    assert left.ok and left.stdout == ""
    second = sandbox.run(LOOK_FOR_TRACES)
    assert second.stdout == first.stdout
    assert "['main.py'] ['main.py'] False False\nFalse False 1 0o22" in second.stdout
    assert second.stderr != first.stderr  # random numbers are the program's own
    assert server_of(sandbox) == server


def test_the_server_has_neither_secrets_nor_programs_in_memory(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOLT_RAY_TEST_SECRET", "s3cret")
    sandbox.close()
    words = [f"needle-{kind}-{os.getpid()}" for kind in ("program", "test")]
    job = f'{{"program": "{words[0]} = 1", "tests": ["x == {words[1]}"], "entry_point": "", "key": "k"}}'
    sandbox.run_tests(job)
    sandbox.run(f"print('{words[0]}')", stdin=words[1])
    process = Path(f"/proc/{server_of(sandbox)}")
    assert b"BOLT_RAY_TEST_SECRET" not in (process / "environ").read_bytes()
    memory = b""
    try:
        with (process / "mem").open("rb", buffering=0) as file:
            for line in (process / "maps").read_text().splitlines():
                first, last = (int(number, 16) for number in line.split()[0].split("-"))
                if "rw-p" in line:
                    file.seek(first)
                    memory += file.read(last - first)
    except PermissionError as problem:
        pytest.skip(f"the memory of a child cannot be read here: {problem}")
    assert b"PYTHONHASHSEED" in memory
    assert not [word for word in words if word.encode() in memory]


def test_a_server_that_died_is_replaced(sandbox: Sandbox) -> None:
    server = server_of(sandbox)
    os.kill(server, signal.SIGKILL)
    assert sandbox.run("print(1)").stdout == "1\n"
    assert server_of(sandbox) != server


def test_a_server_that_dies_under_a_program_gives_no_verdict(sandbox: Sandbox) -> None:
    over = threading.Event()

    def kill_servers() -> None:
        while not over.wait(0.01):
            server = vars(sandbox)["_server"].pid  # None while it is replaced
            if server and len(descendants(server)) >= 2:  # a supervisor, and what it started
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server, signal.SIGKILL)

    killer = threading.Thread(target=kill_servers)
    killer.start()
    with pytest.raises(EnvironmentProblem, match="sandbox"):
        sandbox.run("import time; time.sleep(600)")
    over.set()
    killer.join()
    assert sandbox.run("print(1)").stdout == "1\n"


def test_all_ends_with_the_process_that_uses_it() -> None:
    source = """
import os
from bolt_ray.rewards.sandbox.box import Sandbox
from bolt_ray.rewards.sandbox.results import SandboxLimits
limits = SandboxLimits(wall_s=600, cpu_s=20, memory_mb=256, max_processes=12, file_mb=8, output_kb=64)
sandbox = Sandbox(limits=limits)
print("ready", flush=True)
sandbox.run("import time; time.sleep(600)")
"""
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        if not owner.stdout.readline():
            pytest.skip("no sandbox works on this machine")
        wait_until(lambda: len(descendants(owner.pid)) >= 3)  # server, supervisor, program
        below = descendants(owner.pid)
        owner.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}/task").exists() and not ended(pid) for pid in below))


def ended(pid: int) -> bool:
    """Whether a process is gone, but for its entry in the table."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_programs_may_run_side_by_side(sandbox: Sandbox) -> None:
    results: dict[int, str] = {}

    def run(number: int) -> None:
        results[number] = sandbox.run("print(input())", stdin=str(number)).stdout

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"{number}\n" for number in range(6)}
    assert descendants(server_of(sandbox)) == []


def test_the_two_programs_share_a_socket_alone(sandbox: Sandbox) -> None:
    ours = """
import os, socket
end = socket.socket(fileno=3)
print(end.recv(100).decode(), sorted(os.listdir('.')))
open('mine', 'w').write('x')
end.send(str(os.getpid()).encode())
print(end.recv(100).decode(), len(end.recv(100)))
"""
    theirs = """
import os, socket
end = socket.socket(fileno=3)
end.send(str(os.getpid()).encode())
pid = int(end.recv(100))
try:
    os.kill(pid, 9) if pid != os.getpid() else os.kill(os.getppid(), 9)
except OSError: pass
print('not seen')
end.send(str(os.path.exists('mine')).encode())
"""
    result = sandbox.run(ours, peer=theirs)
    assert result.ok, result
    assert result.stdout.splitlines()[1] == "False 0" and "['main.py']" in result.stdout
    assert result.stderr == ""
