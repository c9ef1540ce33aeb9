"""BoltConfig: the core's defaults, groups of one, and what is refused, each with one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser
from trl import GRPOConfig

from bolt_ray.core.baseline import BaselineSettings
from bolt_ray.core.curriculum import CurriculumSettings
from bolt_ray.core.errors import ConfigError
from bolt_ray.core.kl_options import KLSettings
from bolt_ray.integrations.trl import BoltConfig
from bolt_ray.integrations.trl.version import TESTED_VERSION, tell_untested


def config(tmp_path: Path, **changes: Any) -> BoltConfig:
    return BoltConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **changes)


def test_defaults_are_those_of_the_core(tmp_path: Path) -> None:
    found = config(tmp_path)
    assert found.baseline_settings == BaselineSettings()
    assert found.curriculum_settings == CurriculumSettings()
    assert found.kl_settings == KLSettings()
    assert found.advantage_options.normalize == "token"
    assert found.curriculum_enabled and found.baseline_enabled and found.use_baseline_advantages


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_group_of_one_passes_trls_check(tmp_path: Path, batch: int) -> None:
    """TRL itself refuses it; the batch need not be even, and evaluation asks for one completion as well."""
    with pytest.raises(ValueError, match="at least 2 generations"):
        GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, num_generations=1)
    found = config(tmp_path, per_device_train_batch_size=batch, do_eval=True, eval_strategy="steps", eval_steps=5)
    assert type(found.num_generations) is int
    assert (found.num_generations, found.num_generations_eval, found.generation_batch_size) == (1, 1, batch)


def test_a_group_is_as_trl_has_it(tmp_path: Path) -> None:
    assert config(tmp_path, num_generations=4).num_generations == 4
    with pytest.raises(ValueError, match="must be divisible by num_generations"):
        config(tmp_path, num_generations=3)


def test_without_switches_it_is_trls(tmp_path: Path) -> None:
    found = config(tmp_path, num_generations=8, baseline_enabled=False, curriculum_enabled=False)
    assert not found.keeps_store and not found.use_baseline_advantages


def test_dr_grpo_is_not_normalized(tmp_path: Path) -> None:
    assert config(tmp_path, loss_type="dr_grpo").advantage_options.normalize == "none"
    assert config(tmp_path, loss_type="dr_grpo", baseline_normalize="batch").advantage_options.normalize == "batch"


def test_who_has_trl_scale_nothing_gets_nothing_scaled(tmp_path: Path) -> None:
    """The other ways of scale_rewards need groups."""
    assert config(tmp_path, scale_rewards=False).advantage_options.normalize == "none"
    assert config(tmp_path, scale_rewards="none", baseline_normalize="token").advantage_options.normalize == "token"
    assert config(tmp_path, scale_rewards="batch").advantage_options.normalize == "token"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_baseline_advantages": True, "baseline_enabled": False}, "use_baseline_advantages: needs baseline_en"),
        ({"use_baseline_advantages": False}, "num_generations: 1 leaves TRL's own advantages"),
        ({"baseline_rho_min": 0.99}, "baseline_rho_min: 0.99 is above baseline_rho_max 0.96"),
        ({"baseline_D_half": 0.0}, "baseline_D_half: must be above 0, not 0"),
        ({"estimator": "gamma"}, "estimator: is 'gamma'; choose one of two_level, beta"),
        ({"estimator": "beta", "strength": 3.0}, "strength: does nothing with estimator beta"),
        ({"strength": "strong"}, "strength: is 'strong'; give auto or a number"),
        ({"curriculum_epsilon": -1.0}, "curriculum_epsilon: must be at least 0, not -1"),
        ({"curriculum_update_freq": 0}, "curriculum_update_freq: must be at least 1"),
        ({"baseline_normalize": "tokens"}, "did you mean 'token'"),
        ({"baseline_reward_range": [1.0, 0.0]}, r"baseline_reward_range: \(1.0, 0.0\)|\[1.0, 0.0\] must be"),
        ({"baseline_reward_range": 2.0}, r"baseline_reward_range: is 2.0; give \[low, high\]"),
        ({"kl_adaptation_method": "clipp", "beta": 0.1}, "'clipp' is none of none, clip.*did you mean 'clip'"),
        ({"kl_adaptation_method": "clip"}, "kl_adaptation_method: 'clip' has no effect with beta 0"),
        ({"kl_adaptation_method": "dynamic"}, "kl_adaptation_method: 'dynamic' multiplies beta, which is 0"),
        ({"kl_adaptation_method": "clip+sigmoid", "beta": 0.1}, "combines clip and sigmoid"),
        ({"kl_adaptation_method": "dynamic+dynamic", "beta": 0.1}, "names dynamic twice"),
        ({"kl_adaptation_method": "dynamic", "beta": 0.1, "beta_min": 0.2}, "beta_min: 0.2 is above beta 0.1"),
        ({"kl_adaptation_method": "clip", "beta": 0.1, "kl_clip_threshold": 0.0}, "kl_clip_threshold: must be above"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "multi_objective_aggregation: the baseline is of one"),
        (
            {"num_generations": 8, "baseline_enabled": False, "curriculum_enabled": False, "baseline_warm_start": "x"},
            "baseline_warm_start: does nothing",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **changes)


def test_it_can_be_given_on_a_command_line(tmp_path: Path) -> None:
    """By the parser that TRL's scripts use."""
    words = f"--output_dir {tmp_path} --use_cpu --bf16 false --strength 3 --baseline_reward_range -1 1 --beta 0.1"
    (found,) = HfArgumentParser([BoltConfig]).parse_args_into_dataclasses(
        [*words.split(), "--kl_adaptation_method", "clip+dynamic", "--curriculum_enabled", "false"]
    )
    assert found.baseline_settings == BaselineSettings(strength=3.0, reward_range=(-1.0, 1.0))
    assert found.kl_settings.shape == "clip" and not found.curriculum_enabled and found.num_generations == 1


def test_an_untested_version_is_told() -> None:
    tell_untested(TESTED_VERSION)
    with pytest.warns(UserWarning, match=rf"tested with TRL {TESTED_VERSION} and found 9.0.0"):
        tell_untested("9.0.0")
