"""The scorer pool on a real Ray: it never blocks the loop, and loses nothing when scorers die."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.rewards import reward_spec

from bolt_ray.actors.scorer_actor import ScoringRequest
from bolt_ray.actors.scorer_pool import ScorerPool, worst_case_s
from bolt_ray.actors.settings import ScoringSettings
from bolt_ray.core.errors import ConfigError, EnvironmentProblem
from bolt_ray.core.records import UnscoredReason
from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.reward_set import RewardResult
from bolt_ray.rewards.settings import RewardSettings

PATIENCE: dict[str, Any] = {"room_s": 60.0, "failure_window_s": 600.0}

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

REWARD_FILE = """
import os, signal, time

def score(item):
    if item.completion == "scorer":      # takes its scorer with it
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if item.completion == "freeze":      # its scorer neither answers nor dies
        os.kill(os.getppid(), signal.SIGSTOP)
        time.sleep(60)
    if item.completion == "once" and not os.path.exists(item.metadata["flag"]):
        open(item.metadata["flag"], "w").close()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if item.completion == "gate":        # waits until the test opens it
        while not os.path.exists(item.metadata["gate"]):
            time.sleep(0.01)
    if item.completion == "GPUs":
        return float(os.environ.get("CUDA_VISIBLE_DEVICES") != "")
    if item.completion == "hang":
        time.sleep(60)
    if item.completion == "raise":
        raise ValueError("on purpose")
    return 1.0

def process(item):
    with open(item.metadata["flag"], "a") as file:
        file.write(f"{os.getpid()}\\n{os.getppid()}\\n")
    return 1.0
"""


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scorers") / "own.py"
    path.write_text(REWARD_FILE)
    return path


def own(path: Path, function: str = "score", *, name: str = "own", timeout_s: float = 60.0) -> RewardSettings:
    return reward_spec(name=name, type="function", timeout_s=timeout_s, options={"function": f"{path}:{function}"})


def completion(number: int, text: str, *, answer: str = "4", source: str = "", **metadata: Any) -> ScoringRequest:
    item = RewardInput(prompt="2+2", completion=text, answer=answer, source=source, metadata=metadata, num_tokens=8)
    return ScoringRequest(request_id=number, input=item)


def unscored(kind: str, detail: str, *, reward: str = "own") -> UnscoredReason:
    return UnscoredReason(reward=reward, kind=kind, detail=detail)


@contextmanager
def pool_of(
    specs: Sequence[RewardSettings],
    *,
    by_source: dict[str, list[str]] | None = None,
    batch_deadline_s: float | None = None,
    **scoring: Any,
) -> Iterator[ScorerPool]:
    settings = ScoringSettings(**{"num_scorers": 2, "cpus_per_scorer": 0.1, **scoring})
    pool = ScorerPool.start(
        specs=specs, settings=settings, by_source=by_source, batch_deadline_s=batch_deadline_s, **PATIENCE
    )
    try:
        yield pool
    finally:
        pool.close()


def wait_for(condition: Callable[[], bool], *, deadline_s: float = 60.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.02)


def drain(pool: ScorerPool, *, deadline_s: float = 120.0) -> dict[int, RewardResult | UnscoredReason]:
    done: dict[int, RewardResult | UnscoredReason] = {}
    end = time.monotonic() + deadline_s
    while pool.num_pending:
        assert time.monotonic() < end, f"{pool.num_pending} completions are still pending"
        for scored in pool.poll(timeout_s=0.5):
            assert scored.request_id not in done
            done[scored.request_id] = scored.result
    return done


def test_rewards_parts_and_the_trackers_reward() -> None:
    specs = [
        reward_spec(name="right", type="exact", weight=2.0),
        reward_spec(name="long", type="overlong", shaping=True, options={"max_tokens": 10, "cache_tokens": 4}),
    ]
    with pool_of(specs, by_source={"plain": ["right"]}) as pool:
        pool.submit([completion(0, "4"), completion(1, "5"), completion(2, "4", source="plain")])
        pool.submit([])
        done = drain(pool)
        assert pool.poll() == []
    assert done == {
        0: RewardResult(reward=1.5, tracker_reward=2.0, parts={"right": 1.0, "long": -0.5}),
        1: RewardResult(reward=-0.5, tracker_reward=0.0, parts={"right": 0.0, "long": -0.5}),
        2: RewardResult(reward=2.0, tracker_reward=2.0, parts={"right": 1.0}),
    }


def test_failing_rewards_are_unscored(rewards: Path) -> None:
    # Only what hangs is scored by the reward with little time.
    specs = [own(rewards), own(rewards, name="brief", timeout_s=0.5)]
    with pool_of(specs, batch_size=2, by_source={"": ["own"], "hangs": ["brief"]}) as pool:
        texts = ["a", "raise", "hang", "b", "raise", "GPUs"]
        pool.submit([completion(i, text, source="hangs" * (text == "hang")) for i, text in enumerate(texts)])
        done = drain(pool)
        one = RewardResult(reward=1.0, tracker_reward=1.0, parts={"own": 1.0})
        assert done == {
            0: one,
            1: unscored("exception", "ValueError: on purpose"),
            2: unscored("timeout", "no answer within 0.5 s", reward="brief"),
            3: one,
            4: unscored("exception", "ValueError: on purpose"),
            5: RewardResult(reward=0.0, tracker_reward=0.0, parts={"own": 0.0}),
        }
        assert pool.restarts == 0, "a reward that fails does not cost its scorer"


def test_submit_and_poll_do_not_wait(rewards: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with pool_of([own(rewards, timeout_s=120.0)], num_scorers=1, batch_size=1) as pool:
        pool.submit([completion(i, "gate", gate=str(gate)) for i in range(2)])
        assert pool.poll() == [] and pool.num_pending == 2  # both calls came back, and the gate is closed
        gate.touch()
        assert len(drain(pool)) == 2


def test_a_scorer_that_dies_is_replaced_and_its_completions_are_tried_again(rewards: Path, tmp_path: Path) -> None:
    with pool_of([own(rewards)], batch_size=8) as pool:
        texts = ["a", "b", "once", "c"]
        pool.submit([completion(i, text, flag=str(tmp_path / "flag")) for i, text in enumerate(texts)])
        done = drain(pool)
        assert all(isinstance(result, RewardResult) for result in done.values()) and len(done) == 4
        assert pool.restarts == 1


def test_a_completion_that_kills_its_scorer_twice_is_unscored_alone(rewards: Path) -> None:
    with pool_of([own(rewards)], batch_size=8) as pool:
        pool.submit([completion(i, text) for i, text in enumerate(["a", "scorer", "b"])])
        done = drain(pool)
        assert isinstance(done[0], RewardResult) and isinstance(done[2], RewardResult)
        assert done[1] == unscored("lost", "died, twice", reward="scorer")
        pool.submit([completion(9, "a")])
        assert isinstance(drain(pool)[9], RewardResult)


def test_a_scorer_that_is_stuck_is_killed_at_its_deadline_and_the_log_shows_what_it_did(
    rewards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pool_of([own(rewards)], batch_size=8, batch_deadline_s=4.0) as pool:
        pool.submit([completion(i, text) for i, text in enumerate(["a", "freeze"])])
        done = drain(pool)
        assert isinstance(done[0], RewardResult)
        assert done[1] == unscored("lost", "did not answer before its deadline, twice", reward="scorer")
    assert "a scorer did not answer before its deadline. scorer-0 (process " in caplog.text


def test_close_leaves_no_process(rewards: Path, tmp_path: Path) -> None:
    specs = [own(rewards, "process"), reward_spec(name="right", type="exact")]
    busy = reward_spec(name="slow", type="function", timeout_s=60, options={"function": f"{rewards}:score"})
    flag = tmp_path / "pids"
    with pool_of([*specs, busy], batch_size=1) as pool:
        pool.submit([completion(i, "hang", flag=str(flag)) for i in range(2)])
        wait_for(lambda: flag.exists() and len(flag.read_text().split()) == 4)
        assert pool.poll() == []
    pids = [int(pid) for pid in flag.read_text().split()]
    wait_for(lambda: not any(_alive(pid) for pid in pids))
    assert pool.num_pending == 0


def test_a_reward_that_cannot_be_built_stops_the_start() -> None:
    broken = reward_spec(name="own", type="function", options={"function": "no_such_module:f"})
    with pytest.raises(ConfigError, match=r"^rewards: own cannot be built: .* cannot be imported") as caught:
        ScorerPool.start(specs=[broken], settings=ScoringSettings(cpus_per_scorer=0.1), **PATIENCE)
    assert type(caught.value) is ConfigError


def test_a_cluster_without_room_is_an_environment_problem() -> None:
    with pytest.raises(EnvironmentProblem, match="1 wait for a node with 1000 CPU and 0 GPU"):
        ScorerPool.start(
            specs=[reward_spec(name="right", type="exact")],
            settings=ScoringSettings(num_scorers=1, cpus_per_scorer=1000),
            room_s=1.0,
            failure_window_s=600.0,
        )


def test_the_default_deadline_is_longer_than_the_worst_case() -> None:
    specs = [reward_spec(name="a", type="exact", timeout_s=10.0), reward_spec(name="b", type="exact", timeout_s=5.0)]
    assert worst_case_s(specs, batch_size=4, startup_timeout_s=100.0) == 100.0 + 4 * 20.0 + 4 * 15.0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
