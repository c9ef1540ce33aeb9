"""Signals: during the start-up they end the run at once, later after its step; a second one always at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from bolt_ray.core.errors import RunError
from bolt_ray.training.interrupts import Interrupted, InterruptFlag, catch_interrupts


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Pytest's own, after each test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    """To this process; Python handles it before the next statement, in this thread."""
    signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_where_nobody_looks_for_a_signal_it_ends_the_program(number: int) -> None:
    with catch_interrupts(InterruptFlag(at_once=True)), pytest.raises(Interrupted, match=signal.Signals(number).name):
        send(number)


def test_later_it_is_noted_and_a_second_one_ends_the_program() -> None:
    flag = InterruptFlag(at_once=True)
    with catch_interrupts(flag):
        flag.at_once = False
        send(signal.SIGTERM)
        assert flag.is_set
        with pytest.raises(Interrupted, match="SIGTERM"):
            flag.check()
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


def test_who_handles_errors_does_not_take_it_for_one() -> None:
    with pytest.raises(Interrupted), catch_interrupts(InterruptFlag(at_once=True)):
        try:
            send(signal.SIGINT)
        except Exception:
            pytest.fail("swallowed")


def test_handlers_that_a_library_set_in_between_are_set_again() -> None:
    flag = InterruptFlag(at_once=True)
    with catch_interrupts(flag):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as ray.init sets its own
        with catch_interrupts(flag), pytest.raises(Interrupted):
            send(signal.SIGTERM)


def test_what_compiled_code_makes_of_it_is_the_interrupt_again() -> None:
    """As ``ray.wait`` does of what a handler raises within it."""
    with pytest.raises(Interrupted, match="SIGTERM"), catch_interrupts(InterruptFlag(at_once=True)):
        try:
            send(signal.SIGTERM)
        except Interrupted as error:
            raise SystemError("returned a result with an exception set") from error
    with pytest.raises(SystemError), catch_interrupts(InterruptFlag(at_once=True)):
        raise SystemError("of another cause")


def test_what_else_ends_a_run_is_asked_at_the_same_moments() -> None:
    """A driver whose run directory was taken over."""
    lost: list[str] = []

    def check() -> None:
        if lost:
            raise RunError(lost[0])

    flag = InterruptFlag(also=check)
    flag.check()
    lost.append("taken over")
    with pytest.raises(RunError, match="taken over"):
        flag.check()
