"""What a name stands for, plain copies, merged adapters, and nothing overwritten or left half done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import make_adapter

from bolt_ray.cli import main
from bolt_ray.commands.export import export_model
from bolt_ray.commands.model_source import find_model
from bolt_ray.core.errors import ConfigError, ModelError
from bolt_ray.tasks.tiny.model import create_model, save_model
from bolt_ray.tasks.tiny.settings import TinyModelSettings

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def silent(text: str) -> None:
    """Says nothing."""


def fake_model(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(directory.name.encode())
    return directory


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base") / "model"
    save_model(*create_model(TinyModelSettings(), seed=0), directory)
    return directory


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, base: Path) -> tuple[Path, torch.Tensor]:
    """An adapter that changes the model, and the logits of the two together."""
    from peft import AutoPeftModelForCausalLM

    directory = tmp_path_factory.mktemp("adapter") / "policy"
    make_adapter(base, directory, rank=4)
    with torch.no_grad():
        logits = AutoPeftModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()(IDS).logits
    return directory, logits


def test_a_run_stands_for_its_final_model_else_for_its_newest_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "math-1"
    for step in ("step-000005", "step-000010"):
        fake_model(run / "checkpoints" / step / "model")
        (run / "checkpoints" / step / "manifest.json").write_text("{}")
    (run / "config.yaml").write_text("")
    assert find_model(str(run)).model == str(run / "checkpoints" / "step-000010" / "model")
    older = find_model(str(run / "checkpoints" / "step-000005"))
    assert (older.label, older.model) == ("math-1-step-000005", str(run / "checkpoints" / "step-000005" / "model"))
    fake_model(run / "final")
    final = find_model(str(run))
    assert (final.label, final.model, final.adapter, final.lora_rank) == ("math-1", str(run / "final"), None, 0)


def test_names_that_are_no_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model("arithmetic").model == "arithmetic"
    assert find_model("org/name").label == "name"
    with pytest.raises(ModelError, match="there is no model directory"):
        find_model("./missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"neither config\.json of a model nor adapter_config\.json"):
        find_model("empty")
    (tmp_path / "empty" / "config.yaml").write_text("")
    with pytest.raises(ModelError, match="neither a final model nor a checkpoint yet"):
        find_model("empty")


def test_an_adapter_stands_for_itself_and_its_base(
    adapter: tuple[Path, torch.Tensor], base: Path, tmp_path: Path
) -> None:
    found = find_model(str(adapter[0]))
    assert (found.model, found.adapter, found.lora_rank) == (str(base), adapter[0], 4)
    lost = tmp_path / "lost"
    lost.mkdir()
    (lost / "adapter_config.json").write_text(json.dumps({"r": 4, "base_model_name_or_path": "gone/away"}))
    with pytest.raises(ModelError, match=r"its base model gone/away is not a model directory here; .*--base MODEL"):
        find_model(str(lost))
    assert find_model(str(lost), base=str(base)).model == str(base)
    (lost / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="not the config of a LoRA adapter"):
        find_model(str(lost))


def test_a_plain_model_is_copied(tmp_path: Path) -> None:
    model = fake_model(tmp_path / "model")
    export_model(str(model), tmp_path / "deep" / "copy", base=None, say=silent)
    assert (tmp_path / "deep" / "copy" / "model.safetensors").read_bytes() == b"model"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_a_merged_adapter_computes_the_same(adapter: tuple[Path, torch.Tensor], base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export_model(str(adapter[0]), tmp_path / "merged", base=str(base), say=silent)
    merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    plain: Any = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        logits, before = merged.eval()(IDS).logits, plain.eval()(IDS).logits
    assert float((logits - adapter[1]).abs().max()) < 1e-4
    assert float((before - adapter[1]).abs().max()) > 0.1
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("12").input_ids == [6, 7]
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


def test_nothing_is_overwritten_and_nothing_half_done_is_left(
    adapter: tuple[Path, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    model = fake_model(tmp_path / "model")
    with pytest.raises(ConfigError, match="is there already and is not overwritten"):
        export_model(str(model), tmp_path / "model", base=None, say=silent)
    with pytest.raises(ModelError, match="is a plain model, not a LoRA adapter"):
        export_model(str(model), tmp_path / "new", base=str(model), say=silent)
    with pytest.raises(ModelError, match="there is no directory org/name"):
        export_model("org/name", tmp_path / "new", base=None, say=silent)
    with pytest.raises(ModelError, match="cannot merge adapter"):
        export_model(str(adapter[0]), tmp_path / "new", base=str(model), say=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    monkeypatch.setattr("sys.argv", ["bolt-ray", "export", str(model), str(model)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "is not overwritten" in capsys.readouterr().err
