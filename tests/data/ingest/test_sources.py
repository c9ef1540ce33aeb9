"""What a store makes of rows that name their data source, repeat prompts or number themselves; read without Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.settings import dataset as dataset_of
from support.wired_run import read_here

from bolt_ray.core.errors import DataError
from bolt_ray.data.ingest.build import build_store
from bolt_ray.data.ingest.finish import MAX_LABELS
from bolt_ray.data.ingest.preview import preview
from bolt_ray.data.store import PromptStore


def verl_row(source: str, question: str, answer: str, *, index: Any = 0) -> dict[str, Any]:
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": question}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"split": "train", "index": index},
    }


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def build(tmp_path: Path, *entries: dict[str, Any] | Path, **settings: Any) -> PromptStore:
    datasets = [dataset_of({"name": str(entry)} if isinstance(entry, Path) else entry) for entry in entries]
    given = {"on_bad_row": "error", "max_prompt_chars": 1000, "stall_timeout_s": 60.0} | settings
    return build_store(datasets, store_dir=tmp_path / "stores", read=read_here, **given)


def test_rows_are_counted_under_their_data_source(tmp_path: Path) -> None:
    mixed = parquet(
        tmp_path / "mixed.parquet",
        [verl_row("gsm8k", "1+1?", "2"), verl_row("math_dapo", "1+2?", "3"), verl_row("gsm8k", "1+3?", "4")],
    )
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"prompt": "9-1?", "answer": "8"}\n{"prompt": "9-2?", "data_source": "gsm8k"}\n')
    store = build(tmp_path, mixed, plain)
    rows = np.arange(store.num_rows)
    assert store.source_names(rows) == ["gsm8k", "math_dapo", "gsm8k", "plain", "gsm8k"]
    assert store.source_names(np.array([1, 3])) == ["math_dapo", "plain"]
    assert [set(store.names_in(number)) for number in (0, 1)] == [{"gsm8k", "math_dapo"}, {"plain", "gsm8k"}]
    prompts = store.read(rows)
    assert [(prompt.source, prompt.dataset) for prompt in prompts[:2]] == [("gsm8k", "mixed"), ("math_dapo", "mixed")]
    assert prompts[1].metadata["reward_model"]["ground_truth"] == prompts[1].answer == "3"
    # Shares of the draws go by the entries of datasets:, whatever their rows are called.
    assert [source.name for source in store.sources] == ["mixed", "plain"]
    assert store.source_ids().tolist() == [0, 0, 0, 1, 1]
    renamed = build(tmp_path, {"name": str(mixed), "source": "mine"})
    assert set(renamed.source_names(np.arange(3))) == {"mine"}


def test_too_many_data_sources_are_no_names(tmp_path: Path) -> None:
    rows = [verl_row(f"page-{number}", f"{number}?", "1") for number in range(MAX_LABELS + 1)]
    store = build(tmp_path, parquet(tmp_path / "web.parquet", rows))
    assert store.names_in(0) == ["web"]
    assert store.report() == (
        f"web: {MAX_LABELS + 1} prompts of {MAX_LABELS + 1} rows, "
        f"{MAX_LABELS + 1} different data_source: metrics go by the dataset"
    )


def test_prompts_that_are_repeated_are_counted(tmp_path: Path) -> None:
    """As DAPO-Math-17k has them: many times, and some with another answer."""
    rows = [verl_row("math_dapo", f"{number % 5}+1?", str(number % 5 + 1), index=f"u{number}") for number in range(50)]
    rows.append(verl_row("math_dapo", "2+1?", "7", index="u2"))
    store = build(tmp_path, parquet(tmp_path / "dapo.parquet", rows))
    assert [prompt.answer for prompt in store.read(np.arange(5))] == ["1", "2", "3", "4", "5"]
    assert store.report() == (
        "dapo: 5 prompts of 51 rows, 45 left out (duplicate_prompt), 1 left out (duplicate_prompt_with_another_answer)"
    )
    kept = build(tmp_path, {"name": str(tmp_path / "dapo.parquet"), "filters": {"drop_duplicates": False}})
    assert kept.num_rows == 51


def test_numbers_that_come_again_are_no_ids(tmp_path: Path) -> None:
    """Every file of verl counts from 0: the key is of the prompt all the same, and so is the held-out side."""
    train = parquet(tmp_path / "train.parquet", [verl_row("a", f"{n}+1?", "1", index=n) for n in range(20)])
    test = parquet(tmp_path / "test.parquet", [verl_row("a", f"{n}+2?", "1", index=n) for n in range(20)])
    both = build(tmp_path, train, test)
    keys = both.keys().to_pylist()
    assert both.num_rows == len(set(keys)) == 40
    assert [key.split("#")[0] for key in keys[:2]] == ["0", "1"]
    one = build(tmp_path, train)
    assert one.keys().to_pylist() == keys[:20]
    renumbered = parquet(tmp_path / "again.parquet", [verl_row("a", f"{n}+1?", "1", index=n + 5) for n in range(20)])
    assert (
        build(tmp_path, renumbered).split_heldout(fraction=0.4)[1].tolist()
        == one.split_heldout(fraction=0.4)[1].tolist()
    )
    with pytest.raises(
        DataError, match=r"test\.parquet, row 1: prompt_id '0' is already used by .*train\.parquet, row 1"
    ):
        columns = {"columns": {"prompt_id": "extra_info.index"}}
        build(tmp_path, {"name": str(train), **columns}, {"name": str(test), **columns})


def test_answers_that_differ_name_the_place(tmp_path: Path) -> None:
    path = tmp_path / "math.jsonl"
    rows = [{"problem": "1?", "answer": "1"}, {"problem": "2?", "answer": "2", "solution": "It is 2."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        DataError, match=r"math\.jsonl, line 2: columns 'answer' \('2'\) and 'solution' .*columns: \{answer: answer\}"
    ):
        build(tmp_path, path)
    assert build(tmp_path, {"name": str(path), "columns": {"answer": "answer"}}).num_rows == 2


def test_a_row_with_half_a_surrogate_pair_anywhere_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "half.jsonl"
    rows = [
        {"prompt": "a", "note": "\ud800"},
        {"prompt": "b", "data_source": "\ud800"},
        {"\ud800": "c"},
        {"prompt": "d"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = build(tmp_path, path, on_bad_row="skip")
    assert store.num_rows == 1
    with pytest.raises(DataError, match=r"half\.jsonl, line 1.*half of a surrogate pair"):
        build(tmp_path, path)


@pytest.mark.parametrize("drop", [True, False])
def test_a_preview_counts_the_prompts_that_a_store_holds(tmp_path: Path, drop: bool) -> None:
    path = tmp_path / "again.jsonl"
    rows = [("a", "1", None), ("b", "2", None), ("a", "1", None), ("a", "3", None), ("c", "4", "x"), ("d", "5", "x")]
    path.write_text(
        "".join(
            json.dumps({"prompt": prompt, "answer": answer} | ({"prompt_id": own} if own else {})) + "\n"
            for prompt, answer, own in rows
        )
    )
    entry = {"name": str(path), "filters": {"drop_duplicates": drop}}
    seen = preview(dataset_of(entry), source="again", max_prompt_chars=1000)
    store = build(tmp_path, entry, on_bad_row="skip")
    (source,) = store.sources
    assert len(seen.prompts) == store.num_rows == (3 if drop else 5)
    assert seen.left_out == {**source.rejected, **source.filtered}
    assert seen.first_bad == f"{path}, line 6: prompt_id 'x' is already used by {path}, line 5"
