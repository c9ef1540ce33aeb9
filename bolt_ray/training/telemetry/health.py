"""What is wrong with a run, by the records of its steps: each thing once, with the setting to change.

Rules are pure functions of the first steps and the last ones, so a run is judged at the same cost at every step. A
metric that a record lacks is NaN in them, and a comparison with NaN holds for nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, pstdev
from typing import Any

from bolt_ray.core.evaluation.pass_at_k import difference_interval

FIRST_STEPS = 5
"""What a run began with."""
LAST_STEPS = 20
"""What it does now."""
ENOUGH_STEPS = 10
"""Before so many nothing is said."""
EVERY_STEPS = 5

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Something that is wrong.

    Attributes:
        rule: its name in `RULES`.
        step: finished steps when it was seen first.
        text: what it is, with its numbers.
        advice: the settings to change.
    """

    rule: str
    step: int
    text: str
    advice: str

    def __str__(self) -> str:
        return f"Warning: step {self.step}: {self.text}. {self.advice}"


@dataclass(frozen=True, slots=True)
class Steps:
    """Records of a run's ``first`` and ``last`` steps, oldest first; ``evaluations``: its best and its last one."""

    first: Sequence[Record]
    last: Sequence[Record]
    evaluations: Sequence[Record] = ()

    def began(self, name: str) -> float:
        """Mean of a metric over the first steps; NaN where none has it."""
        return _mean([record[name] for record in self.first if name in record])

    def now(self, name: str) -> float:
        """Mean over the last steps; NaN where none has it."""
        return _mean([record[name] for record in self.last if name in record])

    def share_of_time(self, name: str) -> float:
        """What part of a step's time is spent on ``name``, as a rule: the median of the last ones."""
        shares = [record[name] / record["time/step"] for record in self.last if name in record]
        return median(shares) if shares else math.nan


Finding = tuple[str, str] | None
"""Text and advice."""


def _no_variance(steps: Steps) -> Finding:
    share = steps.now("reward/zero_std_fraction")
    if not share > 0.5:
        return None
    return (
        f"in {share:.0%} of the groups all rewards are equal: these teach nothing (metric reward/zero_std_fraction)",
        "rollout.dynamic_sampling refills them, curriculum.strategy: uncertainty draws fewer of them, and "
        "advantage.baseline: tracker needs no groups",
    )


def _truncation(steps: Steps) -> Finding:
    began, now = steps.began("completions/truncated_fraction"), steps.now("completions/truncated_fraction")
    if not now > max(0.25, began + 0.05):
        return None
    return (
        f"{now:.0%} of the completions are cut at the length limit, {began:.0%} at the start",
        "Raise sampling.max_new_tokens, leave them out of the loss with loss.mask_truncated, or add the reward "
        "'overlong', which takes away for long ones",
    )


def _entropy(steps: Steps) -> Finding:
    began, now = steps.began("policy/entropy"), steps.now("policy/entropy")
    if not now < 0.1 * began:
        return None
    return (
        f"the policy's entropy fell from {began:.3g} to {now:.3g} nats: it hardly tries anything new",
        "Lower train.learning_rate, raise loss.clip_high or loss.entropy_coef, or hold to the reference with kl.coef",
    )


def _gap(steps: Steps) -> Finding:
    # What is older than the policy differs from it by right; only the weight sync's own check compares like with like.
    name = "policy/sync_gap" if steps.now("policy/staleness_max") > 0 else "policy/logprob_gap"
    began, now = steps.began(name), steps.now(name)
    if not now > max(3.0 * began, 0.005):
        return None
    return (
        f"generator and learner disagree by {now:.2g} nats a token, {began:.2g} at the start (metric {name})",
        "Compute both in one precision (generator.dtype, model.dtype), or weigh it out with correction.mode; "
        "generator.max_logprob_gap is where the run stops",
    )


def _v_hat(steps: Steps) -> Finding:
    name, weighed = "baseline/variance_reduction_seen", []
    for record in steps.last:
        if name in record:
            seen = record.get("baseline/seen_fraction", 0.0) * record.get("rollout/completions", 0.0)
            weighed.append((seen, seen * record.get("reward/std", 0.0) ** 2, record[name]))
    variance = sum(weight for _, weight, _ in weighed)
    if len(steps.last) < LAST_STEPS or sum(seen for seen, _, _ in weighed) < 256 or not variance > 0:
        return None
    parts = [weight * share for _, weight, share in weighed]
    # Few prompts seen before, each with a group of completions, make a noisy sum: it has to be surely below 0.
    if not sum(parts) < -2.0 * pstdev(parts) * math.sqrt(len(parts)):
        return None
    explained = sum(parts) / variance
    gap = steps.now("baseline/versions_between_visits")
    return (
        f"v̂ predicts the rewards of prompts seen before worse than the batch's mean (it explains {explained:.0%} of "
        f"their variance); prompts are visited about every {gap:.0f} versions",
        "Advantages that subtract it are noisier than with advantage.baseline: batch; see docs/algorithms.md, "
        "Persistent baseline, for baseline.forgetting and baseline.strength",
    )


def _nothing_to_learn(steps: Steps) -> Finding:
    solved, hopeless = steps.now("baseline/hist_9"), steps.now("baseline/hist_0")
    if steps.now("reward/std") < 1e-9:
        what = f"all completions of a step get the same reward ({steps.now('reward/mean'):.3g})"
    elif solved > 0.8:
        what = f"{solved:.0%} of the prompts trained on are solved (v̂ above 0.9)"
    elif hopeless > 0.8:
        what = f"{hopeless:.0%} of the prompts trained on are hopeless (v̂ below 0.1)"
    else:
        return None
    return (
        f"{what}: few completions teach anything",
        "Use harder or easier data (datasets), curriculum.strategy: uncertainty, or rewards with partial credit",
    )


def _constant_parts(steps: Steps) -> Finding:
    names = [name for name in steps.last[-1] if name.split("/")[:2] == ["reward", "part"]]
    values = {name: {record.get(name) for record in (*steps.first, *steps.last)} for name in names}
    constant = {name.rpartition("/")[2]: found.pop() for name, found in values.items() if len(found) == 1}
    if not constant or len(names) == 1:  # a single one: all rewards are equal
        return None
    shown = ", ".join(f"{name} ({value:.3g})" for name, value in constant.items())
    return (
        f"these rewards have given the same mean at every step: {shown}; they teach nothing",
        "Look at what they are given (bolt-ray inspect --samples), or leave them out of rewards",
    )


def _constant_answer(steps: Steps) -> Finding:
    share, pays = steps.now("completions/most_common_fraction"), steps.now("reward/most_common")
    if not (share > 0.8 and pays > steps.began("reward/mean")):
        return None
    return (
        f"{share:.0%} of the prompts get the same answer, and it earns {pays:.3g} on average; the run began at "
        f"{steps.began('reward/mean'):.3g}",
        "The reward pays for an answer that does not depend on the prompt: look at it (bolt-ray inspect --samples), "
        "then at rewards and at how often datasets have that answer",
    )


def _evaluation(steps: Steps) -> Finding:
    names = ("eval/pass@1", "eval/pass@1_low", "eval/pass@1_high")
    scores = [[record.get(name, math.nan) for name in names] for record in steps.evaluations]
    if len(scores) < 2 or not difference_interval(*scores)[1] < 0:
        return None
    return (
        f"the evaluation fell to {scores[1][0]:.1%}; at step {steps.evaluations[0]['step']} it was {scores[0][0]:.1%}",
        "Go back to a checkpoint (checkpoint.keep), with a lower train.learning_rate or a higher kl.coef",
    )


def _unscored(steps: Steps) -> Finding:
    share = steps.now("reward/unscored_fraction")
    if not share > 0.05:
        return None
    return (
        f"{share:.0%} of the completions get no reward (metrics reward/unscored/…, by reward and reason)",
        "Mend the reward, give it time or processes (scoring.timeout_s, scoring.num_scorers); "
        "scoring.max_unscored_fraction is where the run stops",
    )


def _idle(steps: Steps) -> Finding:
    generator, trainer = steps.share_of_time("time/idle_generator"), steps.share_of_time("time/idle_trainer")
    taking_turns = not steps.now("policy/staleness_max") > 0
    # Who takes turns waits for the other: half of the time where both are equally fast.
    limit = 0.8 if taking_turns else 0.6
    overlap = "rollout.max_staleness: 1 lets both work at once; " if taking_turns else ""
    if trainer > limit:
        return (
            f"the learner waits {trainer:.0%} of the time",
            f"{overlap}more generators (cluster.num_generators) make completions faster",
        )
    if generator > limit:
        return (
            f"the generators wait {generator:.0%} of the time",
            f"{overlap}more learners (cluster.num_learners) or fewer cluster.num_generators balance the two",
        )
    return None


def _memory(steps: Steps) -> Finding:
    share = Steps(steps.first, steps.last[-EVERY_STEPS:]).now("memory/node_fraction")
    if not share > 0.85:
        return None
    return (
        f"{share:.0%} of a node's memory is in use; Ray ends processes at 95%",
        "Put fewer processes on a node (cluster.num_generators, scoring.num_scorers), or take smaller passes "
        "(train.micro_batch_tokens); train.offload_optimizer keeps its state there",
    )


RULES: Mapping[str, Callable[[Steps], Finding]] = {
    "zero-variance groups": _no_variance,
    "truncation": _truncation,
    "evaluation fell": _evaluation,
    "entropy collapse": _entropy,
    "rising gap": _gap,
    "v̂ worse than the mean": _v_hat,
    "solved or hopeless": _nothing_to_learn,
    "constant reward parts": _constant_parts,
    "constant answer": _constant_answer,
    "unscored": _unscored,
    "idle side": _idle,
    "memory": _memory,
}


class Health:
    """Judges a run step by step.

    Attributes:
        verdicts: everything found so far, in the order of its steps; each rule once.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        """``records``: what there is of the run already."""
        self.verdicts: list[Verdict] = []
        self._steps = 0
        self._evaluations: list[Record] = []
        self._first: list[Record] = []
        self._last: deque[Record] = deque(maxlen=LAST_STEPS)
        for record in records:
            self.take(record)

    def take(self, record: Record) -> list[Verdict]:
        """Take in a line of ``metrics.jsonl``; what it is the first to show."""
        due = "eval/pass@1" in record
        if "reward/mean" in record:
            self._steps += 1
            if len(self._first) < FIRST_STEPS:
                self._first.append(record)
            self._last.append(record)
            due = self._steps % EVERY_STEPS == 0
        elif due:
            self._evaluations = [max([*self._evaluations[:1], record], key=lambda one: one["eval/pass@1"]), record]
        if not due or self._steps < ENOUGH_STEPS:
            return []
        known = {verdict.rule for verdict in self.verdicts}
        steps = Steps(self._first, list(self._last), self._evaluations)
        found = {name: rule(steps) for name, rule in RULES.items() if name not in known}
        new = [
            Verdict(rule=name, step=int(record["step"]), text=finding[0], advice=finding[1])
            for name, finding in found.items()
            if finding is not None
        ]
        self.verdicts += new
        return new


def judge(records: Iterable[Record]) -> list[Verdict]:
    """What is wrong with a run, by the lines of its ``metrics.jsonl``, oldest first."""
    return Health(records).verdicts


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
