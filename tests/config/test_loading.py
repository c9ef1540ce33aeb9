"""From YAML and overrides to a checked configuration, and the messages on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from bolt_ray.config.loading import build_config, dump_config, load_config, parse_override
from bolt_ray.core.errors import ConfigError

BASE = {"datasets": [{"name": "train.jsonl"}], "rewards": [{"type": "exact"}]}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_full_bolt() -> None:
    config = build_config(BASE)
    assert config.algo == "bolt"
    assert config.rollout.group_size == 1
    assert (config.advantage.baseline, config.advantage.normalize, config.advantage.clip) == ("tracker", "token", 5.0)
    assert config.curriculum.strategy == "uncertainty"
    assert (config.baseline.rho_min, config.baseline.rho_max, config.baseline.d_half) == (0.875, 0.96, 0.5)


@pytest.mark.parametrize(
    ("algo", "group_size", "advantage", "strategy"),
    [
        ("bolt", 1, "tracker", "uncertainty"),
        ("baseline", 2, "tracker", "uniform"),
        ("curriculum", 8, "group", "uncertainty"),
        ("grpo", 8, "group", "uniform"),
        ("dapo", 8, "group", "uniform"),
        ("reinforce", 1, "batch", "uniform"),
        ("spo", 1, "tracker", "uncertainty"),
        ("spo++", 1, "tracker", "uncertainty"),
    ],
)
def test_presets(algo: str, group_size: int, advantage: str, strategy: str) -> None:
    config = build_config(BASE | {"algo": algo.upper()})
    assert config.rollout.group_size == group_size
    assert config.advantage.baseline == advantage
    assert config.curriculum.strategy == strategy


def test_spo_presets_differ_in_forgetting_and_dual_clip() -> None:
    spo, spo_plus = build_config(BASE | {"algo": "spo"}), build_config(BASE | {"algo": "spo++"})
    assert (spo.baseline.forgetting, spo.baseline.d_half, spo.advantage.normalize) == ("kl", 0.06, "batch")
    assert (spo_plus.baseline.forgetting, spo_plus.loss.dual_clip) == ("event", 2.0)
    assert (spo.baseline.estimator, spo_plus.baseline.estimator) == ("beta", "beta")
    assert build_config(BASE).baseline.estimator == "two_level"


def test_what_of_a_preset_does_nothing_beside_the_users_settings_is_left_out() -> None:
    """Its d_half belongs to forgetting kl; refusing it would blame the user for what the preset wrote."""
    constant = build_config(BASE | {"algo": "spo", "baseline": {"forgetting": "constant"}})
    assert (constant.baseline.forgetting, constant.baseline.d_half) == ("constant", 0.5)
    with pytest.raises(ConfigError, match=r"baseline\.d_half: does nothing with forgetting constant; leave it out"):
        build_config(BASE | {"algo": "spo", "baseline": {"forgetting": "constant", "d_half": 0.1}})
    two_level = build_config(BASE | {"algo": "spo++", "baseline": {"estimator": "two_level"}})
    assert two_level.baseline.forgetting == "kl"
    assert build_config(BASE | {"baseline": {"forgetting": "event"}}).baseline.estimator == "beta"
    with pytest.raises(ConfigError, match=r"baseline\.forgetting: event needs estimator: beta"):
        build_config(BASE | {"baseline": {"forgetting": "event", "estimator": "two_level"}})


def test_what_the_user_wrote_wins_over_the_preset() -> None:
    config = build_config(BASE | {"algo": "grpo", "rollout": {"group_size": 4}, "loss": {"type": "dapo"}})
    assert config.rollout.group_size == 4
    assert config.loss.type == "dapo"


def test_overrides_are_read_as_yaml_and_laid_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "datasets: [{name: a.jsonl}]\nrewards: [{type: exact}]\ntrain: {max_steps: 5}\n")
    config = load_config(path, ["train.learning_rate=1e-4", "rollout.max_staleness=2", "name=other"])
    assert (config.train.max_steps, config.train.learning_rate) == (5, 1e-4)
    assert (config.rollout.max_staleness, config.name) == (2, "other")


def test_a_dumped_config_reads_back_the_same(tmp_path: Path) -> None:
    config = build_config(BASE | {"algo": "spo++", "seed": 3})
    assert load_config(write(tmp_path / "c.yaml", dump_config(config))) == config


EARLIER = """
algo: {algo}
model: {{name_or_path: Qwen/Qwen2.5-0.5B, use_peft: true, lora_r: 8, lora_alpha: 16}}
datasets: [{{name: gsm8k, split: train}}]
rewards: [{{type: math_reasoning, weight: 1.0}}]
train:
  curriculum_enabled: {curriculum}
  curriculum_epsilon: 0.1
  curriculum_update_freq: 20
  baseline_enabled: {baseline}
  baseline_rho_min: 0.8
  baseline_rho_max: 0.9
  baseline_D_half: 0.4
  baseline_warm_start: {warm_start}
  use_baseline_advantages: {advantages}
  per_device_batch_size: 8
  {generations}
  learning_rate: 1e-5
  max_steps: 10
"""


@pytest.mark.parametrize("algo", ["BOLT", "bolt"])
@pytest.mark.parametrize(
    ("curriculum", "baseline", "advantages", "k", "strategy", "against", "normalize"),
    [
        (True, False, False, 8, "uncertainty", "group", "group"),
        (True, True, False, None, "uncertainty", "group", "group"),
        (False, True, True, 2, "uniform", "tracker", "token"),
        (False, True, True, None, "uniform", "tracker", "token"),
        (True, True, True, 2, "uncertainty", "tracker", "token"),
        (True, True, True, 1, "uncertainty", "tracker", "token"),
        (False, False, False, None, "uniform", "group", "group"),
    ],
)
def test_a_configuration_of_earlier_systems_loads_as_it_is(
    tmp_path: Path,
    algo: str,
    curriculum: bool,
    baseline: bool,
    advantages: bool,
    k: int | None,
    strategy: str,
    against: str,
    normalize: str,
) -> None:
    """Each mode with every key; where num_generations is left out, K is what the mode is known with."""
    text = EARLIER.format(
        algo=algo,
        curriculum=curriculum,
        baseline=baseline,
        advantages=advantages,
        warm_start="null" if k is None else "warm.json",
        generations="" if k is None else f"num_generations: {k}",
    )
    config = load_config(write(tmp_path / "c.yaml", text))
    group_size = k or {"group": 8, "tracker": 2}[against]
    assert (config.model.name_or_path, config.model.use_peft) == ("Qwen/Qwen2.5-0.5B", True)
    assert (config.model.lora_r, config.model.lora_alpha) == (8, 16.0)
    assert [(dataset.name, dataset.split) for dataset in config.datasets] == [("gsm8k", "train")]
    assert [(reward.type, reward.weight) for reward in config.rewards] == [("math", 1.0)]
    drawn = config.curriculum
    assert (drawn.strategy, drawn.epsilon, drawn.update_freq) == (strategy, 0.1, 20)
    kept = config.baseline
    assert (kept.forgetting, kept.rho_min, kept.rho_max, kept.d_half) == ("kl", 0.8, 0.9, 0.4)
    assert kept.warm_start == (None if k is None else "warm.json")
    assert (config.advantage.baseline, config.advantage.normalize) == (against, normalize)
    assert (config.rollout.group_size, config.rollout.rollouts_per_step) == (group_size, 8 * group_size)
    assert (config.train.learning_rate, config.train.max_steps) == (1e-5, 10)


def test_the_defaults_of_group_methods_elsewhere_load_by_name() -> None:
    train = {"group_size": 4, "max_new_tokens": 512, "temperature": 0.8, "kl_coef": 0.1, "clip": 0.2}
    config = build_config(BASE | {"algo": "grpo", "train": train | {"max_grad_norm": 1.0, "ppo_epochs": 2}})
    assert (config.rollout.group_size, config.sampling.max_new_tokens, config.sampling.temperature) == (4, 512, 0.8)
    assert (config.kl.coef, config.loss.clip_low, config.loss.clip_high) == (0.1, 0.2, 0.2)
    assert (config.train.max_grad_norm, config.train.ppo_epochs) == (1.0, 2)
    assert (config.checkpoint.every_steps, config.eval.every_steps) == (100, 50)


def test_prompts_per_device_are_multiplied_by_what_the_preset_draws() -> None:
    config = build_config(
        BASE | {"algo": "grpo", "train": {"per_device_batch_size": 8}, "cluster": {"num_learners": 2}}
    )
    assert (config.rollout.group_size, config.rollout.rollouts_per_step) == (8, 128)


def test_an_earlier_name_of_a_reward_may_stand_alone() -> None:
    assert [reward.type for reward in build_config(BASE | {"rewards": ["math_reasoning", "exact"]}).rewards] == [
        "math",
        "exact",
    ]


def test_a_dataset_asks_for_a_reward_by_its_earlier_name() -> None:
    def asked(reward: object) -> list[object]:
        entry = {"name": "p.jsonl", "reward": "math_reasoning"}
        by_source = {"name": "q.jsonl", "reward": {"gsm8k": "math_reasoning", "other": "exact"}}
        tree = BASE | {"rewards": [reward, "exact"], "datasets": [entry, by_source], "eval": {"datasets": [entry]}}
        config = build_config(tree)
        return [dataset.reward for dataset in (*config.datasets, *config.eval.datasets)]

    today = ["math", {"gsm8k": "math", "other": "exact"}, "math"]
    assert asked("math_reasoning") == asked({"type": "math_reasoning", "weight": 1.0}) == today
    named = ["math_reasoning", {"gsm8k": "math_reasoning", "other": "exact"}, "math_reasoning"]
    assert asked({"type": "math_reasoning", "name": "math_reasoning"}) == named


def test_legacy_curriculum_only_uses_group_advantages() -> None:
    train = {"curriculum_enabled": True, "use_baseline_advantages": False, "num_generations": 8}
    config = build_config(BASE | {"train": train})
    assert (config.advantage.baseline, config.advantage.normalize) == ("group", "group")


@pytest.mark.parametrize(
    ("switches", "mode"),
    [
        ({"curriculum_enabled": True}, ("uncertainty", "group", "group", 8)),
        ({"curriculum_enabled": True, "num_generations": 4}, ("uncertainty", "group", "group", 4)),
        ({"use_baseline_advantages": True, "baseline_enabled": True}, ("uniform", "tracker", "token", 2)),
        ({"use_baseline_advantages": True, "curriculum_enabled": True}, ("uncertainty", "tracker", "token", 1)),
        ({"baseline_enabled": True}, ("uniform", "group", "group", 8)),
    ],
)
def test_a_legacy_switch_that_is_not_there_is_off(switches: dict[str, object], mode: tuple[object, ...]) -> None:
    config = build_config(BASE | {"algo": "BOLT", "train": switches})
    advantage = config.advantage
    assert (config.curriculum.strategy, advantage.baseline, advantage.normalize, config.rollout.group_size) == mode


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"eval": {"datasets": [{"name": "b.jsonl", "reward": "exat"}]}}, "eval.datasets: no reward is named 'exat'"),
        ({"curriculum": {"allocate_rollouts": True}}, "allocate_rollouts divides a group"),
        ({"train": {"max_step": 3}}, r"train\.max_step: there is no such setting; did you mean 'max_steps'\?"),
        ({"tran": {}}, r"tran: there is no such setting; did you mean 'train'\?"),
        ({"train": {"max_steps": "many"}}, r"train\.max_steps: .*integer.*not 'many'"),
        ({"train": {"learning_rate": -1}}, r"train\.learning_rate: must be auto or above 0, not -1"),
        ({"algo": "bold"}, r"algo: 'bold' is unknown; .* did you mean 'bolt'\?"),
        (
            {"rollout": {"rollouts_per_step": 10, "group_size": 4}},
            "not a multiple of rollout.group_size 4; use 8 or 12",
        ),
        ({"advantage": {"normalize": "group"}}, "'group' needs rollout.group_size of 2 or more"),
        ({"advantage": {"baseline": "loo_posterior"}}, "loo_posterior' needs rollout.group_size"),
        ({"baseline": {"rho_min": 0.97}}, "baseline.rho_min: 0.97 is above rho_max 0.96"),
        ({"kl": {"controller": "ziegler"}}, "kl.coef, which is 0"),
        ({"kl": {"coef": 0.1, "adaptation": ["clip", "hinge"]}}, "clip"),
        ({"loss": {"clip_low": 0.5, "clip_high": 0.1}}, "clip_low"),
        ({"curriculum": {"strategy": "sec"}}, "curriculum.category is needed"),
        ({"rollout": {"dynamic_sampling": True}}, "needs advantage.baseline 'group' or 'rloo'"),
        ({"train": {"offload_parameters": True}}, "needs zero_stage 3"),
        ({"train": {"minibatch_size": 1000}}, "minibatch_size 1000 must lie between"),
        ({"sampling": {"temperature": 0}}, "sampling.temperature: 0 explores nothing"),
        ({"cluster": {"num_learners": 300}}, "nothing to train"),
        ({"rewards": [{"type": "mathh"}]}, "unknown reward type 'mathh'; did you mean 'math'"),
        ({"datasets": [{"name": "a.jsonl", "reward": "stile"}]}, "no reward is named 'stile'"),
        ({"datasets": []}, "datasets: .*at least 1"),
        ({"train": {"baseline_enabled": False, "use_baseline_advantages": True}}, "one says yes, one says no"),
        ({"train": {"num_generations": 4}, "rollout": {"group_size": 2}}, "name the same setting; keep one"),
        ({"train": {"per_device_batch_size": "8"}}, "needs per_device_batch_size to be a whole number, not '8'"),
        ({"train": {"per_device_batch_size": 8, "num_generations": 1.5}}, "needs num_generations to be a whole number"),
        ({"train": {"curriculum_enabled": "False"}}, "train.curriculum_enabled: is true or false, not 'False'"),
        ({"train": {"num_generations": 4}, "rollout": 5}, "rollout: is a section of settings, not 5"),
    ],
)
def test_bad_settings_name_the_key_and_the_remedy(tree: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(BASE | tree)


def test_missing_sections_are_named() -> None:
    with pytest.raises(ConfigError, match="datasets: is required and missing"):
        build_config({"rewards": [{"type": "exact"}]})


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        build_config(BASE | {"train": {"max_steps": 0, "warmup": 1}, "seed": -1}, where="c.yaml")
    assert len(str(error.value).splitlines()) == 3
    assert all(line.startswith("c.yaml: ") for line in str(error.value).splitlines())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {max_steps: 5\n", r"c\.yaml:2:1: not valid YAML"),
        ("- 1\n", "a config is a mapping of sections, not a list"),
        ("", "datasets: is required"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path / "c.yaml", text))


def test_a_missing_file_names_its_neighbors(tmp_path: Path) -> None:
    write(tmp_path / "quickstart.yaml", "")
    with pytest.raises(ConfigError, match=r"there is no such config file; .* has quickstart\.yaml"):
        load_config(tmp_path / "quikstart.yaml")


@pytest.mark.parametrize("text", ["train.max_steps", "=3", "train..max_steps=3", "a={"])
def test_malformed_overrides(text: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        parse_override(text)
