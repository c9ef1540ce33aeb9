"""``bolt-ray submit``: what it hands to the cluster, what it refuses before, and how a job ends for the shell."""

from __future__ import annotations

import io
import json
import shlex
import zipfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bolt_ray.commands.shared.cluster_token import has_unused_token
from bolt_ray.commands.submit.job import EXCLUDES, Job, training_job, uploaded
from bolt_ray.commands.submit.submit import MAX_LOST_CONNECTIONS, exit_code, submit
from bolt_ray.core.errors import ConfigError, DataError, EnvironmentProblem, RunError

CONFIG = """
run_dir: outputs/run
model: {name_or_path: /cluster/only/model}
datasets: [{name: data/rows.jsonl}, {name: /cluster/only/rows.jsonl}]
rewards: [{type: exact}]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a config, its data, an earlier run and hidden files."""
    for name, text in {
        "config.yaml": CONFIG,
        "data/rows.jsonl": '{"prompt": "1+1=", "answer": "2"}\n',
        "outputs/run/metrics.jsonl": "{}",
        "runs/older/metrics.jsonl": "{}",
        ".env": "HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz",
        ".venv/lib/big.py": "",
        "package/__pycache__/module.pyc": "",
        "package/module.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def job(*overrides: str, **given: Any) -> Job:
    return training_job(Path("config.yaml"), overrides, **{"grace_s": 600, **given})


def test_the_job_is_the_training_command_with_its_environment(project: Path) -> None:
    made = job("train.max_steps=3", address="http://127.0.0.1:9999", submission_id="mine", env=["HF_HOME=/shared/hf"])
    assert made.entrypoint == ("exec", "python", "-m", "bolt_ray.cli", "train", "config.yaml", "train.max_steps=3")
    assert made.runtime_env["working_dir"] == "."
    assert made.runtime_env["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "600", "HF_HOME": "/shared/hf"}


def test_what_it_prints_is_ray_s_own_command_for_the_same_job(project: Path) -> None:
    from ray.dashboard.modules.dashboard_sdk import parse_runtime_env_args
    from ray.dashboard.modules.job.cli import submit as rays_own

    made = job("name=it's", address="http://127.0.0.1:9999", submission_id="mine")
    words = shlex.split(made.command().removeprefix("RAY_AUTH_MODE=token "))
    assert words[:3] == ["ray", "job", "submit"]
    given = rays_own.make_context("submit", words[3:]).params
    named = {name: given[name] for name in ("runtime_env_json", "working_dir")}
    assert parse_runtime_env_args(**named) == made.runtime_env
    assert (given["address"], given["submission_id"]) == ("http://127.0.0.1:9999", "mine")
    assert given["entrypoint"] == made.entrypoint


def test_names_of_jobs_differ(project: Path) -> None:
    assert job().submission_id != job().submission_id


def test_what_is_uploaded_is_what_ray_packs(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from ray._private.runtime_env.packaging import create_package

    (project / ".gitignore").write_text("*.log\n")
    (project / "noise.log").write_text("")
    made = job()
    package = tmp_path_factory.mktemp("package") / "package.zip"
    create_package(str(project), package, include_gitignore=True, include_parent_dir=False, excludes=[*made.excludes])
    packed = {project / name for name in zipfile.ZipFile(package).namelist()}
    assert packed == {project / "config.yaml", project / "data/rows.jsonl", project / "package/module.py"}
    assert {path for path in uploaded(project, made.excludes) if path.is_file()} == packed


def test_no_hidden_file_is_uploaded(project: Path) -> None:
    assert not any(
        part.startswith(".") for path in uploaded(project, EXCLUDES) for part in path.relative_to(project).parts
    )


def test_a_file_that_the_config_names_and_ray_would_leave_out_is_refused(project: Path) -> None:
    (project / ".gitignore").write_text("data/\n")
    with pytest.raises(ConfigError, match=r"datasets\[0\].name: data/rows.jsonl would not be uploaded: a .gitignore"):
        job()


def test_a_reward_s_file_is_looked_for_too(project: Path) -> None:
    (project / ".rayignore").write_text("rewards.py\n")
    (project / "rewards.py").write_text("def score(item):\n    return 1.0\n")
    with pytest.raises(ConfigError, match=r"rewards\.py:score would not be uploaded"):
        job("rewards=[{type: rewards.py:score}]")


def test_a_relative_file_must_be_here_and_a_whole_path_may_be_on_the_cluster(project: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.jsonl"):
        job("datasets=[{name: data/nothing.jsonl}]")


def test_a_config_outside_the_working_directory_is_refused(project: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "config.yaml"
    elsewhere.write_text(CONFIG)
    with pytest.raises(ConfigError, match="the cluster gets the working directory"):
        training_job(elsewhere, grace_s=600)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"env": ["WANDB_API_KEY=abc"]}, "WANDB_API_KEY: it looks like a secret"),
        ({"env": ["NAME=hf_abcdefghijklmnopqrstuvwxyz"]}, "NAME: it looks like a secret"),
        ({"env": ["NAME"]}, "write it as NAME=VALUE"),
    ],
)
def test_no_secret_goes_into_the_runtime_environment(project: Path, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        job(**given)


def test_no_secret_goes_into_the_command_line(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"logging\.wandb_project: a job's command line can be read in the dashboard"):
        job("logging.wandb_project=hf_abcdefghijklmnopqrstuvwxyz")


@dataclass
class Info:
    status: Any
    driver_exit_code: int | None = None
    message: str = ""


class Status(str):
    def is_terminal(self) -> bool:
        return self in ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass
class Jobs:
    """A cluster's jobs: what the client is asked, and answers given in advance.

    Attributes:
        logs: for each connection the pieces it brings; an error in the place of one breaks the connection.
        infos: one for each time the job is asked after; the last stays.
    """

    logs: list[list[str | Exception]] = field(default_factory=lambda: [[]])
    infos: list[Info] = field(default_factory=lambda: [Info(Status("SUCCEEDED"), 0)])
    refusal: Exception | None = None
    submitted: list[dict[str, Any]] = field(default_factory=list)

    def submit_job(self, **given: Any) -> str:
        if self.refusal is not None:
            raise self.refusal
        self.submitted.append(given)
        return str(given["submission_id"])

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for piece in self.logs.pop(0) if len(self.logs) > 1 else self.logs[0]:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def get_job_info(self, job_id: str) -> Info:
        return self.infos.pop(0) if len(self.infos) > 1 else self.infos[0]


def submitted(jobs: Jobs, **given: Any) -> tuple[int, str]:
    made = Job(
        submission_id="mine",
        entrypoint=("python", "-m", "bolt_ray.cli", "train", "my config.yaml"),
        excludes=EXCLUDES,
        env_vars={"RAY_JOB_STOP_WAIT_TIME_S": "60"},
        address="http://127.0.0.1:9999",
        with_token=False,
    )
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    return submit(made, console=console, connect=lambda job: jobs, poll_s=0.0, **given), printed.getvalue()


@pytest.mark.parametrize(
    ("status", "code", "expected", "said"),
    [
        ("SUCCEEDED", 0, 0, "succeeded"),
        ("STOPPED", None, 130, "was stopped. Go on with: resume="),
        ("STOPPED", 0, 130, "was stopped"),
        ("FAILED", 2, 2, "something that you can fix"),
        ("FAILED", 1, 1, "the run failed"),
        ("FAILED", 130, 130, "interrupted"),
        ("FAILED", -9, 1, "ended by signal 9, as when memory runs out"),
        ("FAILED", 137, 1, "ended by signal 9, as when memory runs out"),
        ("FAILED", -15, 1, "ended by signal 15"),
        ("FAILED", None, 1, "no room"),
    ],
)
def test_the_exit_code_is_the_run_s(status: str, code: int | None, expected: int, said: str) -> None:
    assert exit_code(status, code) == expected
    found, printed = submitted(Jobs(infos=[Info(Status(status), code, "no room")]))
    assert found == expected
    assert said in printed


def test_it_submits_the_command_as_a_shell_reads_it() -> None:
    jobs = Jobs()
    assert submitted(jobs, follow=False)[0] == 0
    (given,) = jobs.submitted
    assert shlex.split(given["entrypoint"])[-1] == "my config.yaml"
    assert json.loads(json.dumps(given["runtime_env"])) == given["runtime_env"]


def test_the_log_is_shown_once_although_the_connection_breaks() -> None:
    jobs = Jobs(
        logs=[["step 1\n", ConnectionError("reset")], ["step 1\nst", RuntimeError("closed")], ["step 1\nstep 2\n"]],
        infos=[Info(Status("RUNNING")), Info(Status("SUCCEEDED"), 0)],
    )
    code, printed = submitted(jobs)
    assert code == 0
    assert printed.count("step 1\n") == 1 and printed.count("step 2\n") == 1


def test_a_cluster_that_answers_no_more_is_given_up_and_the_job_named() -> None:
    jobs = Jobs(logs=[[ConnectionError("refused")]])
    with pytest.raises(RunError, match=r"no longer answers \(refused\); the job may go on: ray job status mine"):
        submitted(jobs)
    assert MAX_LOST_CONNECTIONS > 5


@pytest.mark.parametrize(
    ("refusal", "kind", "message"),
    [
        (RuntimeError("Job with submission_id mine already exists."), ConfigError, "--id mine: .* used once"),
        (ConnectionError("Failed to connect"), EnvironmentProblem, "http://127.0.0.1:9999: Failed to connect"),
        (RuntimeError("401: InvalidAuthToken: token is missing"), EnvironmentProblem, "wants another token"),
        (ValueError("Package size (700MiB) exceeds"), EnvironmentProblem, "Package size"),
    ],
)
def test_a_refusal_is_one_line_and_the_user_s_to_mend(refusal: Exception, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        submitted(Jobs(refusal=refusal))


@pytest.mark.parametrize(
    ("environ", "file", "expected"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"RAY_AUTH_TOKEN": "x"}, False, True),
        ({"RAY_AUTH_MODE": "disabled"}, True, False),
    ],
)
def test_a_token_is_used_where_there_is_one(tmp_path: Path, environ: Any, file: bool, expected: bool) -> None:
    if file:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("secret")
    assert has_unused_token(environ, tmp_path) is expected
