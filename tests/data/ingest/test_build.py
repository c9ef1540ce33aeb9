"""Datasets into a store, with the real Ray Data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets as hf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.settings import dataset as dataset_of

from bolt_ray.core.errors import DataError, EnvironmentProblem
from bolt_ray.data.ingest.build import build_store
from bolt_ray.data.store import PromptStore

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

ROWS = [{"prompt": f"{number}+1=?", "answer": str(number + 1), "level": number % 3} for number in range(50)]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def build(tmp_path: Path, *datasets: dict[str, Any] | Path, **settings: Any) -> PromptStore:
    entries = [{"name": str(entry)} if isinstance(entry, Path) else entry for entry in datasets]
    configs = [dataset_of(entry) for entry in entries]
    limits = {"on_bad_row": "error", "max_prompt_chars": 1_000_000, "stall_timeout_s": 120.0}
    return build_store(configs, store_dir=tmp_path / "stores", **(limits | settings))


def prompts(store: PromptStore) -> list[Any]:
    return [prompt.prompt for prompt in store.read(np.arange(store.num_rows))]


def as_json(path: Path) -> None:
    path.write_text(json.dumps({"prompts": ROWS}))


def as_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=20)


def as_csv(path: Path) -> None:
    lines = ["prompt,answer,level", *(f"{row['prompt']},{row['answer']},{row['level']}" for row in ROWS)]
    path.write_text("\n".join(lines) + "\n")


def as_jsonl(path: Path) -> None:
    write_jsonl(path, ROWS)


@pytest.mark.parametrize("write", [as_json, as_jsonl, as_parquet, as_csv], ids=["json", "jsonl", "parquet", "csv"])
def test_every_format_gives_the_same_prompts(tmp_path: Path, write: Any) -> None:
    path = tmp_path / f"numbers.{write.__name__[3:]}"
    write(path)
    store = build(tmp_path, path)
    assert store.num_rows == 50
    some = store.read(np.array([49, 0, 49]))
    assert [prompt.prompt for prompt in some] == ["49+1=?", "0+1=?", "49+1=?"]
    assert (some[0].row, some[0].answer, some[0].source) == (49, "50", "numbers")
    assert int(some[0].metadata["level"]) == 1
    assert store.keys()[1].as_py() == "c1f45ef80399d283c7a7641ff5f09c9d"
    assert some[1].key == store.keys()[0].as_py()


def test_hugging_face_by_name_and_from_disk(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "raw.jsonl", ROWS)
    by_name = build(tmp_path, {"name": "json", "data_files": str(source), "split": "train"})
    assert (by_name.num_rows, by_name.sources[0].name) == (50, "json")
    assert prompts(by_name)[:2] == ["0+1=?", "1+1=?"]
    assert by_name.place(7) == "json, row 8"
    pair = hf.Dataset.from_list(ROWS).train_test_split(test_size=10, shuffle=False)
    pair.save_to_disk(tmp_path / "saved")
    saved = build(tmp_path, {"name": str(tmp_path / "saved"), "split": "test"})
    assert prompts(saved) == [row["prompt"] for row in ROWS[40:]]
    with pytest.raises(DataError, match=r"cannot load it .*split='gold'"):
        build(tmp_path, {"name": "json", "data_files": str(source), "split": "gold"})


def test_presets_on_files_of_the_same_schema(tmp_path: Path) -> None:
    gsm8k = write_jsonl(tmp_path / "g.jsonl", [{"question": "2*4?", "answer": "<<2*4=8>>\n#### 8"}])
    math = write_jsonl(
        tmp_path / "m.jsonl",
        [{"problem": "1/2?", "solution": r"\boxed{\frac{1}{2}}", "level": "Level 1", "type": "Algebra"}],
    )
    store = build(tmp_path, {"name": str(gsm8k), "preset": "gsm8k"}, {"name": str(math), "preset": "math"})
    first, second = store.read(np.arange(2))
    assert (first.answer, first.source, dict(first.metadata)) == ("8", "g", {})
    assert isinstance(first.prompt, str) and first.prompt.startswith("2*4?\n\nReason step by step")
    assert (second.answer, second.source) == (r"\frac{1}{2}", "m")
    assert dict(second.metadata) == {
        "solution": r"\boxed{\frac{1}{2}}",
        "level": "Level 1",
        "type": "Algebra",
    }
    assert store.source_ids().tolist() == [0, 1]


def test_a_store_is_used_again_until_something_changes(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    first = build(tmp_path, path)
    stamp = (first.directory / "manifest.json").stat().st_mtime_ns
    again = build(tmp_path, path)
    assert again.directory == first.directory
    assert (again.directory / "manifest.json").stat().st_mtime_ns == stamp
    (tmp_path / "b").mkdir()
    moved = write_jsonl(tmp_path / "b" / "a.jsonl", ROWS)
    assert build(tmp_path, moved).directory == first.directory
    assert build(tmp_path, {"name": str(path), "weight": 3, "reward": "math"}).directory == first.directory
    assert build(tmp_path, {"name": str(path), "chat": True}).directory != first.directory
    write_jsonl(path, ROWS[:-1])
    changed = build(tmp_path, path)
    assert changed.directory != first.directory
    assert changed.num_rows == 49


def parts_of(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("part-*.arrow")}


def test_finished_parts_outlive_an_error(tmp_path: Path) -> None:
    for number in range(3):
        write_jsonl(tmp_path / f"{number}.jsonl", ROWS[number * 10 : number * 10 + 10])
    (tmp_path / "3.jsonl").write_text('{"prompt": "fine"}\n{"prompt"\n')
    dataset = {"name": str(tmp_path / "*.jsonl")}
    with pytest.raises(DataError, match=r"3\.jsonl, line 2"):
        build(tmp_path, dataset, unit_bytes=100)
    (building,) = (tmp_path / "stores").glob("*.building")
    kept = parts_of(building)
    assert len(kept) >= 3
    with pytest.raises(DataError, match=r"3\.jsonl, line 2"):
        build(tmp_path, dataset, unit_bytes=100)
    assert parts_of(building) == kept


def test_an_ingest_that_was_killed_goes_on(tmp_path: Path) -> None:
    """The directory is put back to what a kill in the middle of the third part leaves."""
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    whole = build(tmp_path, path, unit_bytes=700)
    expected, stamps = prompts(whole), parts_of(whole.directory)
    assert sorted(stamps) == [f"part-0000{number}.arrow" for number in range(4)]
    building = whole.directory.rename(whole.directory.with_name(f"{whole.address}.building"))
    for left in [*building.glob("part-0000[23]*"), *building.glob("*.npy"), building / "manifest.json"]:
        left.unlink()
    (building / "part-00002.arrow.tmp").write_bytes(b"torn")
    again = build(tmp_path, path, unit_bytes=700)
    assert prompts(again) == expected
    assert again.directory == whole.directory
    after = parts_of(again.directory)
    assert [after[name] == stamps[name] for name in sorted(after)] == [True, True, False, False]
    assert not list(again.directory.glob("*.tmp"))


def test_blocks_do_not_change_the_store(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    whole, cut = build(tmp_path, path), build(tmp_path, path, unit_bytes=700)
    assert len(list(cut.directory.glob("part-*.arrow"))) == 4
    assert prompts(cut) == prompts(whole)
    assert cut.keys().to_pylist() == whole.keys().to_pylist()
    assert [cut.place(row) for row in (0, 30, 49)] == [whole.place(row) for row in (0, 30, 49)]
    assert cut.dataset_rows().tolist() == whole.dataset_rows().tolist() == list(range(50))


BAD_LINES = [
    (b'{"prompt": "a", }', "malformed_line", "not valid JSON: .* at column 17"),
    (b'{"promt": "a"}', "missing_column", "no column 'prompt'; did you mean 'promt'"),
    (b'{"prompt": 17}', "wrong_type", "column 'prompt' must be a text, not a number"),
    (b'{"prompt": ""}', "empty_prompt", "column 'prompt': the prompt is empty"),
    (b'{"prompt": "' + b"x" * 10_000_000 + b'"}', "prompt_too_long", "10,000,000 characters"),
    (b'{"prompt": "\xff\xfe"}', "invalid_utf8", "byte 13 of the line is not UTF-8"),
    (b'{"prompt": "x", "prompt_id": "first"}', "duplicate_id", "'first' is already used by .*, line 1"),
]


@pytest.mark.parametrize(("line", "reason", "message"), BAD_LINES, ids=[reason for _, reason, _ in BAD_LINES])
def test_bad_rows_stop_or_are_counted(tmp_path: Path, line: bytes, reason: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "p", "prompt_id": "first"}\n' + line + b'\n{"prompt": "q"}\n')
    with pytest.raises(DataError, match=rf"a\.jsonl, line 2: .*{message}.*on_bad_row: skip"):
        build(tmp_path, path)
    store = build(tmp_path, path, on_bad_row="skip")
    assert prompts(store) == ["p", "q"]
    assert dict(store.sources[0].rejected) == {reason: 1}
    assert store.report() == f"a: 2 prompts of 3 rows, 1 rejected ({reason})"
    (reject,) = map(json.loads, (store.directory / "rejects.jsonl").read_text().splitlines())
    assert (reject["place"], reject["reason"]) == (f"{path}, line 2", reason)
    assert len(reject["row"]) <= 200
    assert store.dataset_rows().tolist() == [0, 2]


def test_filters_report_what_they_drop(tmp_path: Path) -> None:
    rows = [{"prompt": text} for text in ("abc", "a", "abc", "abcdefgh", "abd", "abc")]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    store = build(tmp_path, {"name": str(path), "filters": {"min_chars": 2, "max_chars": 5}})
    assert prompts(store) == ["abc", "abd"]
    assert dict(store.sources[0].filtered) == {"too_short": 1, "too_long": 1, "duplicate_prompt": 2}
    assert store.place(1) == f"{path}, line 5"
    kept = build(tmp_path, {"name": str(path), "filters": {"drop_duplicates": False}})
    assert kept.num_rows == 6


def test_the_same_prompt_in_two_datasets_stays_with_the_first(tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "one.jsonl", ROWS[:3])
    two = write_jsonl(tmp_path / "two.jsonl", ROWS[2:6])
    store = build(tmp_path, one, two)
    assert [(source.name, source.rows, dict(source.filtered)) for source in store.sources] == [
        ("one", 3, {}),
        ("two", 3, {"duplicate_prompt": 1}),
    ]
    assert store.source_ids().tolist() == [0, 0, 0, 1, 1, 1]
    assert store.dataset_rows().tolist() == [0, 1, 2, 1, 2, 3]
    assert {prompt.source for prompt in store.read(np.array([3, 4, 5]))} == {"two"}


@pytest.mark.parametrize("content", ["", "\n\n", '{"prompt": ""}\n'])
def test_an_empty_dataset_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"dataset 'a' is empty: \d rows read.*a\.jsonl"):
        build(tmp_path, path, on_bad_row="skip")


def test_a_file_that_cannot_be_read_stops_even_when_rows_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('["a",')
    with pytest.raises(DataError, match=r"a\.json, line 1, column 6: not valid JSON"):
        build(tmp_path, path, on_bad_row="skip")
    broken = tmp_path / "a.parquet"
    broken.write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match=r"a\.parquet is no readable Parquet file"):
        build(tmp_path, broken, on_bad_row="skip")


def test_a_store_directory_that_cannot_be_made(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "stores").write_text("a file")
    with pytest.raises(EnvironmentProblem, match=r"data\.store_dir"):
        build(tmp_path, path)


def test_the_heldout_split_goes_by_key(tmp_path: Path) -> None:
    store = build(tmp_path, write_jsonl(tmp_path / "a.jsonl", ROWS))
    mixed = build(tmp_path, write_jsonl(tmp_path / "b.jsonl", ROWS[::-1]))
    for choice in ({"fraction": 0.3}, {"size": 12}):
        train, heldout = store.split_heldout(**choice)
        assert sorted([*train, *heldout]) == list(range(50))
        keys = {store.keys()[row].as_py() for row in heldout.tolist()}
        assert keys == {mixed.keys()[row].as_py() for row in mixed.split_heldout(**choice)[1].tolist()}
    assert store.split_heldout(size=12)[1].size == 12
    assert store.split_heldout()[0].size == 50
    fewer = build(tmp_path, write_jsonl(tmp_path / "c.jsonl", ROWS[:25]))
    out_of_fewer = {fewer.keys()[row].as_py() for row in fewer.split_heldout(fraction=0.3)[1].tolist()}
    assert out_of_fewer <= {store.keys()[row].as_py() for row in store.split_heldout(fraction=0.3)[1].tolist()}
    with pytest.raises(DataError, match="none would be left to train on"):
        store.split_heldout(size=50)


def test_opening_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompt store at"):
        PromptStore.open(tmp_path)
