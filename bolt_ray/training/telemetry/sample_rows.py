"""Completions as the rows of a samples file: plain JSON values, each row bounded.

A row has these keys; what is not known is null.

    kind            "train" or "eval"
    step            optimizer steps finished: with this one, or when it was evaluated
    why             of ``best``, ``worst``, ``longest``, ``truncated``, ``surprise``, ``unscored``; or ``all``
    prompt_id, source, prompt (text, or chat messages), completion, answer
    cut             characters left out of the texts above, by key; what is left holds their beginning and end
    reward          null if unscored; parts, metrics, extras: what the rewards said
    correct         whether an evaluation counts it as right
    v_hat, visits, last_version, draw_weight    of its prompt, at dispatch
    surprise        |r̃ − v̂|
    advantage       as in the batch; null for a completion not trained on: unscored, or ``dropped`` says why
    num_tokens, truncated, mean_logprob (the generator's), oldest_version, newest_version
    policy_version  of the learner, at dispatch
    group_id, sample_index
    gap             mean |log p of the learner before the update − log p of the generator| over its tokens, in nats
    unscored        why it has no reward
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.advantages import scale_rewards
from bolt_ray.core.evaluation.summary import EvaluationResult
from bolt_ray.core.records import (
    Completion,
    Prompt,
    ScoredCompletion,
    ScoredRollout,
    TrainingBatch,
    UnscoredCompletion,
    UnscoredRollout,
)
from bolt_ray.core.secrets import masked_text
from bolt_ray.training.settings import SamplesSettings
from bolt_ray.training.telemetry.observer import TrainedStep
from bolt_ray.training.telemetry.sample_choice import NOT_PICKED, choose

Row = dict[str, Any]

_MAX_DEPTH = 20
_SURROGATES = re.compile("[\ud800-\udfff]")
_NOT_PLAIN = re.compile("[\x7f-\x9f\u2028\u2029]")
"""Characters that JSON allows as they are, and at which terminals or ``str.splitlines`` do something."""


def training_rows(trained: TrainedStep, settings: SamplesSettings, *, reward_range: tuple[float, float]) -> list[Row]:
    """The step's completions worth keeping, in the order of their requests; r̃ is the reward scaled from
    ``reward_range``."""
    rollouts = trained.rollouts
    items: list[ScoredRollout | UnscoredRollout]
    items = sorted((*rollouts.trainable, *rollouts.baseline_only, *rollouts.unscored), key=lambda item: item.request_id)
    surprise = _surprise(items, reward_range)
    why = choose(items, surprise, limit=settings.per_step)
    chosen = range(len(items)) if settings.all else list(why)
    places = {item.request_id: place for place, item in enumerate(rollouts.trainable)}
    dropped = {item.request_id: item.reason for item in rollouts.dropped}
    ends = np.cumsum(trained.batch.completion_lengths, dtype=np.int64)
    rows = []
    for i in chosen:
        item = items[i]
        place = places.get(item.request_id)
        rows.append(
            _row(item, item.prompt, settings.max_chars)
            | {
                "kind": "train",
                "step": trained.step,
                "why": list(why.get(i, (NOT_PICKED,))),
                "v_hat": _finite(item.v_hat),
                "visits": item.visits,
                "last_version": item.last_version,
                "draw_weight": _finite(item.draw_weight),
                "surprise": _finite(surprise[i]),
                "advantage": None if place is None else _finite(float(trained.advantages.advantages[place])),
                "dropped": dropped.get(item.request_id),
                "policy_version": item.policy_version,
                "group_id": item.group_id,
                "sample_index": item.sample_index,
                "gap": None if place is None else _gap(trained.batch, trained.report.logprobs_before, ends, place),
            }
        )
    return rows


def evaluation_rows(
    result: EvaluationResult, settings: SamplesSettings, *, step: int, policy_version: int
) -> list[Row]:
    """An evaluation's completions, problem by problem; where ``settings.eval`` has no room for all, those of problems
    spread evenly, the same at every evaluation."""
    total = len(result.prompts)
    room = max(1, settings.eval // max(map(len, result.outcomes)))
    problems = np.linspace(0, total - 1, min(room, total)).astype(int).tolist()
    rows = [
        _row(outcome, result.prompts[problem], settings.max_chars)
        | {
            "kind": "eval",
            "step": step,
            "why": [NOT_PICKED],
            "correct": right,
            "policy_version": policy_version,
            "sample_index": sample_index,
        }
        for problem in problems
        for sample_index, (outcome, right) in enumerate(
            zip(result.outcomes[problem], result.rights[problem], strict=True)
        )
    ]
    return rows[: settings.eval]


def row_text(row: Row) -> str:
    """One line of JSON, valid whatever the model wrote, and safe to print."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return _NOT_PLAIN.sub(lambda found: f"\\u{ord(found.group()):04x}", text) + "\n"


def _row(item: Completion, prompt: Prompt, max_chars: int) -> Row:
    """What is known of every completion, and null for the rest."""
    scored = item if isinstance(item, ScoredCompletion) else None
    unscored = item if isinstance(item, UnscoredCompletion) else None
    cut: dict[str, int] = {}

    def text(name: str, value: str) -> str:
        plain = _SURROGATES.sub("\ufffd", value)
        over = len(plain) - max_chars
        if over <= 0:
            return plain
        cut[name] = over
        head, tail = (max_chars + 1) // 2, max_chars // 2
        return f"{plain[:head]}[… {over:,} characters left out …]{plain[len(plain) - tail :]}"

    def table(name: str, value: Any) -> Any:
        plain = _plain(value)
        size = len(json.dumps(plain))
        if size <= max_chars:
            return plain
        cut[name] = size
        return {}

    asked = prompt.prompt
    if not isinstance(asked, str) and sum(len(str(message)) for message in asked) > max_chars:
        asked = json.dumps(asked, ensure_ascii=False, default=str)
    logprobs = item.logprobs
    return {
        "kind": None,
        "step": None,
        "why": [],
        "prompt_id": text("prompt_id", prompt.key),
        "source": text("source", prompt.source),
        "prompt": text("prompt", asked) if isinstance(asked, str) else _plain(asked),
        "completion": text("completion", item.text),
        "answer": text("answer", prompt.answer),
        "reward": _finite(scored.reward) if scored else None,
        "correct": None,
        "parts": table("parts", scored.parts if scored else {}),
        "metrics": table("metrics", scored.metrics if scored else {}),
        "extras": table("extras", scored.extras if scored else {}),
        "v_hat": None,
        "visits": None,
        "last_version": None,
        "draw_weight": None,
        "surprise": None,
        "advantage": None,
        "dropped": None,
        "num_tokens": len(item.token_ids),
        "truncated": item.truncated,
        "mean_logprob": _finite(float(logprobs.mean(dtype=np.float64))) if logprobs.size else None,
        "oldest_version": item.oldest_version,
        "newest_version": item.newest_version,
        "policy_version": None,
        "group_id": None,
        "sample_index": None,
        "gap": None,
        # A reward's own error may quote what it sent, and to where.
        "unscored": text("unscored", masked_text(str(unscored.reason), environ=os.environ)) if unscored else None,
        "cut": cut,
    }


def _surprise(
    items: Sequence[ScoredRollout | UnscoredRollout], reward_range: tuple[float, float]
) -> list[float | None]:
    """|r̃ − v̂| of each, as the baseline sees it: without shaping; None without a reward."""
    scored = [item for item in items if isinstance(item, ScoredRollout)]
    rewards = scale_rewards(np.array([item.tracker_reward for item in scored], dtype=np.float64), *reward_range)
    known = iter(np.abs(rewards - np.array([item.v_hat for item in scored], dtype=np.float64)).tolist())
    return [next(known) if isinstance(item, ScoredRollout) else None for item in items]


def _gap(batch: TrainingBatch, before: NDArray[np.float32], ends: NDArray[np.int64], place: int) -> float | None:
    """Of the sequence at ``place``; None where the learner computed no log-prob of it before the update."""
    tokens = slice(int(ends[place] - batch.completion_lengths[place]), int(ends[place]))
    gaps = np.abs(before[tokens].astype(np.float64) - batch.behavior_logprobs[tokens])
    return _finite(float(gaps.mean())) if gaps.size else None


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _plain(value: Any, depth: int = 0) -> Any:
    """A JSON value of what a reward or a dataset gave: no NaN, no surrogate, no endless nesting."""
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float):
        return _finite(float(value))
    if isinstance(value, Mapping) and depth < _MAX_DEPTH:
        return {_SURROGATES.sub("\ufffd", str(key)): _plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple) and depth < _MAX_DEPTH:
        return [_plain(one, depth + 1) for one in value]
    return _SURROGATES.sub("\ufffd", str(value)) if depth < _MAX_DEPTH else None
