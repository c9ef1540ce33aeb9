"""Log-probs of given sequences: which vLLM requests ask for them, and how the answers are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.engines.vllm.requests import scoring_params, token_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedSequence:
    """A sequence, and the requests that score it.

    Attributes:
        tokens: the token ids, n of them.
        requests: (request id, length of its prompt) in the order of the tokens they score.
    """

    tokens: Sequence[int]
    requests: tuple[tuple[str, int], ...]


class SequenceScores:
    """Scoring requests that vLLM is working on, and its outputs of those done.

    Args:
        by_token: one request for every token of a sequence. With adapters vLLM's output layer takes one row per
            request, and log-probs of a prompt would be several.
    """

    def __init__(self, *, by_token: bool) -> None:
        self._by_token = by_token
        self._waiting: set[str] = set()
        self._done: dict[str, Any] = {}
        self._count = 0

    @property
    def pending(self) -> bool:
        """True while a request is not done."""
        return bool(self._waiting)

    def submit(self, engine: Any, sequence: Sequence[int], *, adapter: Any) -> SubmittedSequence:
        """Queue the requests of a sequence of at least two tokens.

        The last token is scored as an output, so that a sequence may fill the whole context.
        """
        cuts = range(1, len(sequence)) if self._by_token else [len(sequence) - 1]
        requests = tuple((f"score-{self._count + place}", cut) for place, cut in enumerate(cuts))
        self._count += len(cuts)
        for request_id, cut in requests:
            params = scoring_params(int(sequence[cut]), prompt_logprobs=not self._by_token)
            engine.add_request(request_id, token_prompt(sequence[:cut]), params, lora_request=adapter)
            self._waiting.add(request_id)
        return SubmittedSequence(tokens=sequence, requests=requests)

    def accept(self, output: Any) -> bool:
        """Keep an output of vLLM; False if it belongs to another kind of request."""
        if output.request_id not in self._waiting:
            return False
        self._waiting.remove(output.request_id)
        self._done[output.request_id] = output
        return True

    def collect(self, submitted: SubmittedSequence) -> NDArray[np.float32]:
        """float32 [n-1], log p of the sequence's tokens from the second on, once its requests are done."""
        return np.concatenate(
            [_logprobs(self._done.pop(key), submitted.tokens[: cut + 1]) for key, cut in submitted.requests]
        )


def _logprobs(output: Any, sequence: Sequence[int]) -> NDArray[np.float32]:
    """float32: the prompt's tokens from the second on, if they were requested, then the last, scored as an output."""
    prompt = [] if output.prompt_logprobs is None else zip(output.prompt_logprobs[1:], sequence[1:-1], strict=True)
    values = [position[int(token)].logprob for position, token in prompt]
    values.append(output.outputs[0].logprobs[0][int(sequence[-1])].logprob)
    return np.asarray(values, dtype=np.float32)
