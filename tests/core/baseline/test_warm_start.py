from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from support.baselines import beta_store

from bolt_ray.core.baseline import BaselineStore
from bolt_ray.core.errors import CheckpointError
from bolt_ray.core.keys import prompt_key


def written(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def strength_split(store: BaselineStore, key: str) -> tuple[float, float]:
    v_hat, n_eff = store.get(key)
    return v_hat * n_eff, (1 - v_hat) * n_eff


def test_the_three_forms_of_a_value(tmp_path: Path) -> None:
    document = {
        "metadata": {"model": "m", "num_samples": 4},
        "baselines": {
            "value": 0.7,
            "sure": 1.0,
            "never": 0.0,
            "scores": [1, 0, 1, 1],
            "partly": [1.0, None, 0.5],
            "counts": {"alpha": 6, "beta": 2},
        },
    }
    store = beta_store()
    report = store.load_from_json(written(tmp_path / "warm.json", document))
    assert strength_split(store, "value") == pytest.approx((5.6, 2.4))
    assert strength_split(store, "sure") == pytest.approx((7.92, 0.08))
    assert strength_split(store, "never") == pytest.approx((0.08, 7.92))
    assert strength_split(store, "scores") == pytest.approx((8 * 3.5 / 5, 8 * 1.5 / 5))
    assert strength_split(store, "partly") == pytest.approx((8 * 2.0 / 3, 8 * 1.0 / 3))
    assert strength_split(store, "counts") == (6.0, 2.0)
    assert (report.hit_rate, report.warning, report.metadata["model"]) == (1.0, None, "m")


def test_the_inner_object_alone_and_the_strength_of_other_settings(tmp_path: Path) -> None:
    store = beta_store(rho_min=0.5, reward_range=(-1.0, 1.0))
    store.load_from_json(written(tmp_path / "warm.json", {"a": 0.5, "b": [-1, 1, 0]}))
    assert strength_split(store, "a") == (1.0, 1.0)
    assert strength_split(store, "b") == pytest.approx((2 * 2.0 / 4, 2 * 2.0 / 4))


def test_warm_start_stands_at_version_zero(tmp_path: Path) -> None:
    store = beta_store()
    store.register(["a"])
    store.load_from_json(written(tmp_path / "warm.json", {"a": {"alpha": 6, "beta": 2}}))
    assert store.get("a", version=1) == (0.75, 7.0)
    assert store.columns().visits.tolist() == [0]
    assert store.columns().last_version.tolist() == [-1]
    store.update("a", 1.0, version=1)
    assert strength_split(store, "a") == pytest.approx((6.25, 1.75))


def test_what_was_learned_goes_before_a_warm_start(tmp_path: Path) -> None:
    store = beta_store()
    store.update("a", 1.0)
    store.load_from_json(written(tmp_path / "warm.json", {"a": 0.5, "b": 0.5}))
    assert store.get("a") == (pytest.approx(2 / 3), 3.0)
    assert store.get("b") == (0.5, 8.0)


def test_keys_are_ids_digests_or_rows(tmp_path: Path) -> None:
    rows = ["own", prompt_key("1+1=?"), prompt_key("2+2=?"), prompt_key("3+3=?")]
    store = beta_store()
    store.register(rows)
    asked: list[tuple[str, int]] = []

    def row_key(dataset: str, row: int) -> str | None:
        asked.append((dataset, row))
        return rows[row] if dataset == "big_math" and row < len(rows) else None

    document = {
        "own": 0.1,
        rows[1]: 0.2,
        "big_math_1": 0.9,
        "big_math_2": 0.3,
        "big_math_9": 0.4,
        "other_2": 0.6,
        "stranger": 0.5,
    }
    report = store.load_from_json(written(tmp_path / "warm.json", document), row_key=row_key)
    assert [store.get(key)[0] for key in rows] == pytest.approx([0.1, 0.2, 0.3, 0.5])
    assert asked == [("big_math", 1), ("big_math", 2), ("big_math", 9), ("other", 2)]
    assert (report.entries, report.matched, report.rows, report.hits) == (7, 3, 4, 3)
    assert report.hit_rate == 0.75
    assert report.warning is not None
    assert "3 of 4 prompts (75.0%)" in report.warning


def test_hit_rate_counts_rows(tmp_path: Path) -> None:
    store = beta_store()
    store.register(["a"] * 9 + ["b"])
    report = store.load_from_json(written(tmp_path / "warm.json", {"a": 0.5}))
    assert (report.hits, report.hit_rate, report.warning) == (9, 0.9, None)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"baselines": {"a": 1.5}}, r"'a' is 1\.5"),
        ({"a": -0.1}, r"\[0, 1\]"),
        ({"a": "0.5"}, "finite number"),
        ({"a": True}, "finite number"),
        ({"a": [1, "x"]}, "finite number"),
        ({"a": {"alpha": 1}}, "expected"),
        ({"a": {"alpha": -1, "beta": 2}}, "negative"),
        ({"a": {"alpha": 0, "beta": 0}}, "both 0"),
        ({"": 0.5}, "non-empty"),
        ([0.5], "holds a list"),
        ({"version": 2, "baselines": {"a": 0.5}}, "version 2"),
        ({"metadata": {"version": "0.9"}, "baselines": {"a": 0.5}}, r"version '0\.9'"),
        ({"metadata": [], "baselines": {}}, "none of its 0 keys"),
        ({"metadata": [1], "baselines": {}}, "metadata"),
        ({"b": 0.5}, r"none of its 1 keys such as 'b'.*0 %"),
        ({"a": []}, "none of its 0 keys"),
    ],
)
def test_bad_files_are_refused_and_nothing_changes(document: object, message: str, tmp_path: Path) -> None:
    store = beta_store()
    store.register(["a"])
    with pytest.raises(CheckpointError, match=message) as caught:
        store.load_from_json(written(tmp_path / "warm.json", document))
    assert "warm.json" in str(caught.value)
    assert (len(store), store.get("a")) == (0, (0.5, 2.0))


@pytest.mark.parametrize("text", ["", '{"a": 0.5', '{"a": NaN}', "\x00", '{"a": 1e999}'])
def test_files_that_are_no_json_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "warm.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"warm\.json"):
        beta_store().load_from_json(tmp_path / "warm.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing\.json: no warm-start file"):
        beta_store().load_from_json(tmp_path / "missing.json")


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize("name", ["old.pkl", "old.bin"])
def test_pickles_are_refused_unless_allowed(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"a": 0.75, "b": [1, 0], "c": {"alpha": 6.0, "beta": 2.0}}))
    store = beta_store()
    with pytest.raises(CheckpointError, match=r"convert it once: .*json\.dump"):
        store.load_from_json(path)
    store.load_from_json(path, allow_pickle=True)
    assert store.get("a") == (0.75, 8.0)
    assert store.get("c") == (0.75, 8.0)


@pytest.mark.parametrize("value", [Bomb(), OrderedDict(a=0.5), {"a": Bomb()}, {"a": complex(1)}])
def test_allowed_pickles_are_only_plain_data(value: object, tmp_path: Path) -> None:
    path = tmp_path / "old.pkl"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(CheckpointError, match="only plain data"):
        beta_store().load_from_json(path, allow_pickle=True)


def test_a_cut_off_pickle_is_refused(tmp_path: Path) -> None:
    data = pickle.dumps({"a": [0.5, 1.0], "b": {"alpha": 1.0, "beta": 2.0}})
    path = tmp_path / "old.pkl"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"old\.pkl"):
            beta_store().load_from_json(path, allow_pickle=True)
