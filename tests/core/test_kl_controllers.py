"""KL controllers: written trajectories, saved state, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bolt_ray.core.kl import KLSettings
from bolt_ray.core.kl_controllers import KLController, kl_controller
from bolt_ray.core.kl_options import CONTROLLERS

PARAMETERS: dict[str, dict[str, Any]] = {
    "dynamic": {"window": 3},
    "ziegler": {"controller_target": 0.1},
    "ppo_penalty": {"controller_target": 0.1},
}


def make_kl_controller(kind: str | None, beta: float, **parameters: Any) -> KLController:
    return kl_controller(KLSettings(coef=beta, controller=kind, **parameters))


def step(controller: KLController, *, kl: float = 0.1, reward: float = 0.0, sequences: int = 100) -> float:
    return controller.update(kl=kl, mean_reward=reward, num_sequences=sequences)


def test_fixed_stays() -> None:
    controller = make_kl_controller(None, 0.04)
    assert step(controller, kl=9.0) == controller.beta == 0.04
    assert controller.metrics() == {"adaptive_kl/current_beta": 0.04}


def test_dynamic_decays_once_the_window_is_full_of_high_rewards() -> None:
    controller = make_kl_controller("dynamic", 0.04)
    betas = [step(controller, reward=0.9) for _ in range(12)]
    assert betas == pytest.approx([0.04] * 9 + [0.036, 0.0324, 0.02916])


def test_dynamic_looks_at_the_last_window_only() -> None:
    controller = make_kl_controller("dynamic", 1.0, window=2, reward_threshold=0.5, dynamic_beta_decay=0.5)
    rewards = [0.0, 0.8, 0.8, 0.1, 0.9, 0.9]
    # means of the last two: .4, .8, .45, .5 (not above), .9
    assert [step(controller, reward=r) for r in rewards] == pytest.approx([1, 1, 0.5, 0.5, 0.5, 0.25])


def test_dynamic_stops_at_beta_min_and_falls_to_it_after_the_schedule() -> None:
    controller = make_kl_controller("dynamic", 0.04, window=1, dynamic_beta_decay=0.1, beta_min=0.01)
    assert [step(controller, reward=1.0) for _ in range(2)] == pytest.approx([0.01, 0.01])
    scheduled = make_kl_controller("dynamic", 0.04, beta_schedule_steps=3, beta_min=0.005)
    assert [step(scheduled) for _ in range(5)] == pytest.approx([0.04, 0.04, 0.04, 0.005, 0.005])


def test_ziegler_moves_with_a_clipped_error() -> None:
    controller = make_kl_controller("ziegler", 0.1, controller_target=0.1, horizon=1000)
    assert step(controller, kl=0.11) == pytest.approx(0.1 * 1.01)  # e = .1, n/horizon = .1
    assert step(controller, kl=5.0) == pytest.approx(0.1 * 1.01 * 1.02)  # e clipped to .2
    assert step(controller, kl=0.0) == pytest.approx(0.1 * 1.01 * 1.02 * 0.98)


def test_ziegler_never_turns_negative() -> None:
    controller = make_kl_controller("ziegler", 0.1, controller_target=0.1, horizon=10)
    assert step(controller, kl=0.0, sequences=1000) == 0.0


def test_ppo_penalty_doubles_and_halves_outside_its_band() -> None:
    controller = make_kl_controller("ppo_penalty", 0.1, controller_target=0.25)
    kls = [0.38, 0.375, 0.17, 0.16]  # the band is 0.1667 … 0.375
    assert [step(controller, kl=kl) for kl in kls] == pytest.approx([0.2, 0.2, 0.2, 0.1])


@pytest.mark.parametrize("kind", CONTROLLERS)
def test_saved_state_continues_the_same_trajectory(kind: str) -> None:
    inputs = [(0.2, 0.9), (0.01, 0.85), (0.3, 0.95), (0.5, 0.9), (0.05, 0.2), (0.2, 1.0)]
    whole = make_kl_controller(kind, 0.04, **PARAMETERS[kind])
    expected = [step(whole, kl=kl, reward=reward) for kl, reward in inputs]
    first = make_kl_controller(kind, 0.04, **PARAMETERS[kind])
    begun = [step(first, kl=kl, reward=reward) for kl, reward in inputs[:3]]
    second = make_kl_controller(kind, 0.04, **PARAMETERS[kind])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert begun + [step(second, kl=kl, reward=reward) for kl, reward in inputs[3:]] == expected


def test_a_state_of_another_kind_or_a_damaged_one_is_refused() -> None:
    controller = make_kl_controller("ziegler", 0.04, controller_target=0.1)
    with pytest.raises(ValueError, match="saved KL controller is 'dynamic'"):
        controller.load_state_dict(make_kl_controller("dynamic", 0.04).state_dict())
    with pytest.raises(ValueError, match="damaged"):
        controller.load_state_dict({"kind": "ziegler", "beta": float("nan")})


@pytest.mark.parametrize(
    ("kind", "beta", "parameters", "message"),
    [
        ("pid", 0.1, {}, "choose one of dynamic"),
        (None, -0.1, {}, "coef must be at least 0"),
        ("dynamic", 0.0, {}, "which is 0"),
        ("ziegler", 0.0, {}, "which is 0"),
        ("ppo_penalty", 0.0, {}, "which is 0"),
        ("ziegler", 0.1, {"controller_target": 0.0}, "controller_target"),
        ("ziegler", 0.1, {"horizon": 0}, "horizon"),
        ("ppo_penalty", 0.1, {"controller_target": float("inf")}, "controller_target"),
        ("dynamic", 0.1, {"window": 0}, "at least 1"),
        ("dynamic", 0.1, {"dynamic_beta_decay": 1.5}, "dynamic_beta_decay"),
        ("dynamic", 0.1, {"beta_min": 0.2}, "beta_min"),
        ("dynamic", 0.1, {"reward_threshold": float("nan")}, "reward_threshold"),
    ],
)
def test_bad_settings_are_refused(kind: str | None, beta: float, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_kl_controller(kind, beta, **parameters)


@pytest.mark.parametrize("kind", CONTROLLERS)
def test_a_step_without_finite_numbers_is_refused_and_changes_nothing(kind: str) -> None:
    controller = make_kl_controller(kind, 0.04, **PARAMETERS[kind])
    before = controller.state_dict()
    with pytest.raises(ValueError, match="skip the update"):
        step(controller, kl=float("nan"), reward=float("nan"))
    assert controller.state_dict() == before
