"""Settings people know from other libraries, and where they are here: the words of hints, never aliases.

A key of these tables is one name or several that mean the same. A name may have what stands before it (``rollout.n``,
``val_kwargs.n``): the longest that ends a user's key counts. What is one name more is one line more. Read off TRL 1.16,
verl of September 2026 and OpenRLHF of August 2026, whose older flat flags are there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bolt_ray.config.legacy import MOVES


@dataclass(frozen=True, slots=True)
class Here:
    """Where a name of another library is here.

    Attributes:
        settings: settings or sections, dotted, entries of lists below ``name[]``; () if there is none.
        note: the conversion, or why there is none; "" where the value stays as it is.
    """

    settings: tuple[str, ...]
    note: str


def here(*settings: str, note: str = "") -> Here:
    return Here(settings, note)


_PASSES = "one pass over the data is prompts × rollout.group_size / rollout.rollouts_per_step steps"
_PROMPTS = "completions: = prompts × rollout.group_size"
_MICRO = "tokens of one forward pass, not sequences; accumulation follows from it"
_WARMUP = "steps: = the ratio × train.max_steps"
_CLIPS = "the latter unless a high one is given"
_SINKS = ("logging.wandb", "logging.tensorboard", "logging.trackio")
_LOGGING = "true each"
_SAMPLES = "a bounded number of completions is always kept; samples.all: true keeps every one"
_EVERY_STEP = "every step is in metrics.jsonl of the run directory: remove it"
_EVAL_BATCH = "an evaluation fills the generators by itself: remove it"
_VLLM = "vLLM always generates: remove it"
_OWN_PROCESS = "generators are processes of their own: remove it"
_NO_CRITIC = "there is no critic: remove it"
_GPUS = "processes in all, not GPUs of a node"
_POLICY = "the learner's log-probs must be those of the policy that sampled: remove it"
_ADAPTIVE = "with kl.controller: ziegler"
_ZERO = "with train.zero_stage 1 or more"
_ZERO_3 = "DeepSpeed ZeRO: 3 shards the weights too"
_LORA = "with model.use_peft: true, 0 is false"

TRL: Mapping[str, Here] = {
    # GRPOConfig: the algorithm
    "beta": here("kl.coef"),
    "num_generations": here("rollout.group_size"),
    "num_generations_eval": here("eval.num_samples"),
    "num_iterations": here("train.ppo_epochs"),
    "epsilon": here("loss.clip_low", "loss.clip_high", note=_CLIPS),
    "epsilon_high": here("loss.clip_high", note="of loss.type: cispo it is loss.cispo_max"),
    "loss_type": here("loss.type"),
    "importance_sampling_level": here("loss.type", note="sequence is gspo"),
    "scale_rewards": here("advantage.normalize", note="true is group, false is none"),
    "mask_truncated_completions": here("loss.mask_truncated"),
    "top_entropy_quantile": here("loss.top_entropy_fraction"),
    "sapo_temperature_pos": here("loss.sapo_tau_positive"),
    "sapo_temperature_neg": here("loss.sapo_tau_negative"),
    "sync_ref_model": here("reference.mode", note="ema, or periodic for copies"),
    "ref_model_mixup_alpha": here("reference.ema_alpha", note="the kept fraction: = 1 - alpha, after every step"),
    "ref_model_sync_steps": here("reference.update_freq", note="with reference.mode: periodic"),
    "use_bias_correction_kl": here("kl.unbiased"),
    "vllm_importance_sampling_correction": here("correction.mode", note="false is none"),
    "vllm_importance_sampling_mode": here("correction.level", "correction.mode", note="token_mask is token and mask"),
    "vllm_importance_sampling_cap vllm_importance_sampling_clip_max": here("correction.cap"),
    "vllm_importance_sampling_clip_min": here("correction.floor", note="with correction.mode: mask"),
    "reward_funcs": here("rewards", note="one entry each"),
    "reward_weights": here("rewards[].weight", note="one in each entry of rewards"),
    # sampling and vLLM
    "max_prompt_length": here("data.max_prompt_tokens"),
    "max_completion_length": here("sampling.max_new_tokens"),
    "temperature": here("sampling.temperature"),
    "top_p": here("sampling.top_p"),
    "top_k": here("sampling.top_k"),
    "min_p": here("sampling.min_p"),
    "generation_kwargs": here("sampling"),
    "repetition_penalty": here(note=_POLICY),
    "use_vllm vllm_mode": here(note=_VLLM),
    "vllm_server_host vllm_server_port vllm_server_base_url vllm_enable_sleep_mode": here(note=_OWN_PROCESS),
    "vllm_gpu_memory_utilization": here("generator.gpu_memory_utilization"),
    "vllm_tensor_parallel_size": here("cluster.tensor_parallel_size"),
    "vllm_max_model_length": here("rollout.max_context_tokens"),
    # TrainingArguments: batches, steps, optimizer
    "per_device_train_batch_size": here(
        "rollout.rollouts_per_step", note="completions of a whole step: = per device × devices × accumulation"
    ),
    "per_device_eval_batch_size": here(note=_EVAL_BATCH),
    "gradient_accumulation_steps": here("train.micro_batch_tokens", note=_MICRO),
    "generation_batch_size": here("rollout.rollouts_per_step"),
    "steps_per_generation": here(
        "train.minibatch_size", note="completions: = rollout.rollouts_per_step × accumulation / steps_per_generation"
    ),
    "num_train_epochs": here("train.max_steps", note=_PASSES),
    "learning_rate": here("train.learning_rate"),
    "lr_scheduler_type": here("train.lr_schedule", note="constant, cosine or linear"),
    "warmup_ratio": here("train.warmup_steps", note=_WARMUP),
    "adam_beta1 adam_beta2": here("train.betas", note="[adam_beta1, adam_beta2]"),
    "optim": here(note="the optimizer is AdamW: remove it"),
    "bf16 fp16": here("model.dtype", note="bfloat16 or float32; there is no float16"),
    "deepspeed fsdp": here("train.zero_stage", note=_ZERO_3),
    "use_liger_kernel": here(note="log-probs are computed in chunks: remove it"),
    "disable_dropout": here(note="dropout is always off: remove it"),
    "seed data_seed": here("seed"),
    # saving, evaluating, logging
    "output_dir": here("run_dir"),
    "run_name": here("name"),
    "save_steps save_strategy": here("checkpoint.every_steps", note="0: only at the end"),
    "save_total_limit": here("checkpoint.keep"),
    "resume_from_checkpoint": here("resume", note="auto, or the run's directory"),
    "eval_steps eval_strategy": here("eval.every_steps", note="0: only before and after training"),
    "eval_on_start": here("eval.at_start"),
    "report_to": here(*_SINKS, note=_LOGGING),
    "logging_steps": here(note=_EVERY_STEP),
    "logging_dir": here("logging.tensorboard", note="true; the files are in tensorboard/ of the run directory"),
    "log_completions": here("samples.per_step", note=_SAMPLES),
    "push_to_hub": here(note="not there; final/ of the run directory is in Hugging Face format"),
    # ModelConfig, ScriptArguments
    "model_name_or_path": here("model.name_or_path"),
    "model_init_kwargs": here("model"),
    "torch_dtype dtype": here("model.dtype"),
    "attn_implementation": here("model.attention"),
    "peft_config": here("model.use_peft", "model.lora_r", "model.lora_alpha", "model.lora_target_modules"),
    "lora_dropout": here(note=_POLICY),
    "load_in_4bit load_in_8bit": here(note="not there; weights are float32 or bfloat16"),
    "dataset_name": here("datasets[].name"),
    "dataset_config": here("datasets[].config_name"),
    "dataset_train_split": here("datasets[].split"),
    "dataset_test_split": here("eval.datasets[].split"),
    "shuffle_dataset": here("curriculum.strategy", note="prompts are drawn at random; uniform: all alike"),
    "chat_template_path": here("model.chat_template"),
    "remove_unused_columns": here(note="every other column reaches the reward as metadata: remove it"),
}

VERL: Mapping[str, Here] = {
    "actor_rollout_ref": here("model", "train", "loss", "kl", "rollout", "sampling", "generator", "reference"),
    "algorithm": here("algo", "advantage", "kl", "rollout"),
    "trainer": here("train", "eval", "checkpoint", "cluster"),
    "critic lam lambd critic_warmup critic_learning_rate value_clip": here(note=_NO_CRITIC),
    "reward reward_manager": here("rewards", note="a list of entries {type: …, weight: …}"),
    "custom_reward_function": here("rewards", note="an entry {type: file.py:function}"),
    "custom_reward_function.path custom_reward_function.name": here("rewards[].type", note="file.py:function"),
    "reward_model": here("rewards", note="an entry {type: reward_model, model: …}"),
    "reward_model.model.path reward_model.model_path": here("rewards[].reward_model.model"),
    "sandbox_fusion": here("rewards[].code.sandbox", "rewards[].code.url", note="http and the service's url"),
    "sandbox_fusion.url": here("rewards[].code.url", note="with rewards[].code.sandbox: http"),
    "sandbox_fusion.max_concurrent": here("rewards[].code.concurrency"),
    # data
    "data.train_batch_size train_batch_size gen_batch_size": here("rollout.rollouts_per_step", note=_PROMPTS),
    "val_batch_size": here(note=_EVAL_BATCH),
    "max_prompt_length prompt_length": here("data.max_prompt_tokens"),
    "max_response_length response_length": here("sampling.max_new_tokens"),
    "train_files": here("datasets[].name"),
    "val_files": here("eval.datasets[].name"),
    "val_max_samples": here("eval.num_problems"),
    "prompt_key": here("datasets[].columns.prompt"),
    "reward_fn_key": here("datasets[].source", note="the column data_source is found by itself"),
    "filter_overlong_prompts": here("data.on_long_prompt", note="true is skip, the default"),
    "apply_chat_template_kwargs": here("model.chat_template_kwargs"),
    "custom_chat_template": here("model.chat_template", note="the file that has it"),
    "shuffle": here("curriculum.strategy", note="prompts are drawn at random; uniform: all alike"),
    # actor and reference
    "model.path": here("model.name_or_path"),
    "enable_gradient_checkpointing": here("model.gradient_checkpointing"),
    "use_remove_padding": here("train.packing"),
    "lora_rank": here("model.lora_r", note=_LORA),
    "target_modules": here("model.lora_target_modules"),
    "ppo_mini_batch_size": here("train.minibatch_size", note=_PROMPTS),
    "ppo_micro_batch_size_per_gpu ppo_micro_batch_size": here("train.micro_batch_tokens", note=_MICRO),
    "log_prob_micro_batch_size_per_gpu": here("train.micro_batch_tokens", note=_MICRO),
    "ppo_max_token_len_per_gpu": here("train.micro_batch_tokens"),
    "use_dynamic_bsz": here(note="a micro-batch always has train.micro_batch_tokens: remove it"),
    "clip_ratio": here("loss.clip_low", "loss.clip_high", note=_CLIPS),
    "clip_ratio_low": here("loss.clip_low"),
    "clip_ratio_high": here("loss.clip_high"),
    "clip_ratio_c": here("loss.dual_clip"),
    "loss_mode": here("loss.type", note="vanilla is grpo or, with token-mean, dapo"),
    "loss_agg_mode": here("loss.aggregation", note="token-mean is token_mean, seq-mean-token-mean sequence_mean"),
    "entropy_coeff": here("loss.entropy_coef"),
    "use_kl_loss": here("kl.coef", note="above 0, with kl.placement: loss"),
    "use_kl_in_reward": here("kl.coef", note="above 0, with kl.placement: reward"),
    "kl_coef kl_loss_coef": here("kl.coef"),
    "kl_loss_type kl_penalty": here("kl.estimator", note="low_var_kl is k3, kl is k1, mse is k2"),
    "kl_ctrl.type": here("kl.controller", note="adaptive is ziegler, fixed is null"),
    "target_kl": here("kl.controller_target", note=_ADAPTIVE),
    "lr_warmup_steps": here("train.warmup_steps"),
    "lr_warmup_steps_ratio": here("train.warmup_steps", note=_WARMUP),
    "warmup_style": here("train.lr_schedule"),
    "actor.strategy ref.strategy": here("train.zero_stage", note=_ZERO_3),
    "param_offload": here("train.offload_parameters", note="with train.zero_stage 3"),
    "ref.fsdp_config.param_offload": here("reference.device", note="true is cpu"),
    "optimizer_offload": here("train.offload_optimizer", note=_ZERO),
    # algorithm
    "adv_estimator": here("advantage.baseline", note="grpo is group; algo: grpo is the whole method"),
    "norm_adv_by_std_in_grpo": here("advantage.normalize", note="true is group, false is none"),
    "filter_groups filter_groups.enable": here("rollout.dynamic_sampling"),
    "max_num_gen_batches": here("rollout.dynamic_sampling_rounds", note="refills: = batches - 1"),
    "rollout_is": here("correction.level"),
    "rollout_is_threshold": here("correction.cap"),
    "gamma": here(note="a completion has one reward, which is not discounted: remove it"),
    # rollout
    "n rollout.n": here("rollout.group_size"),
    "eval.n val_kwargs.n": here("eval.num_samples"),
    "val_kwargs.temperature": here("eval.temperature"),
    "val_kwargs.top_p": here("eval.top_p"),
    "val_kwargs.top_k": here("eval.top_k", note="-1 is 0: all tokens"),
    "val_kwargs.do_sample": here("eval.temperature", note="false is 0"),
    "rollout.top_p": here("sampling.top_p"),
    "rollout.top_k": here("sampling.top_k", note="-1 is 0: all tokens"),
    "rollout.name": here(note=_VLLM),
    "rollout.mode free_cache_engine": here(note=_OWN_PROCESS),
    "rollout.dtype": here("generator.dtype"),
    "tensor_model_parallel_size": here("cluster.tensor_parallel_size"),
    "max_model_len": here("rollout.max_context_tokens"),
    # trainer
    "total_epochs": here("train.max_steps", note=_PASSES),
    "total_training_steps": here("train.max_steps"),
    "device use_cpu": here("cluster.use_gpu", note="yes or no"),
    "n_gpus_per_node nnodes": here("cluster.num_learners", "cluster.num_generators", note=_GPUS),
    "experiment_name": here("name"),
    "logger": here(*_SINKS, note=_LOGGING),
    "project_name": here("logging.wandb_project"),
    "log_val_generations": here("samples.eval"),
    "rollout_data_dir validation_data_dir": here("samples.all", note="true; they are in samples/ of the run directory"),
    "global_profiler.steps": here("profile.steps", note="[first, last]"),
    "global_profiler.tool": here("profile.tool", note="torch or memory"),
    "default_local_dir": here("run_dir"),
    "save_freq": here("checkpoint.every_steps", note="-1 is 0: only at the end"),
    "test_freq": here("eval.every_steps", note="-1 is 0: only before and after training"),
    "max_actor_ckpt_to_keep": here("checkpoint.keep"),
    "val_before_train": here("eval.at_start"),
    "resume_mode": here("resume", note="auto, or left out for disable"),
    "resume_from_path": here("resume", note="the run's directory"),
}

OPENRLHF: Mapping[str, Here] = {
    "actor": here("model", "loss", "train"),
    "n_samples_per_prompt": here("rollout.group_size"),
    "eval.n_samples_per_prompt eval_n_samples_per_prompt": here("eval.num_samples"),
    "eval_temperature": here("eval.temperature"),
    "rollout_batch_size rollout.batch_size": here("rollout.rollouts_per_step", note=_PROMPTS),
    "train_batch_size train.batch_size": here("train.minibatch_size"),
    "micro_train_batch_size micro_rollout_batch_size micro_batch_size": here("train.micro_batch_tokens", note=_MICRO),
    "max_tokens_per_gpu train_max_tokens_per_gpu": here("train.micro_batch_tokens"),
    "max_epochs": here("train.ppo_epochs"),
    "num_episodes": here("train.max_steps", note=_PASSES),
    "prompt_max_len": here("data.max_prompt_tokens"),
    "generate_max_len": here("sampling.max_new_tokens"),
    "max_len": here("rollout.max_context_tokens"),
    "max_samples": here(note="there is no limit on rows: give a file with fewer"),
    "eps_clip eps_clip_low_high": here("loss.clip_low", "loss.clip_high"),
    "policy_loss_type": here("loss.type", note="ppo is grpo"),
    "entropy_loss_coef": here("loss.entropy_coef"),
    "aux_loss_coef": here("train.router_aux_loss_coef"),
    "init_kl_coef kl.init_coef": here("kl.coef"),
    "use_kl_loss kl.use_loss": here("kl.placement", note="true is loss, false is reward"),
    "kl_target algo.kl.target": here("kl.controller_target", note=_ADAPTIVE),
    "kl_horizon horizon": here("kl.horizon", note=_ADAPTIVE),
    "kl_estimator algo.kl.estimator": here("kl.estimator"),
    "advantage_estimator advantage.estimator": here("advantage.baseline", note="group_norm is group"),
    "no_advantage_std_norm no_std_norm": here("advantage.normalize", note="true is none"),
    "dynamic_filtering dynamic_filtering_enable": here("rollout.dynamic_sampling"),
    "async_train async_enable async_queue_size": here("rollout.max_staleness", note="versions; 0 is synchronous"),
    "vllm_is_truncated_threshold is_correction_threshold": here("correction.cap", note="the second of the two"),
    "enable_vllm_is_correction is_correction_enable": here("correction.mode", note="false is none"),
    "actor_learning_rate": here("train.learning_rate"),
    "adam_betas betas": here("train.betas"),
    "l2": here("train.weight_decay"),
    "max_norm": here("train.max_grad_norm"),
    "lr_warmup_ratio": here("train.warmup_steps", note=_WARMUP),
    "lr_scheduler": here("train.lr_schedule", note="constant, cosine or linear"),
    "adam_offload": here("train.offload_optimizer", note=_ZERO),
    "packing_samples": here("train.packing"),
    "lora.rank": here("model.lora_r", note=_LORA),
    "lora.alpha": here("model.lora_alpha"),
    "pretrain": here("model.name_or_path"),
    "reward_pretrain": here("rewards[].reward_model.model"),
    "remote_rm_url reward.remote_url": here("rewards[].http.url", note="a Python file is rewards[].type: file.py:name"),
    "prompt_data prompt_dataset": here("datasets[].name"),
    "prompt_data_probs prompt_probs": here("datasets[].weight"),
    "prompt_split": here("datasets[].split"),
    "eval_dataset eval.dataset": here("eval.datasets[].name"),
    "eval_split eval.split": here("eval.datasets[].split"),
    "ref_reward_offload ref.offload": here("reference.device", note="true is cpu"),
    "gradient_checkpointing_enable": here("model.gradient_checkpointing"),
    "input_key": here("datasets[].columns.prompt"),
    "label_key": here("datasets[].columns.answer"),
    "input_template": here("datasets[].prompt_template"),
    "apply_chat_template": here("datasets[].chat"),
    "vllm_num_engines vllm.num_engines": here("cluster.num_generators"),
    "actor_num_gpus_per_node actor_num_nodes": here("cluster.num_learners", note=_GPUS),
    "ckpt_path ckpt.path save_path": here("run_dir"),
    "max_ckpt_num ckpt.max_num": here("checkpoint.keep"),
    "load_checkpoint ckpt.load_enable": here("resume", note="true is auto"),
    "eval.steps eval_steps": here("eval.every_steps", note="-1 is 0: only before and after training"),
    "use_wandb": here("logging.wandb", note="true; the key comes from WANDB_API_KEY or wandb login"),
    "wandb_project": here("logging.wandb_project"),
    "wandb_org": here("logging.wandb_entity"),
    "wandb_group": here("logging.wandb_group"),
    "wandb_run_name": here("name"),
    "use_tensorboard": here("logging.tensorboard", note="true"),
    "logging_steps": here(note=_EVERY_STEP),
    "overlong_buffer_len": here("rewards[].overlong.cache_tokens"),
    "overlong_penalty_factor": here("rewards[].overlong.weight"),
}

OTHERS: Mapping[str, Here] = {
    "apply_chat_template_kwargs chat_template_args": here("model.chat_template_kwargs"),
    "enable_thinking": here("model.chat_template_kwargs", note="{enable_thinking: false}"),
    "lr": here("train.learning_rate"),
    "grad_clip clip_grad": here("train.max_grad_norm"),
    "clip": here("loss.clip_low", "loss.clip_high"),
    "batch_size": here("rollout.rollouts_per_step", note=_PROMPTS),
    "num_epochs epochs": here("train.max_steps", note=_PASSES),
    "max_gen_len max_tokens": here("sampling.max_new_tokens"),
    "eval.max_tokens": here("eval.max_new_tokens"),
    "max_length": here("rollout.max_context_tokens"),
    "model model_name": here("model.name_or_path"),
    "generation": here("sampling", "generator"),
    "data.path datasets.path": here("datasets[].name"),
    "reference_mode": here("reference.mode"),
    "reference_update_freq": here("reference.update_freq"),
    "kl_adaptation_method": here("kl.adaptation"),
    "kl_clip_threshold": here("kl.clip_threshold"),
    "kl_target": here("kl.target", note="with kl.adaptation: sigmoid"),
    "save_every": here("checkpoint.every_steps"),
    "eval_every": here("eval.every_steps"),
    "curriculum_enabled": here("curriculum.strategy", note="true is uncertainty, false is uniform"),
    "use_baseline_advantages": here("advantage.baseline", note="true is tracker, false is group"),
    "baseline_enabled": here("advantage.baseline", note="v̂ is always kept; tracker: advantages are against it"),
    **{name: here(".".join(place)) for name, place in MOVES.items()},
}

LIBRARIES: Mapping[str, Mapping[str, Here]] = {"TRL": TRL, "verl": VERL, "OpenRLHF": OPENRLHF, "others": OTHERS}
