"""A reward's settings as a message to the process that builds it."""

from __future__ import annotations

import base64
from dataclasses import fields
from typing import Any

import cloudpickle

from bolt_ray.rewards.function import CallableSettings
from bolt_ray.rewards.registry import reward_class
from bolt_ray.rewards.settings import RewardSettings


def to_message(settings: RewardSettings) -> dict[str, Any]:
    """The fields as JSON values. A function given as an object travels as bytes of our own making: what reads them is
    the child this process has just started, over a socket that nothing else holds."""
    message = {field.name: getattr(settings, field.name) for field in fields(settings)}
    if isinstance(settings, CallableSettings):
        message["function"] = base64.b64encode(cloudpickle.dumps(settings.function)).decode()
    return message


def from_message(message: dict[str, Any]) -> RewardSettings:
    """The settings of a message of this run's own scorer."""
    record = reward_class(message["type"]).settings
    if record is CallableSettings:
        message = {**message, "function": cloudpickle.loads(base64.b64decode(message["function"]))}
    return record(**message)
