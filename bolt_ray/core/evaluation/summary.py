"""The numbers of an evaluation: pass@k, maj@k and their intervals, from scored completions. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bolt_ray.core.evaluation.answers import extract_answer
from bolt_ray.core.evaluation.bootstrap import paired_bootstrap
from bolt_ray.core.evaluation.pass_at_k import maj_at_k, pass_at_k, wilson_interval
from bolt_ray.core.evaluation.voting import SameAnswers, merge_equal
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import Outcome, Prompt, ScoredCompletion

declare_metrics(
    {
        "eval/pass@1": (
            "share of completions",
            "right completions, unscored ones counted as wrong; with eval.num_samples of k this is avg@k",
        ),
        "eval/pass@1_low": ("share of completions", "lower end of its 95 % interval"),
        "eval/pass@1_high": ("share of completions", "upper end of its 95 % interval"),
        "eval/pass@k": (
            "share of problems",
            "unbiased estimate that one of k completions is right (arXiv 2107.03374); with eval.num_samples above 1",
        ),
        "eval/maj@k": (
            "share of problems",
            "problems whose most frequent answer of k is right; answers that are equal mathematically vote together",
        ),
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

_ROUNDING = 1e-6
"""What a weighted sum may fall short of: weights of .7, .2 and .1 add up to 0.9999999999999999."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """When a completion is right: its reward without shaping (length, overlong), or its ``part`` where that applies to
    it, reaches ``reward``. An unscored completion is not."""

    reward: float
    part: str | None = None

    def holds(self, outcome: Outcome) -> bool:
        if not isinstance(outcome, ScoredCompletion):
            return False
        earned = outcome.parts.get(self.part, outcome.tracker_reward) if self.part else outcome.tracker_reward
        return earned >= self.reward - _ROUNDING


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


def summarize(
    prompts: Sequence[Prompt],
    groups: Sequence[Sequence[Outcome]],
    *,
    success: Success,
    same_answers: SameAnswers,
    k: int | None = None,
) -> EvaluationResult:
    """pass@1, pass@k and maj@k with 95 % intervals, lengths, and the same for every dataset.

    An unscored completion counts as wrong and is reported as ``eval/unscored_fraction``. Intervals are Wilson's
    with one sample per problem, else a bootstrap over problems: samples of one problem are not independent.

    Args:
        prompts: the problems.
        groups: per problem its completions, at least one.
        success: when a completion is right.
        same_answers: whether two answers that differ as text vote for the same; asked with k above 1 only.
        k: None for as many as the problem with the fewest completions has.

    Raises:
        ValueError: no problem, a problem without completions, or one with fewer than k.
    """
    if not groups or not all(groups):
        raise ValueError("an evaluation needs at least one completion of every problem")
    k = min(len(group) for group in groups) if k is None else k
    votes: list[list[str | None]] = [[] for _ in groups]
    if k > 1:
        votes = merge_equal([[extract_answer(item.text) for item in group[:k]] for group in groups], same_answers)
    problems = [
        _Problem(
            source=prompt.source,
            outcomes=tuple(group),
            rights=tuple(success.holds(item) for item in group),
            votes=tuple(voted),
        )
        for prompt, group, voted in zip(prompts, groups, votes, strict=True)
    ]
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
    votes: tuple[str | None, ...]

    def majority(self, k: int) -> float:
        return maj_at_k(self.votes, self.rights[:k], k)


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
