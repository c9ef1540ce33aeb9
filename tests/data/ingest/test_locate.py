from __future__ import annotations

from pathlib import Path

import pytest
from support.settings import dataset as dataset_of

from bolt_ray.core.errors import DataError
from bolt_ray.data.ingest.locate import choose_split, find_files, format_of, is_hub_dataset
from bolt_ray.data.ingest.read_plan import preset_of, source_names, source_weights
from bolt_ray.data.settings import DatasetSettings


def named(name: object, **settings: object) -> DatasetSettings:
    return dataset_of({"name": str(name), **settings})


def names(dataset: DatasetSettings) -> list[str]:
    return [Path(file.path).name for file in find_files(dataset)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train-0.jsonl", "train-1.jsonl", "test-0.jsonl", "sub/dev.csv.gz", ".hidden.jsonl", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (tmp_path / "dataset_info.json").write_text("{}")
    return tmp_path


def test_format_of_a_name() -> None:
    assert [format_of(name) for name in ("a.json", "b.NDJSON", "s3://x/c.parquet", "d.csv.gz", "e.gz", "f.txt")] == [
        "json", "jsonl", "parquet", "csv", None, None,
    ]  # fmt: skip


def test_a_directory_gives_the_files_of_one_split(folder: Path) -> None:
    assert names(named(folder)) == ["train-0.jsonl", "train-1.jsonl"]
    assert names(named(folder, split="test")) == ["test-0.jsonl"]
    assert names(named(folder, split="validation")) == ["dev.csv.gz"]
    with pytest.raises(DataError, match=r"no split 'gold'.*test, train, validation"):
        find_files(named(folder, split="gold"))


def test_files_without_a_split_are_train() -> None:
    paths = ["/d/a.jsonl", "/d/b.jsonl"]
    assert choose_split(paths, base="/d", split=None) == set(paths)
    assert choose_split(paths, base="/d", split="train") == set(paths)
    assert choose_split(["/d/train_prefs-0.parquet", "/d/b.jsonl"], base="/d", split="train_prefs") == {
        "/d/train_prefs-0.parquet"
    }
    with pytest.raises(DataError, match=r"no split \(taken as train\)"):
        choose_split(paths, base="/d", split="test")


def test_globs_and_single_files_are_taken_as_they_are(folder: Path) -> None:
    assert names(named(folder / "t*-0.jsonl")) == ["test-0.jsonl", "train-0.jsonl"]
    assert names(named(folder / "**" / "*.gz")) == ["dev.csv.gz"]
    assert names(named(folder / "test-0.jsonl", split="train")) == ["test-0.jsonl"]
    assert find_files(named(folder / "notes.txt", format="jsonl"))[0].format == "jsonl"


def test_a_uri_is_listed_through_its_filesystem(folder: Path) -> None:
    assert names(named(f"file://{folder}", split="test")) == ["test-0.jsonl"]
    assert names(named(f"file://{folder}/train-*.jsonl")) == ["train-0.jsonl", "train-1.jsonl"]
    only = find_files(named(f"file://{folder}/train-1.jsonl"))[0]
    assert (only.path, only.local, only.size) == (f"file://{folder}/train-1.jsonl", False, 1)


def test_what_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no such file.*train-3.jsonl; did you mean .*train-\d.jsonl"):
        find_files(named(folder / "train-3.jsonl"))
    with pytest.raises(DataError, match="no file matches"):
        find_files(named(folder / "*.parquet"))
    with pytest.raises(DataError, match="no such file or directory: file:///nowhere"):
        find_files(named("file:///nowhere"))
    with pytest.raises(DataError, match="cannot reach nosuch://x"):
        find_files(named("nosuch://x"))
    with pytest.raises(DataError, match="the name tells no format"):
        find_files(named(folder / "notes.txt"))
    empty = folder / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"holds no data files; accepted are .*\.jsonl"):
        find_files(named(empty))


def test_hub_names_and_paths_are_told_apart(folder: Path) -> None:
    assert is_hub_dataset(named("openai/gsm8k"))
    assert is_hub_dataset(named("json", data_files="a.json"))
    for path in (folder, "data/train.jsonl", "./data", "~/data", "/data/x", "s3://bucket/x", "data/*"):
        assert not is_hub_dataset(named(path))


def test_presets_of_known_hub_names() -> None:
    assert preset_of(named("openai/gsm8k")) == "gsm8k"
    assert preset_of(named("HuggingFaceH4/MATH-500")) == "math_500"
    assert preset_of(named("openai/gsm8k", columns={"prompt": "question"})) is None
    assert preset_of(named("gsm8k.jsonl")) is None
    assert preset_of(named("gsm8k.jsonl", preset="gsm8k")) == "gsm8k"


def test_sources_have_names_of_their_own() -> None:
    assert source_names([named("openai/gsm8k"), named("a/train.jsonl.gz")]) == ["gsm8k", "train"]
    assert source_names([named("a/train.jsonl"), named("b/train.jsonl")]) == ["a/train.jsonl", "b/train.jsonl"]
    assert source_names([named("m/d", split="x"), named("m/d")]) == ["m/d:x", "m/d:train"]
    assert source_names([named("m/d", source="one"), named("m/d")]) == ["one", "d"]
    math = [named("m/MATH-500"), named("m/MATH-500", split="train")]
    assert source_names(math) == ["m/MATH-500:test", "m/MATH-500:train"]
    with pytest.raises(DataError, match="two datasets are called 'm/d:train'"):
        source_names([named("m/d"), named("m/d")])


def test_mixing_weights() -> None:
    assert source_weights([named("a/b"), named("a/c")]) is None
    assert source_weights([named("a/b", weight=3), named("a/c")]) == {"b": 3.0, "c": 1.0}
