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
import importlib
import importlib.util
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from bolt_ray.rewards.protocol import RewardInput, Unscored


def load_function(reference: str, *, base_dirs: Sequence[str] = ()) -> Callable[..., Any]:
    """The function behind ``module:function`` or ``file.py:function``.

    Args:
        reference: the two parts, with a colon between them.
        base_dirs: where a relative file path is looked for, after the current directory.

    Raises:
        ValueError: nothing callable is found there; the message says which part is missing.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise ValueError(f"{reference!r} is not `module:function` or `path/to/file.py:function`")
    module = _load_file(place, base_dirs) if place.endswith(".py") else importlib.import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        offered = sorted(n for n, value in vars(module).items() if inspect.isfunction(value))
        raise ValueError(f"{place} has no function {name!r}; it has: {', '.join(offered) or 'none'}")
    return cast("Callable[..., Any]", function)


def _load_file(place: str, base_dirs: Sequence[str]) -> ModuleType:
    candidates = [Path(place), *(Path(base) / place for base in base_dirs)]
    path = next((c.resolve() for c in candidates if c.is_file()), None)
    if path is None:
        raise ValueError(f"no file {place}; looked at {', '.join(str(c.absolute()) for c in candidates)}")
    spec = importlib.util.spec_from_file_location(f"bolt_ray_user_reward_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FunctionReward:
    """Calls a user's function. See the module's text for the shapes it may have."""

    def __init__(
        self,
        *,
        function: str,
        batched: bool = False,
        options: Mapping[str, Any] | None = None,
        concurrency: int = 16,
        base_dirs: Sequence[str] = (),
    ) -> None:
        self._function = load_function(function, base_dirs=base_dirs)
        self._is_async = inspect.iscoroutinefunction(self._function)
        self._whole_batch = batched
        self._options = dict(options or {})
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
