"""Runs in the program's process: executes the program, then does with its objects what the tests ask for.

The program may tamper with all of this. It gains nothing: the tests read values here, and compare them elsewhere.
"""

from __future__ import annotations

import io
import operator
import os
import sys
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from bolt_ray.rewards.exchange.peer import Peer, is_builtin_iterator, some_items

CHANNEL = 3
MODULE = 0
"""The number of the program itself."""
MAX_PRINTED = 1 << 20
BINARY = "add sub mul truediv floordiv mod pow matmul and_ or_ xor".split()


def _next_items(values: Any, count: int) -> list[Any]:
    items = some_items(values, count)
    return [items, len(items) < count]


def _wait_for(target: Awaitable[Any]) -> Any:
    import asyncio  # takes longer to import than most programs to run

    async def waiting() -> Any:
        return await target

    return asyncio.run(waiting())


def _names(module: types.ModuleType, wanted: Sequence[str]) -> dict[str, Any]:
    return {name: vars(module)[name] for name in wanted if name in vars(module)}


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "names": _names,
    "call": lambda target, *arguments, **named: target(*arguments, **named),
    "get": getattr,
    "set": setattr,
    "item": operator.getitem,
    "set_item": operator.setitem,
    "del_item": operator.delitem,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "iter": iter,
    "items": _next_items,
    "await": _wait_for,
    "has_instance": lambda target, value: isinstance(value, target),
    **{name: getattr(operator, name) for name in BINARY},
}


def hand(peer: Peer, value: Any) -> list[Any]:
    """An object of the program's: its number, and what the tests need to make a stand-in."""
    if isinstance(value, type) and issubclass(value, BaseException):
        base = next(kind for kind in value.__mro__[1:] if issubclass(kind, BaseException))
        base_sent = ["type", base.__name__] if base.__module__ == "builtins" else hand(peer, base)
        return ["exception", [peer.number(value), value.__name__, base_sent]]
    if is_builtin_iterator(value):
        return ["iterator", peer.number(value)]
    if isinstance(value, types.CoroutineType):
        return ["awaitable", peer.number(value)]
    return ["object", peer.number(value)]


def take(peer: Peer, tag: str, body: Any) -> Any:
    """What the tests handed over: an object of the program's own, a function of theirs, items of an iterator."""
    if tag == "object":
        return peer.objects[body]
    if tag == "iterator":
        return iter(peer.value(body))
    if tag == "callable":
        return lambda *arguments, **named: peer.ask("call", body, *arguments, **named)
    if tag == "named":
        module_name, name = body
        return getattr(__import__(module_name), name)
    raise ValueError(tag)


def main(fd: int = CHANNEL) -> None:
    """Answer the tests at the other end of a socket until it closes."""
    reader, writer = os.fdopen(fd, "rb"), os.fdopen(os.dup(fd), "wb")
    output = io.BytesIO()

    def printed() -> str:
        text = output.getvalue()[:MAX_PRINTED].decode(errors="replace")
        output.seek(0)
        output.truncate()
        return text

    peer = Peer(reader, writer, operations=OPERATIONS, hand=hand, take=take, printed=printed)
    peer.send(["ready"])
    _, source = peer.receive()
    module = types.ModuleType("solution")
    assert peer.number(module) == MODULE
    sys.modules["solution"] = module
    sys.stdout = io.TextIOWrapper(output, encoding="utf-8", write_through=True)
    exec(compile(source, "solution.py", "exec", dont_inherit=True), vars(module))
    peer.serve()
