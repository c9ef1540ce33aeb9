from __future__ import annotations

import pytest

from bolt_ray.data.ingest.hub import hub_arguments
from bolt_ray.data.ingest.known_datasets import boxed_answer, gsm8k_answer
from bolt_ray.data.ingest.read_plan import preset_of
from bolt_ray.data.settings import DatasetSettings


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


@pytest.mark.parametrize(
    ("name", "preset", "config_name", "split"),
    [
        ("openai/gsm8k", "gsm8k", "main", "train"),
        ("EleutherAI/hendrycks_math", "math", None, "train"),
        ("HuggingFaceH4/MATH-500", "math_500", None, "test"),
        ("BytedTsinghua-SIA/DAPO-Math-17k", "dapo_math", None, "train"),
        ("open-r1/DAPO-Math-17k-Processed", "dapo_math", "all", "train"),
        ("HuggingFaceH4/aime_2024", "aime", None, "train"),
        ("Maxwell-Jia/AIME_2024", "aime", None, "train"),
        ("math-ai/aime25", "aime", None, "test"),
        ("some/other", None, None, "train"),
    ],
)
def test_a_known_name_is_enough(name: str, preset: str | None, config_name: str | None, split: str) -> None:
    dataset = DatasetSettings(name=name)
    assert preset_of(dataset) == preset
    asked = hub_arguments(dataset)
    assert (asked["name"], asked["split"]) == (config_name, split)
    assert hub_arguments(DatasetSettings(name=name, split="other"))["split"] == "other"
    assert preset_of(DatasetSettings(name=name, prompt_template="{x}")) is None
