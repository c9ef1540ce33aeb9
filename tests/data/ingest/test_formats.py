"""Rows as verl, TRL, OpenRLHF and the known datasets have them, without mapping."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.settings import dataset as dataset_of

from bolt_ray.core.keys import prompt_key
from bolt_ray.data.ingest.known_datasets import PRESETS, STEP_BY_STEP
from bolt_ray.data.ingest.normalize import BadRow, NormalRow, RowRules, normalize_row, row_rules

ASKED = [{"role": "user", "content": "What is 2+3?"}]
VERL = {
    "data_source": "openai/gsm8k",
    "prompt": ASKED,
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "extra_info": {"split": "train", "index": 7, "answer": "2+3=5 #### 5"},
}
DAPO = {
    "data_source": "math_dapo",
    "prompt": [{"role": "user", "content": 'Solve it.\n\n2+3?\n\nRemember to put your answer after "Answer:".'}],
    "ability": "MATH",
    "reward_model": {"ground_truth": "5", "style": "rule-lighteval/MATH_v2"},
    "extra_info": {"index": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079"},
}


def rules(preset: str | None = None, **settings: Any) -> RowRules:
    return row_rules(dataset_of({"name": "x.jsonl", **settings}), preset=preset, max_prompt_chars=1000)


def good(row: dict[str, Any], preset: str | None = None, **settings: Any) -> NormalRow:
    result = normalize_row(row, rules(preset, **settings))
    assert isinstance(result, NormalRow), result
    return result


def bad(row: dict[str, Any], preset: str | None = None, **settings: Any) -> BadRow:
    result = normalize_row(row, rules(preset, **settings))
    assert isinstance(result, BadRow), result
    return result


def test_a_row_of_verl() -> None:
    row = good(VERL)
    assert (row.prompt, row.answer, row.label, row.has_id) == (ASKED, "5", "openai/gsm8k", False)
    assert row.key == f"7#{prompt_key(ASKED)[:16]}"
    # What verl's own reward functions ask for stays, whole.
    assert json.loads(row.metadata) == {name: VERL[name] for name in VERL if name != "prompt"}


def test_a_row_of_verl_with_its_objects_as_json_text() -> None:
    """As in a CSV file: every cell is a text."""
    cells = {name: value if isinstance(value, str) else json.dumps(value) for name, value in VERL.items()}
    assert good(cells) == good(VERL)
    named = {"prompt": "2+3?", "checks": '{"expected": "5"}'}
    assert good(named, columns={"answer": "checks.expected"}).answer == "5"
    assert good({"prompt": "[1, 2] sorted is?", "answer": "[1, 2]"}).prompt == "[1, 2] sorted is?"


@pytest.mark.parametrize("column", ["answer", "ground_truth", "solution", "label", "labels"])
def test_the_answer_under_every_name_in_use(column: str) -> None:
    row = good({"prompt": "2+3?", column: 5, "level": 1})
    assert row.answer == "5"
    # A reward function may ask for the column by the name it has.
    assert json.loads(row.metadata) == ({"level": 1} if column == "answer" else {column: 5, "level": 1})


@pytest.mark.parametrize("column", ["prompt", "messages", "question", "problem"])
def test_the_prompt_under_every_name_in_use(column: str) -> None:
    value: Any = ASKED if column == "messages" else "What is 2+3?"
    row = good({column: value, "answer": "5"})
    assert (row.prompt, row.answer, row.metadata) == (value, "5", "{}")
    assert good({"prompt": None, column: value}).prompt == value


def test_answers_that_agree_and_answers_that_differ() -> None:
    assert good({"problem": "p", "answer": "5", "solution": " 5\n", "label": None, "ground_truth": ""}).answer == "5"
    row = {"problem": "p", "answer": "5", "solution": r"It is \boxed{5}."}
    assert bad(row) == BadRow(
        reason="several_answers",
        message="columns 'answer' ('5') and 'solution' ('It is \\\\boxed{5}.') differ: say which holds the answer in "
        "the dataset's entry, e.g. columns: {answer: answer}",
    )
    assert bad({**VERL, "answer": "6"}).message.startswith(
        "columns 'answer' ('6') and 'reward_model.ground_truth' ('5')"
    )
    assert good(row, columns={"answer": "answer"}).answer == "5"
    assert good(row, columns={"answer": "solution"}).answer == r"It is \boxed{5}."
    assert good(row, columns={"answer": None}).answer == ""
    assert good(row, "math").answer == good(row, "math_500").answer == "5"


def test_messages_that_end_with_the_assistants_reply() -> None:
    """A row of SFT data: the reply is what the model should have said, not what it is given."""
    system = {"role": "system", "content": "Be brief."}
    row = {"messages": [system, *ASKED, {"role": "assistant", "content": "5"}]}
    assert (good(row).prompt, good(row).answer) == ([system, *ASKED], "5")
    assert good({**row, "ground_truth": "five"}).answer == "five"
    assert good(row, columns={"answer": None}).answer == ""
    turns = [*ASKED, {"role": "assistant", "content": "5"}, {"role": "user", "content": "And 2+4?"}]
    assert (good({"messages": turns}).prompt, good({"messages": turns}).answer) == (turns, "")
    assert "before the assistant's reply" in bad({"messages": row["messages"][2:]}).message


def test_parts_of_a_message() -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2+3?", "image": None}]
    assert good({"prompt": [{"role": "user", "content": parts}]}).prompt == ASKED
    image = [{"role": "user", "content": [parts[0], {"type": "image", "image": "a.png"}]}]
    assert bad({"prompt": image}) == BadRow(
        reason="not_text", message="'prompt[1].content[2]' is a part of type 'image': prompts are text alone"
    )
    assert bad({"prompt": [{"role": "user", "content": ["2+3?"]}]}).reason == "not_text"


def test_paths_into_nested_columns() -> None:
    row = {"input": {"text": "2+3?"}, "gold": {"final": {"value": 5}}, "extra_info": {"index": 3}, "a.b": "flat"}
    columns = {"prompt": "input.text", "answer": "gold.final.value", "prompt_id": "extra_info.index"}
    found = good(row, columns={**columns, "metadata": ["extra_info.index", "a.b"]})
    assert (found.prompt, found.answer, found.key, found.has_id) == ("2+3?", "5", "3", True)
    assert json.loads(found.metadata) == {"extra_info.index": 3, "a.b": "flat"}
    missing = bad(row, columns={**columns, "answer": "gold.final.number"})
    assert "column 'gold' has no part 'final.number'; it has: final." in missing.message
    assert "no column 'reward_model.ground_truth'" in bad(row, columns={"prompt": "reward_model.ground_truth"}).message
    inside = bad(VERL, columns={"answer": "reward_model"})
    assert inside.message.endswith("an object with the answer inside: columns: {answer: reward_model.ground_truth}")


def test_a_rows_number_is_part_of_a_key_that_is_of_one_prompt() -> None:
    first, second = good({"id": 0, "prompt": "1+1?"}), good({"id": 0, "prompt": "1+2?"})
    assert (first.key.split("#")[0], first.has_id) == ("0", False)
    assert first.key != second.key
    assert first.identity == good({"id": 9, "prompt": "1+1?"}).identity == prompt_key("1+1?")
    for value in (None, "", True, [1], 1.5, "x" * 65):
        assert good({"id": value, "prompt": "1+1?"}).key == prompt_key("1+1?")
    assert good({"id": 0, "prompt": "1+1?"}, columns={"prompt_id": None}).key == prompt_key("1+1?")
    assert json.loads(first.metadata) == {"id": 0}


def test_the_data_source_is_the_rows_own_name() -> None:
    assert good({**VERL, "data_source": 3}).label == ""
    assert good(VERL, source="mine").label == ""
    assert good({"prompt": "1+1?"}).label == ""


def test_openrlhf_rows_by_name() -> None:
    """``input`` is of too many meanings to be taken for the prompt; ``label`` is found."""
    row = {"input": "2+3?", "label": "5"}
    assert good(row, columns={"prompt": "input"}).answer == "5"
    message = bad(row).message
    assert "no column 'prompt'" in message and "messages, question, problem" in message
    assert "Columns present: input, label." in message


@pytest.mark.parametrize(
    ("preset", "row", "prompt", "answer"),
    [
        ("gsm8k", {"question": "2+3?", "answer": "2+3=<<2+3=5>>5\n#### 5"}, "2+3?", "5"),
        ("math", {"problem": "2+3?", "level": "Level 1", "type": "Algebra", "solution": r"\boxed{5}"}, "2+3?", "5"),
        (
            "math_500",
            {
                "problem": "2+3?",
                "solution": r"So \boxed{5.0}",
                "answer": "5",
                "subject": "Algebra",
                "level": 1,
                "unique_id": "test/algebra/1.json",
            },
            "2+3?",
            "5",
        ),
        ("dapo_math", DAPO, DAPO["prompt"], "5"),
        ("dapo_math", {**DAPO, "prompt": "2+3?", "source_prompt": DAPO["prompt"], "solution": "5"}, "2+3?", "5"),
        (
            "aime",
            {"id": 60, "problem": "2+3?", "solution": r"\boxed{005}", "answer": "5", "url": "u", "year": "2024"},
            "2+3?",
            "5",
        ),
        ("aime", {"ID": "2024-II-4", "Problem": "2+3?", "Solution": "Add.", "Answer": 5}, "2+3?", "5"),
        ("aime", {"id": 1, "problem": "2+3?", "solution": r"\boxed{5}", "url": "u"}, "2+3?", "5"),
        ("aime", {"problem": "2+3?", "answer": "5", "id": "0"}, "2+3?", "5"),
        ("aime", {"problem_idx": 1, "problem": "2+3?", "answer": 5, "problem_type": ["Algebra"]}, "2+3?", "5"),
        ("aime", {"question": "2+3?", "answer": "5"}, "2+3?", "5"),
        ("aime", {**DAPO, "data_source": "math_dapo"}, DAPO["prompt"], "5"),
    ],
)
def test_known_datasets(preset: str, row: dict[str, Any], prompt: Any, answer: str) -> None:
    found = good(row, preset)
    assert found.prompt == (prompt + STEP_BY_STEP if isinstance(prompt, str) else prompt)
    assert found.answer == answer


def test_every_preset_has_a_column_for_the_answer() -> None:
    for name, preset in PRESETS.items():
        assert "no column" in bad({"nothing": 1}, name).message
        assert preset.answers or preset.solutions
