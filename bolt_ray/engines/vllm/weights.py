"""Replacing the weights of a running vLLM, inside its worker.

vLLM repacks weights while it loads them, so new ones go through its layerwise reload: every layer is put back to
its checkpoint form, loaded, processed again, and copied into the storage the kernels already point at. On CPU two
kinds of layer keep a second, packed copy that the reload leaves stale, without an error and without a trace in any
checksum; ``_repack_stale_copies`` renews them. Only a comparison of log-probabilities shows the difference.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.errors import WeightSyncError
from bolt_ray.engines.weight_buckets import WeightManifest, unpack


class CorruptedEngineError(WeightSyncError):
    """A weight update failed half way: the engine holds a mixture of weights and must be thrown away."""


def load_buckets(worker: Any, manifest: WeightManifest, buckets: Sequence[NDArray[np.uint8]]) -> int:
    """Run in the vLLM worker: load every tensor of the buckets; returns how many parameters were renewed.

    Raises:
        WeightSyncError: a parameter of the model was not loaded.
    """
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import (
        finalize_layerwise_reload,
        initialize_layerwise_reload,
    )

    # It warns of every layer without weights, rotary embeddings included; the check below replaces it.
    logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
    model = worker.model_runner.get_model()
    lora = worker.vllm_config.lora_config is not None
    wanted = {name.replace(".base_layer.", ".") if lora else name for name, _ in model.named_parameters()}
    with set_current_vllm_config(worker.vllm_config):
        initialize_layerwise_reload(model)
        loaded = model.load_weights(unpack(manifest, buckets))
        finalize_layerwise_reload(model, worker.model_runner.model_config)
        _repack_stale_copies(model)
    worker.model_runner.reset_lora_state()
    if loaded is not None and wanted - loaded:
        raise WeightSyncError(f"vLLM did not load {sorted(wanted - loaded)[:3]} from the weights sent")
    return len(wanted)


def _repack_stale_copies(model: Any) -> None:
    """Renew the packed copies that only CPU kernels keep.

    A tied output head holds no weight of its own, so the reload never processes it, and its packed matrix stays
    that of the first load. A mixture-of-experts kernel packs its experts at its first set-up only; afterwards the
    reload leaves plain weights where the kernel expects packed ones.
    """
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
        UnquantizedFusedMoEMethod,
    )
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
            continue
        method = module._modules.get("quant_method") or module.__dict__.get("quant_method")
        if isinstance(method, UnquantizedFusedMoEMethod) and method.moe_kernel is not None:
            experts = method.moe_kernel.fused_experts
            if isinstance(experts, CPUUnquantizedExperts):
                experts.process_weights_after_loading(module)
