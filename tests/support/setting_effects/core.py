"""Settings of the baseline and the curriculum, seen in what a store and a curriculum compute."""

from __future__ import annotations

from typing import Any

import numpy as np
from support.effects import Effect, Workplace, effect, state_of
from support.wired_run import run_wired

from bolt_ray.config.loading import build_config
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.baseline import BaselineStore
from bolt_ray.core.baseline.prompt_features import prompt_features
from bolt_ray.core.baseline.settings import BaselineSettings
from bolt_ray.core.curriculum import Curriculum, ScoredDraws
from bolt_ray.core.records import PromptColumns
from bolt_ray.training.curriculum_stream import CurriculumPrompts


def estimates(config: RunConfig, here: Workplace) -> Any:
    """v̂ and N_eff after some visits, in a store made from what the shards get."""
    settings = run_wired(config, here)["made"]["shards"]["settings"]
    assert isinstance(settings, BaselineSettings)
    store = BaselineStore(settings)
    store.register(["a", "b", "c"], features=prompt_features(["3-2=", "48/(7*61)=", "12*3="]))
    for _ in range(5):  # a level of texts takes 256 outcomes to be followed
        store.update_many(["a", "b"], [48.0, 16.0], [64, 64])
    for version, (keys, sums) in enumerate([(["a"], [1.0]), (["a", "b"], [0.0, 1.0]), (["b"], [0.5]), (["a"], [1.0])]):
        store.update_many(keys, sums, [1] * len(keys), drift=0.4 + version / 10, versions=version)
    return [store.get(key) for key in ("a", "b", "c")]


def weights(config: RunConfig, here: Workplace) -> Any:
    """Of some prompts after a trained batch, by the curriculum that the stream gets."""
    given = run_wired(config, here)["made"]["prompts"]["curriculum"]
    assert isinstance(given, Curriculum)
    curriculum = Curriculum(given.settings, seed=given.seed)
    columns = PromptColumns(
        v_hat=np.array([0.95, 0.5, 0.25, 0.1, 0.6, 0.7], dtype=np.float32),
        n_eff=np.array([10.0, 4.0, 8.0, 9.0, 1.0, 2.0], dtype=np.float32),
        visits=np.array([3, 3, 2, 2, 1, 1], dtype=np.int32),
        solved_streak=np.array([2, 0, 0, 0, 0, 0], dtype=np.int32),
        last_version=np.array([3, 1, 0, 0, -1, 2], dtype=np.int32),
        category=np.array([0, 1, 0, 1, 0, 1], dtype=np.int32),
    )
    batch = ScoredDraws(
        rows=np.array([3, 1]),
        rewards=np.array([1.0, 0.0]),
        abs_advantages=np.array([0.9, 0.1]),
        trained=np.ones(2, dtype=np.bool_),
        categories=np.array([0, 1]),
    )
    curriculum.observe(batch)
    found = curriculum.weights(columns, step=3, total_steps=10, window=0, version=4)
    return found / found.sum()


class Rows:
    """A store of twelve prompts of two categories, as the stream of a run asks for it."""

    num_rows = 12
    address = "rows"

    def source_ids(self) -> Any:
        return np.zeros(12, dtype=np.int64)

    def read(self, rows: Any) -> list[Any]:
        from bolt_ray.core.records import Prompt

        return [Prompt(row=int(row), key=str(row), prompt="p", metadata={"topic": int(row) % 2}) for row in rows]


def stream(config: RunConfig, here: Workplace) -> Any:
    """The stream made from what the assembly gives it, over other rows; before anything is drawn."""
    given = run_wired(config, here)["made"]["prompts"]
    return state_of(
        CurriculumPrompts(**(given | {"store": Rows(), "rows": np.arange(12), "baseline": None, "tokenize": None}))
    )


def preset(config: RunConfig, here: Workplace) -> Any:
    """What a configuration with nothing but an algorithm becomes."""
    tree = {"algo": config.algo, "datasets": [{"name": "rows.jsonl"}], "rewards": ["exact"]}
    return build_config(tree).model_dump(exclude={"algo"})


SEC = {"curriculum__strategy": "sec", "curriculum__category": "kind"}

EFFECTS: tuple[Effect, ...] = (
    effect("algo", "grpo", preset, rollout__rollouts_per_step=8),
    effect("baseline.estimator", "beta", estimates),
    effect("baseline.strength", 7.0, estimates),
    effect("baseline.text_level", False, estimates),
    effect("baseline.forgetting", "constant", estimates),
    effect("baseline.forgetting", "event", estimates, baseline__estimator="beta"),
    effect("baseline.kl_source", "batch", estimates, baseline__rho_min=0.1),
    effect("baseline.rho_min", 0.5, estimates),
    effect("baseline.rho_max", 0.9, estimates, baseline__forgetting="constant"),
    effect("baseline.d_half", 2.5, estimates),
    effect("baseline.prior", [3.0, 1.0], estimates, baseline__estimator="beta"),
    effect("baseline.reward_range", [0.0, 2.0], lambda config, here: BaselineStore(config.baseline).settings.meaning),
    effect("curriculum.strategy", "uniform", weights),
    effect("curriculum.update_freq", 3, stream),
    effect("curriculum.window_steps", 2, stream),
    effect("curriculum.epsilon", 0.5, weights),
    effect("curriculum.gamma", 0.5, weights),
    effect("curriculum.target", 0.9, weights, curriculum__strategy="thompson"),
    effect("curriculum.target", 0.3, weights, curriculum__strategy="competence_based", curriculum__num_bins=3),
    effect("curriculum.temperature", 0.5, weights, curriculum__strategy="easy_first"),
    effect("curriculum.temperature", 0.5, weights, curriculum__strategy="competence_based"),
    effect("curriculum.temperature", 0.5, weights, curriculum__strategy="cures"),
    effect("curriculum.temperature", 0.5, weights, **SEC),
    effect("curriculum.num_bins", 2, weights, curriculum__strategy="easy_first"),
    effect("curriculum.num_bins", 2, weights, curriculum__strategy="competence_based"),
    effect("curriculum.binning", "compatible", weights, curriculum__strategy="easy_first"),
    effect("curriculum.ema_alpha", 0.5, weights, curriculum__strategy="easy_first"),
    effect("curriculum.learning_rate", 0.9, weights, **SEC),
    effect("curriculum.category", "topic", stream),
    effect("curriculum.skip_solved", True, weights),
    effect("curriculum.exploration_floor", 0.5, weights),
    effect("curriculum.staleness_bonus", 2.0, weights),
    effect("curriculum.allocate_rollouts", True, stream, rollout__group_size=2),
    effect("rollout.group_size", 2, stream),
    effect("rollout.rollouts_per_step", 6, stream),
    effect("data.on_long_prompt", "error", stream),
    effect("deadlines.prompts_s", 7.0, stream),
    effect("seed", 5, stream),
)
