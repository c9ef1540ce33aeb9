"""A tiny model taught from rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bolt_ray.tasks.tiny.rows import CHECK_EVERY, RowPretrainReport, teach_rows
from bolt_ray.tasks.tiny.settings import RowPretrainSettings
from bolt_ray.tasks.tiny.tokenizer import MAX_MORE_CHARACTERS, build_tokenizer, more_characters

ROWS = [(f"{a}+{b}=", f"<answer>{a + b}</answer>") for a in range(15) for b in range(15)]
TRAIN, HELDOUT = ROWS[25:], ROWS[:25]


def taught(
    directory: Path, rows: list[tuple[str, str]] = TRAIN, **given: object
) -> tuple[RowPretrainReport, list[float]]:
    losses: list[float] = []
    settings = RowPretrainSettings(**{"steps": 30, "batch_size": 16, "warmup_steps": 5, **given})  # type: ignore[arg-type]
    report = teach_rows(
        rows, HELDOUT, settings, directory, room=8, on_step=lambda step, loss, accuracy: losses.append(loss)
    )
    return report, losses


def test_a_few_steps_lower_the_loss_and_leave_a_model(tmp_path: Path) -> None:
    report, losses = taught(tmp_path)
    assert report.steps == len(losses) == 30
    assert report.first_loss == losses[0] == pytest.approx(4.6, abs=0.2), "the log of 101 tokens"
    assert report.last_loss < 2.0
    assert 0.0 <= report.sampled_accuracy <= 1.0 and report.heldout_rows == 25
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("1+2=", return_tensors="pt")["input_ids"]
    assert model(ids).logits.shape == (1, 4, 101)
    assert json.loads((tmp_path / "pretrain_report.json").read_text())["report"]["steps"] == 30


def test_it_stops_once_it_is_good_enough(tmp_path: Path) -> None:
    # One row, which is soon known by heart.
    row = HELDOUT[:1]
    settings = RowPretrainSettings(steps=1000, until_accuracy=0.5, batch_size=8, warmup_steps=5)
    report = teach_rows(row, row, settings, tmp_path, room=8, on_step=lambda step, loss, accuracy: None)
    assert report.steps % CHECK_EVERY == 0 and report.steps < 1000
    assert report.greedy_accuracy == 1.0


def test_the_context_holds_the_longest_row_and_room_for_completions(tmp_path: Path) -> None:
    long = [*TRAIN, ("1+" * 300 + "1=", "<answer>301</answer>")]
    report, _ = taught(tmp_path, long, steps=1, context_length=64)
    assert report.context_length == 640 >= 602 + len("<answer>301</answer>") + 1
    short, _ = taught(tmp_path / "short", steps=1, context_length=64)
    assert short.context_length == 64


def test_other_characters_than_ascii_get_tokens(tmp_path: Path) -> None:
    assert more_characters(["3 × 4 = é", "é\n"]) == "×é"
    tokenizer = build_tokenizer(max_length=64, more="×é")
    assert tokenizer.decode(tokenizer("3×é")["input_ids"]) == "3×é"
    taught(tmp_path, [*TRAIN, ("2×3=", "<answer>6</answer>")], steps=1)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.unk_token_id not in loaded("2×3=")["input_ids"]
    many = "".join(chr(0x4E00 + number) for number in range(MAX_MORE_CHARACTERS + 1))
    with pytest.raises(ValueError, match="4,001 different characters beyond ASCII"):
        more_characters([many])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"completion": "{answers}"}, "completion must hold {answer}"),
        ({"completion": "42"}, "completion must hold {answer}"),
        ({"completion": "{answer"}, "completion is malformed"),
        ({"steps": 0}, "steps"),
        ({"until_accuracy": 1.5}, "until_accuracy"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowPretrainSettings(**wrong)  # type: ignore[arg-type]
