"""Which generator is slow."""

from __future__ import annotations

import pytest

from bolt_ray.actors.pace import WINDOW_S, Pace, Speed


def pace(*windows: tuple[int, int]) -> Pace:
    """After windows in which so many requests, at its beginning and end, got so many tokens together."""
    made, tokens = Pace(), 0
    made.see(0.0, tokens=0, requests=windows[0][0])
    for number, (requests, more) in enumerate(windows, 1):
        tokens += more
        made.see(number * WINDOW_S, tokens=tokens, requests=requests)
    return made


def test_speed_is_tokens_per_second_and_request() -> None:
    made = pace((8, 1600))
    assert made.last == made.full == Speed(8.0, 10.0)
    made.see(WINDOW_S + 1.0, tokens=9999, requests=8)
    assert made.last == Speed(8.0, 10.0)


def test_what_it_had_to_do_is_the_mean_of_beginning_and_end() -> None:
    made = Pace()
    made.see(0.0, tokens=0, requests=10)
    made.see(WINDOW_S, tokens=800, requests=6)
    assert made.last == Speed(8.0, 5.0)


def test_the_last_requests_of_a_batch_leave_the_full_speed_standing() -> None:
    made = pace((8, 1600), (2, 1200))
    assert made.last == Speed(5.0, 12.0)
    assert made.full == Speed(5.0, 12.0)
    made = pace((8, 1600), (2, 1200), (2, 800))
    assert made.last == Speed(2.0, 20.0)
    assert made.full == Speed(5.0, 12.0)


def test_an_idle_one_has_no_last_speed_and_keeps_its_full_one() -> None:
    made = pace((8, 1600))
    made.see(2 * WINDOW_S, tokens=1600, requests=0)
    assert made.last is None
    assert made.full == Speed(8.0, 10.0)


@pytest.mark.parametrize(
    ("slow", "other", "expected"),
    [
        ((8, 390), (8, 1600), True),
        ((8, 410), (8, 1600), False),
        # With fewer requests each is faster, so that a smaller one says nothing of a larger one.
        ((9, 100), (8, 1600), False),
        ((4, 190), (8, 1600), True),
        ((8, 0), (8, 1600), True),
    ],
)
def test_slow_is_four_times_slower_with_no_more_to_do(
    slow: tuple[int, int], other: tuple[int, int], expected: bool
) -> None:
    assert pace(slow).slower_than(pace(other)) is expected


def test_one_that_has_not_been_measured_is_not_slow() -> None:
    assert not Pace().slower_than(pace((8, 1600)))
    assert not pace((8, 0)).slower_than(Pace())
