"""What the tests hold in place of an object of the program's.

Attributes, calls, items and iteration are asked of the program. Comparisons are not: a stand-in equals itself alone,
has no order, and calculates only with another stand-in. So no object of the program's ever meets a value that the tests
expect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bolt_ray.rewards.exchange.peer import Peer
from bolt_ray.rewards.exchange.program_side import BINARY

_MOST_AT_ONCE = 1024


class StandIn:
    """An object that stays in the program's process."""

    __slots__ = ("_exchange_",)
    _exchange_: tuple[Peer, int]

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_exchange_", (peer, number))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        try:
            return ask(self, "call", *arguments, **named)
        except StopIteration as problem:  # it would end the test's own loop
            raise RuntimeError("the program raised StopIteration") from problem

    def __getattr__(self, name: str) -> Any:
        # Libraries look for special methods in order to convert and compare: those are not the program's to define.
        if name.startswith("__") and name != "__name__":
            raise AttributeError(name)
        return ask(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        ask(self, "set", name, value)

    def __getitem__(self, key: Any) -> Any:
        return ask(self, "item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        ask(self, "set_item", key, value)

    def __delitem__(self, key: Any) -> None:
        ask(self, "del_item", key)

    def __len__(self) -> int:
        length = ask(self, "len")
        return length if type(length) is int else -1

    def __bool__(self) -> bool:
        return ask(self, "bool") is True

    def __iter__(self) -> Iterator[Any]:
        found = ask(self, "iter")
        return found if not isinstance(found, StandIn) else items_of(found)

    def __next__(self) -> Any:
        items, ended = ask(self, "items", 1)
        if ended:
            raise StopIteration
        return items[0]

    def __str__(self) -> str:
        return str(ask(self, "str"))

    def __repr__(self) -> str:
        return str(ask(self, "repr"))

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, StandIn) and ask(self, "has_instance", value) is True


def _operator(name: str) -> Callable[[StandIn, object], Any]:
    def calculate(self: StandIn, other: object) -> Any:
        return ask(self, name, other) if isinstance(other, StandIn) else NotImplemented

    return calculate


for _name in BINARY:
    setattr(StandIn, f"__{_name.rstrip('_')}__", _operator(_name))


def ask(stand_in: StandIn, operation: str, *arguments: Any, **named: Any) -> Any:
    """Ask the program about one of its objects."""
    peer, number = stand_in._exchange_
    return peer.ask(operation, number, *arguments, **named)


def items_of(stand_in: StandIn) -> Iterator[Any]:
    """The items of an iterator in the program, as they are read: more at once the more are read."""
    count = 1
    while True:
        items, ended = ask(stand_in, "items", count)
        yield from items
        if ended:
            return
        count = min(2 * count, _MOST_AT_ONCE)


async def result_of(stand_in: StandIn) -> Any:
    """What a coroutine in the program returns."""
    return ask(stand_in, "await")
