"""Rewards that raise, hang, exit, crash or answer nonsense: unscored with a reason, never 0, and it goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.rewards import reward_spec

from bolt_ray.core.errors import ConfigError
from bolt_ray.rewards.process.isolation import MAX_BATCH_TIMEOUTS, RewardProcess, tagged_processes
from bolt_ray.rewards.protocol import RewardInput, Unscored, Verdict
from bolt_ray.rewards.settings import RewardSettings

HERE = Path(__file__).parents[2] / "support"
HOSTILE = HERE / "hostile_rewards.py"


def spec(function: str, *, timeout_s: float = 60.0, **options: Any) -> RewardSettings:
    return reward_spec(
        name="own",
        type="function",
        timeout_s=timeout_s,
        memory_mb=1024,
        options={"function": f"{HOSTILE}:{function}", **options},
    )


def inputs(*texts: str) -> list[RewardInput]:
    return [RewardInput(prompt="p", completion=text) for text in texts]


def kinds(verdicts: list[Verdict]) -> list[float | str]:
    return [verdict.kind if isinstance(verdict, Unscored) else verdict for verdict in verdicts]


@pytest.fixture(scope="module")
def single() -> Iterator[RewardProcess]:
    """Two rewards: one with ample time, and one for what hangs and for nothing else."""
    process = RewardProcess(rewards=[spec("score"), spec("score", timeout_s=0.5)], startup_timeout_s=120.0)
    yield process
    process.close()


@pytest.fixture(scope="module")
def batch() -> Iterator[RewardProcess]:
    process = RewardProcess(rewards=[spec("score_batch", batched=True)], startup_timeout_s=120.0)
    yield process
    process.close()


@pytest.mark.parametrize(
    ("text", "kind", "detail"),
    [
        ("raise", "exception", "ValueError: on purpose"),
        ("exit", "exception", "SystemExit: on purpose"),
        ("interrupt", "exception", "KeyboardInterrupt"),
        ("memory", "exception", "MemoryError"),
        ("_exit", "crash", "exited with status 3"),
        ("segfault", "crash", "SIGSEGV"),
        ("abort", "crash", "SIGABRT"),
        ("close", "crash", ""),
        ("nan", "not_finite", "nan"),
        ("inf", "not_finite", "inf"),
        ("huge", "not_finite", "too large"),
        ("string", "wrong_type", "str"),
        ("list", "wrong_type", "list"),
        ("complex", "wrong_type", "complex"),
        ("none", "no_verdict", "None"),
        ("unscored", "own", "no opinion"),
    ],
)
def test_each_failure_is_a_reason_of_its_completion_alone(
    single: RewardProcess, text: str, kind: str, detail: str
) -> None:
    first, culprit, last = single.score(0, inputs("0.25", text, "true"))
    assert (first, last) == (0.25, 1.0)
    assert isinstance(culprit, Unscored) and culprit.kind == kind and detail in culprit.detail
    assert single.score(0, inputs("0.5")) == [0.5]


@pytest.mark.parametrize("text", ["hang", "spin", "deaf"])
def test_a_hang_is_a_reason_of_its_completion_alone(single: RewardProcess, text: str) -> None:
    expected = Unscored("timeout", "no answer within 0.5 s")
    assert single.score(1, inputs(text, text)) == [expected, expected]
    assert single.score(0, inputs("0.5")) == [0.5]


@pytest.mark.slow
def test_what_stands_beside_a_hang_is_scored() -> None:
    process = RewardProcess(rewards=[spec("score", timeout_s=3.0)], startup_timeout_s=120.0)
    try:
        assert kinds(process.score(0, inputs("0.25", "hang", "1"))) == [0.25, "timeout", 1.0]
    finally:
        process.close()


@pytest.mark.parametrize(
    ("text", "kind"),
    [("raise", "exception"), ("_exit", "crash"), ("segfault", "crash"), ("drop", "wrong_count"), ("text", "exception")],
)
def test_a_batched_reward_is_halved_down_to_its_culprits(batch: RewardProcess, text: str, kind: str) -> None:
    verdicts = batch.score(0, inputs("1", "2", text, "4", "5", "6", text))
    assert kinds(verdicts) == [1.0, 2.0, kind, 4.0, 5.0, 6.0, kind]


def test_values_of_a_batch_are_judged_one_by_one(batch: RewardProcess) -> None:
    assert kinds(batch.score(0, inputs("1", "nan", "string", "none", "2"))) == [
        1.0,
        "not_finite",
        "wrong_type",
        "no_verdict",
        2.0,
    ]


@pytest.mark.slow
def test_a_batch_that_hangs_finds_its_culprit() -> None:
    process = RewardProcess(rewards=[spec("score_batch", batched=True, timeout_s=2.0)], startup_timeout_s=120.0)
    try:
        assert kinds(process.score(0, inputs("1", "hang"))) == [1.0, "timeout"]
    finally:
        process.close()


@pytest.mark.slow
def test_a_batch_that_always_hangs_ends() -> None:
    process = RewardProcess(rewards=[spec("score_batch", batched=True, timeout_s=0.3)], startup_timeout_s=120.0)
    try:
        verdicts = process.score(0, inputs(*["hang"] * 40))
        assert kinds(verdicts) == ["timeout"] * 40
        assert process.starts <= MAX_BATCH_TIMEOUTS
    finally:
        process.close()


@pytest.mark.parametrize(("function", "batched"), [("score_async", False), ("score_batch_async", True)])
def test_async_rewards(function: str, batched: bool) -> None:
    process = RewardProcess(rewards=[spec(function, batched=batched)], startup_timeout_s=120.0)
    try:
        assert kinds(process.score(0, inputs("1", "raise", "_exit", "nan", "0"))) == [
            1.0,
            "exception",
            "crash",
            "not_finite",
            0.0,
        ]
    finally:
        process.close()


def test_an_empty_batch_starts_nothing() -> None:
    process = RewardProcess(rewards=[spec("score")], startup_timeout_s=120.0)
    assert process.score(0, []) == []
    assert process.starts == 0


def test_the_process_is_kept_between_calls_and_replaced_after_a_crash() -> None:
    process = RewardProcess(rewards=[spec("score"), spec("pid")], startup_timeout_s=120.0)
    try:
        first = process.score(1, inputs("", ""))
        assert first == [float(process.pid or 0)] * 2
        assert process.score(1, inputs("")) == first[:1] and process.starts == 1
        process.score(0, inputs("_exit"))
        assert process.score(1, inputs("")) != first[:1] and process.starts == 2
    finally:
        process.close()


def test_death_between_calls_blames_nobody() -> None:
    process = RewardProcess(rewards=[spec("score")], startup_timeout_s=120.0)
    try:
        assert process.score(0, inputs("1")) == [1.0]
        assert process.pid is not None
        os.kill(process.pid, 9)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process.score(0, inputs("1")) == [1.0]
    finally:
        process.close()


def test_nothing_a_reward_started_survives() -> None:
    process = RewardProcess(rewards=[spec("score")], startup_timeout_s=120.0)
    process.start()
    tag = process.tag
    assert tagged_processes(tag) == [process.pid]
    assert kinds(process.score(0, inputs("orphan"))) == ["crash"]
    assert tagged_processes(tag) == []
    process.close()
    assert process.pid is None


def test_prints_and_stdin_do_not_disturb_and_metadata_arrives_as_json() -> None:
    process = RewardProcess(rewards=[spec("print_and_score")], startup_timeout_s=120.0)
    metadata = {"a": np.int64(3), "b": np.arange(2), "c": b"\xff", "d": {1, 2}, "e": time.gmtime(0)}
    try:
        assert process.score(0, [RewardInput(prompt=[], completion="", metadata=metadata)]) == [5.0]
    finally:
        process.close()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:score", "No module named 'no_such_module'"),
        ("no/such/file.py:score", "there is no file "),
        (f"{HOSTILE}:scores", "has no 'scores'; it has: act,"),
    ],
)
def test_a_reward_that_cannot_be_built_is_a_config_error(reference: str, message: str) -> None:
    broken = reward_spec(name="own", type="function", options={"function": reference})
    process = RewardProcess(rewards=[broken], startup_timeout_s=120.0)
    with pytest.raises(ConfigError, match="own cannot be built") as caught:
        process.start()
    assert message in str(caught.value)
    assert process.pid is None


@pytest.mark.parametrize(
    ("body", "message"),
    [("import os; os._exit(9)", "exited with status 9"), ("import time; time.sleep(60)", "did not start")],
)
@pytest.mark.slow
def test_a_module_that_dies_or_hangs_at_import(tmp_path: Path, body: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(body)
    broken = reward_spec(name="own", type="function", options={"function": f"{tmp_path}/bad.py:f"})
    process = RewardProcess(rewards=[broken], startup_timeout_s=30.0 if "exited" in message else 2.0)
    with pytest.raises(ConfigError, match=message):
        process.start()
    assert process.pid is None


def test_a_reward_gets_the_variables_named_for_it_and_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_SECRET_KEY", "swordfish-77")
    monkeypatch.setenv("JUDGE_KEY", "swordfish-78")
    process = RewardProcess(rewards=[spec("variable", env=["JUDGE_KEY"])], startup_timeout_s=120.0)
    try:
        had, machine, withheld, unset = process.score(
            0, inputs("JUDGE_KEY", "PATH", "CLOUD_SECRET_KEY", "NO_SUCH_NAME")
        )
    finally:
        process.close()
    assert (had, machine) == (1.0, 1.0)
    hint = "; a reward gets the environment variables named in `env`: [CLOUD_SECRET_KEY]"
    assert withheld == Unscored("exception", f"KeyError: 'CLOUD_SECRET_KEY'{hint}")
    assert unset == Unscored("exception", "KeyError: 'NO_SUCH_NAME'")


def test_a_reward_that_cannot_be_built_for_want_of_a_variable_says_where_to_name_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLOUD_SECRET_KEY", "swordfish-77")
    (tmp_path / "own.py").write_text("import os\nKEY = os.environ['CLOUD_SECRET_KEY']\ndef score(item): return 1.0\n")
    reward = reward_spec(name="own", type="function", options={"function": f"{tmp_path}/own.py:score"})
    process = RewardProcess(rewards=[reward], startup_timeout_s=120.0)
    with pytest.raises(ConfigError, match=r"KeyError.*named in `env`: \[CLOUD_SECRET_KEY\]"):
        process.start()
