"""Settings of the embedded task, seen in its problems, in a new model, and in a pretraining of a few steps."""

from __future__ import annotations

from typing import Any

from safetensors.torch import load_file
from support.effects import Effect, Workplace, effect

from bolt_ray.commands.shared.made_datasets import embedded_files
from bolt_ray.config.schema import RunConfig
from bolt_ray.tasks.arithmetic.pretrain import default_model_dir, pretrain
from bolt_ray.tasks.tiny.model import create_model


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
