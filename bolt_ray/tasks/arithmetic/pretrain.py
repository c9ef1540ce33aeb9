"""Supervised training of the default model until it solves about 40 % of the problems; RL is to do the rest.

generate_problems ─▶ batches of similar length ─▶ cross-entropy on the completions ─▶ AdamW
                                                                                    │
cache directory/<digest of the settings>  ◀── renamed when complete ◀── temporary directory
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bolt_ray.core.files import ensure_directory
from bolt_ray.tasks.arithmetic.cache import settings_digest
from bolt_ray.tasks.arithmetic.problems import Problem, generate_problems, is_correct
from bolt_ray.tasks.arithmetic.settings import PretrainSettings
from bolt_ray.tasks.tiny.model import create_model, save_model
from bolt_ray.tasks.tiny.sampling import sample_completions
from bolt_ray.tasks.tiny.teaching import (
    Demonstration,
    batches_of_similar_length,
    optimizer_steps,
    warmup_and_cosine,
)

REPORT_FILE = "pretrain_report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainProgress:
    """Progress after a step: steps done, steps in all, the step's loss in nats per completion token."""

    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainReport:
    """Result of a pretraining.

    Attributes:
        steps: optimizer steps done.
        first_loss, last_loss: nats per completion token, of the first step and the mean of the last ten.
        sampled_accuracy, greedy_accuracy: on held-out problems at temperature 1 and 0, from 0 to 1.
        parameters: number of weights.
        seconds: wall-clock time of training and evaluation.
    """

    steps: int
    first_loss: float
    last_loss: float
    sampled_accuracy: float
    greedy_accuracy: float
    parameters: int
    seconds: float


ProgressCallback = Callable[[PretrainProgress], None]


def default_model_dir(settings: PretrainSettings, *, cache_dir: Path) -> Path:
    """Where the model of these settings is cached; the directory exists only when it is complete."""
    return cache_dir / f"arithmetic-{settings.size}-{settings_digest(settings, PretrainSettings)}"


def ensure_model(
    settings: PretrainSettings, *, cache_dir: Path, on_progress: ProgressCallback | None = None
) -> tuple[Path, PretrainReport]:
    """The cached model of these settings, trained now if it is not there yet."""
    directory = default_model_dir(settings, cache_dir=cache_dir)
    ensure_directory(directory, write=lambda empty: pretrain(settings, empty, on_progress=on_progress))
    report = json.loads((directory / REPORT_FILE).read_text(encoding="utf-8"))
    return directory, PretrainReport(**report["report"])


def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    *,
    temperature: float,
    max_new_tokens: int,
    seed: int,
) -> float:
    """Share of the problems answered correctly with one completion each; 0.0 when there are none."""
    completions = sample_completions(
        model,
        tokenizer,
        [problem.prompt for problem in problems],
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    right = sum(is_correct(text, p.answer) for text, p in zip(completions, problems, strict=True))
    return right / len(problems) if problems else 0.0


def pretrain(
    settings: PretrainSettings,
    out_dir: Path,
    *,
    on_progress: ProgressCallback | None = None,
    measure: Callable[..., float] = accuracy,
) -> PretrainReport:
    """Train a new model and write it, with its report, to ``out_dir``.

    The same settings give the same weights on the same machine with the same number of threads. ``measure``: how the
    accuracies of the report are found, see `accuracy`.
    """
    started = time.monotonic()
    model, tokenizer = create_model(settings, seed=settings.pretrain_seed)
    losses = _train(model, tokenizer, settings, on_progress=on_progress)
    held_out = generate_problems(settings, seed=settings.pretrain_seed, held_out=True)
    problems = list(itertools.islice(held_out, settings.pretrain_eval_problems))
    sampled, greedy = (
        measure(
            model,
            tokenizer,
            problems,
            temperature=temperature,
            max_new_tokens=settings.pretrain_eval_tokens,
            seed=settings.pretrain_seed,
        )
        for temperature in (1.0, 0.0)
    )
    report = PretrainReport(
        steps=len(losses),
        first_loss=losses[0],
        last_loss=sum(losses[-10:]) / len(losses[-10:]),
        sampled_accuracy=sampled,
        greedy_accuracy=greedy,
        parameters=model.num_parameters(),
        seconds=time.monotonic() - started,
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    save_model(model, tokenizer, out_dir)
    text = json.dumps({"settings": asdict(settings), "report": asdict(report)}, indent=2)
    (out_dir / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    return report


def _train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    settings: PretrainSettings,
    *,
    on_progress: ProgressCallback | None,
) -> list[float]:
    """Train in place; the loss of every step."""
    worked = _batches(settings, answer_only_fraction=0.0, seed=settings.pretrain_seed)
    mixed = _batches(settings, answer_only_fraction=settings.hasty_fraction, seed=settings.pretrain_seed + 1)
    losses: list[float] = []
    for loss in optimizer_steps(
        model,
        tokenizer,
        itertools.chain(
            itertools.islice(worked, settings.pretrain_steps), itertools.islice(mixed, settings.hasty_steps)
        ),
        learning_rate=settings.pretrain_learning_rate,
        weight_decay=settings.pretrain_weight_decay,
        factor=lambda step: _learning_rate_factor(step, settings),
    ):
        losses.append(loss)
        if on_progress is not None:
            on_progress(PretrainProgress(step=len(losses), steps=settings.total_steps, loss=loss))
    return losses


def _learning_rate_factor(step: int, settings: PretrainSettings) -> float:
    """Of the steps with worked demonstrations, and of those after them; ``step`` counts from 0."""
    if step >= max(settings.pretrain_steps, settings.pretrain_warmup_steps):
        return 0.25
    return warmup_and_cosine(step, warmup_steps=settings.pretrain_warmup_steps, steps=settings.pretrain_steps)


def _batches(settings: PretrainSettings, *, answer_only_fraction: float, seed: int) -> Iterator[list[Demonstration]]:
    problems = generate_problems(settings, seed=seed)
    rng = random.Random(seed)
    demonstrations = (
        (p.prompt, p.answer_only_completion if rng.random() < answer_only_fraction else p.completion) for p in problems
    )
    return batches_of_similar_length(demonstrations, batch_size=settings.pretrain_batch_size, rng=rng)
