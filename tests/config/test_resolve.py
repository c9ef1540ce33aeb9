"""Every ``auto`` made definite, once, by one rule for both sides."""

from __future__ import annotations

from typing import Any

import pytest

from bolt_ray.commands.shared.resources import describe_step
from bolt_ray.config.loading import build_config, dump_config
from bolt_ray.config.resolve import engine_settings, eval_sampling, resolve
from bolt_ray.config.schema import RunConfig


def config_of(**sections: Any) -> RunConfig:
    return build_config({"datasets": [{"name": "x.jsonl"}], "rewards": ["exact", "math"], **sections})


@pytest.mark.parametrize(
    ("model", "generator", "use_gpu", "expected"),
    [
        ("auto", None, False, ("float32", "float32", 0.01)),
        ("auto", None, True, ("bfloat16", "bfloat16", 0.5)),
        ("float32", None, True, ("float32", "float32", 0.01)),
        ("float32", "auto", True, ("float32", "bfloat16", 0.5)),
        ("bfloat16", "float32", False, ("bfloat16", "float32", 0.5)),
    ],
)
def test_one_rule_for_dtype(model: str, generator: str | None, use_gpu: bool, expected: tuple[str, str, float]) -> None:
    config = resolve(config_of(model={"dtype": model}, generator={"dtype": generator}), use_gpu=use_gpu)
    assert (config.model.dtype, config.generator.dtype, config.generator.max_logprob_gap) == expected
    engine = engine_settings(config, model_path="m", context_tokens=64)
    assert (config.learner(model_path="m").model.dtype, engine.dtype) == expected[:2]
    assert (engine.on_gpu, engine.kv_cache_bytes is None) == (use_gpu, use_gpu)


def test_what_depends_on_other_settings_is_filled_in_and_what_was_given_stays() -> None:
    config = resolve(config_of(sampling={"max_new_tokens": 40}, loss={"type": "gspo"}), use_gpu=False)
    assert (config.loss.clip_low, config.loss.clip_high, config.loss.aggregation) == (3e-4, 4e-4, "sequence_mean")
    assert (config.loss.max_completion_tokens, config.eval.max_new_tokens) == (40, 40)
    assert (config.cluster.use_gpu, config.uses_gpu) == ("no", False)
    assert [(r.name, r.timeout_s, r.memory_mb) for r in config.rewards] == [("exact", 10.0, 4096), ("math", 10.0, 4096)]
    given = config_of(
        loss={"clip_low": 0.1, "clip_high": 0.3, "max_completion_tokens": 7},
        eval={"max_new_tokens": 9},
        generator={"max_logprob_gap": 0.2},
        rewards=[{"type": "exact", "name": "same", "timeout_s": 3, "memory_mb": 70}],
    )
    config = resolve(given, use_gpu=True)
    assert (config.loss.clip_range, config.loss.max_completion_tokens) == ((0.1, 0.3), 7)
    assert (config.eval.max_new_tokens, config.generator.max_logprob_gap) == (9, 0.2)
    assert [(r.name, r.timeout_s, r.memory_mb) for r in config.rewards] == [("same", 3, 70)]


def test_scorers_ask_for_gpus_only_where_gpus_are_used() -> None:
    config = config_of(scoring={"gpus_per_scorer": 0.5})
    assert resolve(config, use_gpu=True).scoring.gpus_per_scorer == 0.5
    assert resolve(config, use_gpu=False).scoring.gpus_per_scorer == 0.0


def test_evaluation_draws_by_its_own_settings_and_stops_as_training_does() -> None:
    config = resolve(
        config_of(
            sampling={
                "temperature": 0.7,
                "top_k": 5,
                "min_p": 0.1,
                "stop": ["\n"],
                "stop_token_ids": [7],
                "max_new_tokens": 40,
            },
            eval={"temperature": 0.2, "top_p": 0.9},
        ),
        use_gpu=False,
    )
    drawn = eval_sampling(config)
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.min_p) == (0.2, 0.9, 0, 0.0)
    assert (drawn.stop, drawn.stop_token_ids, drawn.max_new_tokens) == (("\n",), (7,), 40)


@pytest.mark.parametrize("use_gpu", [False, True])
def test_resolving_again_changes_nothing_and_the_dump_reads_back(use_gpu: bool) -> None:
    import yaml

    once = resolve(config_of(algo="spo++", curriculum={"strategy": "thompson"}), use_gpu=use_gpu)
    assert resolve(once, use_gpu=use_gpu) == once
    assert build_config(yaml.safe_load(dump_config(once))) == once


@pytest.mark.parametrize(
    ("rewards", "datasets", "expected"),
    [
        (["math"], [None], [0.0, 1.0]),
        ([{"type": "math"}, {"type": "format", "weight": 0.2}], [None], [0.0, 1.2]),
        # In decimals 0.7 + 0.2 + 0.1 is 0.9999999999999999.
        ([{"type": "math", "weight": w} for w in (0.7, 0.2, 0.1)], [None], [0.0, 1.0]),
        (["math", {"type": "regex", "pattern": "!", "weight": -0.5}], [None], [-0.5, 1.0]),
        (["math", {"type": "overlong", "max_tokens": 9, "cache_tokens": 3}], [None], [0.0, 1.0]),
        (["math", {"type": "overlong", "max_tokens": 9, "cache_tokens": 3, "shaping": False}], [None], [-1.0, 1.0]),
        (["math", {"type": "exact", "weight": 3}], ["math", "exact"], [0.0, 3.0]),
        ([{"type": "reward_model", "model": "m", "weight": 2}], [None], [0.0, 2.0]),
        (["own.py:score"], [None], [0.0, 1.0]),
        ([{"type": "math", "weight": 0}], [None], [0.0, 1.0]),
    ],
    ids=["one", "parts", "decimals", "punishing", "shaping", "unshaped", "by dataset", "model", "unknown", "nothing"],
)
def test_rewards_are_scaled_from_what_they_can_give(rewards: Any, datasets: list[Any], expected: list[float]) -> None:
    sources = [{"name": f"{i}.jsonl", "reward": name} for i, name in enumerate(datasets)]
    config = resolve(build_config({"datasets": sources, "rewards": rewards}), use_gpu=False)
    assert config.baseline.reward_range == tuple(expected)


def test_a_reward_model_s_score_has_no_bounds_and_its_default_has() -> None:
    from bolt_ray.rewards.reward_model import RewardModelSettings

    kind = {"type": "reward_model", "model": "m"}
    assert RewardModelSettings(**kind).bounds == (0.0, 1.0)
    assert RewardModelSettings(**kind, output="score").bounds is None


@pytest.mark.parametrize(("given", "expected"), [({}, 1e-6), ({"use_peft": True}, 1e-5)])
def test_an_adapter_learns_ten_times_as_fast(given: dict[str, Any], expected: float) -> None:
    assert resolve(config_of(model=given), use_gpu=False).train.learning_rate == expected
    asked = config_of(model=given, train={"learning_rate": "auto"})
    assert resolve(asked, use_gpu=False).train.learning_rate == expected
    assert resolve(config_of(model=given, train={"learning_rate": 3e-4}), use_gpu=False).train.learning_rate == 3e-4


@pytest.mark.parametrize("masked", [True, False])
def test_what_is_not_trained_for_its_length_is_no_evidence_either(masked: bool) -> None:
    loss = {"mask_truncated": masked}
    assert resolve(config_of(loss=loss), use_gpu=False).baseline.skip_truncated is masked
    given = config_of(loss=loss, baseline={"skip_truncated": not masked})
    assert resolve(given, use_gpu=False).baseline.skip_truncated is not masked


def test_dr_grpo_divides_by_no_deviation_unless_asked_to() -> None:
    assert config_of(algo="grpo", loss={"type": "dr_grpo"}).advantage.normalize == "none"
    assert config_of(algo="grpo", loss={"type": "grpo"}).advantage.normalize == "group"
    asked = config_of(algo="grpo", loss={"type": "dr_grpo"}, advantage={"normalize": "group"})
    assert asked.advantage.normalize == "group"


@pytest.mark.parametrize("loss", ["grpo", "gspo", "sapo"])
def test_a_loss_that_counts_sequences_alike_has_statistics_that_do(loss: str) -> None:
    assert config_of(algo="bolt", loss={"type": loss}).advantage.normalize == "batch"
    assert config_of(algo="grpo", loss={"type": loss}).advantage.normalize == "group"
    asked = config_of(algo="bolt", loss={"type": loss}, advantage={"normalize": "token"})
    assert asked.advantage.normalize == "token"
    assert "advantage.normalize: batch" in describe_step(resolve(asked, use_gpu=False))
    assert "advantage.normalize" not in describe_step(resolve(config_of(algo="bolt"), use_gpu=False))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"loss": {"type": "gspo"}, "train": {"recompute_old_logprobs": False}},
            "recompute_old_logprobs: .*gspo without a π_old",
        ),
        ({"loss": {"type": "reinforce"}, "train": {"ppo_epochs": 4}}, "one optimizer step per batch.*use cispo"),
        ({"loss": {"type": "reinforce"}, "train": {"minibatch_size": 64}}, "one optimizer step per batch"),
        ({"correction": {"floor": 0.5}}, "floor: belongs to mode mask"),
        ({"correction": {"mode": "mask", "cap": 2.0, "floor": 2.0}}, "floor: 2 must be below cap 2"),
    ],
)
def test_losses_that_would_be_off_policy_are_refused(sections: dict[str, Any], message: str) -> None:
    from bolt_ray.core.errors import ConfigError

    with pytest.raises(ConfigError, match=message):
        config_of(**sections)
