"""Evaluations put side by side: the comparison, the table for the terminal, ``summary.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bolt_ray.commands.model_source import ModelSource
from bolt_ray.core.evaluation.bootstrap import PairedComparison, paired_bootstrap
from bolt_ray.core.evaluation.summary import BOOTSTRAP_SEED, Estimate, EvaluationResult, Summary

Comparisons = Mapping[str, Mapping[str, PairedComparison]]
"""Model label → ``pass@k`` → against the first model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """What is said of an evaluation.

    Attributes:
        results: by label, in the order evaluated.
        comparisons: of the later models with the first.
        sources: where the models came from; those without a result were not reached.
    """

    results: Mapping[str, EvaluationResult]
    comparisons: Comparisons = field(default_factory=dict)
    sources: Sequence[ModelSource] = ()

    def print(self, console: Console) -> None:
        """Needs at least one result."""
        for label, result in self.results.items():
            console.print(summary_table(label, result))
        first = next(iter(self.results))
        for other, numbers in self.comparisons.items():
            for name, comparison in numbers.items():
                line = comparison_line(name, comparison, first=first, other=other)
                console.print(line, highlight=False, markup=False, soft_wrap=True)

    def write(self, path: Path, *, settings: Mapping[str, Any]) -> None:
        """``settings``: those of the evaluation, written along."""
        models = {
            source.label: {
                "model": source.model,
                "adapter": None if source.adapter is None else str(source.adapter),
                "overall": asdict(self.results[source.label].overall),
                "by_source": {name: asdict(part) for name, part in self.results[source.label].by_source.items()},
            }
            for source in self.sources
            if source.label in self.results
        }
        compared = {
            label: {name: asdict(comparison) for name, comparison in numbers.items()}
            for label, numbers in self.comparisons.items()
        }
        tree = {"models": models, "against_first": compared, "eval": dict(settings)}
        path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def compare_with_first(results: Mapping[str, EvaluationResult]) -> dict[str, dict[str, PairedComparison]]:
    """Every later model against the first on the problems both answered: pass@1, and pass@k where k > 1.

    A model that leaves out other problems than the first, too long for it, is compared on the rest; one without a
    problem in common is not.
    """
    if len(results) < 2:
        return {}
    first, *others = results
    compared = {}
    for other in others:
        numbers = {}
        for k in dict.fromkeys((1, results[first].overall.k)):
            ours, theirs = (_scores_by_problem(results[label], k) for label in (first, other))
            common = [key for key in ours if key in theirs]
            if common:
                numbers[f"pass@{k}"] = paired_bootstrap(
                    [ours[key] for key in common], [theirs[key] for key in common], seed=BOOTSTRAP_SEED
                )
        compared[other] = numbers
    return compared


def _scores_by_problem(result: EvaluationResult, k: int) -> dict[tuple[str, int], float]:
    """By dataset row: a prompt may stand in several."""
    scores = result.problem_scores(k)
    return {(prompt.key, prompt.row): score for prompt, score in zip(result.prompts, scores, strict=True)}


def summary_table(label: str, result: EvaluationResult) -> Table:
    """A row per dataset, and one over all of them where there are several; fits in 80 columns."""
    overall = result.overall
    samples = overall.num_completions // overall.num_problems
    title = f"{_plain(label)}: {samples} sample(s) per problem, 95 % intervals below"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", padding=(0, 1))
    table.add_column("source", overflow="fold")
    headings = ["pass@1" if samples == 1 else f"avg@{samples}"]
    if overall.k > 1:
        headings += [f"pass@{overall.k}", f"maj@{overall.k}"]
    for heading in ("n", *headings, "length", "cut", "unscored"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = dict(result.by_source)
    if len(rows) > 1:
        rows["all"] = overall
    for source, summary in rows.items():
        table.add_row(_plain(source), *_cells(summary))
    return table


def comparison_line(name: str, comparison: PairedComparison, *, first: str, other: str) -> str:
    """``B against A: pass@1 +3.1 points [+1.0, +5.2], p = 0.004, 512 problems``."""
    points = (100 * comparison.difference, 100 * comparison.low, 100 * comparison.high)
    verdict = "different" if comparison.significant else "no clear difference"
    return (
        f"{other} against {first}: {name} {points[0]:+.1f} points [{points[1]:+.1f}, {points[2]:+.1f}], "
        f"p = {comparison.p_value:.2g}, {comparison.num_prompts:,} problems: {verdict}"
    )


def _cells(summary: Summary) -> list[str]:
    estimates = [summary.pass_at_1, summary.pass_at_k, summary.maj_at_k]
    return [
        f"{summary.num_problems:,}",
        *(_two_lines(estimate) for estimate in estimates if estimate is not None),
        f"{summary.mean_length:.0f}",
        f"{100 * summary.truncated_fraction:.0f}%",
        f"{100 * summary.unscored_fraction:.0f}%",
    ]


def _two_lines(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f}%\n{100 * estimate.low:.1f}–{100 * estimate.high:.1f}"


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
