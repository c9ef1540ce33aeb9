"""Jobs on a real cluster: two nodes that ask for a token, the dashboard on loopback, in namespaces of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.job_cluster import Ended, possible, run_jobs
from support.models import make_model
from support.training_runs import steps_of, write_run_config

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("jobs")
    (directory / "project").mkdir()
    write_run_config(directory / "project", model_path=make_model(directory / "model", tie_embeddings=True))
    return directory


@pytest.fixture(scope="module")
def endings(directory: Path) -> dict[str, Ended]:
    if not possible():
        pytest.skip("this machine lets no namespaces be made (unshare), or has no iproute2")
    return run_jobs(directory, timeout_s=900)


def test_a_second_node_joins_with_the_token(endings: dict[str, Ended]) -> None:
    assert [endings[f"node {number}"].code for number in (0, 1)] == [0, 0]
    assert "127.0.0.1:8265" in endings["node 0"].text
    # A process that nobody told of the token: it is asked for one, and finds it.
    assert "5.0" in endings["joined"].text.splitlines(), endings["joined"].text


def test_a_stopped_job_has_saved_and_says_so(directory: Path, endings: dict[str, Ended]) -> None:
    assert endings["stopped"].code == 130, endings["stopped"].text
    assert "Job long was stopped. Go on with: resume=" in endings["stopped"].text
    assert endings["ray job stop"].code == 0
    assert "was stopped" in endings["status"].text
    # By the run itself, in its own time: nothing killed it.
    assert "Interrupted. Go on with: resume=" in endings["stopped"].text


def test_the_readme_s_line_goes_on_from_there_and_succeeds(directory: Path, endings: dict[str, Ended]) -> None:
    assert endings["resumed"].code == 0, endings["resumed"].text
    assert endings["resumed"].text.count(" succeeded") == 1
    steps = [record["step"] for record in steps_of(directory / "project" / "run")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 2
    assert (directory / "project" / "run" / "final" / "config.json").is_file()


def test_a_user_s_mistake_is_one_line_and_code_2(endings: dict[str, Ended]) -> None:
    assert endings["mistake"].code == 2
    assert "error: model.name_or_path: there is no model directory /nowhere/model" in endings["mistake"].text
    assert "something that you can fix (exit code 2)" in endings["mistake"].text
    assert "Traceback" not in endings["mistake"].text


def test_a_failure_is_code_1(endings: dict[str, Ended]) -> None:
    assert endings["failure"].code == 1, endings["failure"].text
    assert "the run failed (exit code 1)" in endings["failure"].text


def test_what_the_cluster_refuses_is_one_line(endings: dict[str, Ended]) -> None:
    assert (
        endings["used id"].code == 2 and "--id long: the cluster has had a job of this name" in endings["used id"].text
    )
    assert endings["wrong token"].code == 2 and "wants another token" in endings["wrong token"].text
    assert "Traceback" not in endings["used id"].text + endings["wrong token"].text


def test_the_run_s_log_has_what_its_processes_printed(directory: Path, endings: dict[str, Ended]) -> None:
    text = (directory / "project" / "run" / "run.log").read_text(encoding="utf-8")
    assert "bolt_ray.actors.process_output: " in text
