"""Hints for names of other libraries: each leads to a setting that exists and means the same, or says why none does."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bolt_ray.commands.docs import guide
from bolt_ray.config.known_names import LIBRARIES, OTHERS, Here
from bolt_ray.config.legacy import MOVES
from bolt_ray.config.loading import build_config, parse_override
from bolt_ray.config.name_hints import name_hint
from bolt_ray.config.presets import merge
from bolt_ray.config.schema import RunConfig
from bolt_ray.config.tree import known_keys, walk
from bolt_ray.core.errors import ConfigError

BASE: dict[str, Any] = {"datasets": [{"name": "a.jsonl"}], "rewards": ["exact"]}
SETTINGS = {".".join(place) for place, _ in walk()} | {
    f"rewards[].{place[-1]}" for place, _ in walk() if len(place) == 3
}
SECTIONS = {key.rpartition(".")[0] for key in SETTINGS} | set(RunConfig.model_fields)
NAMES = [
    (library, name, entry)
    for library, names in LIBRARIES.items()
    for key, entry in names.items()
    for name in key.split()
]
UNKNOWN_HERE = """
entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target use_adaptive_entropy hub_strategy hub_revision
gradient_checkpointing_kwargs optim_target_modules reward_clip_range normalize_reward eval_delay logging_strategy
num_completions_to_print log_unique_prompts off_policy_mask_threshold multi_objective_aggregation vespo_k_pos
pad_to_multiple_of max_tool_calling_iterations model_revision lora_modules_to_save use_rslora neftune_noise_alpha
ddp_timeout full_determinism torch_compile save_only_model ptx_coef ema_beta enable_ema freezing_actor_steps
max_ckpt_mem value_head_prefix ring_attn_size num_workers dataloader_num_workers nccl_timeout
ulysses_sequence_parallel_size max_critic_ckpt_to_keep train_max_samples image_key use_shm lora_adapter_path
reshard_after_forward fsdp_size pipeline_model_parallel_size enable_prefix_caching load_format over_sample_rate
""".split()
"""Settings of the three libraries without a counterpart here, many spelled much like a setting of another meaning."""


def message(tree: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        build_config(merge(BASE, tree), where="c.yaml")
    return str(error.value)


def settings_named(text: str) -> set[str]:
    """Every setting or section below one that a hint names."""
    dotted = set(re.findall(r"[a-z]\w*(?:\[\])?(?:\.\w+(?:\[\])?)+", text))
    return {name for name in dotted if name in SETTINGS or name.split(".")[0].split("[")[0] in RunConfig.model_fields}


@pytest.mark.parametrize(("library", "name", "entry"), NAMES, ids=[f"{each[0]}-{each[1]}" for each in NAMES])
def test_every_target_exists_and_its_conversion_names_what_exists(library: str, name: str, entry: Here) -> None:
    assert entry.settings or entry.note
    assert [key for key in entry.settings if key not in SETTINGS | SECTIONS] == []
    assert [key for key in settings_named(entry.note) if key not in SETTINGS] == []


def test_the_table_is_large_enough_and_names_are_in_it_once() -> None:
    for names in LIBRARIES.values():
        split = [name for key in names for name in key.split()]
        assert len(split) == len(set(split))
    assert len({name for _, name, _ in NAMES}) > 250
    assert all(OTHERS[name].settings == (".".join(place),) for name, place in MOVES.items())


@pytest.mark.parametrize("name", sorted({name for _, name, _ in NAMES}))
def test_no_hint_contradicts_the_table_whatever_section_a_name_is_given_in(name: str) -> None:
    """A longer name of the table that fits the place may say more, as ``eval.n`` does of ``n``."""
    tabled: dict[str, set[str]] = {}
    for _, known, entry in NAMES:
        tabled.setdefault(known, set()).update({*entry.settings, *settings_named(entry.note)})
    for section in ("", "grpo", *RunConfig.model_fields):
        place = [*filter(None, (section, *name.split(".")))]
        if place[-1] in known_keys(place[:-1]) and len(place) == 2:
            continue
        ends = [".".join(place[start:]) for start in range(len(place))]
        allowed = next(tabled[end] for end in ends if end in tabled)
        hint = name_hint(place)
        assert "did you mean" not in hint
        assert settings_named(hint) <= allowed, (place, hint)


@pytest.mark.parametrize("name", UNKNOWN_HERE)
def test_what_has_no_counterpart_gets_no_hint_in_any_section(name: str) -> None:
    assert [hint for section in ("", "grpo", *RunConfig.model_fields) if (hint := name_hint([section, name]))] == []


@pytest.mark.parametrize(
    ("key", "setting", "not_it"),
    [
        ("train.beta", "kl.coef", "betas"),
        ("train.epsilon", "loss.clip_low", "epsilon_high|adam_epsilon|curriculum"),
        ("train.epsilon_high", "loss.clip_high", "adam_epsilon"),
        ("train.num_train_epochs", "train.max_steps", "ppo_epochs"),
        ("train.save_steps", "checkpoint.every_steps", "max_steps"),
        ("train.logging_steps", "metrics.jsonl", "max_steps"),
        ("train.eval_steps", "eval.every_steps", "max_steps"),
        ("train.num_iterations", "train.ppo_epochs", "min_lr_ratio"),
        ("train.per_device_train_batch_size", "rollout.rollouts_per_step", "minibatch_size"),
        ("sampling.num_generations", "rollout.group_size", "max_new_tokens"),
        ("rollout.batch_size", r"rollout.rollouts_per_step (completions: = prompts × rollout.group_size)", "scoring"),
        ("kl.beta", "kl.coef", "beta_min"),
        ("eval.test_freq", "eval.every_steps", "temperature"),
        ("data.prompt_key", "datasets[].columns.prompt", "max_prompt_tokens"),
    ],
)
def test_names_that_were_led_to_another_setting(key: str, setting: str, not_it: str) -> None:
    text = message(parse_override(f"{key}=1"))
    assert text.startswith(f"c.yaml: {key}: there is no such setting; ")
    assert setting in text
    assert not re.search(not_it, text.split("; ", 1)[1])


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("rollout.temperature=1", "here that is sampling.temperature"),
        ("train.seed=1", "here that is seed"),
        ("train.gradient_checkpointing=true", "there is model.gradient_checkpointing (recompute activations"),
        ("rollout.gpu_memory_utilization=.5", "there is generator.gpu_memory_utilization (GPU: share"),
        ("train.lr=1e-6", "here that is train.learning_rate"),
        ("train.grad_clip=1", "here that is train.max_grad_norm"),
        ("loss.clip_ratio=.2", "here that is loss.clip_low and loss.clip_high (the latter unless a high one is given)"),
        ("sampling.max_gen_len=9", "here that is sampling.max_new_tokens"),
        (
            "rollout_batch_size=9",
            "here that is rollout.rollouts_per_step (completions: = prompts × rollout.group_size)",
        ),
        ("kl.reference_mode=ema", "here that is reference.mode"),
        ("kl.reference_update_freq=9", "here that is reference.update_freq"),
        ("kl.kl_adaptation_method=clip", "here that is kl.adaptation"),
        ("kl.kl_clip_threshold=1", "here that is kl.clip_threshold"),
        ("train.kl_target=.1", "others' is kl.target (with kl.adaptation: sigmoid)"),
        ("train.kl_target=.1", "here OpenRLHF's is kl.controller_target (with kl.controller: ziegler)"),
        ("train.beta_min=0", "there is kl.beta_min (dynamic: β never falls below it"),
        ("train.beta_schedule_steps=9", "there is kl.beta_schedule_steps"),
        ("train.reward_threshold=.8", "there is kl.reward_threshold"),
        ("reference.ref_model_mixup_alpha=.6", "reference.ema_alpha (the kept fraction: = 1 - alpha"),
        ("train.num_train_epochs=1", "one pass over the data is prompts × rollout.group_size / rollout.rollouts"),
        (
            "train.train_batch_size=8",
            "here verl's is rollout.rollouts_per_step (completions: = prompts × rollout.group_",
        ),
        ("train.train_batch_size=8", "OpenRLHF's is train.minibatch_size"),
        ("data.train_batch_size=8", "here that is rollout.rollouts_per_step (completions"),
        ("train.bf16=true", "here that is model.dtype (bfloat16 or float32"),
        ("train.scale_rewards=true", "here that is advantage.normalize (true is group, false is none)"),
        ("train.use_vllm=true", "vLLM always generates: remove it"),
        ("train.report_to=wandb", "here that is logging.wandb, logging.tensorboard and logging.trackio (true each)"),
        ("eval.n=4", "here that is eval.num_samples"),
        ("rollout.n=4", "here that is rollout.group_size"),
        ("train.warmup_ratio=.1", "here that is train.warmup_steps (steps: = the ratio × train.max_steps)"),
    ],
)
def test_a_hint_names_the_setting_and_the_conversion(override: str, hint: str) -> None:
    assert hint in message(parse_override(override))


@pytest.mark.parametrize(
    ("override", "lines"),
    [
        ("actor_rollout_ref.rollout.n=8", ["actor_rollout_ref.rollout.n: here that is rollout.group_size"]),
        ("+trainer.total_epochs=8", ["+trainer.total_epochs: here that is train.max_steps (one pass"]),
        ("algorithm.adv_estimator=grpo", ["algorithm.adv_estimator: here that is advantage.baseline (grpo is group"]),
        ("actor_rollout_ref={actor: {optim: {lr: 1}, use_shm: 1}}", ["actor.optim.lr: here that is train.learning_"]),
        ("algo.kl.init_coef=.1", ["algo: is one of bolt,", "algo.kl.init_coef: here that is kl.coef"]),
        ("grpo={beta: 0.1, num_generations: 4}", ["grpo.beta: here that is kl.coef", "rollout.group_size"]),
        ("grpo={beta: 0.1, fish: 4}", ["grpo: there is no such setting; known", "grpo: nothing here is like its fish"]),
        ("rollout.val_kwargs={n: 4}", ["rollout.val_kwargs.n: here that is eval.num_samples"]),
        ("custom_reward_function.path=r.py", ["here that is rewards (an entry {type: file.py:function})"]),
        ("critic.optim.lr=1", ["critic: there is no such setting; there is no critic: remove it"]),
        ("tran={max_stepz: 4}", ["tran: there is no such setting; did you mean 'train'?"]),
    ],
)
def test_a_section_of_another_library_is_looked_through(override: str, lines: list[str]) -> None:
    text = message(parse_override(override))
    assert all(line in text for line in lines), text
    assert "critic" not in override or len(text.splitlines()) == 1


def test_a_misspelled_key_gets_the_one_that_was_meant_and_others_what_there_is() -> None:
    assert "did you mean 'max_steps'?" in message({"train": {"max_step": 3}})
    assert "did you mean 'sampling.temperature'?" in message({"rollout": {"temprature": 3}})
    assert "; known here: address, cpus_per_generator" in message({"cluster": {"fish": 3}})
    assert "algo: 'ppo' is unknown; one of bolt, baseline" in message({"algo": "ppo"})
    assert "did you mean" not in message({"algo": "ppo"})


def test_the_guides_table_agrees_with_the_hints() -> None:
    rows = [line.split("|")[1:-1] for line in guide("names").splitlines() if line.startswith("| `")]
    assert len(rows) >= 25
    libraries = ("TRL", "verl", "OpenRLHF")
    for *theirs, ours in rows:
        targets = set(re.findall(r"`([\w.\[\]]+)", ours))
        for library, cell in zip(libraries, theirs, strict=True):
            table = {name: entry for key, entry in LIBRARIES[library].items() for name in key.split()}
            for name in re.findall(r"`([\w.]+)`", cell):
                ends = [name.split(".", start)[-1] for start in range(name.count(".") + 1)]
                known = next(table[end] for end in ends if end in table)
                assert set(known.settings) <= targets | {"sampling"}, (library, name)
                assert bool(known.settings) == bool(targets), (library, name)
