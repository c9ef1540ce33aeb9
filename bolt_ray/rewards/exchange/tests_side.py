"""Runs in the process of the tests: every test, and so every comparison. The program runs elsewhere; see ``peer.py``.

Input (JSON): program, tests, entry_point, key. Output, a JSON array a line, signed with the key: ``["passed", index]``;
``["idle", index]`` of a test that passed without asking the program for anything; ``["setup", reason]`` if the program
could not be started.
"""

from __future__ import annotations

import ast
import builtins
import hmac
import importlib
import json
import os
import symtable
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from bolt_ray.rewards.exchange.peer import Peer, PeerLostError, is_builtin_iterator, some_items
from bolt_ray.rewards.exchange.program_side import CHANNEL, MODULE
from bolt_ray.rewards.exchange.stand_in import StandIn, items_of, result_of

_BUILTINS = frozenset(dir(builtins))
Report = Callable[[str, object], None]


def main() -> None:
    """Run the tests of the job on standard input, with the program at the other end of the channel."""
    job = json.load(sys.stdin)
    run_tests(job, CHANNEL, silent_report(job["key"]))
    os._exit(0)  # a test's threads and exit handlers have nothing to add


def signed(text: str, key: str) -> str:
    """A line of the report. Who reads it cannot sign another, so the program may even see it."""
    return f"{hmac.new(key.encode(), text.encode(errors='replace'), 'sha256').hexdigest()} {text}"


def silent_report(key: str) -> Report:
    """Reports on what is standard output now; what tests print goes nowhere."""
    output = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)

    def report(kind: str, value: object) -> None:
        os.write(output, signed(json.dumps([kind, value]), key).encode() + b"\n")

    return report


def run_tests(job: Mapping[str, Any], fd: int, report: Report) -> None:
    """Run each test; what it asks of the program goes through the socket ``fd``."""
    kept: dict[int, Any] = {}
    peer = Peer(
        os.fdopen(fd, "rb"),
        os.fdopen(os.dup(fd), "wb"),
        operations={"call": lambda target, *arguments, **named: target(*arguments, **named)},
        hand=hand,
        take=lambda peer, tag, body: take(peer, tag, body, kept),
    )
    try:
        if peer.receive() != ["ready"]:
            raise PeerLostError("it did not start")
        peer.send(["program", job["program"]])
    except PeerLostError as problem:
        report("setup", str(problem))
        return
    entry_point = job["entry_point"]
    found = names_in(job["tests"], alone=not entry_point)
    for index, (test, (names, modules)) in enumerate(zip(job["tests"], found, strict=True)):
        try:
            asked = run_test(peer, test, names, modules, entry_point)
        except PeerLostError:
            return
        except BaseException:  # noqa: BLE001 - however it ends, it has not passed
            continue
        if peer.lost:  # and the test looked away
            return
        report("passed" if asked else "idle", index)


def run_test(peer: Peer, test: str, names: Collection[str], modules: Collection[str], entry_point: str) -> bool:
    """Run one test; raises if it fails. False if it passed without asking the program for anything.

    Args:
        names: those the test uses that may be the program's.
        modules: of the standard library, that it uses without an import.
    """
    names = {*names, entry_point} - {""}
    sent = peer.ask("names", MODULE, sorted(names))
    given = {name: sent[name] for name in names if name in sent}  # and no others, such as `__builtins__`
    if aliases := [name for name, value in given.items() if _catches_failures(value)]:
        raise NameError(f"{aliases} of the program would catch a test's own failure")
    space: dict[str, Any] = {"__name__": "tests", **{name: importlib.import_module(name) for name in modules}, **given}
    asked = peer.asked
    exec(compile(test, "test.py", "exec", dont_inherit=True), space)
    check = space.get("check")
    if entry_point and isinstance(check, types.FunctionType):
        check(given[entry_point])
    read = {name for name, value in given.items() if not isinstance(value, StandIn | type)}
    if peer.asked > asked or read - _called_names(test):
        return True  # a value that is no stand-in was given with its name; what is called is none
    if missing := names - set(given):  # it was caught that they are missing
        raise NameError(f"the program has no {missing}")
    return False


def _catches_failures(value: object) -> bool:
    """Whether ``except value`` would take a test's failure for what it looks for."""
    kinds = value if isinstance(value, tuple) else (value,)
    return any(isinstance(kind, type) and issubclass(AssertionError, kind) and kind is not object for kind in kinds)


def _called_names(test: str) -> set[str]:
    """Names that a test calls."""
    calls = (node.func for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call))
    return {function.id for function in calls if isinstance(function, ast.Name)}


def names_in(tests: Sequence[str], *, alone: bool) -> list[tuple[set[str], set[str]]]:
    """For each test the names it does not define that may be the program's, and those of modules.

    The name of a builtin is the builtin, and that of a module of the standard library the module: a program could
    otherwise define ``len`` or ``math`` for the tests. Where the tests use no other name, and one of these alone, as in
    ``assert sum(10, 15) == 6``, it is the program's: unless an entry point names what is tested (``alone`` is False).
    """
    free = [_free_names(test) for test in tests]
    if alone and len(set().union(*free)) == 1:
        return [(names, set()) for names in free]
    known = _BUILTINS | sys.stdlib_module_names
    return [(names - known, names & sys.stdlib_module_names) for names in free]


def _free_names(test: str) -> set[str]:
    """Names a test uses and does not define."""
    try:
        tables = [symtable.symtable(test, "test.py", "exec")]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()  # the test will fail
    own = {symbol.get_name() for symbol in tables[0].get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    used: set[str] = set()
    for table in tables:
        tables += table.get_children()
        referenced = [symbol for symbol in table.get_symbols() if symbol.is_referenced()]
        used |= {symbol.get_name() for symbol in referenced if symbol.is_global() or table is tables[0]}
    return {name for name in used - own if not name.startswith("__")}


def hand(peer: Peer, value: Any) -> list[Any]:
    """An object of the tests' that the program is given.

    Raises:
        TypeError: it is one that cannot be: neither plain data nor something to call.
    """
    if isinstance(value, StandIn):
        return ["object", object.__getattribute__(value, "_exchange_")[1]]
    if is_builtin_iterator(value):
        return ["iterator", peer.plain(some_items(value))]
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", "")
    known = sys.modules.get(module) if isinstance(module, str) and module in sys.stdlib_module_names else None
    if known is not None and getattr(known, name, None) is value:
        return ["named", [module, name]]  # the program's own: `eval` given to it does not run anything here
    if callable(value):
        return ["callable", peer.number(value)]
    raise TypeError(f"a {type(value).__name__} of the tests cannot be handed to the program")


def take(peer: Peer, tag: str, body: Any, kept: dict[int, Any]) -> Any:
    """What stands for an object of the program's; the same one for the same object."""
    if tag == "exception":
        number, name, base = body
        if number not in kept:
            parent = peer.value(base)
            if not issubclass(parent, BaseException):
                raise ValueError("an exception that is none")
            kept[number] = type(str(name), (parent,), {"__module__": "solution"})
        return kept[number]
    if type(body) is not int or tag not in ("object", "iterator", "awaitable"):
        raise ValueError(f"{tag!r} is unknown")
    if body not in kept:
        stand_in = StandIn(peer, body)
        kept[body] = {"object": lambda it: it, "iterator": items_of, "awaitable": result_of}[tag](stand_in)
    return kept[body]
