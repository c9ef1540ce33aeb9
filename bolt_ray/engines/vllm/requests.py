"""Requests as vLLM takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.engines.settings import SamplingSettings


def token_prompt(token_ids: Sequence[int] | NDArray[np.integer]) -> dict[str, Any]:
    """A prompt of given tokens, int [P]."""
    return {"type": "token", "prompt_token_ids": [int(token) for token in token_ids]}


def sampling_arguments(sampling: SamplingSettings, *, seed: int) -> dict[str, Any]:
    """The settings as arguments of ``SamplingParams``."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "max_tokens": sampling.max_new_tokens,
        "stop": list(sampling.stop) or None,
        "stop_token_ids": list(sampling.stop_token_ids) or None,
        "seed": seed & (2**63 - 1),
        # vLLM needs the text as it grows only to look for stop strings.
        "detokenize": bool(sampling.stop),
    }


def generation_params(sampling: SamplingSettings, *, seed: int) -> Any:
    """``SamplingParams`` of a rollout: the log-prob of every sampled token, returned when the completion is done."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        **sampling_arguments(sampling, seed=seed),
        logprobs=0,
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def scoring_params(token: int, *, prompt_logprobs: bool) -> Any:
    """``SamplingParams`` that generate one token and report the log-prob of ``token`` in its place.

    Of the plain softmax: temperature 1, no truncation.

    Args:
        prompt_logprobs: also report those of the prompt's tokens.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=1.0,
        max_tokens=1,
        prompt_logprobs=0 if prompt_logprobs else None,
        logprobs=1,
        logprob_token_ids=[token],
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
