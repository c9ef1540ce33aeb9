"""A Ray cluster of two nodes with token authentication, and the jobs that the tests look at, in namespaces of its own.

Run by `run_jobs` with a directory that holds ``project/config.yaml``; writes ``endings.json`` there.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

NAMESPACES = ("unshare", "--fork", "--pid", "--mount-proc", "--net", "--mount", "--kill-child")
"""No other Ray on this machine is seen, nor ended by what ends this one."""

PORT, DASHBOARD = 6399, "http://127.0.0.1:8265"
DEADLINE_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command's exit code and everything it printed."""

    code: int
    text: str


def possible() -> bool:
    """Whether this machine lets namespaces be made."""
    return (
        shutil.which("unshare") is not None
        and not subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode
    )


def run_jobs(directory: Path, *, timeout_s: float) -> dict[str, Ended]:
    """The endings of the jobs by name: ``stopped``, ``resumed``, ``mistake``, ``failure``, and others."""
    # A shell as the first process: it collects those whose parents have ended, as every machine's does.
    command = [*NAMESPACES, "bash", "-c", '"$@"; exit $?', "init", sys.executable, __file__, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    file = directory / "endings.json"
    assert file.is_file(), done.stdout + done.stderr
    return {name: Ended(**ended) for name, ended in json.loads(file.read_text(encoding="utf-8")).items()}


def main(directory: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    home = directory / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(secrets.token_hex(32), encoding="utf-8")
    (home / ".ray" / "auth_token").chmod(0o600)
    venv = Path(sys.executable).parent
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environ |= {"HOME": str(home), "PATH": f"{venv}:{environ['PATH']}", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3"}
    # Short: the path of a socket may have 107 characters.
    ray_home = tempfile.mkdtemp(prefix="ray-")
    common = ["--object-store-memory", "200000000", "--node-ip-address", "127.0.0.1", "--disable-usage-stats"]
    head = ["--head", f"--port={PORT}", "--num-cpus=3", "--dashboard-host=127.0.0.1", f"--temp-dir={ray_home}"]
    ended: dict[str, Ended] = {}

    def run(name: str, *command: str, **more: str) -> Ended:
        done = subprocess.run(
            command, cwd=directory / "project", env=environ | more, capture_output=True, text=True, timeout=DEADLINE_S
        )
        ended[name] = Ended(code=done.returncode, text=done.stdout + done.stderr)
        print(name, round(time.monotonic() - began, 1), flush=True)
        return ended[name]

    began = time.monotonic()
    submit = [sys.executable, "-m", "bolt_ray.cli", "submit", "config.yaml", "--address", DASHBOARD]
    try:
        run("node 0", "ray", "start", *head, *common, "--dashboard-agent-listen-port", "52400", RAY_AUTH_MODE="token")
        # A machine of its own as to jobs' directories: each node deletes those that it needs no more.
        own = ("unshare", "--mount", "bash", "-c", 'mount -t tmpfs none "$0" && exec "$@"')
        resources = Path(ray_home) / "session_latest" / "runtime_resources"
        second = ["ray", "start", f"--address=127.0.0.1:{PORT}", "--num-cpus=2"]
        second += [*common, "--dashboard-agent-listen-port", "52401"]
        run("node 1", *own, str(resources), *second, RAY_AUTH_MODE="token")
        join = f"import ray; from bolt_ray.commands.shared.join import join_ray; join_ray('127.0.0.1:{PORT}'); "
        run("joined", sys.executable, "-c", join + "print(ray.cluster_resources()['CPU'])")
        # One that would never end: stopped after a step.
        long = subprocess.Popen(
            [*submit, "train.max_steps=100000", "--id", "long"],
            cwd=directory / "project",
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        _wait_for_step(directory / "project" / "run", long)
        run("ray job stop", "ray", "job", "stop", "--address", DASHBOARD, "long", RAY_AUTH_MODE="token")
        text, _ = long.communicate(timeout=DEADLINE_S)
        ended["stopped"] = Ended(code=long.returncode, text=text)
        (checkpoint,) = (directory / "project" / "run" / "checkpoints").glob("step-*")
        steps = int(checkpoint.name.removeprefix("step-"))
        run("resumed", *submit, f"train.max_steps={steps + 1}", "resume=auto")
        run("mistake", *submit, "model.name_or_path=/nowhere/model", "run_dir=run-2")  # which the cluster might have
        run("used id", *submit, "--id", "long")
        run("failure", *submit, "deadlines.startup_s=0.5", f"run_dir={directory}/run-3")
        run("status", "ray", "job", "status", "--address", DASHBOARD, "long", RAY_AUTH_MODE="token")
        (home / ".ray" / "auth_token").write_text(secrets.token_hex(32), encoding="utf-8")
        run("wrong token", *submit)
    finally:
        shutil.rmtree(ray_home, ignore_errors=True)
        (directory / "endings.json").write_text(
            json.dumps({name: asdict(value) for name, value in ended.items()}), encoding="utf-8"
        )


def _wait_for_step(run: Path, submitting: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    metrics = run / "metrics.jsonl"
    while not (metrics.is_file() and '"reward/mean"' in metrics.read_text(encoding="utf-8")):
        assert submitting.poll() is None, submitting.communicate()[0]
        assert time.monotonic() < deadline, f"no step within {DEADLINE_S:.0f} s"
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
