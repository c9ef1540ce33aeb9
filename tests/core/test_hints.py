from __future__ import annotations

from bolt_ray.core.hints import nearest


def test_the_most_similar_name_is_given() -> None:
    assert nearest("max_step", ["max_tokens", "max_steps", "eval"]) == "max_steps"
    assert nearest("maths", iter(["code", "math"])) == "math"


def test_nothing_similar_gives_no_hint() -> None:
    assert nearest("zzz", ["uniform", "sec"]) is None
    assert nearest("anything", []) is None
