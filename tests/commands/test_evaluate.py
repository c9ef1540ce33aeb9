"""``bolt-ray evaluate``: mistakes are found before anything starts, and two models are compared on real parts."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from support.models import make_adapter

from bolt_ray.cli import main
from bolt_ray.commands.evaluate.evaluate import evaluate, heldout_only
from bolt_ray.commands.shared.made_datasets import datasets_as_files
from bolt_ray.config.loading import build_config
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError, DataError, ModelError
from bolt_ray.tasks.tiny.model import create_model, save_model
from bolt_ray.tasks.tiny.settings import TinyModelSettings


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config_of(tmp_path: Path, **over: Any) -> RunConfig:
    tree: dict[str, Any] = {
        "model": {"name_or_path": str(tmp_path / "base"), "dtype": "float32"},
        "datasets": [{"name": str(tmp_path / "train.jsonl")}],
        "data": {"store_dir": str(tmp_path / "store")},
        "rewards": [{"type": "regex", "pattern": "[a-m]"}],
        "sampling": {"max_new_tokens": 6},
        "cluster": {"use_gpu": "no"},
    }
    return build_config(tree | over)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A tiny untrained model and a training file."""
    save_model(*create_model(TinyModelSettings(), seed=0), tmp_path / "base")
    write_rows(tmp_path / "train.jsonl", [{"prompt": f"{n}+1=", "answer": str(n + 1)} for n in range(8)])
    return tmp_path


def test_mistakes_are_found_before_anything_starts(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)

    def refused(error: type[Exception], match: str, *, over: dict[str, Any] | None = None, **request: Any) -> None:
        with pytest.raises(error, match=match):
            evaluate(config_of(workplace, **(over or {})), **request)

    refused(ConfigError, r"--k 3 must lie between 1 and the samples per problem, 1; raise --samples", k=3)
    refused(
        ConfigError, "eval.num_samples: 4 at temperature 0 gives", over={"eval": {"num_samples": 4, "temperature": 0}}
    )
    refused(ConfigError, "--compare needs two different models", compare=True)
    refused(ConfigError, "--compare needs two different models", compare=True, models=(str(workplace / "base"),))
    refused(ModelError, "there is no model directory .*/nowhere", models=("./nowhere",))
    refused(ModelError, "cannot be had from the Hugging Face hub|there is no model directory", models=("no/model",))
    refused(DataError, r"missing\.jsonl", dataset=str(workplace / "missing.jsonl"))
    refused(ConfigError, r"--output .* is not empty, and nothing is overwritten", output=workplace)
    refused(ConfigError, "cannot be written", output=workplace / "train.jsonl" / "new")
    assert not (workplace / "evaluations").exists()


def test_exit_code_of_a_mistake(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    config = workplace / "config.yaml"
    config.write_text(f"datasets: [{{name: {workplace}/train.jsonl}}]\nrewards: [exact]\n")
    for extra in (["--k", "9"], ["--samples", "0"], ["--temperature", "hot"], ["eval.nothing=1"]):
        monkeypatch.setattr("sys.argv", ["bolt-ray", "evaluate", str(config), *extra])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2, extra
    shown = capsys.readouterr().err
    assert "--k 9 must lie between 1 and" in shown
    assert "eval.num_samples" in shown


def test_another_dataset_is_read_like_the_first_one(tmp_path: Path) -> None:
    first = {
        "name": "openai/gsm8k",
        "split": "train",
        "weight": 2.0,
        "source": "school",
        "chat": True,
        "reward": "regex",
    }
    config = config_of(tmp_path, datasets=[first])
    changed = heldout_only(config, "other.jsonl")
    (heldout,) = changed.eval.datasets
    assert (heldout.name, heldout.preset, heldout.chat, heldout.reward) == ("other.jsonl", "gsm8k", True, "regex")
    assert (heldout.split, heldout.weight, heldout.source, heldout.format) == (None, None, None, None)
    # Nothing of the training data is read, so it need not be there.
    assert changed.datasets == (heldout,)
    assert heldout_only(config, None) is config
    (known,) = heldout_only(config, "HuggingFaceH4/MATH-500").eval.datasets
    assert (known.preset, known.chat, known.reward) == ("math_500", True, "regex")


@pytest.mark.parametrize(
    ("name", "split"),
    [("openai/gsm8k", "test"), ("nlile/hendrycks-MATH-benchmark", "test"), ("HuggingFaceH4/MATH-500", "test"),
     ("HuggingFaceH4/aime_2024", "train"), ("someone/else", "train")],
)  # fmt: skip
def test_a_known_dataset_is_evaluated_on_its_test_split(tmp_path: Path, name: str, split: str) -> None:
    asked = heldout_only(config_of(tmp_path, datasets=[{"name": name, "split": "train"}]), name)
    configured = config_of(tmp_path, datasets=[{"name": name}], eval={"datasets": [{"name": name}]})
    for config in (asked, configured):
        said: list[str] = []
        train, (heldout,) = datasets_as_files(config, say=said.append, show_progress=False)
        assert heldout.split == split
        assert said == [f"Evaluating on the split '{split}' of {name}; another one: split"]
    assert train[0].split is None
    named = config_of(tmp_path, eval={"datasets": [{"name": name, "split": "train"}]})
    assert datasets_as_files(named, say=said.append, show_progress=False)[1][0].split == "train"
    assert len(said) == 1


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
def test_a_model_and_its_adapter_are_compared(workplace: Path, ray_cluster: None) -> None:
    make_adapter(workplace / "base", workplace / "adapter")
    easy = write_rows(workplace / "easy.jsonl", [{"prompt": f"{n}+2=", "answer": str(n + 2)} for n in range(5)])
    hard = write_rows(workplace / "hard.jsonl", [{"prompt": f"{n}*37=", "answer": str(n * 37)} for n in range(3)])
    datasets = [{"name": easy}, {"name": hard}]
    config = config_of(workplace, eval={"datasets": datasets, "num_samples": 4, "seed": 5})
    output = workplace / "out"
    console = Console(file=io.StringIO(), record=True, width=80)
    results = evaluate(config, models=[workplace / "adapter"], k=2, output=output, compare=True, console=console)

    assert list(results) == ["base", "adapter"]
    completions = {}
    for label, result in results.items():
        assert {name: part.num_problems for name, part in result.by_source.items()} == {"easy": 5, "hard": 3}
        assert (result.overall.num_completions, result.overall.k, result.overall.unscored_fraction) == (32, 2, 0.0)
        rows = [json.loads(line) for line in (output / f"{label}.jsonl").read_text().splitlines()]
        assert [row["sample_index"] for row in rows] == [0, 1, 2, 3] * 8
        assert [row["prompt"] for row in rows[::4]] == [f"{n}+2=" for n in range(5)] + [f"{n}*37=" for n in range(3)]
        assert sum(row["correct"] for row in rows) == result.score.correct
        assert pq.read_metadata(output / f"{label}.parquet").num_rows == 32
        completions[label] = [row["completion"] for row in rows]
    # The same seeds: what differs is the adapter's doing. Its total variation from the base model is 0.1 per token, of
    # six tokens in each completion, so about 15 of the 32 differ; without the adapter none would.
    differing = sum(a != b for a, b in zip(completions["base"], completions["adapter"], strict=True))
    assert differing > 4
    tree = json.loads((output / "summary.json").read_text())
    assert tree["models"]["adapter"]["adapter"] == str(workplace / "adapter")
    numbers = tree["against_first"]["adapter"]["pass@1"]
    means = [results[label].overall.pass_at_1.value for label in ("base", "adapter")]
    assert (numbers["mean_a"], numbers["mean_b"]) == (pytest.approx(means[0]), pytest.approx(means[1]))
    assert numbers["num_prompts"] == 8
    shown = console.export_text()
    assert "adapter against base: pass@1" in shown
    assert "maj@2" in shown
