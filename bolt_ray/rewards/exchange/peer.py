"""One end of the exchange between tests and program: requests and answers, a JSON array a line.

    tests                                    program
    ["ask", "call", 3, [[1, 2]], {}]   ──▶   calls its object 3
                                       ◀──   ["value", 3, [null], ""]: the result, changed arguments, what was printed
                                       ◀──   ["raise", ["type", "ValueError"], ["no"], [null], ""]

While one side waits it answers requests of the other: a program may call the functions that tests gave it. What cannot
be copied stays where it is; the other side gets its number. Neither side unpickles or evaluates what it reads.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from bolt_ray.rewards.exchange.plain import MUTABLE, change, from_plain, to_plain

MAX_LINE = 32 * 1024 * 1024
MAX_ITEMS = 100_000
"""So many items of an iterator are handed over as an argument; one that is a result is read as it is asked for."""


class PeerLostError(BaseException):
    """The other side is gone, or sends what is no message. No test's ``except Exception`` takes it for an answer."""


class Peer:
    """One end.

    Args:
        reader, writer: the connection.
        operations: what the other side may ask for, by name: called with the object asked about and the arguments.
        hand: what is sent for an object that is not plain data, ``[tag, body]``. Raises: TypeError.
        take: what such a tag stands for. Raises: ValueError.
        printed: what was printed since it was last asked.

    Attributes:
        asked: requests made so far.
        objects: those the other side may ask about, by number.
    """

    def __init__(
        self,
        reader: IO[bytes],
        writer: IO[bytes],
        *,
        operations: Mapping[str, Callable[..., Any]],
        hand: Callable[[Peer, Any], list[Any]],
        take: Callable[[Peer, str, Any], Any],
        printed: Callable[[], str] = str,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._operations = operations
        self._hand = lambda value: hand(self, value)
        self._take = lambda tag, body: take(self, tag, body)
        self._printed = printed
        self.objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self.asked = 0
        self.lost = False

    def number(self, value: Any) -> int:
        """The number of an object that stays here; always the same."""
        number = self._numbers.setdefault(id(value), len(self.objects))
        if number == len(self.objects):
            self.objects.append(value)
        return number

    def ask(self, operation: str, number: int, *arguments: Any, **named: Any) -> Any:
        """Have the other side do something with one of its objects; arguments it changes change here.

        Raises:
            PeerLostError: no answer will come.
            Exception: what it raised there, as the builtin exception it is derived from.
        """
        self.asked += 1
        by_name = {key: self.plain(value) for key, value in named.items()}
        self.send(["ask", operation, number, [self.plain(item) for item in arguments], by_name])
        while True:
            message = self.receive()
            try:
                kind, *body = message
                if kind == "ask":
                    self._answer(*body)
                    continue
                *content, changed, printed = body
                new_arguments = [self.value(item) for item in changed]
                error = self._error(*content) if kind == "raise" else None
                result = None if error else self.value(*content)
            except Exception as problem:  # noqa: BLE001 - whatever it sent, it was no answer
                raise self._lose(f"no answer: {problem!r}") from None
            for old, new in zip([*arguments, *named.values()], new_arguments, strict=False):
                change(old, new)
            if printed:
                print(end=str(printed))
            if error is not None:
                raise error
            return result

    def serve(self) -> None:
        """Answer requests until the other side is gone."""
        while True:
            kind, *body = self.receive()
            assert kind == "ask"
            self._answer(*body)

    def send(self, message: Sequence[Any]) -> None:
        """Raises: PeerLostError."""
        data = json.dumps(message).encode()
        if self.lost:
            raise self._lose("it is gone")
        try:
            self._writer.write(data + b"\n")
            self._writer.flush()
        except OSError as problem:
            raise self._lose(str(problem)) from None

    def receive(self) -> list[Any]:
        """Raises: PeerLostError."""
        try:
            line = self._reader.readline(MAX_LINE)
            message = json.loads(line) if line.endswith(b"\n") else None
        except Exception as problem:  # noqa: BLE001 - too long, too deep, not JSON: all the same
            raise self._lose(repr(problem)) from None
        if not isinstance(message, list) or not message:
            raise self._lose("it ended")
        return message

    def _answer(self, operation: str, number: int, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
        values: list[Any] = []
        by_name: dict[str, Any] = {}
        answer: list[Any]
        try:
            values = [self.value(item) for item in arguments]
            by_name = {key: self.value(item) for key, item in named.items()}
            result = self._operations[operation](self.objects[number], *values, **by_name)
            answer = ["value", self.plain(result)]
        except PeerLostError:
            raise
        except BaseException as problem:  # noqa: BLE001 - whatever was called, the other side gets an answer
            answer = ["raise", self.plain(type(problem)), [self._plain_or_text(item) for item in problem.args]]
        after = [*values, *by_name.values()]
        changed = [self._plain_or_text(item) if isinstance(item, (*MUTABLE, tuple)) else None for item in after]
        self.send([*answer, changed, self._printed()])

    def _error(self, kind: Any, arguments: Sequence[Any]) -> BaseException:
        error, values = self.value(kind), [self.value(item) for item in arguments]
        if not (isinstance(error, type) and issubclass(error, BaseException)):
            raise ValueError("it raised what is no exception")
        try:
            return error(*values)
        except TypeError:  # one that needs arguments of its own
            return RuntimeError(f"{error.__name__}: {values}")

    def plain(self, value: Any) -> Any:
        """A value as JSON. Raises: TypeError, where it can neither be copied nor stay here."""
        return to_plain(value, self._hand)

    def value(self, data: Any) -> Any:
        """The value JSON stands for. Raises: ValueError, TypeError."""
        return from_plain(data, self._take)

    def _plain_or_text(self, value: Any) -> Any:
        try:
            return self.plain(value)
        except TypeError:
            return str(value)

    def _lose(self, reason: str) -> PeerLostError:
        self.lost = True
        return PeerLostError(reason)


def some_items(values: Iterator[Any], count: int = MAX_ITEMS) -> list[Any]:
    """The next items of an iterator, so many at most."""
    return list(itertools.islice(values, count))


def is_builtin_iterator(value: Any) -> bool:
    """An iterator that is nothing else: of the language or of itertools."""
    return isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools")
