from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from support.settings import dataset as dataset_of

from bolt_ray.core.keys import prompt_key
from bolt_ray.data.ingest.columns import missing_column
from bolt_ray.data.ingest.normalize import (
    BadRow,
    FilteredRow,
    NormalRow,
    RowRules,
    normalize_row,
    prompt_chars,
    row_rules,
)


def rules(preset: str | None = None, max_prompt_chars: int = 1000, **settings: Any) -> RowRules:
    dataset = dataset_of({"name": "x.jsonl", **settings})
    return row_rules(dataset, preset=preset, max_prompt_chars=max_prompt_chars)


def good(row: dict[str, Any], rule: RowRules) -> NormalRow:
    result = normalize_row(row, rule)
    assert isinstance(result, NormalRow), result
    return result


def test_a_plain_row() -> None:
    row = good({"prompt": "1+1=?", "answer": 2, "level": 3, "tags": ["a"]}, rules())
    assert row.key == "c1f45ef80399d283c7a7641ff5f09c9d"
    assert (row.prompt, row.answer, row.has_id) == ("1+1=?", "2", False)
    assert json.loads(row.metadata) == {"level": 3, "tags": ["a"]}


def test_the_id_column_is_the_key() -> None:
    row = good({"prompt": "1+1=?", "prompt_id": 17}, rules())
    assert (row.key, row.has_id, row.answer, row.metadata) == ("17", True, "", "{}")
    assert good({"prompt": "1+1=?", "prompt_id": 17}, rules(columns={"prompt_id": None})).has_id is False


def test_template_chat_and_system_prompt() -> None:
    rule = rules(
        columns={"answer": "a", "metadata": ["unit"]},
        prompt_template="{q} [{unit}] {{exact}}",
        chat=True,
        system_prompt="Be brief.",
    )
    row = good({"q": "how far", "unit": 5, "a": [1, 2], "other": "dropped"}, rule)
    assert row.prompt == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "how far [5] {exact}"},
    ]
    assert row.key == prompt_key(row.prompt)
    assert row.answer == "[1, 2]"
    assert json.loads(row.metadata) == {"unit": 5}


def test_messages_keep_role_and_content_alone() -> None:
    messages = [{"role": "user", "content": "hi", "name": "x"}]
    assert good({"prompt": messages}, rules()).prompt == [{"role": "user", "content": "hi"}]
    assert prompt_chars([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "you"}]) == 5


def test_gsm8k_preset() -> None:
    row = good({"question": "How many?", "answer": "So 2*4=8.\n#### 8"}, rules("gsm8k"))
    assert row.answer == "8"
    assert row.prompt == ("How many?\n\nReason step by step, and put the final answer within \\boxed{}.")
    assert row.metadata == "{}"


def test_math_preset_extracts_or_takes_the_answer() -> None:
    solved = {"problem": "p", "solution": r"thus \boxed{\frac12}", "level": "Level 5"}
    assert good(solved, rules("math")).answer == r"\frac12"
    assert good({**solved, "answer": "0.5"}, rules("math")).answer == "0.5"
    assert "level" in good(solved, rules("math")).metadata


def test_own_settings_win_over_a_preset() -> None:
    rule = rules("gsm8k", prompt_template="Q: {question}", columns={"answer": "final"})
    row = good({"question": "How many?", "answer": "#### 8", "final": "eight"}, rule)
    assert (row.prompt, row.answer) == ("Q: How many?", "eight")


def test_other_types_in_metadata_become_text() -> None:
    row = good({"prompt": "p", "day": datetime.date(2026, 1, 2), "blob": b"\x00\xff"}, rules())
    assert json.loads(row.metadata) == {"day": "2026-01-02", "blob": "AP8="}


@pytest.mark.parametrize(
    ("row", "settings", "reason", "message"),
    [
        ({"promt": "x"}, {}, "missing_column", "no column 'prompt'; did you mean 'promt'?"),
        ({"q": "x"}, {"columns": {"prompt": "q", "answer": "gold"}}, "missing_column", "no column 'gold'"),
        ({"q": "x"}, {"prompt_template": "{q} {unit}"}, "missing_column", "no column 'unit'"),
        ({"prompt": ""}, {}, "empty_prompt", "column 'prompt'"),
        ({"prompt": " \n"}, {}, "empty_prompt", "column 'prompt'"),
        ({"prompt": None}, {}, "empty_prompt", "column 'prompt'"),
        ({"prompt": []}, {}, "empty_prompt", "column 'prompt'"),
        ({"prompt": 5}, {}, "wrong_type", "column 'prompt' must be a text, not a number (5)"),
        ({"prompt": {"a": 1}}, {}, "wrong_type", "not an object"),
        ({"prompt": ["hi"]}, {}, "wrong_type", "message 1 is not {role, content} but a text ('hi')"),
        ({"prompt": [{"role": "user", "content": 1}]}, {}, "wrong_type", "prompt[1].content"),
        ({"prompt": "p", "prompt_id": 1.5}, {}, "bad_id", "column 'prompt_id'"),
        ({"prompt": "x" * 1001}, {}, "prompt_too_long", "1,001 characters, more than data.max_prompt_chars 1,000"),
        ({"prompt": "a\ud800"}, {}, "invalid_utf8", "character 2"),
        ({"prompt": "p", "note": "a\ud800"}, {}, "invalid_utf8", "column 'metadata': character 12 is half of"),
        ({"prompt": "p", "data_source": "\ud800"}, {"columns": {"metadata": []}}, "invalid_utf8", "'data_source'"),
        ({"p\ud800": "p"}, {}, "missing_column", "Columns present: p\\ud800."),
    ],
)
def test_bad_rows_name_the_column(row: dict[str, Any], settings: dict[str, Any], reason: str, message: str) -> None:
    result = normalize_row(row, rules(**settings))
    assert isinstance(result, BadRow)
    assert result.reason == reason
    assert message in result.message


def test_a_preset_without_its_answer_is_bad() -> None:
    result = normalize_row({"question": "q", "answer": "eight"}, rules("gsm8k"))
    assert result == BadRow(reason="no_answer", message="column 'answer': no answer after '####' (preset gsm8k)")


def test_length_filters() -> None:
    rule = rules(filters={"min_chars": 2, "max_chars": 4})
    assert normalize_row({"prompt": "a"}, rule) == FilteredRow(reason="too_short")
    assert normalize_row({"prompt": "abcde"}, rule) == FilteredRow(reason="too_long")
    assert good({"prompt": "abcd"}, rule).prompt == "abcd"


def test_missing_column_without_a_near_one() -> None:
    assert missing_column("prompt", ["b", "a"]) == "no column 'prompt'. Columns present: b, a."
