"""What ``inspect`` shows of a small baseline written by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bolt_ray.commands.inspect.inspect import find_checkpoints, inspect_run, notable, read_baseline
from bolt_ray.commands.inspect.picture import calibration, columns
from bolt_ray.config.loading import build_config, dump_config
from bolt_ray.core.baseline import BaselineStore
from bolt_ray.core.baseline.sharded_snapshot import shard_file, write_manifest
from bolt_ray.core.baseline.snapshot import write_snapshot
from bolt_ray.core.errors import CheckpointError

CONFIG = build_config(
    {
        "datasets": [{"name": "x.jsonl"}],
        "rewards": [{"type": "exact"}],
        "baseline": {"estimator": "beta", "forgetting": "event"},
    }
)
EVIDENCE = {"a": (9.0, 1.0), "b": (1.0, 9.0), "c": (2.0, 2.0), "[d]": (4.0, 4.0), "e": (1.0, 3.0)}
PNG = b"\x89PNG\r\n"


def make_run(root: Path, steps: tuple[int, ...] = (2, 4)) -> Path:
    root.mkdir()
    (root / "config.yaml").write_text(dump_config(CONFIG))
    for step in steps:
        checkpoint = root / "checkpoints" / f"step-{step:06d}"
        (checkpoint / "baseline").mkdir(parents=True)
        store = BaselineStore(CONFIG.baseline)
        alpha, beta = zip(*EVIDENCE.values(), strict=True)
        store.seed(list(EVIDENCE), alpha, beta)
        write_snapshot(shard_file(checkpoint / "baseline", 0, 1), store.snapshot())
        write_manifest(checkpoint / "baseline", num_shards=1, counters=store.counters)
        state = {"step": step, "version": 2, "prompts": {"stream": {"store": "gone"}}}
        (checkpoint / "state.json").write_text(json.dumps(state))
    records = [
        {"step": 0, "eval/pass@1": 0.3},
        {"step": 1, "reward/mean": 0.25, "baseline/avg_v_hat": 0.4, "baseline/min_v_hat": 0.1},
    ]
    (root / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return root


def test_values_histogram_and_lists(tmp_path: Path) -> None:
    _, checkpoints = find_checkpoints(make_run(tmp_path / "run"))
    view = read_baseline(checkpoints[-1], CONFIG, None)
    names = view.keys.strings()
    values = dict(zip(names, view.v_hat.tolist(), strict=True))
    assert values == pytest.approx({"a": 0.9, "b": 0.1, "c": 0.5, "[d]": 0.5, "e": 0.25})
    # Two policy versions on: .875² of the evidence is left.
    assert dict(zip(names, view.n_eff.tolist(), strict=True))["c"] == pytest.approx(4 * 0.765625)
    assert view.histogram(4).tolist() == [1, 1, 2, 1]
    lists = {title: [names[index] for index in which] for title, which in notable(view, top=2)}
    assert lists == {
        "Most uncertain of 5 prompts": ["[d]", "c"],
        "Solved (v̂ > 0.8): 1 of 5 prompts": ["a"],
        "Unsolved (v̂ < 0.2): 1 of 5 prompts": ["b"],
    }


def test_tables_picture_and_page(tmp_path: Path) -> None:
    run, text = make_run(tmp_path / "run"), io.StringIO()
    inspect_run(run, top=3, png=None, html=tmp_path / "page.html", console=Console(file=text, width=100))
    shown = text.getvalue()
    assert "after 4 steps" in shown
    assert "[d]" in shown, "a key is text, not markup"
    assert "The prompt store of this run is gone" in shown
    assert (run / "baseline.png").read_bytes().startswith(PNG)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert "Most uncertain of 5 prompts" in page


def test_one_checkpoint_and_no_metrics(tmp_path: Path) -> None:
    run, text = make_run(tmp_path / "run"), io.StringIO()
    (run / "metrics.jsonl").unlink()
    older = run / "checkpoints" / "step-000002"
    inspect_run(older, top=3, png=tmp_path / "x.png", html=None, console=Console(file=text, width=100))
    assert "after 2 steps" in text.getvalue()
    assert (tmp_path / "x.png").read_bytes().startswith(PNG)


def test_a_baseline_without_evidence(tmp_path: Path) -> None:
    run, text = make_run(tmp_path / "run", steps=(1,)), io.StringIO()
    directory = run / "checkpoints" / "step-000001" / "baseline"
    write_snapshot(shard_file(directory, 0, 1), BaselineStore(CONFIG.baseline).snapshot())
    inspect_run(run, top=3, png=None, html=None, console=Console(file=text, width=100))
    assert "Most uncertain of 0 prompts" in text.getvalue()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    with pytest.raises(CheckpointError, match="there is no such directory"):
        inspect_run(tmp_path / "nowhere", top=3, png=None, html=None, console=console)
    with pytest.raises(CheckpointError, match=r"not a run of bolt-ray, config\.yaml is missing"):
        inspect_run(tmp_path, top=3, png=None, html=None, console=console)
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        inspect_run(make_run(tmp_path / "young", steps=()), top=3, png=None, html=None, console=console)
    run = make_run(tmp_path / "run")
    with pytest.raises(CheckpointError, match="cannot be written"):
        inspect_run(run, top=3, png=tmp_path / "no" / "x.png", html=None, console=console)
    file = shard_file(run / "checkpoints" / "step-000004" / "baseline", 0, 1)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="no whole baseline snapshot"):
        inspect_run(run, top=3, png=None, html=None, console=console)


def test_calibration_is_weighted_by_completions() -> None:
    def record(count: float, v_hat: float, reward: float) -> dict[str, float]:
        values = {"count": count, "v_hat": v_hat, "reward": reward}
        return {f"baseline/decile_{name}_2": value for name, value in values.items()}

    found = calibration([record(1, 0.2, 1.0), record(3, 0.24, 0.0), {"step": 3.0}])
    np.testing.assert_allclose(found, [[0.23], [0.25], [4.0]])
    assert calibration([]).shape == (3, 0)


def test_columns_leave_out_records_without_them() -> None:
    records = [{"step": 0}, {"step": 1, "x": 2.0}, {"step": 2, "x": float("nan")}, {"step": 3, "x": 4.0}]
    np.testing.assert_array_equal(columns(records, ("step", "x")), [[1.0, 3.0], [2.0, 4.0]])
    assert columns([], ("step", "x")).shape == (2, 0)
