"""A learner group under the real Ray Train that is stuck or lost: what its calls raise, and that it leaves its room."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from bolt_ray.actors.learner_mailbox import StopCommand
from bolt_ray.core.errors import LearnerLostError
from bolt_ray.engines.learner.settings import LearnerSettings
from bolt_ray.training.learner_group import LearnerGroup

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def rank_function(*, takes_commands: bool) -> Callable[[dict[str, Any]], None]:
    """Made inside a function, so that it travels to Ray's workers by value."""

    def rank(config: dict[str, Any]) -> None:
        mailbox = config["settings"].mailbox
        ray.get(mailbox.register.remote(0))
        number = 0
        while True:
            number, command = ray.get(mailbox.next_command.remote(0, number))
            while not takes_commands:
                time.sleep(0.1)
            ray.get(mailbox.answer.remote(0, number, None))
            if isinstance(command, StopCommand):
                return

    return rank


def group_of(directory: Path, name: str, *, takes_commands: bool = True) -> LearnerGroup:
    """One rank that takes five of the cluster's eight CPUs: there is never room for two."""
    group = LearnerGroup(
        settings=LearnerSettings(model_path="none", reward_width=1.0, seed=0),
        world_size=1,
        resources_per_worker={"CPU": 5.0},
        use_gpu=False,
        storage_path=directory,
        run_name=name,
        collective_timeout_s=60.0,
        work=rank_function(takes_commands=takes_commands),
    )
    group.wait_ready(timeout_s=120.0)
    return group


def save(group: LearnerGroup, *, timeout_s: float) -> None:
    group.save(directory=None, model_directory=None, timeout_s=timeout_s, idle=lambda: None)


def test_a_stuck_group_is_lost_and_makes_room_for_another(tmp_path: Path) -> None:
    stuck = group_of(tmp_path, "stuck", takes_commands=False)
    try:
        with pytest.raises(LearnerLostError, match=r"has waited for the learner's checkpoint since"):
            save(stuck, timeout_s=1.0)
    finally:
        stuck.close()
    other = group_of(tmp_path, "other")
    save(other, timeout_s=60.0)
    other.close()


def test_a_group_whose_controller_died_is_lost_and_makes_room_for_another(tmp_path: Path) -> None:
    group = group_of(tmp_path, "group", takes_commands=False)
    try:
        ray.kill(ray.get(group._mailbox.owners.remote())["controller"])
        with pytest.raises(LearnerLostError, match="the learner ended while waiting for the learner's checkpoint"):
            save(group, timeout_s=60.0)
    finally:
        group.close()
    group_of(tmp_path, "other").close()
