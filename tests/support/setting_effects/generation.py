"""Settings of the generators' engine, seen in the arguments that vLLM is given."""

from __future__ import annotations

from typing import Any

from support.effects import Effect, Workplace, effect
from support.wired_run import called, run_wired

from bolt_ray.commands.shared.inputs import prepare_inputs
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ModelError
from bolt_ray.engines.vllm.launch import engine_arguments
from bolt_ray.engines.vllm.requests import sampling_arguments


def engine(config: RunConfig, here: Workplace) -> Any:
    settings = run_wired(config, here)["made"]["generators"]["engine"]
    return engine_arguments(settings, on_cpu=not config.uses_gpu)


def request(config: RunConfig, here: Workplace) -> Any:
    return sampling_arguments(run_wired(config, here)["made"]["generators"]["sampling"], seed=0)


def model_path(config: RunConfig, here: Workplace) -> Any:
    other = here.directory / "other"
    other.mkdir(exist_ok=True)
    (other / "config.json").write_text('{"max_position_embeddings": 64}')
    return prepare_inputs(config, say=lambda text: None).model_path.name


def hub_model(config: RunConfig, here: Workplace) -> Any:
    """What is asked of the hub, which no test reaches."""
    try:
        return prepare_inputs(config, say=lambda text: None).model
    except ModelError as error:
        return str(error)


def tokens(config: RunConfig, here: Workplace) -> Any:
    """Of a text and of messages, by the tokenizer that the stream gets."""
    (here.directory / "template.jinja").write_text("{{ messages[0].content }}{{ sign }}")
    tokenize = run_wired(config, here)["made"]["prompts"]["tokenize"]
    return tokenize.encode(["1+1=", [{"role": "user", "content": "1+1"}]])


def opened(config: RunConfig, here: Workplace) -> Any:
    """What scorers are told of the prompts' ends."""
    return called(run_wired(config, here), "scorers", "prefills")


GPUS = {"cluster__use_gpu": "yes"}

EFFECTS: tuple[Effect, ...] = (
    effect("model.name_or_path", "other", model_path),
    effect("model.revision", "v2", hub_model, model__name_or_path="nobody/nothing"),
    effect("model.trust_remote_code", True, engine),
    effect("model.dtype", "bfloat16", engine),
    effect("model.use_peft", True, engine),
    effect("model.lora_r", 4, engine, model__use_peft=True),
    effect("model.chat_template", "template.jinja", tokens),
    effect("model.chat_template_kwargs", {"sign": "="}, tokens, model__chat_template="template.jinja"),
    effect("model.prefill", "1", tokens, opened),
    effect("sampling.temperature", 0.5, request),
    effect("sampling.top_p", 0.5, request),
    effect("sampling.top_k", 3, request),
    effect("sampling.min_p", 0.25, request),
    effect("sampling.max_new_tokens", 8, request),
    effect("sampling.stop", ["\n"], request),
    effect("sampling.stop_token_ids", [3], request),
    effect("generator.dtype", "bfloat16", engine),
    effect("generator.max_num_seqs", 8, engine),
    effect("generator.max_num_batched_tokens", 4096, engine),
    effect("generator.kv_cache_gib", 0.25, engine),
    effect("generator.gpu_memory_utilization", 0.5, engine, **GPUS),
    effect("generator.enforce_eager", False, engine),
    effect("cluster.tensor_parallel_size", 2, engine, **GPUS),
    effect("rollout.max_context_tokens", 48, engine),
    effect("seed", 5, engine),
)
