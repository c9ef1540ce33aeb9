"""The reward process: builds the rewards it is sent, then scores completions until the socket closes.

Started by ``isolation.RewardProcess``. Messages in: ``{"score": index, "inputs": [...], "cpu_s": n}``. Messages
out: one ``{"item": i, "value": v}`` (with ``metrics`` and ``extras`` where there are some) or
``{"item": i, "unscored": [kind, detail]}`` per completion, then ``{"done": true}``; or ``{"failed": [kind, detail]}``
if the call as a whole failed. The verdicts of a reward that is not batched are sent one by one, so the scorer knows
which completion caused a crash or a hang.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from bolt_ray.rewards.function import OwnFunction
from bolt_ray.rewards.process.json_socket import FrameSocket, PeerGoneError
from bolt_ray.rewards.process.wire import from_message
from bolt_ray.rewards.protocol import DETAIL_CHARS, Noted, Reward, RewardInput, Unscored, verdict_of
from bolt_ray.rewards.registry import build_reward
from bolt_ray.rewards.sandbox.kernel import die_with_parent

BUILD_DETAIL_CHARS = 4000


class Caught:
    """Keeps the beginning of whatever a reward raised, so that the process continues."""

    def __init__(self, *, chars: int = DETAIL_CHARS) -> None:
        self.detail: str | None = None
        self._chars = chars

    def __enter__(self) -> Caught:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if kind is None:
            return False
        self.detail = f"{kind.__name__}: {problem}"[: self._chars]
        return True


def limit_memory(memory_mb: int) -> None:
    """Private memory only (RLIMIT_DATA): libraries that reserve address space without using it still load."""
    size = memory_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def allow_cpu(cpu_s: float) -> None:
    """Let the process use ``cpu_s`` seconds of CPU more than it has used so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + cpu_s) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def build(rewards: Sequence[dict[str, Any]]) -> list[Reward]:
    """The rewards of their messages, see ``wire``."""
    return [build_reward(from_message(reward)) for reward in rewards]


def answer(channel: FrameSocket, reward: Reward, inputs: list[RewardInput], cpu_s: float) -> None:
    """Score one message's completions and send the verdicts."""
    groups = [inputs] if reward.batched else [[item] for item in inputs]
    position = 0
    for group in groups:
        allow_cpu(cpu_s)
        values: list[object] = []
        with Caught() as caught:
            values = list(reward.score(group))
        if caught.detail is None and len(values) != len(group):
            problem = ["wrong_count", f"returned {len(values)} values for {len(group)} completions"]
        else:
            problem = ["exception", caught.detail or ""]
        if caught.detail is not None or len(values) != len(group):
            if reward.batched:
                channel.send({"failed": problem})
                return
            values = [Unscored(problem[0], problem[1])]
        for value in values:
            verdict = verdict_of(value)
            if isinstance(verdict, Unscored):
                channel.send({"item": position, "unscored": [verdict.kind, verdict.detail]})
            elif isinstance(verdict, Noted):
                notes = {"metrics": verdict.metrics, "extras": verdict.extras}
                channel.send({"item": position, "value": verdict.value, **notes})
            else:
                channel.send({"item": position, "value": verdict})
            position += 1
    channel.send({"done": True})


def main(fd: int, parent_pid: int) -> None:
    """Serve one scorer. Prints of a reward go to stderr; its stdin is empty."""
    die_with_parent()
    if os.getppid() != parent_pid:  # the scorer ended before the kernel was asked to watch it
        os._exit(1)
    os.dup2(2, 1)
    os.set_inheritable(fd, False)
    channel = FrameSocket(socket.socket(fileno=fd))
    hello = channel.receive()
    sys.path[:] = hello["sys_path"]
    limit_memory(hello["memory_mb"])
    rewards: list[Reward] = []
    with Caught(chars=BUILD_DETAIL_CHARS) as caught:
        rewards = build(hello["rewards"])
    if caught.detail is not None:
        channel.send({"failed": ["build", caught.detail]})
        return
    shapes = [str(reward.shape) if isinstance(reward, OwnFunction) else "" for reward in rewards]
    channel.send({"ready": True, "batched": [reward.batched for reward in rewards], "shapes": shapes})
    while True:
        try:
            message = channel.receive()
        except PeerGoneError:
            return
        inputs = [RewardInput(**{**item, "token_ids": tuple(item.get("token_ids", ()))}) for item in message["inputs"]]
        answer(channel, rewards[message["score"]], inputs, message["cpu_s"])
