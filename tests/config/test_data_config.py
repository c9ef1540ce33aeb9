from __future__ import annotations

import pytest
from pydantic import ValidationError
from support.settings import dataset as dataset_of

from bolt_ray.data.settings import DataSettings, template_columns


def test_name_and_split_are_enough() -> None:
    dataset = dataset_of({"name": "openai/gsm8k", "split": "train"})
    assert (dataset.name, dataset.split, dataset.weight, dataset.preset) == ("openai/gsm8k", "train", None, None)
    assert dataset.columns.chosen == set()
    assert dataset.filters.drop_duplicates


def test_columns_are_mapped_and_may_be_switched_off() -> None:
    dataset = dataset_of({"name": "a.csv", "columns": {"prompt": "q", "prompt_id": None}})
    assert (dataset.columns.prompt, dataset.columns.answer, dataset.columns.prompt_id) == ("q", "auto", None)
    assert dataset.columns.chosen == {"prompt", "prompt_id"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nmae": "x"}, "nmae"),
        ({"name": ""}, "at least 1 character"),
        ({"name": "x", "weight": 0}, "greater than 0"),
        ({"name": "x", "preset": "gms8k"}, "did you mean 'gsm8k'"),
        ({"name": "x", "system_prompt": "Be brief."}, "set chat: true"),
        ({"name": "x", "prompt_template": "no column"}, "names no column"),
        ({"name": "x", "prompt_template": "{a.b}"}, "plain name of a column"),
        ({"name": "x", "prompt_template": "{}"}, "plain name of a column"),
        ({"name": "x", "prompt_template": "{question"}, "literal braces"),
        ({"name": "x", "filters": {"min_chars": 9, "max_chars": 3}}, "min_chars 9 is above max_chars 3"),
        ({"name": "x", "delimiter": ";;"}, "at most 1 character"),
    ],
)
def test_wrong_dataset_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        dataset_of(settings)


def test_heldout_is_a_fraction_or_a_size() -> None:
    assert DataSettings(heldout_size=512).heldout_fraction == 0.0
    with pytest.raises(ValueError, match="give one of them"):
        DataSettings(heldout_size=512, heldout_fraction=0.1)


def test_template_columns() -> None:
    assert template_columns("{question} in {{braces}} and {unit}") == ["question", "unit"]
