"""How much memory a model takes in learner and generators, from its configuration alone: no weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bolt_ray.engines.learner.settings import LearnerSettings

GIB = 2**30
_ADAM_BYTES = 8
_FLOAT32_BYTES = 4
_SAVED_WIDTHS = 16
"""Activations kept per layer and token without recomputation, in widths of the model: what attention and a gated MLP of
three to four widths save for the backward pass (Korthikanti et al., arXiv 2205.05198, eq. 2, without dropout)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What a model's memory depends on.

    Attributes:
        parameters: of the whole model.
        adapter_parameters: of a LoRA adapter of rank 1 on every linear layer but the output's.
        layers, hidden: number of layers, and their width.
        key_value_width: numbers kept per token and layer in the generator's cache, keys and values together; 0 for
            a model whose configuration names no attention heads.
    """

    parameters: int
    adapter_parameters: int
    layers: int
    hidden: int
    key_value_width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerMemory:
    """Bytes on the device of one learner rank; ``activations`` are estimated, at the full ``micro_batch_tokens``."""

    weights: float
    gradients: float
    optimizer: float
    reference: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.reference + self.activations


def model_size(model_dir: Path, *, trust_remote_code: bool) -> ModelSize:
    """The size of a model directory's model, built without storage.

    Raises:
        ValueError, OSError: the directory has no configuration that Transformers can build.
    """
    # Here and not above: this takes seconds, and only an estimate asks for it.
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 0
    head_size = getattr(text, "head_dim", None) or text.hidden_size // max(1, heads)
    key_value_heads = getattr(text, "num_key_value_heads", None) or heads
    output = model.get_output_embeddings()
    linear = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not output]
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        adapter_parameters=sum(part.in_features + part.out_features for part in linear),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        key_value_width=2 * key_value_heads * head_size,
    )


def learner_memory(size: ModelSize, settings: LearnerSettings, *, ranks: int) -> LearnerMemory:
    """Bytes of one rank of ``ranks``, with ZeRO (arXiv 1910.02054): stage 1 divides the optimizer's state, 2 the
    gradients as well, 3 the weights as well. What is offloaded is not on the device."""
    train, model = settings.train, settings.model
    width = 2 if model.dtype == "bfloat16" else _FLOAT32_BYTES
    stage = 1 if train.zero_stage == 0 and width == 2 else train.zero_stage
    trained = size.adapter_parameters * model.lora_r if model.use_peft else size.parameters
    master = _FLOAT32_BYTES if width == 2 else 0
    state = trained * (_ADAM_BYTES + master) / (ranks if stage >= 1 else 1)
    weights = size.parameters * width / (ranks if stage == 3 else 1)
    kept = 1 if model.gradient_checkpointing else _SAVED_WIDTHS
    has_reference = settings.needs_reference and not model.use_peft and settings.reference.device != "cpu"
    return LearnerMemory(
        weights=0.0 if train.offload_parameters else weights,
        gradients=trained * _FLOAT32_BYTES / (ranks if stage >= 2 else 1),
        optimizer=0.0 if train.offload_optimizer else state,
        reference=weights if has_reference else 0.0,
        activations=float(train.micro_batch_tokens * size.hidden * width * (size.layers * kept + _SAVED_WIDTHS)),
    )


def cache_bytes_per_token(size: ModelSize, *, bytes_per_number: int) -> int:
    """Bytes a generator keeps for each token of a request, over all layers."""
    return size.layers * size.key_value_width * bytes_per_number
