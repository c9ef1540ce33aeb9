"""An evaluation's completions as files: one row per completion, JSON Lines and Parquet with the same columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bolt_ray.core.evaluation.answers import extract_answer
from bolt_ray.core.evaluation.summary import EvaluationResult
from bolt_ray.core.records import Outcome, Prompt, ScoredCompletion

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", pa.large_string()),
        ("answer", pa.large_string()),
        ("source", pa.string()),
        ("sample_index", pa.int32()),
        ("completion", pa.large_string()),
        ("extracted_answer", pa.large_string()),
        ("correct", pa.bool_()),
        ("reward", pa.float64()),
        ("parts", pa.map_(pa.string(), pa.float64())),
        ("num_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("unscored", pa.string()),
    ]
)
"""``prompt`` is JSON where the prompt is chat messages; ``reward`` is null and ``unscored`` says why where there is no
verdict."""

_ROWS_PER_GROUP = 4096


def prediction_rows(result: EvaluationResult) -> Iterator[dict[str, Any]]:
    """One row per completion, problem by problem, in sample order."""
    for prompt, outcomes, rights in zip(result.prompts, result.outcomes, result.rights, strict=True):
        for sample_index, (outcome, right) in enumerate(zip(outcomes, rights, strict=True)):
            yield _row(prompt, sample_index, outcome, right)


def write_predictions(result: EvaluationResult, directory: Path, *, name: str) -> None:
    """Write ``<name>.jsonl`` and ``<name>.parquet`` into ``directory``."""
    rows = list(prediction_rows(result))
    with (directory / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    with pq.ParquetWriter(directory / f"{name}.parquet", SCHEMA) as writer:
        for start in range(0, len(rows), _ROWS_PER_GROUP):
            group = [row | {"parts": list(row["parts"].items())} for row in rows[start : start + _ROWS_PER_GROUP]]
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))


def _row(prompt: Prompt, sample_index: int, outcome: Outcome, right: bool) -> dict[str, Any]:
    verdict: dict[str, Any] = {"reward": None, "parts": {}, "unscored": None}
    if isinstance(outcome, ScoredCompletion):
        verdict |= {"reward": outcome.reward, "parts": dict(outcome.parts)}
    else:
        verdict["unscored"] = str(outcome.reason)
    return {
        "prompt_id": prompt.key,
        "prompt": prompt.prompt if isinstance(prompt.prompt, str) else json.dumps(prompt.prompt, ensure_ascii=False),
        "answer": prompt.answer,
        "source": prompt.source,
        "sample_index": sample_index,
        "completion": outcome.text,
        "extracted_answer": extract_answer(outcome.text),
        "correct": right,
        "num_tokens": len(outcome.token_ids),
        "truncated": outcome.truncated,
        **verdict,
    }
