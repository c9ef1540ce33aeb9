"""What a run was, in words: what was trained, what it gained, how far it came."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import numpy as np

from bolt_ray.commands.report.reading import ReadRun
from bolt_ray.commands.report.series import Floats, axes
from bolt_ray.commands.status.condition import Standing
from bolt_ray.core.evaluation.pass_at_k import difference_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What training changed.

    Attributes:
        label: what was measured.
        before, after: as text.
        change: their difference, with its interval where that is known.
        verdict: by the interval; ``unknown`` without one, ``unclear`` where it holds 0.
    """

    label: str
    before: str
    after: str
    change: str
    verdict: Literal["better", "worse", "unclear", "unknown"]


def facts(run: ReadRun, table: Mapping[str, Floats]) -> list[tuple[str, str]]:
    """Labels and values: model, algorithm, data, rewards, steps, completions, tokens, time."""
    config = run.config
    of = _at(config, "train", "max_steps")
    found = [
        ("Model", _model(config)),
        ("Algorithm", _algorithm(config)),
        ("Data", _listed(_entries(config, "datasets"), "name")),
        ("Rewards", ", ".join(_reward(entry) for entry in _entries(config, "rewards"))),
        ("Steps", f"{run.last_step:,}" + (f" of {of:,}" if isinstance(of, int) else "")),
    ]
    if table.get("step", np.zeros(0)).size:
        last = {name: float(values[-1]) for name, values in axes(table).items()}
        found += [
            ("Completions", f"{last['completions']:,.0f}"),
            ("Tokens", f"{last['tokens']:,.0f}"),
            ("Time", str(timedelta(seconds=round(3600.0 * last["hours"])))),
        ]
    return [(label, value) for label, value in found if value]


def story(run: ReadRun) -> str:
    """What was trained, with what result, and how it ended, in sentences."""
    config, found = run.config, gains(run)
    data, rewards = _listed(_entries(config, "datasets"), "name"), _listed(_entries(config, "rewards"), "type")
    sentences = []
    if data:
        scored = f", scored by {rewards}" if rewards else ""
        sentences.append(f"{_model(config)} was trained by {config.get('algo')} on {data}{scored}.")
    if found:
        verb = {"better": "rose", "worse": "fell", "unclear": "did not clearly change"}.get(found[0].verdict, "changed")
        sentences.append(f"{found[0].label} {verb}: {found[0].change}.")
    return " ".join([*sentences, standing(run)])


def standing(run: ReadRun) -> str:
    """How the run stands, in a sentence; what no file says is left open."""
    of = _at(run.config, "train", "max_steps")
    steps = f"step {run.last_step:,}" + (f" of {of:,}" if isinstance(of, int) else "")
    if run.condition is not None:
        kind = {Standing.RUNNING: "is going on", Standing.STALLED: "has stalled", Standing.ENDED: "has ended"}
        why = f": {run.condition.text}" if run.condition.text else ""
        return f"The run {kind[run.condition.standing]} after {steps}{why}."
    if run.last_step == of:
        return "The run is done."
    return f"The last record is of {steps}: the run was going on when this was written, or was cut off."


def gains(run: ReadRun) -> list[Gain]:
    """First evaluation against the last, for all problems and each dataset; without evaluations, the reward's ends."""
    evaluations = run.evaluations
    names = [name for name in dict.fromkeys(name for record in evaluations for name in record) if _is_score(name)]
    found = []
    for name in names:
        having = [record for record in evaluations if _is_number(record.get(name))]
        if len(having) > 1:
            found.append(_gain(name, having[0], having[-1]))
    if not found:
        found = _reward_gain([float(r["reward/mean"]) for r in run.steps if _is_number(r.get("reward/mean"))])
    return found


def _is_score(name: str) -> bool:
    """``eval/pass@1``, ``eval/pass@8``, ``eval/maj@k``, ``eval/gsm8k/pass@1``; not the ends of an interval."""
    last = name.rpartition("/")[2]
    return name.startswith("eval/") and last.startswith(("pass@", "maj@")) and not last.endswith(("_low", "_high"))


def _gain(name: str, first: Mapping[str, Any], last: Mapping[str, Any]) -> Gain:
    before, after = _with_interval(name, first), _with_interval(name, last)
    change = f"{100 * (after[0] - before[0]):+.1f} points"
    verdict: Literal["better", "worse", "unclear", "unknown"] = "unknown"
    if len(before) == 3 and len(after) == 3:
        low, high = difference_interval(before, after)
        change += f" [{100 * low:+.1f}, {100 * high:+.1f}]"
        verdict = "better" if low > 0 else "worse" if high < 0 else "unclear"
    return Gain(
        label=f"Held-out {name.removeprefix('eval/')}",
        before=_percent(before),
        after=_percent(after),
        change=f"{change} from step {int(first['step']):,} to step {int(last['step']):,}",
        verdict=verdict,
    )


def _with_interval(name: str, record: Mapping[str, Any]) -> tuple[float, float, float] | tuple[float]:
    value, low, high = (record.get(full) for full in (name, f"{name}_low", f"{name}_high"))
    if low is None or high is None:
        return (float(value or 0.0),)
    return float(value or 0.0), float(low), float(high)


def _percent(share: Sequence[float]) -> str:
    value, *ends = (100 * number for number in share)
    return f"{value:.1f} %" + (f" [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else "")


def _reward_gain(rewards: Sequence[float]) -> list[Gain]:
    if len(rewards) < 2:
        return []
    tenth = max(len(rewards) // 10, 1)
    before, after = float(np.mean(rewards[:tenth])), float(np.mean(rewards[-tenth:]))
    what = "step" if tenth == 1 else f"{tenth:,} steps"
    return [
        Gain(
            label="Reward",
            before=f"{before:.3g}",
            after=f"{after:.3g}",
            change=f"{after - before:+.3g} from the first {what} to the last; there is no evaluation to compare",
            verdict="unknown",
        )
    ]


def _model(config: Mapping[str, Any]) -> str:
    name = str(_at(config, "model", "name_or_path") or "")
    rank = _at(config, "model", "lora_r")
    return f"{name}, LoRA of rank {rank}" if _at(config, "model", "use_peft") else name


def _algorithm(config: Mapping[str, Any]) -> str:
    """``bolt: dapo loss, advantage over tracker, uncertainty curriculum, 1 completion a draw``."""
    if not config.get("algo"):
        return ""
    group = _at(config, "rollout", "group_size")
    parts = [
        f"{_at(config, 'loss', 'type')} loss",
        f"baseline {_at(config, 'advantage', 'baseline')}",
        f"{_at(config, 'curriculum', 'strategy')} curriculum",
        f"{group} completion{'' if group == 1 else 's'} a draw",
        f"learning rate {_at(config, 'train', 'learning_rate')}",
    ]
    return f"{config['algo']}: " + ", ".join(part for part in parts if "None" not in part)


def _reward(entry: Mapping[str, Any]) -> str:
    weight = entry.get("weight", 1.0)
    return str(entry.get("type")) + ("" if weight == 1 else f" × {weight}")


def _listed(entries: Sequence[Mapping[str, Any]], key: str) -> str:
    return ", ".join(dict.fromkeys(str(entry.get(key)) for entry in entries))


def _entries(config: Mapping[str, Any], section: str) -> list[Mapping[str, Any]]:
    entries = config.get(section)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _at(config: Mapping[str, Any], section: str, key: str) -> Any:
    tree = config.get(section)
    return tree.get(key) if isinstance(tree, dict) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
