"""Which pictures the report has: a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from bolt_ray.commands.report.chart import Chart, Line, Section, lines
from bolt_ray.commands.report.series import Floats

PERCENT: dict[str, Any] = {"unit": "%", "factor": 100.0}
GIB: dict[str, Any] = {"unit": "GiB", "factor": 2.0**-30}

TIME_PARTS = ("train", "sync", "baseline", "curriculum")
"""Phases that the driver goes through one after another; for the rest of a step it waits for completions."""

SECTIONS = (
    Section(
        "Learning",
        (
            Chart(
                title="Held-out evaluation",
                lines=(
                    Line(name="eval/pass@1", label="pass@1", band=("eval/pass@1_low", "eval/pass@1_high")),
                    *lines(("eval/pass@k", "pass@k"), ("eval/maj@k", "maj@k")),
                ),
                note="share of right answers on problems that are not trained on; the band is the 95 % interval",
                smooth=False,
                **PERCENT,
            ),
            Chart(title="Reward", lines=lines(("reward/mean", "mean of the step"))),
            Chart(
                title="Held-out evaluation by dataset",
                lines=lines(("eval/*/pass@1", "*")),
                at_least=2,
                smooth=False,
                **PERCENT,
            ),
            Chart(title="Reward by dataset", lines=lines(("reward/source/*", "*")), at_least=2),
            Chart(title="Parts of the reward", lines=lines(("reward/part/*", "*")), at_least=2),
            Chart(
                title="Groups of equal rewards",
                lines=lines(("reward/zero_std_fraction", "share of the groups")),
                note="groups of completions whose rewards are all equal teach nothing",
                **PERCENT,
            ),
            Chart(
                title="Completions without a verdict",
                lines=lines(("reward/unscored_fraction", "training"), ("eval/unscored_fraction", "evaluation")),
                **PERCENT,
            ),
        ),
    ),
    Section(
        "Baseline v̂",
        (
            Chart(
                title="v̂ of all prompts",
                kind="heat",
                lines=lines(("baseline/hist", "share of the prompts")),
                note="each column is a histogram: how often the policy solves the prompts, from never to always",
            ),
            Chart(
                title="Calibration",
                kind="calibration",
                note="mean reward against the v̂ that was read before; on the diagonal v̂ is right",
            ),
            Chart(
                title="Calibration over the run",
                kind="bias",
                lines=lines(("bias", "reward − v̂")),
                note="how far the rewards lay above (+) or below (−) what v̂ promised",
            ),
            Chart(
                title="Variance of the reward that v̂ explains",
                lines=lines(
                    ("baseline/variance_reduction", "all prompts"),
                    ("baseline/variance_reduction_seen", "prompts seen before"),
                ),
                note="below 0, v̂ is worse than the mean of the batch",
                **PERCENT,
            ),
            Chart(
                title="Brier score of v̂",
                lines=lines(("baseline/brier", "mean (r̃ − v̂)²")),
                note="0.25 is what always saying ½ earns; less is better",
            ),
            Chart(
                title="Solved and hopeless prompts",
                lines=lines(
                    ("curriculum/pct_easy", "v̂ > 0.8"),
                    ("curriculum/pct_hard", "v̂ < 0.2"),
                    ("curriculum/pct_learning_edge", "0.3 to 0.7"),
                    ("curriculum/coverage", "trained on so far"),
                ),
                unit="%",
            ),
        ),
    ),
    Section(
        "Curriculum",
        (
            Chart(
                title="Asked for",
                kind="heat",
                lines=lines(("curriculum/asked", "share of the weight")),
                note="the weight of the draws by v̂ at the last refresh",
            ),
            Chart(
                title="Drawn",
                kind="heat",
                lines=lines(("curriculum/drawn", "share of the completions")),
                note="v̂ of the prompts of the step when they were dispatched",
            ),
            Chart(
                title="How open the prompts are",
                lines=lines(
                    ("curriculum/drawn_uncertainty", "drawn"), ("curriculum/mean_uncertainty", "all with evidence")
                ),
                note="√(v̂(1 − v̂)): 0.5 where it is open whether the policy solves them, 0 where it is settled",
            ),
            Chart(title="Evenness of the draws", lines=lines(("curriculum/draw_ess", "effective share")), **PERCENT),
        ),
    ),
    Section(
        "Completions",
        (
            Chart(
                title="Length",
                lines=lines(
                    ("completions/mean_length", "mean"),
                    ("completions/p50_length", "median"),
                    ("completions/p10_length", "p10"),
                    ("completions/p90_length", "p90"),
                    ("completions/max_length", "longest"),
                    ("eval/mean_length", "evaluation, mean"),
                ),
                unit="tokens",
            ),
            Chart(
                title="Cut at the length limit",
                lines=lines(("completions/truncated_fraction", "training"), ("eval/truncated_fraction", "evaluation")),
                **PERCENT,
            ),
            Chart(
                title="Most common answer",
                lines=lines(("completions/most_common_fraction", "of the prompts")),
                note="prompts of a step that get the same answer",
                **PERCENT,
            ),
            Chart(
                title="Staleness",
                lines=lines(("policy/staleness_mean", "mean"), ("policy/staleness_max", "oldest")),
                unit="versions",
            ),
        ),
    ),
    Section(
        "Policy",
        (
            Chart(title="Entropy", lines=lines(("policy/entropy", "mean of the trained tokens")), unit="nats"),
            Chart(
                title="KL to the reference",
                lines=lines(("adaptive_kl/raw_kl", "KL"), ("adaptive_kl/adapted_kl", "as penalized")),
                unit="nats",
            ),
            Chart(
                title="Clipped tokens",
                lines=lines(
                    ("policy/clip_fraction", "all"),
                    ("loss/clip_low_fraction", "below"),
                    ("loss/clip_high_fraction", "above"),
                ),
                **PERCENT,
            ),
            Chart(
                title="Gap between generator and learner",
                lines=lines(
                    ("policy/logprob_gap", "mean |Δ log p|"),
                    ("policy/gen_kl", "KL"),
                ),
                unit="nats",
            ),
            Chart(
                title="Largest gap",
                lines=lines(("policy/sync_gap", "after a sync"), ("policy/logprob_gap_max", "trained tokens")),
                unit="nats",
            ),
            Chart(
                title="Drift",
                lines=lines(("policy/drift", "of an update")),
                note="how far one update moved the policy: mean |Δ log p|",
                unit="nats",
            ),
            Chart(
                title="Effective sample size of the ratios",
                lines=lines(("policy/ratio_ess", "loss"), ("correction/ess", "correction")),
                **PERCENT,
            ),
            Chart(
                title="Ratios of the trained tokens",
                lines=lines(("policy/ratio_p99", "99th percentile"), ("policy/ratio_p1", "1st percentile")),
                note="π/π_old; all are 1 where the policy is the one that generated",
            ),
            Chart(title="Gradient norm", lines=lines(("optim/grad_norm", "before clipping"))),
            Chart(title="Learning rate", lines=lines(("optim/learning_rate", "learning rate")), smooth=False),
        ),
    ),
    Section(
        "Speed and memory",
        (
            Chart(
                title="Where a step's time went",
                kind="stack",
                lines=lines(("part/wait", "waiting for completions"), *((f"part/{name}", name) for name in TIME_PARTS)),
                unit="s",
            ),
            Chart(title="Time of a step", lines=lines(("time/step", "seconds")), unit="s", for_several=True),
            Chart(
                title="Idle",
                lines=lines(("part/idle_generator", "generators"), ("part/idle_trainer", "learner")),
                **PERCENT,
            ),
            Chart(title="Generated", lines=lines(("throughput/tokens_per_second", "tokens a second"))),
            Chart(title="Utilization (MFU)", lines=lines(("perf/mfu", "of the learner")), **PERCENT),
            Chart(title="Memory of the processes", lines=lines(("memory/*_host", "*")), **GIB, smooth=False),
            Chart(title="Memory of the GPUs", lines=lines(("memory/*_gpu", "*")), **GIB, smooth=False),
            Chart(
                title="Memory of the fullest node",
                lines=lines(("memory/node_fraction", "used")),
                **PERCENT,
                smooth=False,
            ),
            Chart(title="Requests", lines=lines(("engine/running", "running"), ("engine/waiting", "waiting"))),
            Chart(
                title="KV cache",
                lines=lines(("engine/kv_usage", "used"), ("engine/prefix_hit_fraction", "prefix hits")),
                **PERCENT,
            ),
        ),
    ),
)


def derived(table: dict[str, Floats]) -> dict[str, Floats]:
    """Columns that a chart needs and no metric is: parts of a step's time that add up, idle shares."""
    step = table.get("time/step")
    if step is None:
        return {}
    parts = {f"part/{name}": np.nan_to_num(table[f"time/{name}"]) for name in TIME_PARTS if f"time/{name}" in table}
    found = {"part/wait": np.maximum(step - sum(parts.values()), 0.0), **parts}
    for name in ("idle_generator", "idle_trainer"):
        if f"time/{name}" in table:
            found[f"part/{name}"] = table[f"time/{name}"] / step
    return found
