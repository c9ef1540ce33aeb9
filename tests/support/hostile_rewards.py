"""Rewards that do to their process what a reward must not do. The completion's text says what."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bolt_ray.rewards import RewardInput, Unscored


def act(text: str) -> object:
    """Do what ``text`` says; a number is returned as the reward."""
    if text == "raise":
        raise ValueError("on purpose")
    if text == "exit":
        sys.exit("on purpose")
    if text == "interrupt":
        raise KeyboardInterrupt
    if text == "hang":
        while True:
            time.sleep(60)
    if text == "spin":
        while True:
            pass
    if text == "deaf":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(3600)
    if text == "_exit":
        os._exit(3)
    if text == "segfault":
        ctypes.string_at(0)
    if text == "abort":
        os.abort()
    if text == "memory":
        return float(len(bytearray(8 << 30)))
    if text == "orphan":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        os._exit(4)
    if text == "close":
        os.closerange(3, 65_536)
    return (
        {
            "nan": float("nan"),
            "inf": float("inf"),
            "string": "1.0",
            "none": None,
            "list": [1.0],
            "complex": 1j,
            "huge": 10**400,
            "unscored": Unscored("own", "no opinion"),
            "true": True,
        }.get(text)
        if not text.replace(".", "").isdigit()
        else float(text)
    )


def score(item: RewardInput) -> object:
    return act(item.completion)


async def score_async(item: RewardInput) -> object:
    await asyncio.sleep(0)
    return act(item.completion)


def score_batch(items: list[RewardInput]) -> object:
    values = [act(item.completion) for item in items if item.completion != "drop"]
    return "none of your business" if any(item.completion == "text" for item in items) else values


async def score_batch_async(items: list[RewardInput]) -> object:
    return score_batch(items)


def print_and_score(item: RewardInput) -> float:
    print("noise on standard output", "x" * 10_000)
    os.write(1, b"more noise\n")
    return float(sys.stdin.read() == "" and len(item.metadata))


def record(item: RewardInput, *, file: str) -> float:
    with Path(file).open("a") as log:
        log.write(f"{item.completion}\n")
    return 0.0


def pid(item: RewardInput) -> float:
    return float(os.getpid())


def variable(item: RewardInput) -> float:
    """1.0 if its process has the environment variable that the completion names."""
    return 1.0 if os.environ[item.completion] else 0.0
