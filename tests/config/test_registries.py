"""Registries, settings records and code agree: whatever a setting may be called is there, accepted, and its own."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bolt_ray.config import presets
from bolt_ray.config.loading import build_config
from bolt_ray.config.presets import PRESETS
from bolt_ray.config.schema import Algorithm, RunConfig
from bolt_ray.config.tree import SettingField, section_fields, sections_in
from bolt_ray.core.advantages import BASELINES, NORMALIZATIONS, compute_advantages
from bolt_ray.core.correction_options import LEVELS, MODES, CorrectionOptions
from bolt_ray.core.corrections import correction_weights
from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.base import ScoredDraws
from bolt_ray.core.curriculum.strategies.registry import STRATEGIES, make_strategy
from bolt_ray.core.errors import ConfigError
from bolt_ray.core.kl import estimate_kl, kl_terms, shape_kl
from bolt_ray.core.kl_controllers import kl_controller
from bolt_ray.core.kl_options import ADAPTATIONS, CONTROLLERS, ESTIMATORS, SHAPES, UNITS, KLOptions, KLSettings
from bolt_ray.core.losses import policy_loss
from bolt_ray.core.losses.registry import AGGREGATIONS, LOSSES
from bolt_ray.core.records import PromptColumns
from bolt_ray.core.schedules import ScheduleName
from bolt_ray.core.settings import SettingError
from bolt_ray.engines.learner.settings import LearnerSettings, TrainSettings
from bolt_ray.rewards.registry import REWARDS, reward_class
from bolt_ray.rewards.settings import RewardSettings, reward_names

SMALLEST = {"datasets": [{"name": "arithmetic"}], "rewards": [{"type": "arithmetic"}]}

REQUIRED: dict[str, dict[str, Any]] = {
    "regex": {"pattern": "x"},
    "length": {"target_tokens": 10, "tolerance_tokens": 5},
    "overlong": {"max_tokens": 10, "cache_tokens": 5},
    "function": {"function": "my_rewards.py:score"},
    "callable": {"function": len},
    "reward_model": {"model": "scorer"},
    "http": {"url": "http://localhost:1/score"},
    "llm_judge": {"url": "http://localhost:1/v1", "model": "judge"},
}
"""The settings without a default of the rewards that have some."""


def all_differ(values: list[Any]) -> None:
    for one, other in itertools.combinations(values, 2):
        assert not np.allclose(np.asarray(one), np.asarray(other), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_is_a_class_with_a_record_that_the_configuration_accepts(name: str) -> None:
    kind = reward_class(name)
    assert issubclass(kind.settings, RewardSettings)
    entry = {"type": name, **REQUIRED.get(name, {})}
    (read,) = build_config({**SMALLEST, "rewards": [entry]}).rewards
    assert type(read) is kind.settings
    assert read.type == name
    assert reward_names([read, read])[0] != reward_names([read, read])[1]


def test_a_reward_without_its_required_settings_is_refused() -> None:
    for name in set(REQUIRED) - {"callable"}:
        with pytest.raises(ConfigError, match="required and missing"):
            build_config({**SMALLEST, "rewards": [{"type": name}]})


def columns() -> PromptColumns:
    return PromptColumns(
        v_hat=np.array([0.9, 0.5, 0.25, 0.1], dtype=np.float32),
        n_eff=np.array([10.0, 10.0, 8.0, 9.0], dtype=np.float32),
        visits=np.array([3, 3, 2, 2], dtype=np.int32),
        solved_streak=np.array([2, 0, 0, 0], dtype=np.int32),
        last_version=np.array([1, 1, 0, 0], dtype=np.int32),
        category=np.array([0, 1, 0, 1], dtype=np.int32),
    )


def strategy_weights(name: str) -> NDArray[np.float64]:
    strategy = make_strategy(CurriculumSettings(strategy=name, category="topic"))
    batch = ScoredDraws(
        rows=np.arange(2),
        rewards=np.ones(2),
        abs_advantages=np.array([0.9, 0.1]),
        trained=np.ones(2, dtype=np.bool_),
        categories=np.array([0, 1]),
    )
    strategy.observe(batch)
    weights = strategy.weights(columns(), step=3, total_steps=10, rng=np.random.default_rng(0))
    assert np.isfinite(weights).all() and weights.min() > 0.0
    return weights / weights.sum()


def test_every_strategy_is_there_and_draws_in_its_own_way() -> None:
    all_differ([strategy_weights(name) for name in STRATEGIES])


def loss_gradient(**options: Any) -> NDArray[np.float64]:
    logprobs = torch.tensor([[-1.0, -0.5, -2.0], [-0.3, -1.2, 0.0]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[-1.6, -0.5, -1.5], [-0.9, -1.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    advantages = torch.tensor([1.0, -0.5], dtype=torch.float64)
    output = policy_loss(logprobs, old, advantages, mask, max_completion_tokens=7, **options)
    output.loss.backward()
    assert logprobs.grad is not None
    return logprobs.grad.numpy()


def test_every_loss_is_there_and_has_a_gradient_of_its_own() -> None:
    # dapo and bnpo differ only in how a batch that is cut into several is averaged.
    all_differ([loss_gradient(type=name) for name in LOSSES if name != "bnpo"])
    np.testing.assert_allclose(loss_gradient(type="bnpo"), loss_gradient(type="dapo"))


def test_every_aggregation_is_there() -> None:
    assert {loss.aggregation for loss in LOSSES.values()} == set(AGGREGATIONS)
    all_differ([loss_gradient(type="dapo", aggregation=name) for name in AGGREGATIONS if name != "local_token_mean"])


K = torch.tensor([0.05, 0.4, 2.0], dtype=torch.float64)


def test_every_kl_estimator_and_shape_is_there() -> None:
    logprobs = torch.tensor([-1.0, -0.5, -2.0], dtype=torch.float64)
    ref = torch.tensor([-1.6, -0.1, -1.5], dtype=torch.float64)
    all_differ([estimate_kl(logprobs, ref, name) for name in ESTIMATORS])
    all_differ([K, *(shape_kl(K, KLOptions(adaptation=(name,))) for name in SHAPES)])
    assert set(ADAPTATIONS) - set(SHAPES) == {"length_normalized"}


def test_every_kl_unit_is_there() -> None:
    found = [
        kl_terms(
            torch.tensor([-1.0, -0.5]),
            torch.tensor([-1.6, -0.1]),
            log_ratio=torch.zeros(2),
            sequence_ids=torch.tensor([0, 0]),
            num_sequences=1,
            options=KLOptions(unit=unit),
        )
        for unit in UNITS
    ]
    assert [(terms.unit, len(terms.raw)) for terms in found] == [("token", 2), ("sequence", 1)]


def test_every_kl_controller_is_there_and_moves_the_coefficient_in_its_own_way() -> None:
    betas = []
    for name in (None, *CONTROLLERS):
        controller = kl_controller(KLSettings(coef=0.25, controller=name, window=1, horizon=100.0))
        controller.update(kl=0.3, mean_reward=0.9, num_sequences=10)
        betas.append(controller.beta)
    assert betas[0] == 0.25
    all_differ(betas)


def test_every_correction_is_there() -> None:
    def weights(level: str, mode: str) -> NDArray[np.float64] | None:
        found = correction_weights(
            torch.tensor([-0.2, -0.5, -1.0, -0.7]),
            torch.tensor([-1.4, -0.9, -1.1, -1.0]),
            sequence_ids=torch.tensor([0, 0, 1, 1]),
            num_sequences=2,
            options=CorrectionOptions(level=level, mode=mode),
        ).weights
        return None if found is None else found.double().numpy()

    assert [weights(level, "none") for level in LEVELS] == [None] * len(LEVELS)
    all_differ([weights(level, mode) for level in LEVELS for mode in MODES if mode != "none"])


def advantages(baseline: str, normalize: str) -> NDArray[np.float32]:
    return compute_advantages(
        [1.0, 0.0, 1.0, 0.25, 0.5, 1.0],
        v_hat=[0.7, 0.7, 0.2, 0.2, 0.2, 0.2],
        n_eff=[4.0] * 6,
        group_ids=[0, 0, 1, 1, 1, 1],
        lengths=[1, 2, 3, 4, 5, 6],
        baseline=baseline,
        normalize=normalize,
    ).advantages


def test_every_advantage_is_there() -> None:
    all_differ([advantages(name, "none") for name in BASELINES])
    all_differ([advantages("group", name) for name in NORMALIZATIONS])


def test_every_learning_rate_schedule_is_there() -> None:
    names = typing.get_args(ScheduleName)
    trains = [TrainSettings(lr_schedule=name, max_steps=10) for name in names]
    settings = [LearnerSettings(model_path="", train=train, reward_width=1.0, seed=0) for train in trains]
    all_differ([each.schedule.at(3) for each in settings])


Chosen = tuple[type, SettingField]


def chosen_by_name() -> list[Chosen]:
    """Every setting whose names a registry gives, with its record."""
    sections = [section for field in section_fields(RunConfig) for section in sections_in(field.annotation)]
    return [(section, field) for section in sections for field in section_fields(section) if field.choices]


BESIDE: dict[str, Callable[[str], dict[str, Any]]] = {
    "estimator": lambda name: {"placement": "reward"} if name == "k1" else {},
    "adaptation": lambda name: {"coef": 0.1},
    "controller": lambda name: {"coef": 0.1},
    "preset": lambda name: {"name": "problems.jsonl"},
}
"""What another setting must be where a name makes sense only beside it."""


@pytest.mark.parametrize(
    ("section", "field"), chosen_by_name(), ids=lambda part: part.__name__ if isinstance(part, type) else part.name
)
def test_the_names_that_are_shown_are_those_that_are_accepted(section: type, field: SettingField) -> None:
    def made(name: str) -> Any:
        value = (name,) if field.name in ("adaptation", "roles") else name
        return section(**{field.name: value, **BESIDE.get(field.name, lambda name: {})(name)})

    for name in field.choices:
        assert name in str(getattr(made(name), field.name))
    with pytest.raises(SettingError, match=field.name):
        made("no-such-name")


def test_there_are_as_many_such_settings_as_registries() -> None:
    names = {field.name for _, field in chosen_by_name()}
    assert names >= {"strategy", "type", "aggregation", "estimator", "adaptation", "controller", "mode", "baseline"}


def test_the_presets_are_the_algorithms() -> None:
    assert set(typing.get_args(Algorithm)) == set(PRESETS)
    assert presets.__doc__ is not None
    for name in PRESETS:
        assert f"| {name} " in presets.__doc__


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_valid_configuration_with_what_it_says(name: str) -> None:
    config = build_config({**SMALLEST, "algo": name})
    assert config.algo == name
    for section, values in PRESETS[name].items():
        found = dataclasses.asdict(getattr(config, section))
        assert {key: found[key] for key in values} == values


def test_no_two_presets_are_the_same() -> None:
    dumps = [build_config({**SMALLEST, "algo": name}).model_dump(exclude={"algo"}) for name in PRESETS]
    assert all(one != other for one, other in itertools.combinations(dumps, 2))
