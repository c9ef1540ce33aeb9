"""A tiny model taught from rows of prompts and answers, and stopped while it is mediocre: RL is to do the rest."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bolt_ray.tasks.tiny.model import create_model, save_model
from bolt_ray.tasks.tiny.sampling import sample_completions
from bolt_ray.tasks.tiny.settings import RowPretrainSettings
from bolt_ray.tasks.tiny.teaching import (
    Demonstration,
    batches_of_similar_length,
    optimizer_steps,
    warmup_and_cosine,
)
from bolt_ray.tasks.tiny.tokenizer import more_characters

REPORT_FILE = "pretrain_report.json"
CHECK_EVERY = 50
"""Steps between two looks at the accuracy."""
_CONTEXT_MULTIPLE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPretrainReport:
    """How a teaching went.

    Attributes:
        steps: optimizer steps done.
        first_loss, last_loss: nats per completion token, of the first step and the mean of the last ten.
        sampled_accuracy, greedy_accuracy: of the held-out rows, at temperature 1 and 0, the share whose completion is
            the demonstration to the letter.
        heldout_rows: how many these were.
        context_length: tokens of the longest sequence the model takes.
        parameters: number of weights.
        seconds: wall-clock time.
    """

    steps: int
    first_loss: float
    last_loss: float
    sampled_accuracy: float
    greedy_accuracy: float
    heldout_rows: int
    context_length: int
    parameters: int
    seconds: float


OnStep = Callable[[int, float, float | None], None]
"""Told after each step: how many are done, its loss, and the latest sampled accuracy."""


def teach_rows(
    train: Sequence[Demonstration],
    heldout: Sequence[Demonstration],
    settings: RowPretrainSettings,
    out_dir: Path,
    *,
    room: int,
    on_step: OnStep,
) -> RowPretrainReport:
    """Teach a new model ``train`` and write it, with its report, to ``out_dir``.

    Args:
        heldout: rows for the accuracies; the model is never shown them.
        room: tokens a completion may have later; the context holds the longest prompt and them.

    Raises:
        ValueError: the rows have too many different characters.
    """
    started = time.monotonic()
    characters = more_characters(text for texts in (*train, *heldout) for text in texts)
    longest = max(len(completion) for _, completion in (*train, *heldout)) + 1
    needed = max(len(prompt) for prompt, _ in (*train, *heldout)) + max(longest, room)
    needed = -(-needed // _CONTEXT_MULTIPLE) * _CONTEXT_MULTIPLE
    shape = replace(settings, context_length=max(settings.context_length, needed))
    model, tokenizer = create_model(shape, seed=settings.seed, more_characters=characters)
    accuracy = partial(_accuracy, model, tokenizer, heldout, max_new_tokens=longest, seed=settings.seed)
    losses: list[float] = []
    latest: float | None = None
    for loss in optimizer_steps(
        model,
        tokenizer,
        _batches(train, settings),
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        factor=partial(warmup_and_cosine, warmup_steps=settings.warmup_steps, steps=settings.steps),
    ):
        losses.append(loss)
        if settings.until_accuracy is not None and len(losses) % CHECK_EVERY == 0:
            latest = accuracy(temperature=1.0)
        on_step(len(losses), loss, latest)
        reached = latest is not None and settings.until_accuracy is not None and latest >= settings.until_accuracy
        if reached or len(losses) == settings.steps:
            break
    report = RowPretrainReport(
        steps=len(losses),
        first_loss=losses[0],
        last_loss=sum(losses[-10:]) / len(losses[-10:]),
        sampled_accuracy=accuracy(temperature=1.0),
        greedy_accuracy=accuracy(temperature=0.0),
        heldout_rows=len(heldout),
        context_length=shape.context_length,
        parameters=model.num_parameters(),
        seconds=time.monotonic() - started,
    )
    save_model(model, tokenizer, out_dir)
    text = json.dumps({"settings": asdict(settings), "report": asdict(report)}, indent=2)
    (out_dir / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    return report


def _batches(train: Sequence[Demonstration], settings: RowPretrainSettings) -> Iterator[list[Demonstration]]:
    """Without end, the rows in a new order in each pass."""
    rng = random.Random(settings.seed)

    def passes() -> Iterator[Demonstration]:
        order = list(range(len(train)))
        while True:
            rng.shuffle(order)
            yield from (train[index] for index in order)

    return batches_of_similar_length(passes(), batch_size=settings.batch_size, rng=rng)


def _accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Demonstration],
    *,
    temperature: float,
    max_new_tokens: int,
    seed: int,
) -> float:
    completions = sample_completions(
        model,
        tokenizer,
        [prompt for prompt, _ in rows],
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    return sum(text == wanted for text, (_, wanted) in zip(completions, rows, strict=True)) / len(rows)
