"""Values between tests and program: what is read is built anew; which names are the program's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bolt_ray.rewards.exchange.plain import change, from_plain, to_plain
from bolt_ray.rewards.exchange.tests_side import names_in


def refuse(value: Any) -> list[Any]:
    raise TypeError(type(value).__name__)


def unknown(tag: str, body: Any) -> Any:
    raise ValueError(tag)


def crossed(value: Any) -> Any:
    return from_plain(json.loads(json.dumps(to_plain(value, refuse))), unknown)


def test_values_keep_their_type_and_size() -> None:
    for value in (2**63, -(2**63), 2**63 - 1, 10**5000, True, 1.0, -0.0, "\udc80\n", b"\xff", (1, [{}])):
        assert crossed(value) == value and type(crossed(value)) is type(value)
    assert repr(crossed(-0.0)) == "-0.0"


def test_subclasses_arrive_as_their_base() -> None:
    class Equal(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Liar(list[int]):
        def __eq__(self, other: object) -> bool:
            return True

        def __len__(self) -> int:
            return 7

    assert type(crossed(Equal(3))) is int and crossed(Equal(3)) != 4
    assert type(crossed(Liar([1]))) is list and len(crossed(Liar([1]))) == 1
    assert type(crossed({"a": Equal(1)})["a"]) is int


@pytest.mark.parametrize(
    "data",
    [
        {"a": 1},
        [],
        ["list"],
        ["list", [["what", 1]]],
        ["eval", "1"],
        ["type", "print"],
        ["type", 3],
        ["int", "x"],
        ["set", [["list", []]]],
        ["range", [1, 2, "3"]],
        ["bytes", 3],
        ["dict", [[1]]],
    ],
)
def test_what_is_no_value_is_refused(data: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        from_plain(data, unknown)


def test_change_keeps_what_is_inside() -> None:
    inner: list[Any] = [1]
    outer = [inner, (inner, 2), {"k": inner}]
    assert change(outer, [[5], ([5], 2), {"k": [5], "l": 0}, 4])
    assert outer == [[5], ([5], 2), {"k": [5], "l": 0}, 4] and outer[0] is inner and outer[2]["k"] is inner
    assert not change(3, 3) and not change([1], (1,))


@pytest.mark.parametrize(
    ("tests", "names", "modules"),
    [
        (["assert f(1) == len([2])"], [{"f"}], [set()]),
        (["import math\nassert math.isclose(f(1), x)", "g(y)"], [{"f", "x"}, {"g", "y"}], [set(), set()]),
        (["assert math.isclose(f(1), 2)"], [{"f"}], [{"math"}]),
        (["def check(candidate):\n    import copy\n    assert candidate(poly) == copy.copy(1)"], [{"poly"}], [set()]),
        (["assert sum(1, 2) == 3", "assert sum(2, 2) == 4"], [{"sum"}, {"sum"}], [set(), set()]),
        (["assert isinstance(sum(1, 2), int)"], [set()], [set()]),
        (["for i in range(3): assert f(i) == [j for j in range(i)]"], [{"f"}], [set()]),
        (["def ("], [set()], [set()]),
    ],
)
def test_names_that_are_the_programs(tests: list[str], names: list[set[str]], modules: list[set[str]]) -> None:
    assert names_in(tests, alone=True) == list(zip(names, modules, strict=True))


def test_an_entry_point_leaves_the_builtins_alone() -> None:
    assert names_in(["def check(candidate):\n    assert abs(candidate(1)) == 1"], alone=False) == [(set(), set())]
