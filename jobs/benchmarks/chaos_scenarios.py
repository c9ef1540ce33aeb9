"""The trainings of ``chaos.py``: a tiny model that learns to write small digits, and the kills of each."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from chaos_run import Kill

from bolt_ray.tasks.tiny.model import create_model, save_model
from bolt_ray.tasks.tiny.settings import TinyModelSettings

TARGETS: dict[str, dict[str, Any]] = {
    "generator": {"cluster": {"num_generators": 2}},
    "only generator": {},
    "scorer": {"scoring": {"num_scorers": 2}},
    "shard": {"baseline": {"num_shards": 2}},
    "rank": {"cluster": {"num_learners": 2}},
    "mailbox": {},
    "driver": {},
    "node": {"cluster": {"num_generators": 2}},
    "everything": {},
}
"""What is killed, and what the training has more of for it."""

PARTS = (0.0, 0.2, 0.5, 0.8)
EVERYTHING_POINTS = 10

REWARD = '''"""1 for a completion with a digit below five; slowly, so that scorers can be killed at it."""
import time


def score(item):
    time.sleep(0.01)
    return float(any(character in "01234" for character in item.completion))
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One training and its kills; without any it is what the others are compared with."""

    target: str | None
    staleness: int
    phases: tuple[str, ...]
    steps: int

    @property
    def name(self) -> str:
        return f"{(self.target or 'reference').replace(' ', '-')}-{self.staleness}"

    @property
    def kills(self) -> list[Kill]:
        """The same ones at every call."""
        if self.target is None:
            return []
        chance = random.Random(self.name)
        phases = self.phases
        if self.target == "everything":
            phases = tuple(chance.choices(phases, k=EVERYTHING_POINTS))
        what = "generator" if self.target == "only generator" else self.target
        return [Kill(target=what, phase=phase, part=chance.choice(PARTS)) for phase in phases]


def write_config(directory: Path, scenario: Scenario, *, model: Path, address: str | None) -> None:
    (directory / "reward.py").write_text(REWARD, encoding="utf-8")
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(16) for b in range(16)]
    (directory / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tree: dict[str, Any] = {
        "run_dir": str(directory / "run"),
        "model": {"name_or_path": str(model), "dtype": "float32"},
        "datasets": [{"name": str(directory / "prompts.jsonl")}],
        "data": {"store_dir": str(directory / "store"), "heldout_size": 64},
        "rewards": [{"type": f"{directory / 'reward.py'}:score"}],
        "sampling": {"max_new_tokens": 8},
        "rollout": {"rollouts_per_step": 32, "max_staleness": scenario.staleness},
        "curriculum": {"update_freq": 2},
        "train": {"max_steps": scenario.steps, "learning_rate": 3e-3},
        "scoring": {"num_scorers": 1, "cpus_per_scorer": 0.1, "batch_size": 4},
        "generator": {"kv_cache_gib": 0.05, "max_num_seqs": 32},
        "eval": {"every_steps": 3},
        "checkpoint": {"every_steps": 2},
        "baseline": {"num_shards": 1},
        "cluster": {"address": address, "max_generator_replacements": 100, "max_learner_restarts": 100},
        "logging": {"ray_metrics": False},
    }
    for section, values in TARGETS.get(scenario.target or "", {}).items():
        tree[section] = tree[section] | values
    (directory / "config.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")


def scenarios(targets: Sequence[str], staleness: Sequence[int], phases: Sequence[str], steps: int) -> list[Scenario]:
    return [
        Scenario(target=target, staleness=versions, phases=tuple(phases), steps=steps)
        for versions in staleness
        for target in (None, *targets)
        if not (target == "everything" and versions > 0)
    ]


def tiny_model(out: Path) -> Path:
    """An untrained model of 0.2 M parameters."""
    directory = out / "model"
    if not directory.exists():
        model, tokenizer = create_model(TinyModelSettings(context_length=64), seed=1)
        save_model(model, tokenizer, directory)
    return directory
