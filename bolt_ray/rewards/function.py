"""A user's own reward: ``package.module:function`` or ``path/to/file.py:function``.

The function has one of four shapes, all of them with the config's ``options`` as keyword arguments::

    def score(item: RewardInput, **options) -> float
    async def score(item: RewardInput, **options) -> float
    def score(items: list[RewardInput], **options) -> list[float]          # batched: true
    async def score(items: list[RewardInput], **options) -> list[float]    # batched: true

It may return ``None`` (or ``Unscored("kind", "detail")``) for a completion it has no verdict on. An async
function for one completion is awaited for the whole batch at once, at most ``concurrency`` at a time.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from bolt_ray.core.plugins import load_object
from bolt_ray.core.settings import SettingError, setting
from bolt_ray.rewards.protocol import RewardInput, Unscored
from bolt_ray.rewards.settings import RewardSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSettings(RewardSettings):
    """``type: file.py:function`` - a function of one's own, in a file or an installed module."""

    function: str = setting(..., "module:function or path/to/file.py:function", pattern=r"^[^:]+:[A-Za-z_]\w*$")
    batched: bool = setting(False, "it takes a list of completions and returns a list of numbers")
    options: dict[str, Any] = setting({}, "keyword arguments it is called with")
    concurrency: int = setting(16, "how many calls of an async function for one completion run at a time", ge=1)

    def __post_init__(self) -> None:
        RewardSettings.__post_init__(self)
        try:
            json.dumps(self.options)
        except (TypeError, ValueError) as problem:
            raise SettingError("options", f"must be plain values: {problem}") from problem

    @property
    def default_name(self) -> str:
        return self.function.rpartition(":")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallableSettings(RewardSettings):
    """A function given as an object in a script or notebook: ``rewards=[my_function]``. No file can name one."""

    function: Any = setting(..., "the function")
    batched: bool = setting(False, "it takes a list of completions and returns a list of numbers")
    options: dict[str, Any] = setting({}, "keyword arguments it is called with")
    concurrency: int = setting(16, "how many calls of an async function for one completion run at a time", ge=1)

    @property
    def default_name(self) -> str:
        return getattr(self.function, "__name__", "callable").strip("<>")


def load_function(reference: str) -> Callable[..., Any]:
    """The function behind ``module:function`` or ``file.py:function``; see `load_object`.

    Raises:
        ValueError: nothing callable is found there; says which part is missing.
    """
    found = load_object(reference)
    if not callable(found):
        raise ValueError(f"{reference!r} is no function but a {type(found).__name__}")
    return cast("Callable[..., Any]", found)


class _CallsFunction:
    """Calls a user's function. See the module's text for the shapes it may have."""

    def __init__(
        self, function: Callable[..., Any], *, batched: bool, options: Mapping[str, Any], concurrency: int
    ) -> None:
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function)
        self._whole_batch = batched
        self._options = dict(options)
        self._concurrency = concurrency
        self.batched = batched or self._is_async

    def score(self, inputs: Sequence[RewardInput]) -> Sequence[object]:
        if self._is_async:
            return asyncio.run(self._score_async(inputs))
        if self._whole_batch:
            return _as_list(self._function(list(inputs), **self._options))
        return [self._function(item, **self._options) for item in inputs]

    async def _score_async(self, inputs: Sequence[RewardInput]) -> Sequence[object]:
        if self._whole_batch:
            return _as_list(await self._function(list(inputs), **self._options))
        gate = asyncio.Semaphore(self._concurrency)

        async def one(item: RewardInput) -> object:
            async with gate:
                return await cast("Awaitable[object]", self._function(item, **self._options))

        results = await asyncio.gather(*(one(item) for item in inputs), return_exceptions=True)
        return [_failure(r) if isinstance(r, BaseException) else r for r in results]


class FunctionReward(_CallsFunction):
    """A function found by its place.

    Raises:
        ValueError: it is not there.
    """

    settings = FunctionSettings

    def __init__(self, settings: FunctionSettings) -> None:
        function = load_function(settings.function)
        super().__init__(function, batched=settings.batched, options=settings.options, concurrency=settings.concurrency)


class CallableReward(_CallsFunction):
    """A function given as an object."""

    settings = CallableSettings

    def __init__(self, settings: CallableSettings) -> None:
        super().__init__(
            settings.function, batched=settings.batched, options=settings.options, concurrency=settings.concurrency
        )


def _as_list(value: object) -> list[object]:
    """A batched function's answer as a list; text and single numbers are not batches.

    Raises:
        TypeError: it is not a sequence of numbers.
    """
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise TypeError(f"returned {type(value).__name__}, expected a list with one number per completion")
    return list(value)


def _failure(problem: BaseException) -> Unscored:
    return Unscored("exception", f"{type(problem).__name__}: {problem}")
