"""Every error of the tree survives pickling: between Ray processes an error that does not is replaced by another."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import bolt_ray
from bolt_ray.core.errors import BoltRayError
from bolt_ray.core.records import UnscoredReason
from bolt_ray.rewards.protocol import Unscored


def _modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(bolt_ray.__path__, prefix="bolt_ray."):
        yield importlib.import_module(found.name)


ERRORS = sorted(
    {
        value
        for module in _modules()
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__.startswith("bolt_ray.")
    },
    key=lambda error: error.__qualname__,
)


def copied(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own bytes


def made(error: type[BaseException]) -> BaseException:
    """One with a text of its own for each argument that it asks for; most take a message."""
    own = next(kind for kind in error.__mro__ if "__init__" in vars(kind))
    if own.__module__ == "builtins":
        return error("line 3: 'α' is not a number")
    wanted = list(inspect.signature(own.__init__).parameters)[1:]
    return error(*(f"<{name}>" for name in wanted))


def test_the_search_finds_the_errors_of_every_layer() -> None:
    names = {error.__name__ for error in ERRORS}
    assert {"ConfigError", "SettingError", "CorruptedEngineError", "Interrupted", "EndpointError"} <= names
    assert sum(issubclass(error, BoltRayError) for error in ERRORS) >= 12


@pytest.mark.parametrize("error", ERRORS, ids=[error.__name__ for error in ERRORS])
def test_an_error_survives_pickling(error: type[BaseException]) -> None:
    before = made(error)
    after = copied(before)
    assert type(after) is error
    assert str(after) == str(before) != ""
    assert after.args == before.args
    assert vars(after) == vars(before)


def test_a_message_and_nothing_else_makes_an_error_of_the_tree() -> None:
    for error in ERRORS:
        if issubclass(error, BoltRayError):
            assert str(error("what to do")) == "what to do"


def test_the_reasons_of_completions_without_a_reward_survive_pickling() -> None:
    verdict = Unscored("timeout", "no answer within 3 s")
    assert copied(verdict) == verdict
    reason = UnscoredReason(reward="judge", kind="http", detail="status 503")
    assert copied(reason) == reason
