"""wandb, TensorBoard and trackio themselves: what they leave is read back by their own libraries."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.sinks import read_wandb, wait_for, wandb_history
from support.wandb_server import silent_server, wandb_server

from bolt_ray.commands.train.observers import sink_starts
from bolt_ray.config.loading import build_config
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.sinks.processes import Sinks

SAMPLE = {
    "kind": "train",
    "step": 3,
    "why": ["best"],
    "prompt": [{"role": "user", "content": "1+1="}],
    "completion": "`2` | <b>two</b>",
    "answer": "2",
    "reward": None,
    "parts": {"math": 1.0},
    "truncated": False,
}
KEY = "0123456789" * 4

pytestmark = pytest.mark.slow


def record(step: int, **numbers: float) -> dict[str, Any]:
    return {"step": step, "reward/mean": step / 10, "eval/pass@1": 0.25} | numbers


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in, and caches are the test's own."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


def run_with(
    directory: Path, steps: Sequence[int], *, first_step: int = 0, samples: bool = True, **logging: Any
) -> list[str]:
    """What is said of a run of ``steps``."""
    (directory / "run").mkdir(exist_ok=True)
    tree = {"datasets": [{"name": "rows.jsonl"}], "rewards": ["exact"], "logging": logging}
    config = build_config(tree | {"cluster": {"address": "ray://me:hunter2@head:10001"}})
    said: list[str] = []
    starts = sink_starts(config, RunDirectory(directory / "run"), first_step=first_step)
    sinks = Sinks(starts, say=said.append)
    for step in steps:
        sinks.recorded(record(step))
    if samples:
        sinks.sampled(f"eval-{steps[-1]:06d}", [SAMPLE])
    sinks.close()
    return said


def has_ended(process: psutil.Process) -> bool:
    """Gone, or of no parent yet that asks for its end."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_wandb_offline_is_read_back_and_a_resumed_run_keeps_its_id(tmp_path: Path) -> None:
    said = run_with(tmp_path, [1, 2, 3], wandb="offline", wandb_tags=["first"])
    again = run_with(tmp_path, [3, 4], first_step=2, wandb="offline")
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1
    for file, steps, line in zip(files, ([1, 2, 3, 3], [3, 4, 4]), (said, again), strict=True):
        assert line == [f"wandb: to upload it, wandb sync {file.parent}"]
        history = wandb_history(file)
        assert [row["step"] for row in history] == steps
        assert history[0]["reward/mean"] == steps[0] / 10 and history[0]["eval/pass@1"] == 0.25
        assert (history[-1]["samples/eval/nrows"], history[-1]["samples/eval/ncols"]) == (1, len(SAMPLE))
        (table,) = (file.parent / "files" / "media" / "table").rglob("*.table.json")
        assert "<b>two</b>" in table.read_text()
    (run,) = [item.run for item in read_wandb(files[0]) if item.WhichOneof("record_type") == "run"]
    config = {item.key: item.value_json for item in run.config.update}
    assert (run.display_name, run.project, list(run.tags)) == ("run", "bolt-ray", ["first"])
    assert "ray://***@head:10001" in config["cluster"]
    (metric,) = [item.metric for item in read_wandb(files[0]) if item.WhichOneof("record_type") == "metric"]
    assert (metric.glob_name, metric.step_metric) == ("*", "step")
    everything = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert b"hunter2" not in everything


def test_wandb_without_a_key_records_offline_and_says_so(tmp_path: Path) -> None:
    said = run_with(tmp_path, [1], wandb=True)
    assert said[0].startswith("Warning: wandb cannot go online (No API key") and said[0].endswith("recorded offline")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert wandb_history(file)[0]["step"] == 1


def test_wandb_online_gets_every_number_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        said = run_with(tmp_path, [1, 2, 3], wandb=True, wandb_project="project")
    assert [row["step"] for row in server.history][:3] == [1, 2, 3]
    assert server.history[1]["reward/mean"] == 0.2
    # Numbers go on where the tables of samples cannot: this server knows none.
    link, warning = said
    assert link.startswith(f"wandb: {server.url}/me/project/runs/")
    assert warning.startswith("Warning: wandb takes no samples") and "the numbers go on" in warning
    received = "\n".join(body for _, body in server.received)
    assert "ray://***@head:10001" in received
    assert "hunter2" not in received and KEY not in received


def test_a_server_that_refuses_leaves_the_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    said = run_with(tmp_path, [1, 2], wandb=True)
    assert said[0].startswith("Warning: wandb cannot go online (") and said[0].endswith("recorded offline")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert [row["step"] for row in wandb_history(file)] == [1, 2, 2]


def test_a_server_that_never_answers_holds_up_neither_steps_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "600")
    asked = threading.Event()
    said: list[str] = []
    config = build_config({"datasets": [{"name": "rows.jsonl"}], "rewards": ["math"], "logging": {"wandb": True}})
    with silent_server(asked) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        sinks = Sinks(sink_starts(config, RunDirectory(tmp_path), first_step=0), say=said.append, close_s=0.1)
        assert asked.wait(60.0)
        (process,) = sinks._processes
        assert process.pid is not None
        service = psutil.Process(process.pid).children(recursive=True)
        assert [child.name() for child in service] == ["wandb-core"]
        for step in range(100):  # wandb waits for its answer all the while
            sinks.recorded(record(step))
        assert said == []
        sinks.close()
        assert [line for line in said if "did not end in time" in line] == said
        wait_for(lambda: has_ended(service[0]))


def test_tensorboard_is_read_back_and_a_resumed_run_hides_what_it_trains_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run_with(tmp_path, [1, 2, 3], tensorboard=True) == []
    run_with(tmp_path, [3, 4], first_step=2, tensorboard=True)
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert set(read.Tags()["scalars"]) == {"reward/mean", "eval/pass@1"}
    scalars = [(event.step, event.value) for event in read.Scalars("reward/mean")]
    assert scalars == [(step, pytest.approx(step / 10)) for step in (1, 2, 3, 4)]
    texts = {tag: read.Tensors(tag) for tag in read.Tags()["tensors"]}
    sample = texts["samples/eval/text_summary"][-1]
    assert (sample.step, len(texts["config/text_summary"])) == (4, 2)
    assert "    `2` | <b>two</b>" in sample.tensor_proto.string_val[0].decode()
    config = texts["config/text_summary"][0].tensor_proto.string_val[0].decode()
    assert "address: ray://***@head:10001" in config
    assert b"train.learning_rate" in read.summary_metadata["_hparams_/session_start_info"].plugin_data.content


def test_trackio_is_read_back_and_a_resumed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="trackio, an extra, is not installed")
    run_with(tmp_path, [1, 2], trackio=True, wandb_project="counting")
    said = run_with(tmp_path, [3], first_step=2, trackio=True, wandb_project="counting")
    assert said == ['trackio: to see it, trackio show --project "counting"']
    # Where trackio looks is settled when it is first imported: not in this process, which may have done so.
    code = "from trackio.sqlite_storage import SQLiteStorage; print(SQLiteStorage.get_runs('counting'))"
    read = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert read.stdout.strip().splitlines()[-1] == "['run']"
