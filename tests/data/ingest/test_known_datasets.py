from __future__ import annotations

import pytest

from bolt_ray.data.ingest.known_datasets import boxed_answer, gsm8k_answer


def test_gsm8k_answer() -> None:
    assert gsm8k_answer("She sells 48/2 = <<48/2=24>>24.\n#### 72") == "72"
    assert gsm8k_answer("a #### 3\n#### 1,234,567 ") == "1234567"


@pytest.mark.parametrize("text", ["42", "reasoning\n####  "])
def test_gsm8k_without_an_answer(text: str) -> None:
    with pytest.raises(ValueError, match="####"):
        gsm8k_answer(text)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"so $x = \boxed{5}$.", "5"),
        (r"\boxed{1} and then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"it is $\fbox{(0, \infty)}$", r"(0, \infty)"),
        (r"it is $\boxed 7$.", "7"),
        (r"\boxed{\text{the set } \{1, 2\}}", r"\text{the set } \{1, 2\}"),
    ],
)
def test_boxed_answer(solution: str, answer: str) -> None:
    assert boxed_answer(solution) == answer


@pytest.mark.parametrize(
    ("solution", "message"), [("5", "no .*boxed"), (r"\boxed{5", "do not close"), (r"\boxed", "nothing after")]
)
def test_no_boxed_answer(solution: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        boxed_answer(solution)
