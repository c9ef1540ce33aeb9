"""Held-out evaluation through the same generators and scorers as training. The baseline never sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bolt_ray.core.errors import StallError
from bolt_ray.core.pass_at_k import maj_at_k, pass_at_k, wilson_interval
from bolt_ray.core.records import DrawnPrompt, RolloutRequest, ScoredCompletion
from bolt_ray.engines.vllm_engine import SamplingSettings
from bolt_ray.pipeline.completions import CompletionService, Outcome
from bolt_ray.pipeline.rollout import POLL_S, request_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """pass@1 of an evaluation, in [0, 1], and the counts behind it."""

    value: float
    correct: int
    total: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f}% ({self.correct}/{self.total})"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Scores of one evaluation.

    Attributes:
        outcomes: per problem, its completions' outcomes in sample order.
        score: right completions of all completions, scored or not.
        metrics: ``eval/*`` numbers.
    """

    outcomes: tuple[tuple[Outcome, ...], ...]
    score: Score
    metrics: dict[str, float]


class Evaluator:
    """Evaluates the generators' current weights on a fixed list of problems."""

    def __init__(
        self,
        *,
        service: CompletionService,
        problems: Sequence[DrawnPrompt],
        sampling: SamplingSettings,
        num_samples: int,
        seed: int,
        success_threshold: float,
        stall_s: float,
    ) -> None:
        """``success_threshold``: a completion is right when its reward reaches it."""
        self._service = service
        self._problems = list(problems)
        self._sampling = sampling
        self._num_samples = num_samples
        self._seed = seed
        self._threshold = success_threshold
        self._stall_s = stall_s

    def run(
        self,
        *,
        version: int,
        pump: Callable[[float], None],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> EvaluationResult:
        """Generate and score ``num_samples`` completions of every problem; ``pump`` keeps training moving.

        Raises:
            StallError: nothing arrived within the deadline.
        """
        requests = self._requests(version)
        self._service.submit(requests, self._sampling)
        found: dict[int, Outcome] = {}
        last_arrival = time.monotonic()
        while len(found) < len(requests):
            pump(POLL_S)
            arrived = self._service.take("eval")
            found.update((outcome.completion.request.request_id, outcome) for outcome in arrived)
            if arrived:
                last_arrival = time.monotonic()
                on_progress(len(found), len(requests))
            elif time.monotonic() - last_arrival > self._stall_s:
                raise StallError(
                    f"evaluation: no completion for {self._stall_s:.0f} s, {len(found)} of {len(requests)} done"
                )
        ordered = [found[request.request_id] for request in requests]
        k = self._num_samples
        return summarize([ordered[i : i + k] for i in range(0, len(ordered), k)], threshold=self._threshold)

    def _requests(self, version: int) -> list[RolloutRequest]:
        """Numbered below zero (the eval lane); the same seeds at every evaluation, so that scores compare."""
        requests = []
        for drawn in self._problems:
            for sample_index in range(self._num_samples):
                number = len(requests)
                requests.append(
                    RolloutRequest(
                        request_id=-1 - number,
                        drawn=drawn,
                        sample_index=sample_index,
                        v_hat=0.5,
                        n_eff=0.0,
                        policy_version=version,
                        seed=request_seed(self._seed, number),
                    )
                )
        return requests


def summarize(groups: Sequence[Sequence[Outcome]], *, threshold: float) -> EvaluationResult:
    """pass@1 with its 95 % interval, pass@k and maj@k (k = samples per problem), mean length.

    An unscored completion counts as wrong in the score and is reported as ``eval/unscored_fraction``.
    """
    k = max((len(group) for group in groups), default=0)
    rights = [[_is_right(outcome, threshold) for outcome in group] for group in groups]
    total, correct = sum(len(group) for group in groups), sum(sum(group) for group in rights)
    lengths = [len(outcome.completion.token_ids) for group in groups for outcome in group]
    unscored = sum(not isinstance(outcome, ScoredCompletion) for group in groups for outcome in group)
    if total == 0:
        raise ValueError("an evaluation needs at least one completion")
    low, high = wilson_interval(correct, total)
    metrics = {
        "eval/pass@1": correct / total,
        "eval/pass@1_low": low,
        "eval/pass@1_high": high,
        "eval/mean_length": float(np.mean(lengths)),
        "eval/unscored_fraction": unscored / total,
    }
    if k > 1:
        metrics["eval/pass@k"] = float(np.mean([pass_at_k(len(group), sum(group), k) for group in rights]))
        metrics["eval/maj@k"] = float(
            np.mean(
                [
                    maj_at_k([outcome.completion.text for outcome in group], right)
                    for group, right in zip(groups, rights, strict=True)
                ]
            )
        )
    return EvaluationResult(
        outcomes=tuple(tuple(group) for group in groups),
        score=Score(value=correct / total, correct=correct, total=total),
        metrics=metrics,
    )


def _is_right(outcome: Outcome, threshold: float) -> bool:
    return isinstance(outcome, ScoredCompletion) and outcome.reward >= threshold
