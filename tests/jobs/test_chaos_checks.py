"""What the benchmarks of killed and of long trainings would find."""

from __future__ import annotations

from typing import Any

import pytest
from chaos_checks import check_accounting
from chaos_run import PHASES
from chaos_scenarios import TARGETS, scenarios
from soak import slope_per_hour

OUTCOMES = {
    1: {"trained": [0, 1], "left_out": [2]},
    2: {"trained": [3, 4], "left_out": []},
}


def state(*in_flight: int, dispatched: int) -> dict[str, Any]:
    return {
        "rollout": {
            "next_request_id": dispatched,
            "in_flight": [{"request_id": number} for number in in_flight],
        }
    }


def test_every_request_is_trained_left_out_or_in_flight() -> None:
    assert check_accounting(OUTCOMES, state(5, 6, dispatched=7)).right


@pytest.mark.parametrize(
    ("in_flight", "dispatched", "said"),
    [
        ((5,), 7, "lost [6], twice []"),
        ((4, 5), 6, "lost [], twice [4]"),
        ((5, 6), 6, "6 dispatched = 4 trained + 1 left out + 2 in flight"),
    ],
)
def test_a_request_that_is_lost_or_met_twice_is_found(in_flight: tuple[int, ...], dispatched: int, said: str) -> None:
    check = check_accounting(OUTCOMES, state(*in_flight, dispatched=dispatched))
    assert not check.right and said in check.found


def test_all_processes_are_killed_in_all_phases_and_everything_at_ten_points() -> None:
    kills = {each.name: each.kills for each in scenarios(list(TARGETS), [0, 2], list(PHASES), 40)}
    assert [kill.phase for kill in kills["rank-2"]] == list(PHASES)
    assert len(kills["everything-0"]) == 10 and "everything-2" not in kills
    assert kills["reference-0"] == kills["reference-2"] == []
    assert len(kills) == 2 * len(TARGETS) + 1


def test_a_slope_is_that_of_the_line_and_its_error_that_of_what_is_left() -> None:
    steady = [(36.0 * i, 5.0 + 0.02 * i) for i in range(100)]
    assert slope_per_hour(steady) == (pytest.approx(2.0), pytest.approx(0.0, abs=1e-9))
    slope, error = slope_per_hour([(at, value + (-1) ** i) for i, (at, value) in enumerate(steady)])
    assert slope == pytest.approx(2.0, abs=0.1) and 0.3 < error < 0.4
