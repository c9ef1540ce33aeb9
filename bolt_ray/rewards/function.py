"""A user's own reward: ``package.module:function`` or ``path/to/file.py:function``.

It has bolt-ray's own shape or that of another library, see ``function_shapes.py``; each also as ``async def``. All get
the config's ``options`` as keyword arguments. The own ones::

    def score(item: RewardInput, **options) -> float
    def score(items: list[RewardInput], **options) -> list[float]          # batched: true

It may return ``None`` (or ``Unscored("kind", "detail")``) for a completion it has no verdict on. An async
function for one completion is awaited for the whole batch at once, at most ``concurrency`` at a time.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from bolt_ray.core.plugins import load_object
from bolt_ray.core.settings import SettingError, setting
from bolt_ray.rewards.function_shapes import Shape, parameters_of, shape_of
from bolt_ray.rewards.protocol import RewardInput, Unscored
from bolt_ray.rewards.settings import RewardSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSettings(RewardSettings):
    """``type: file.py:function`` - a function of one's own, in a file or an installed module."""

    reads_token_ids: ClassVar[bool] = True

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

    reads_token_ids: ClassVar[bool] = True

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


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """What the function takes; of one that does not say, written in C, one value."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return inspect.Signature([inspect.Parameter("item", inspect.Parameter.POSITIONAL_ONLY)])


class OwnFunction:
    """Calls a user's function in the way of its shape.

    Raises:
        ValueError: it has none; lists those there are.
    """

    def __init__(
        self, function: Callable[..., Any], *, batched: bool, options: Mapping[str, Any], concurrency: int
    ) -> None:
        signature = signature_of(function)
        self.shape: Shape = shape_of(signature, options=options, batched=batched)
        self._function = function
        self._parameters = parameters_of(signature)
        self._is_async = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
        self._options = dict(options)
        self._concurrency = concurrency
        # One event loop for all calls, as a function may keep a connection from one to the next.
        self._runner: asyncio.Runner | None = None
        self.batched = self.shape.whole_batch or self._is_async

    def score(self, inputs: Sequence[RewardInput]) -> Sequence[object]:
        groups = [list(inputs)] if self.shape.whole_batch else [[item] for item in inputs]
        if not self._is_async:
            return [value for group in groups for value in self._call(group)]
        self._runner = self._runner or asyncio.Runner()
        return self._runner.run(self._score_async(groups))

    def _call(self, inputs: Sequence[RewardInput]) -> list[object]:
        call = self.shape.prepare(inputs, self._parameters, self._options)
        return call.read(self._function(*call.arguments, **call.named))

    async def _score_async(self, groups: Sequence[Sequence[RewardInput]]) -> list[object]:
        gate = asyncio.Semaphore(self._concurrency)

        async def one(inputs: Sequence[RewardInput]) -> list[object]:
            async with gate:
                call = self.shape.prepare(inputs, self._parameters, self._options)
                return call.read(await self._function(*call.arguments, **call.named))

        if self.shape.whole_batch:
            return [value for group in groups for value in await one(group)]
        results = await asyncio.gather(*map(one, groups), return_exceptions=True)
        return [value for each in results for value in ([_failure(each)] if isinstance(each, BaseException) else each)]


class FunctionReward(OwnFunction):
    """A function found by its place.

    Raises:
        ValueError: it is not there.
    """

    settings = FunctionSettings

    def __init__(self, settings: FunctionSettings) -> None:
        function = load_function(settings.function)
        super().__init__(function, batched=settings.batched, options=settings.options, concurrency=settings.concurrency)


class CallableReward(OwnFunction):
    """A function given as an object."""

    settings = CallableSettings

    def __init__(self, settings: CallableSettings) -> None:
        super().__init__(
            settings.function, batched=settings.batched, options=settings.options, concurrency=settings.concurrency
        )


def _failure(problem: BaseException) -> Unscored:
    return Unscored("exception", f"{type(problem).__name__}: {problem}")
