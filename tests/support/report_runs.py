"""Run directories for the tests of ``bolt-ray report``, written by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HOSTILE = '</script><img src=x onerror="window.hacked = 1"><b>bold</b> &amp; \ud800 \x00 \u2028 ünïcödé 漢字'
"""What a model may write."""

CONFIG = {
    "algo": "bolt",
    "run_dir": "here",
    "model": {"name_or_path": "models/small"},
    "datasets": [{"name": "problems.jsonl"}, {"name": "more.csv"}],
    "rewards": [{"type": "math", "weight": 1.0}, {"type": "length", "weight": -0.1}],
    "rollout": {"group_size": 1},
    "train": {"max_steps": 40, "learning_rate": 1.0e-6},
}


def step_record(step: int, *, of: int) -> dict[str, Any]:
    """A record of a run that learns evenly; every kind of chart has its metrics."""
    done = step / of
    return {
        "step": step,
        "policy_version": step,
        "reward/mean": 0.3 + 0.4 * done + 0.02 * (step % 3),
        "reward/part/math": 0.3 + 0.4 * done,
        "reward/part/length": 0.1,
        "reward/unscored_fraction": 0.0,
        "rollout/completions": 64.0,
        "completions/mean_length": 10.0 + step % 5,
        "completions/p90_length": 18.0 + step % 5,
        "completions/truncated_fraction": 0.1 * done,
        "policy/entropy": 1.0 - 0.5 * done,
        "policy/drift": 0.01 * (1 + step % 2),
        "baseline/brier": 0.25 - 0.1 * done,
        "baseline/variance_reduction": 0.5 * done,
        **{f"baseline/hist_{i}": 0.1 + 0.05 * done * (i - 4.5) / 4.5 for i in range(10)},
        **{f"curriculum/asked_{i}": 0.1 for i in range(10)},
        **{f"curriculum/drawn_{i}": 0.1 for i in range(10)},
        **{f"baseline/decile_count_{i}": 6.0 for i in range(10)},
        **{f"baseline/decile_v_hat_{i}": i / 10 + 0.05 for i in range(10)},
        **{f"baseline/decile_reward_{i}": i / 10 + 0.05 + 0.1 * done for i in range(10)},
        "time/step": 2.0 + 0.1 * (step % 4),
        "time/train": 0.5,
        "time/sync": 0.25,
        "time/baseline": 0.05,
        "time/idle_generator": 1.0,
        "throughput/tokens_per_second": 300.0 + step % 7,
        "memory/driver_host": 2.0**30 * (1 + done),
    }


def evaluation(step: int, right: float, *, width: float = 0.05) -> dict[str, Any]:
    return {
        "step": step,
        "policy_version": step,
        "eval/pass@1": right,
        "eval/pass@1_low": right - width,
        "eval/pass@1_high": right + width,
        "eval/mean_length": 12.0,
    }


def sample(step: int, number: int, **other: Any) -> dict[str, Any]:
    """A row of a samples file."""
    return {
        "kind": "train",
        "step": step,
        "why": ["best"],
        "prompt_id": f"id-{number}",
        "source": "problems",
        "prompt": f"{number} + 1 =",
        "completion": f"= {number + 1}",
        "answer": str(number + 1),
        "reward": float(number % 2),
        "parts": {"math": float(number % 2)},
        "metrics": {},
        "extras": {},
        "v_hat": (number % 10) / 10,
        "surprise": abs(number % 2 - (number % 10) / 10),
        "advantage": 0.5,
        "num_tokens": 3 + number % 5,
        "truncated": False,
        "unscored": None,
        "gap": 1e-6,
    } | other


def write_run(
    root: Path,
    *,
    steps: int = 40,
    evaluations: Mapping[int, float] | None = None,
    samples: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    config: Mapping[str, Any] | None = CONFIG,
    tail: str = "",
) -> Path:
    """A run directory.

    Args:
        evaluations: share of right answers by step.
        samples: rows by the file's name, such as ``step-000010``.
        config: None for none.
        tail: text at the end of ``metrics.jsonl``, such as a torn line.
    """
    root.mkdir(parents=True)
    if config is not None:
        (root / "config.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    with (root / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(steps + 1):
            if evaluations and step in evaluations:
                file.write(json.dumps(evaluation(step, evaluations[step])) + "\n")
            if step:
                file.write(json.dumps(step_record(step, of=steps)) + "\n")
        file.write(tail)
    for name, rows in (samples or {}).items():
        (root / "samples").mkdir(exist_ok=True)
        (root / "samples" / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    return root


def data_of(page: str) -> dict[str, Any]:
    """What a page of the report holds."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert isinstance(data, dict)
    return data
