"""Programs at a service: what it is asked, what its answers mean, and that cheats earn as little there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.cheating_programs import CHEATS
from support.code_service import CodeService
from support.http_server import serve
from support.rewards import make_reward

from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.core.settings import SettingError
from bolt_ray.rewards.exchange.tests_side import signed
from bolt_ray.rewards.program import CodeSettings
from bolt_ray.rewards.protocol import Reward, RewardInput, Unscored
from bolt_ray.rewards.sandbox.box import Sandbox
from bolt_ray.rewards.sandbox.results import SandboxLimits

ADD = "def add(a, b):\n    return a + b"
TESTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'"]
# One of each kind: tools, values, memory, report, process; those that end the parent or read its memory above all.
SOME_CHEATS = """
    replaced_exec equal_to_everything int_equal_to_everything search_of_all_objects walk_up_the_frames exit_handler
    hard_exit_in_a_test report_on_standard_output test_files memory_of_other_processes forged_answers kill_the_tests
    child_that_holds_the_pipe threads patched_modules
""".split()


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[str, CodeService]]:
    limits = SandboxLimits(wall_s=30, cpu_s=20, memory_mb=512, max_processes=16, file_mb=16, output_kb=64)
    try:
        Sandbox(limits=limits, mechanism="namespaces").close()
    except EnvironmentProblem as problem:
        pytest.skip(str(problem))
    fake = CodeService()
    with serve(fake.answer) as (url, _):
        yield url, fake


def reward_at(url: str, **settings: Any) -> Reward:
    return make_reward("code", **{"sandbox": "http", "url": url, "wall_s": 30.0, "backoff_s": 0.01, **settings})


def scores(reward: Reward, *completions: str, answer: Any = TESTS, **metadata: Any) -> list[Any]:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return list(
        reward.score([RewardInput(prompt="", completion=each, answer=text, metadata=metadata) for each in completions])
    )


def test_tests_and_output(service: tuple[str, CodeService]) -> None:
    url, fake = service
    assert scores(reward_at(url), ADD, ADD.replace("+", "-"), "1/0", "") == [1.0, 0.0, 0.0, 0.0]
    half = "def add(a, b):\n    return a + b if a else None\nclass P: pass"
    assert scores(reward_at(url, partial=True), half, answer=[*TESTS, "assert add(0, 1) == 1"]) == [0.75]
    request = fake.requests[-1]
    assert (request["run_timeout"], request["memory_limit_MB"]) == (30.0, 512)
    assert "assert add" in request["stdin"] and not any("assert add" in str(text) for text in request["files"].values())
    check = "def check(candidate):\n    assert candidate(2, 2) == 4"
    assert scores(reward_at(url), ADD, answer=check, entry_point="add") == [1.0]
    doubles = reward_at(url, check="output", memory_mb_program=256)
    cases = [{"input": "2\n", "output": "4"}, {"input": "3\n", "output": "6"}]
    assert scores(doubles, "print(int(input()) * 2)", "print(4)", "1/0", answer=cases) == [1.0, 0.0, 0.0]


@pytest.mark.slow
def test_time_that_is_up_is_a_wrong_answer(service: tuple[str, CodeService]) -> None:
    url, _ = service
    hangs = "def add(a, b):\n    while a == -1: pass\n    return a + b"
    assert scores(reward_at(url, wall_s=10.0, partial=True), hangs) == [pytest.approx(1 / 3)]


@pytest.mark.parametrize("name", SOME_CHEATS)
def test_nothing_is_won_without_a_program(service: tuple[str, CodeService], name: str) -> None:
    assert scores(reward_at(service[0]), CHEATS[name]) == [0.0]


@pytest.mark.parametrize("landlock", [True, False], ids=["landlock", "no_landlock"])
def test_a_module_planted_in_the_jobs_directory_is_not_imported(
    service: tuple[str, CodeService], landlock: bool
) -> None:
    url, fake = service
    fake.landlock = landlock
    check = "def check(candidate):\n    import copy\n    assert copy.copy(candidate(1, 2)) == 3"
    heap = "import heapq\nassert heapq.nlargest(1, [add(1, 2)]) == [3]"
    try:
        assert scores(reward_at(url), CHEATS["planted_modules"], ADD, answer=[heap, *TESTS[:2]]) == [0.0, 1.0]
        assert scores(reward_at(url), CHEATS["planted_modules"], ADD, answer=check, entry_point="add") == [0.0, 1.0]
        reads = "import sys\ndef reads():\n    try: return bool(open(sys.argv[2] + '/code.py').read())\n"
        reads += "    except PermissionError: return False"
        assert scores(reward_at(url), reads, answer=f"assert reads() is {not landlock}") == [1.0]
    finally:
        fake.landlock = True


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (503, {}, "HTTP status 503 after 2 tries"),
        (400, {}, "HTTP status 400 after 1 tries"),
        (200, b"not json", "not JSON"),
        (200, [], "not that of /run_code"),
        (200, {"status": "Success", "message": "", "run_result": None}, "not that of /run_code"),
        (200, {"status": "SandboxError", "message": "no space left", "run_result": None}, "no space left"),
        (200, {"status": "Failed", "run_result": {"status": "Error", "stderr": "x"}}, "not that of /run_code"),
    ],
)
@pytest.mark.parametrize("check", ["tests", "output"])
def test_a_service_that_fails_gives_no_verdict(check: str, status: int, answer: Any, said: str) -> None:
    with serve(lambda body: (status, answer, {})) as (url, recorder):
        reward = reward_at(url, check=check, max_retries=1)
        (verdict,) = scores(reward, ADD, answer=TESTS if check == "tests" else "4")
    assert isinstance(verdict, Unscored) and verdict.kind == "sandbox" and said in verdict.detail
    assert set(recorder.paths) == {"/run_code"}


def test_a_program_that_cannot_be_started_there_gives_no_verdict() -> None:
    ran = {
        "status": "Finished",
        "return_code": 0,
        "stderr": "",
        "execution_time": 1,
    }

    def answer(body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        key = json.loads(body["stdin"])["key"]
        assert not any(key in str(body[name]) for name in ("code", "files"))
        said = signed('["setup", "it ended"]', key) + "\n"
        return 200, {"status": "Success", "message": "", "run_result": {**ran, "stdout": said}}, {}

    with serve(answer) as (url, _):
        (verdict,) = scores(reward_at(url), ADD)
    assert isinstance(verdict, Unscored) and verdict.kind == "sandbox" and "it ended" in verdict.detail


@pytest.mark.parametrize("line", ['["passed", 0]', '0 ["passed", 0]', '\ud800 ["passed", 0]', "SIGNED_FOR_ANOTHER"])
def test_a_report_that_the_tests_did_not_sign_counts_for_nothing(line: str) -> None:
    forged = line.replace("SIGNED_FOR_ANOTHER", signed('["passed", 0]', "another job's key"))
    ran = {"status": "Finished", "return_code": 0, "stdout": forged + "\n", "stderr": "", "execution_time": 1}
    with serve(lambda body: (200, {"status": "Success", "message": "", "run_result": ran}, {})) as (url, _):
        assert scores(reward_at(url), ADD, answer=TESTS[:1]) == [0.0]


def test_several_requests_are_under_way_at_once() -> None:
    ran = {"status": "Finished", "return_code": 0, "stdout": "4\n", "stderr": "", "execution_time": None}
    with serve(lambda body: (200, {"status": "Success", "message": "", "run_result": ran}, {})) as (url, recorder):
        reward = reward_at(url, check="output", concurrency=3)
        assert reward.batched
        assert scores(reward, *["print(4)"] * 9, answer="4") == [1.0] * 9
    assert len(recorder.bodies) == 9


def test_the_service_must_be_named() -> None:
    with pytest.raises(SettingError, match="url is needed with sandbox http"):
        CodeSettings(type="code", sandbox="http")
