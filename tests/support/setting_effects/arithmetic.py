"""Settings of the embedded task, seen in its problems, in a new model, and in a pretraining of a few steps."""

from __future__ import annotations

import json
from typing import Any

from safetensors.torch import load_file
from support.effects import Effect, Workplace, effect

from bolt_ray.commands.pretrain.rows import teach_from_datasets
from bolt_ray.commands.shared.made_datasets import embedded_files
from bolt_ray.config.schema import RunConfig
from bolt_ray.tasks.arithmetic.pretrain import default_model_dir, pretrain
from bolt_ray.tasks.tiny.model import create_model
from bolt_ray.tasks.tiny.rows import REPORT_FILE


def problems(config: RunConfig, here: Workplace) -> Any:
    """The lines of the files of problems."""
    return [path.read_text().splitlines() for path in embedded_files(config.arithmetic)]


def fresh_windows(config: RunConfig, here: Workplace) -> Any:
    """Steps within which no problem is drawn twice."""
    return [config.curriculum.update_freq, config.curriculum.window_steps]


def cached(config: RunConfig, here: Workplace) -> Any:
    """Where files and models are kept."""
    arithmetic = config.arithmetic
    found = [*embedded_files(arithmetic), default_model_dir(arithmetic, cache_dir=arithmetic.cache)]
    return [str(path.relative_to(here.directory)) for path in found]


def model(config: RunConfig, here: Workplace) -> Any:
    """The architecture of a new model, and its size."""
    made, tokenizer = create_model(config.arithmetic, seed=0)
    values = made.config.to_dict()
    names = ("tie_word_embeddings", "num_experts", "num_experts_per_tok", "max_position_embeddings")
    return [made.num_parameters(), tokenizer.model_max_length, {name: values.get(name) for name in names}]


def pretrained(config: RunConfig, here: Workplace) -> Any:
    """Losses, weights, and how the accuracies are measured."""
    asked: list[Any] = []
    losses: list[float] = []

    def measure(model: Any, tokenizer: Any, problems: Any, **given: Any) -> float:
        asked.append([given, [problem.prompt for problem in problems]])
        return 0.0

    pretrain(
        config.arithmetic,
        here.directory / "pretrained",
        on_progress=lambda progress: losses.append(progress.loss),
        measure=measure,
    )
    return [asked, losses, load_file(here.directory / "pretrained" / "model.safetensors")]


def taught(config: RunConfig, here: Workplace) -> Any:
    """What is said of a model taught from rows, its report, and its weights."""
    rows = [{"prompt": f"{number}+0=", "answer": "1"} for number in range(12)]
    (here.directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said: list[str] = []
    output = here.directory / "taught"
    teach_from_datasets(config, output, say=said.append, show_progress=False)
    report = json.loads((output / REPORT_FILE).read_text())["report"]
    return [said[0], {**report, "seconds": 0}, load_file(output / "model.safetensors")]


TAUGHT = {
    "data__heldout_size": 3,
    "pretrain__steps": 4,
    "pretrain__batch_size": 2,
    "pretrain__warmup_steps": 2,
    "pretrain__context_length": 64,
}


def teaching(name: str, value: Any, **beside: Any) -> Effect:
    return effect(f"pretrain.{name}", value, taught, **{**TAUGHT, **beside})


FEW = {
    "arithmetic__num_train": 30,
    "arithmetic__num_heldout": 5,
    "arithmetic__cache_dir": "cache",
}
SHORT = {
    "arithmetic__pretrain_steps": 4,
    "arithmetic__hasty_steps": 2,
    "arithmetic__pretrain_batch_size": 2,
    "arithmetic__pretrain_warmup_steps": 2,
    "arithmetic__pretrain_eval_problems": 3,
}


def few(name: str, value: Any, **beside: Any) -> Effect:
    return effect(f"arithmetic.{name}", value, problems, **{**FEW, **beside})


def short(name: str, value: Any) -> Effect:
    return effect(f"arithmetic.{name}", value, pretrained, **SHORT)


EFFECTS: tuple[Effect, ...] = (
    effect("arithmetic.size", "small", model),
    effect("arithmetic.tie_embeddings", True, model),
    effect("arithmetic.num_experts", 3, model, arithmetic__active_experts=1, **{"arithmetic__num_experts": 2}),
    effect("arithmetic.active_experts", 2, model, arithmetic__num_experts=2, **{"arithmetic__active_experts": 1}),
    effect("arithmetic.context_length", 64, model),
    few("max_digits", 2),
    few("max_depth", 3),
    few("max_result_digits", 1),
    few("unary_fraction", 0.9),
    few("negative_fraction", 0.9),
    few("num_train", 20),
    few("num_heldout", 4),
    few("data_seed", 5),
    effect("arithmetic.fresh", True, problems, fresh_windows, **FEW, curriculum__strategy="uniform"),
    effect("arithmetic.cache_dir", "elsewhere", cached, **FEW),
    teaching("size", "small"),
    teaching("tie_embeddings", True),
    teaching("num_experts", 4, pretrain__active_experts=1, pretrain__num_experts=2),
    teaching("active_experts", 2, pretrain__num_experts=2, pretrain__active_experts=1),
    teaching("context_length", 96),
    teaching("steps", 5),
    teaching("until_accuracy", 0.3, pretrain__steps=100, pretrain__batch_size=8),
    teaching("completion", "={answer}"),
    teaching("batch_size", 3),
    teaching("learning_rate", 1e-4),
    teaching("warmup_steps", 0),
    teaching("weight_decay", 0.9),
    teaching("eval_rows", 2),
    teaching("seed", 7),
    short("pretrain_steps", 5),
    short("hasty_steps", 3),
    short("hasty_fraction", 1.0),
    short("pretrain_batch_size", 3),
    short("pretrain_learning_rate", 1e-3),
    short("pretrain_warmup_steps", 3),
    short("pretrain_weight_decay", 0.5),
    short("pretrain_eval_problems", 4),
    short("pretrain_eval_tokens", 7),
    short("pretrain_seed", 5),
)
