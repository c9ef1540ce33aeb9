"""Values as JSON with types, between the process of the tests and the program's.

None, bool, int, float and text are themselves; everything else is ``[tag, body]``. What is read is built anew, of
exactly the type its tag names, so nothing that arrives has methods of the sender's. A subclass arrives as its base.
"""

from __future__ import annotations

import builtins
import collections
import collections.abc
import datetime
import decimal
import fractions
from collections.abc import Callable, Mapping
from typing import Any

_LARGE = 1 << 63  # beyond it Python limits the decimal digits it reads

Hand = Callable[[Any], list[Any]]
"""What is sent for a value that is not plain: ``[tag, body]``. Raises: TypeError."""
Take = Callable[[str, Any], Any]
"""What a tag that is not plain data stands for. Raises: ValueError."""

# A datetime is a date as well: the first type that fits counts.
_SINGLE: Mapping[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "bytes": (bytes, lambda value: value.hex(), bytes.fromhex),
    "bytearray": (bytearray, lambda value: value.hex(), bytearray.fromhex),
    "complex": (complex, lambda value: [value.real, value.imag], lambda body: complex(*body)),
    "range": (range, lambda value: [value.start, value.stop, value.step], lambda body: range(*body)),
    "Decimal": (decimal.Decimal, str, lambda body: decimal.Decimal(str(body))),
    "Fraction": (fractions.Fraction, str, lambda body: fractions.Fraction(str(body))),
    "datetime": (datetime.datetime, lambda value: value.isoformat(), datetime.datetime.fromisoformat),
    "date": (datetime.date, lambda value: value.isoformat(), datetime.date.fromisoformat),
    "time": (datetime.time, lambda value: value.isoformat(), datetime.time.fromisoformat),
    "timedelta": (
        datetime.timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda body: datetime.timedelta(*body),
    ),
}
_MANY: Mapping[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
}
_VIEWS = (collections.abc.KeysView, collections.abc.ValuesView, collections.abc.ItemsView)
MUTABLE = (list, dict, set, bytearray, collections.deque)


def to_plain(value: Any, hand: Hand) -> Any:
    """A value as JSON."""
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return value if -_LARGE < value < _LARGE else ["int", hex(value)]
    if isinstance(value, type):
        own = value.__module__ == "builtins" and getattr(builtins, value.__name__, None) is value
        return ["type", value.__name__] if own else hand(value)
    if isinstance(value, dict):
        return ["dict", [[to_plain(key, hand), to_plain(item, hand)] for key, item in value.items()]]
    for tag, make in _MANY.items():
        if isinstance(value, make):  # type: ignore[arg-type]
            return [tag, [to_plain(item, hand) for item in value]]
    if isinstance(value, _VIEWS):
        return ["list", [to_plain(item, hand) for item in value]]
    for tag, (kind, body_of, _) in _SINGLE.items():
        if isinstance(value, kind):
            return [tag, body_of(value)]
    return hand(value)


def from_plain(data: Any, take: Take) -> Any:
    """The value that JSON stands for; ``take`` says what other tags stand for.

    Raises:
        ValueError, TypeError: it stands for none.
    """
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if not isinstance(data, list) or len(data) != 2:
        raise ValueError("neither a plain value nor a tag with a body")
    tag, body = data
    if tag in _MANY:
        return _MANY[tag]([from_plain(item, take) for item in body])
    if tag == "dict":
        return {from_plain(key, take): from_plain(item, take) for key, item in body}
    if tag == "int":
        return int(body, 16)
    if tag == "type":
        named = getattr(builtins, body, None)
        if not isinstance(named, type):
            raise ValueError(f"{body!r} is no builtin type")
        return named
    return _SINGLE[tag][2](body) if tag in _SINGLE else take(tag, body)


def change(old: Any, new: Any) -> bool:
    """Give a container the content of another, in place and inside it too; False if it is not one that changes."""
    for kind in (list, collections.deque):
        if isinstance(old, kind) and isinstance(new, kind):
            content = [ours if change(ours, theirs) else theirs for ours, theirs in zip(old, new, strict=False)]
            content += list(new)[len(content) :]
            old.clear()
            old.extend(content)
            return True
    if isinstance(old, dict) and isinstance(new, dict):
        items = {key: old[key] if key in old and change(old[key], item) else item for key, item in new.items()}
        old.clear()
        old.update(items)
        return True
    if isinstance(old, set) and isinstance(new, set):
        old.clear()
        old.update(new)
        return True
    if isinstance(old, bytearray) and isinstance(new, bytearray):
        old[:] = new
        return True
    if isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        same = [change(ours, theirs) or ours == theirs for ours, theirs in zip(old, new, strict=True)]
        return all(same)
    return False
