"""Held-out evaluation through the same generators and scorers as training. The baseline never sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bolt_ray.core.errors import StallError
from bolt_ray.core.evaluation.answers import extract_answer
from bolt_ray.core.evaluation.bootstrap import paired_bootstrap
from bolt_ray.core.evaluation.pass_at_k import maj_at_k, pass_at_k, wilson_interval
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import DrawnPrompt, GenerationRequest, Prompt, ScoredCompletion
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.training.completions import POLL_S, CompletionService, Outcome, request_seed
from bolt_ray.training.settings import EvalSettings

declare_metrics(
    {
        "eval/pass@1": ("share of completions", "right completions, unscored ones counted as wrong"),
        "eval/pass@1_low": ("share of completions", "lower end of its 95 % interval"),
        "eval/pass@1_high": ("share of completions", "upper end of its 95 % interval"),
        "eval/pass@k": (
            "share of problems",
            "unbiased estimate that one of k completions is right (arXiv 2107.03374); with eval.num_samples above 1",
        ),
        "eval/maj@k": ("share of problems", "problems whose most frequent answer of k is right"),
        "eval/mean_reward": ("reward", "mean reward of the scored completions"),
        "eval/mean_length": ("tokens", "mean length of a completion"),
        "eval/truncated_fraction": ("share of completions", "completions cut at the length limit"),
        "eval/unscored_fraction": ("share of completions", "completions no reward could be given to"),
        "eval/{source}/pass@1": ("share of completions", "the same for one dataset, where there are several"),
        "eval/{source}/mean_length": ("tokens", "the same for one dataset"),
    }
)

BOOTSTRAP_SEED = 0
"""Of the intervals: the same completions give the same interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """pass@1 of an evaluation, in [0, 1], and the counts behind it."""

    value: float
    correct: int
    total: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f}% ({self.correct}/{self.total})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A share in [0, 1] with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The numbers of some problems.

    Attributes:
        num_problems, num_completions: how many problems and completions the numbers are of.
        k: of ``pass_at_k`` and ``maj_at_k``, which are None when it is 1.
        pass_at_1: share of correct completions; the unscored count as wrong.
        pass_at_k: unbiased (arXiv 2107.03374).
        maj_at_k: share of problems whose most frequent answer of the first k is right.
        mean_reward: of the scored completions; None if there are none.
        mean_length: tokens of a completion.
        truncated_fraction, unscored_fraction: of all completions.
    """

    num_problems: int
    num_completions: int
    k: int
    pass_at_1: Estimate
    pass_at_k: Estimate | None
    maj_at_k: Estimate | None
    mean_reward: float | None
    mean_length: float
    truncated_fraction: float
    unscored_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Scores of one evaluation.

    Attributes:
        prompts: the problems.
        outcomes: per problem, its completions' outcomes in sample order.
        rights: the same shape, whether each completion is right.
        score: right completions of all completions, scored or not.
        overall: the numbers of all problems.
        by_source: the numbers of each dataset's problems.
        metrics: ``eval/*`` numbers.
    """

    prompts: tuple[Prompt, ...]
    outcomes: tuple[tuple[Outcome, ...], ...]
    rights: tuple[tuple[bool, ...], ...]
    score: Score
    overall: Summary
    by_source: Mapping[str, Summary] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def problem_scores(self, k: int = 1) -> list[float]:
        """Each problem's pass@k, for comparing two models on the same problems."""
        if k == 1:
            return [sum(right) / len(right) for right in self.rights]
        return [pass_at_k(len(right), sum(right), k) for right in self.rights]


class Evaluator:
    """Evaluates the generators' current weights on a fixed list of problems."""

    def __init__(
        self,
        *,
        service: CompletionService,
        problems: Sequence[DrawnPrompt],
        settings: EvalSettings,
        sampling: SamplingSettings,
        stall_s: float,
        k: int | None = None,
    ) -> None:
        """``k``: of pass@k and maj@k, all samples if None."""
        self._service = service
        self._problems = list(problems)
        self._sampling = sampling
        self._num_samples = settings.num_samples
        self._seed = settings.seed
        self._threshold = settings.success_reward
        self._stall_s = stall_s
        self._k = k

    def run(
        self,
        *,
        pump: Callable[[float], None],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> EvaluationResult:
        """Generate and score ``num_samples`` completions of every problem; ``pump`` keeps training moving.

        Raises:
            StallError: nothing arrived within the deadline.
        """
        requests = self._requests()
        n = self._num_samples
        prompts = [drawn.prompt for drawn in self._problems]
        self._service.submit(requests, [prompt for prompt in prompts for _ in range(n)], self._sampling)
        found: dict[int, Outcome] = {}
        last_arrival = time.monotonic()
        while len(found) < len(requests):
            pump(POLL_S)
            arrived = self._service.poll("eval")
            found.update((outcome.request_id, outcome) for outcome in arrived)
            if arrived:
                last_arrival = time.monotonic()
                on_progress(len(found), len(requests))
            elif time.monotonic() - last_arrival > self._stall_s:
                raise StallError(
                    f"evaluation: no completion for {self._stall_s:.0f} s, {len(found)} of {len(requests)} done"
                )
        ordered = [found[request.request_id] for request in requests]
        groups = [ordered[i : i + n] for i in range(0, len(ordered), n)]
        return summarize(prompts, groups, threshold=self._threshold, k=self._k)

    def _requests(self) -> list[GenerationRequest]:
        """Problem by problem; the same seeds at every evaluation, so that scores compare."""
        token_ids = [drawn.token_ids for drawn in self._problems for _ in range(self._num_samples)]
        return [
            GenerationRequest(
                request_id=-1 - number, kind="eval", token_ids=tokens, seed=request_seed(self._seed, number)
            )
            for number, tokens in enumerate(token_ids)
        ]


def summarize(
    prompts: Sequence[Prompt], groups: Sequence[Sequence[Outcome]], *, threshold: float, k: int | None = None
) -> EvaluationResult:
    """pass@1, pass@k and maj@k with 95 % intervals, lengths, and the same for every dataset.

    An unscored completion counts as wrong and is reported as ``eval/unscored_fraction``. Intervals are Wilson's
    with one sample per problem, else a bootstrap over problems: samples of one problem are not independent.

    Args:
        prompts: the problems.
        groups: per problem its completions, at least one.
        threshold: a completion is right when its reward reaches it, shaping (length, overlong) left out.
        k: None for as many as the problem with the fewest completions has.

    Raises:
        ValueError: no problem, a problem without completions, or one with fewer than k.
    """
    if not groups or not all(groups):
        raise ValueError("an evaluation needs at least one completion of every problem")
    k = min(len(group) for group in groups) if k is None else k
    problems = [_Problem.of(prompt, group, threshold) for prompt, group in zip(prompts, groups, strict=True)]
    sources = dict.fromkeys(problem.source for problem in problems)
    overall = _summary(problems, k)
    by_source = {
        source: _summary([problem for problem in problems if problem.source == source], k) for source in sources
    }
    correct = sum(sum(problem.rights) for problem in problems)
    metrics = _metrics(overall)
    if len(by_source) > 1:
        for source, summary in by_source.items():
            metrics[f"eval/{source}/pass@1"] = summary.pass_at_1.value
            metrics[f"eval/{source}/mean_length"] = summary.mean_length
    return EvaluationResult(
        prompts=tuple(prompts),
        outcomes=tuple(problem.outcomes for problem in problems),
        rights=tuple(problem.rights for problem in problems),
        score=Score(value=correct / overall.num_completions, correct=correct, total=overall.num_completions),
        overall=overall,
        by_source=by_source,
        metrics=metrics,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    source: str
    outcomes: tuple[Outcome, ...]
    rights: tuple[bool, ...]

    @classmethod
    def of(cls, prompt: Prompt, group: Sequence[Outcome], threshold: float) -> _Problem:
        return cls(
            source=prompt.source,
            outcomes=tuple(group),
            rights=tuple(isinstance(item, ScoredCompletion) and item.tracker_reward >= threshold for item in group),
        )

    def majority(self, k: int) -> float:
        return maj_at_k([extract_answer(outcome.text) for outcome in self.outcomes], self.rights, k)


def _summary(problems: Sequence[_Problem], k: int) -> Summary:
    outcomes = [outcome for problem in problems for outcome in problem.outcomes]
    rewards = [outcome.reward for outcome in outcomes if isinstance(outcome, ScoredCompletion)]
    total, correct = len(outcomes), sum(sum(problem.rights) for problem in problems)
    if total == len(problems):
        low, high = wilson_interval(correct, total)
        pass_at_1 = Estimate(value=correct / total, low=low, high=high)
    else:
        pass_at_1 = _over_problems(sum(problem.rights) / len(problem.rights) for problem in problems)
    several = k > 1
    return Summary(
        num_problems=len(problems),
        num_completions=total,
        k=k,
        pass_at_1=pass_at_1,
        pass_at_k=_over_problems(pass_at_k(len(p.rights), sum(p.rights), k) for p in problems) if several else None,
        maj_at_k=_over_problems(problem.majority(k) for problem in problems) if several else None,
        mean_reward=float(np.mean(rewards)) if rewards else None,
        mean_length=float(np.mean([len(outcome.token_ids) for outcome in outcomes])),
        truncated_fraction=sum(outcome.truncated for outcome in outcomes) / total,
        unscored_fraction=1 - len(rewards) / total,
    )


def _over_problems(scores: Iterable[float]) -> Estimate:
    """The mean of the problems' scores with a percentile bootstrap over problems."""
    values = np.fromiter(scores, dtype=np.float64)
    mean = abs(float(values.mean()))  # pass@k of nothing right is -0.0
    if mean in (0.0, 1.0):
        # All problems agree, so resampling shows no spread; Wilson's interval depends on how many there are.
        low, high = wilson_interval(round(mean * len(values)), len(values))
    else:
        # Paired with zeros, the difference is the mean itself.
        interval = paired_bootstrap(np.zeros_like(values), values, seed=BOOTSTRAP_SEED)
        low, high = interval.low, interval.high
    return Estimate(value=mean, low=low, high=high)


def _metrics(overall: Summary) -> dict[str, float]:
    metrics = {
        "eval/pass@1": overall.pass_at_1.value,
        "eval/pass@1_low": overall.pass_at_1.low,
        "eval/pass@1_high": overall.pass_at_1.high,
        "eval/mean_length": overall.mean_length,
        "eval/truncated_fraction": overall.truncated_fraction,
        "eval/unscored_fraction": overall.unscored_fraction,
    }
    if overall.mean_reward is not None:
        metrics["eval/mean_reward"] = overall.mean_reward
    if overall.pass_at_k is not None and overall.maj_at_k is not None:
        metrics["eval/pass@k"] = overall.pass_at_k.value
        metrics["eval/maj@k"] = overall.maj_at_k.value
    return metrics
