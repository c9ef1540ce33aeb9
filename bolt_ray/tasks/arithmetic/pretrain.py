"""Supervised training of the default model until it solves about 40 % of the problems; RL is to do the rest.

generate_problems ─▶ batches of similar length ─▶ cross-entropy on the completions ─▶ AdamW
                                                                                    │
cache directory/<digest of the settings>  ◀── renamed when complete ◀── temporary directory
"""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bolt_ray.tasks.arithmetic.cache import ensure_directory, settings_digest
from bolt_ray.tasks.arithmetic.model import create_model, save_model
from bolt_ray.tasks.arithmetic.problems import generate_problems
from bolt_ray.tasks.arithmetic.sampling import accuracy
from bolt_ray.tasks.arithmetic.settings import PretrainSettings

REPORT_FILE = "pretrain_report.json"
_BATCHES_PER_CHUNK = 8
_IGNORED = -100


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
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.pretrain_learning_rate,
        betas=(0.9, 0.98),
        weight_decay=settings.pretrain_weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_factor(step, settings))
    losses: list[float] = []
    model.train()
    worked = _batches(settings, answer_only_fraction=0.0, seed=settings.pretrain_seed)
    mixed = _batches(settings, answer_only_fraction=settings.hasty_fraction, seed=settings.pretrain_seed + 1)
    batches = itertools.chain(
        itertools.islice(worked, settings.pretrain_steps), itertools.islice(mixed, settings.hasty_steps)
    )
    for batch in batches:
        input_ids, labels = _encode(batch, tokenizer)
        # No attention mask: padding stands on the right, where causal attention keeps it from every real token.
        logits = model(input_ids=input_ids[:, :-1], use_cache=False).logits
        wanted = labels[:, 1:] != _IGNORED
        loss = torch.nn.functional.cross_entropy(logits[wanted].float(), labels[:, 1:][wanted])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if on_progress is not None:
            on_progress(PretrainProgress(step=len(losses), steps=settings.total_steps, loss=losses[-1]))
    model.eval()
    return losses


def _learning_rate_factor(step: int, settings: PretrainSettings) -> float:
    """Linear warm-up, then a cosine from 1 down to 0.1; ``step`` counts from 0."""
    if step < settings.pretrain_warmup_steps:
        return (step + 1) / settings.pretrain_warmup_steps
    if step >= settings.pretrain_steps:
        return 0.25
    progress = (step - settings.pretrain_warmup_steps) / max(
        1, settings.pretrain_steps - settings.pretrain_warmup_steps
    )
    return 0.55 + 0.45 * math.cos(math.pi * min(1.0, progress))


def _batches(settings: PretrainSettings, *, answer_only_fraction: float, seed: int) -> Iterator[list[tuple[str, str]]]:
    """Batches of (prompt, completion) of similar length, in random order: padding costs as much as text."""
    problems = generate_problems(settings, seed=seed)
    rng = random.Random(seed)
    while True:
        chunk = [
            (p.prompt, p.answer_only_completion if rng.random() < answer_only_fraction else p.completion)
            for p in itertools.islice(problems, settings.pretrain_batch_size * _BATCHES_PER_CHUNK)
        ]
        chunk.sort(key=lambda texts: len(texts[0]) + len(texts[1]))
        batches = [
            chunk[i : i + settings.pretrain_batch_size] for i in range(0, len(chunk), settings.pretrain_batch_size)
        ]
        rng.shuffle(batches)
        yield from batches


def _encode(batch: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Token ids and labels, both int64 [B, T]: prompt, completion, end of sequence, padding.

    Labels are -100 on the prompt and the padding.
    """
    prompts = tokenizer([prompt for prompt, _ in batch])["input_ids"]
    completions = tokenizer([completion for _, completion in batch])["input_ids"]
    width = max(len(p) + len(c) + 1 for p, c in zip(prompts, completions, strict=True))
    input_ids = torch.full((len(batch), width), int(tokenizer.pad_token_id), dtype=torch.int64)
    labels = torch.full((len(batch), width), _IGNORED, dtype=torch.int64)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        text = torch.tensor([*prompt, *completion, int(tokenizer.eos_token_id)])
        input_ids[row, : len(text)] = text
        labels[row, len(prompt) : len(text)] = text[len(prompt) :]
    return input_ids, labels
