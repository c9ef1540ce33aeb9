"""The generation engine: the real vLLM, in this process.

    add(requests) ─▶ ┌──────────────┐ ─step()─▶ completions, each with its own log-probs
                     │  VLLMEngine  │            and the oldest and newest policy version
    update_weights ─▶└──────────────┘ ─score()─▶ log-probs of given tokens

The caller owns the loop: nothing happens between two calls. An update between two steps leaves requests in flight;
they go on under the new weights, with their key-value cache computed anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bolt_ray.core.errors import DataError, ModelError, WeightSyncError
from bolt_ray.core.records import Completion, GenerationRequest
from bolt_ray.engines.profiler import ProfileTarget, start_in_worker, stop_in_worker
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.vllm.launch import SERVING_ERRORS, not_served, start_vllm, unsupported_head_size
from bolt_ray.engines.vllm.requests import generation_params, token_prompt
from bolt_ray.engines.vllm.scoring import SequenceScores
from bolt_ray.engines.vllm.settings import EngineSettings
from bolt_ray.engines.vllm.statistics import EngineStatistics, StatisticsCollector
from bolt_ray.engines.vllm.weights import CorruptedEngineError, load_buckets
from bolt_ray.engines.weight_buckets import WeightManifest, check_buckets, check_complete, checkpoint_shapes

RECORDED_STEPS = 100
"""Most engine steps of one recording: the trace of long completions would have gigabytes."""


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A request inside vLLM; ``adapter_version`` is that of the adapter it is generated with to its end."""

    request_id: int
    adapter_version: int | None


class VLLMEngine:
    """See the module's picture. Not thread-safe: one thread calls it."""

    def __init__(self, settings: EngineSettings, *, sampling: SamplingSettings, policy_version: int = 0) -> None:
        """Load the model. ``policy_version`` names the weights found in ``settings.model_dir``.

        Raises:
            EnvironmentProblem: vLLM is not installed.
            ModelError: the directory is not a model vLLM can serve.
        """
        self._settings = settings
        self._sampling = sampling
        self._expected = _expected_weights(settings.model_dir)
        # vLLM joins the process group it finds, or makes one.
        self._owns_process_group = not torch.distributed.is_initialized()
        self._collector = StatisticsCollector()
        self._engine = start_vllm(settings, self._collector)
        model_config = self._engine.vllm_config.model_config
        self._max_model_len = int(model_config.max_model_len)
        self._vocab_size = int(model_config.get_vocab_size())
        tied = bool(model_config.hf_text_config.tie_word_embeddings)
        self._optional = frozenset({"lm_head.weight"} if tied else ())
        self._tokenizer = self._engine.get_tokenizer()
        self._in_flight: dict[str, _InFlight] = {}
        self._finished: list[Completion] = []
        self._finished_tokens = 0
        self._generated_tokens = 0
        self._scores = SequenceScores(by_token=settings.lora_rank is not None)
        self._adapter: Any = None
        self._adapters = 0
        self._corrupted: str | None = None
        self._steps_to_record = 0
        self._version = policy_version
        self._engine.set_weight_version(str(policy_version))
        self._try_out()
        self._collector.take()

    @property
    def policy_version(self) -> int:
        return self._version

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    @property
    def num_unfinished(self) -> int:
        """Requests added and not yet returned by ``step``."""
        return len(self._in_flight) + len(self._finished)

    @property
    def generated_tokens(self) -> int:
        """Tokens produced up to the last step, those of unfinished requests included. Any thread may ask.

        A stall is when this stands still.
        """
        return self._generated_tokens

    def take_statistics(self) -> EngineStatistics:
        """What happened since the last call. Any thread may ask."""
        return self._collector.take()

    def add(self, requests: Sequence[GenerationRequest], sampling: SamplingSettings | None = None) -> None:
        """Queue requests; ``sampling`` takes the place of the engine's own settings for these.

        Raises:
            DataError: a prompt is empty, too long or has unknown tokens. Nothing of ``requests`` is queued then.
        """
        self._check_usable()
        sampling = sampling or self._sampling
        for request in requests:
            self._check_prompt(request.token_ids, what=f"prompt of request {request.request_id}")
        for request in requests:
            key = str(request.request_id)
            assert key not in self._in_flight, f"request {key} is already being generated"
            self._engine.add_request(
                key,
                token_prompt(request.token_ids),
                generation_params(sampling, seed=request.seed),
                lora_request=self._adapter,
            )
            version = None if self._adapter is None else self._version
            self._in_flight[key] = _InFlight(request.request_id, version)

    def abort(self, request_ids: Sequence[int]) -> list[int]:
        """Drop requests; returns those that are not here."""
        known = [key for key in map(str, request_ids) if key in self._in_flight]
        self._engine.abort_request(known)
        for key in known:
            del self._in_flight[key]
        return [request_id for request_id in request_ids if str(request_id) not in known]

    def step(self) -> list[Completion]:
        """One step of every running request; returns those that ended with it."""
        self._check_usable()
        if self._in_flight:
            self._advance()
        finished, self._finished = self._finished, []
        return finished

    def score(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Log-probs of given tokens under the current weights, for comparison with the learner's.

        They are those of the plain softmax: temperature 1, no truncation. Requests in flight go on meanwhile.
        Holds [tokens × vocabulary] log-probs of a sequence at a time: meant for a few short ones. An engine for
        adapters asks for every token of its own, n - 1 prompts for a sequence of n: meant for very short ones.

        Args:
            sequences: token ids, at least two each.

        Returns:
            For a sequence of n tokens float32 [n-1]: log p of its tokens from the second on.

        Raises:
            DataError: a sequence is too short, too long or has unknown tokens.
        """
        self._check_usable()
        for index, sequence in enumerate(sequences):
            self._check_prompt(sequence[:-1], what=f"sequence {index} to score")
            self._check_prompt(sequence[-1:], what=f"sequence {index} to score")
        submitted = [self._scores.submit(self._engine, sequence, adapter=self._adapter) for sequence in sequences]
        while self._scores.pending:
            self._advance()
        return [self._scores.collect(sequence) for sequence in submitted]

    def update_weights(self, manifest: WeightManifest, buckets: Sequence[NDArray[np.uint8]], version: int) -> None:
        """Replace all weights; they are policy version ``version`` from the next step on.

        Raises:
            WeightSyncError: the tensors are not exactly the model's. Nothing was changed.
            CorruptedEngineError: it failed half way; the engine answers nothing any more.
        """
        self._check_usable()
        check_buckets(manifest, buckets)
        check_complete(manifest, self._expected, optional=self._optional)
        try:
            self._engine.collective_rpc(load_buckets, args=(manifest, buckets))
            self._forget_cache()
        except BaseException as error:
            self._corrupted = f"updating the generator to version {version} failed half way: {error}"
            raise CorruptedEngineError(self._corrupted) from error
        self._adapter = None
        self._set_version(version)

    def update_adapter(self, path: str | Path, version: int) -> None:
        """Serve the LoRA adapter in ``path`` from the next request on, as policy version ``version``.

        Requests in flight end with the adapter they began with. Every version needs a directory of its own.

        Raises:
            ModelError: no adapter there, or not one this engine can load. The old one is kept.
        """
        from vllm.exceptions import VLLMClientError
        from vllm.lora.request import LoRARequest

        self._check_usable()
        if self._settings.lora_rank is None:
            raise ModelError(f"cannot serve the adapter {path}: the engine was started without lora_rank")
        if not (Path(path) / "adapter_config.json").is_file():
            raise ModelError(f"{path} is not a LoRA adapter: it has no adapter_config.json")
        # A new name and number each time, also where training went back and makes a version again: under a number
        # that vLLM has seen it goes on with what it loaded then.
        self._adapters += 1
        adapter = LoRARequest(
            lora_name=f"policy-{version}-{self._adapters}", lora_int_id=self._adapters, lora_path=str(path)
        )
        try:
            self._engine.add_lora(adapter)
        except (ValueError, RuntimeError, OSError, KeyError, VLLMClientError) as error:
            raise ModelError(f"vLLM could not load the adapter {path}: {error}") from error
        self._adapter = adapter
        self._set_version(version)

    def profile(self, target: ProfileTarget | None, *, who: str = "") -> None:
        """Record the next steps in every worker of vLLM, at most so many; None ends that.

        Not by vLLM's own profiler: it wants its directory when the engine is made, and says of a failure nothing.
        """
        if self._steps_to_record:
            self._engine.collective_rpc(stop_in_worker)
        self._steps_to_record = 0 if target is None else RECORDED_STEPS
        if target is not None:
            self._engine.collective_rpc(start_in_worker, args=(target, who))

    def close(self) -> None:
        """Free the model and the cache."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self._engine.engine_core.shutdown()
        del self._engine
        if self._owns_process_group:
            cleanup_dist_env_and_memory()

    def _try_out(self) -> None:
        """Generate one token: some models load, and only their first request shows that no kernel takes them.

        Raises:
            ModelError: vLLM cannot generate with this model; says its reason.
        """
        try:
            self.score([[0, 0]])
        except SERVING_ERRORS as error:
            head_size = unsupported_head_size(self._engine.vllm_config.model_config)
            raise not_served(self._settings.model_dir, error, head_size) from error

    def _set_version(self, version: int) -> None:
        self._version = version
        self._engine.set_weight_version(str(version))

    def _forget_cache(self) -> None:
        """Drop all key-value entries computed by older weights; running requests are prefilled again."""
        if not self._engine.reset_prefix_cache(reset_running_requests=True):
            raise WeightSyncError("vLLM kept parts of its key-value cache")

    def _advance(self) -> None:
        """One engine step; what ended is kept in ``_finished`` or among the scores."""
        for output in self._engine.step():
            if not self._scores.accept(output) and output.request_id in self._in_flight:
                in_flight = self._in_flight.pop(output.request_id)
                self._finished.append(self._complete(in_flight, output.outputs[0]))
        if self._steps_to_record == 1:
            self.profile(None)
        self._steps_to_record = max(0, self._steps_to_record - 1)
        states = self._engine.output_processor.request_states.values()
        running = sum(state.detokenizer.num_output_tokens() for state in states)
        self._generated_tokens = self._finished_tokens + running

    def _complete(self, in_flight: _InFlight, output: Any) -> Completion:
        token_ids = np.asarray(output.token_ids, dtype=np.int32)
        self._finished_tokens += len(token_ids)
        versions = [int(span.version) for span in output.weight_versions]
        if in_flight.adapter_version is not None:
            versions = [in_flight.adapter_version]
        # A token it was told to stop at ends the text as the end-of-sequence token does, be it a special one or not.
        written = output.token_ids[:-1] if isinstance(output.stop_reason, int) else output.token_ids
        return Completion(
            request_id=in_flight.request_id,
            token_ids=token_ids,
            logprobs=np.asarray(output.logprobs.logprobs, dtype=np.float32),
            text=self._tokenizer.decode(written, skip_special_tokens=True),
            truncated=output.finish_reason == "length",
            oldest_version=min(versions),
            newest_version=max(versions),
        )

    def _check_usable(self) -> None:
        if self._corrupted is not None:
            raise CorruptedEngineError(self._corrupted)

    def _check_prompt(self, token_ids: Any, *, what: str) -> None:
        if len(token_ids) == 0:
            raise DataError(f"the {what} has no tokens")
        if len(token_ids) >= self._max_model_len:
            raise DataError(
                f"the {what} has {len(token_ids)} tokens; the context of {self._max_model_len} leaves no room for "
                f"an answer"
            )
        low, high = int(np.min(token_ids)), int(np.max(token_ids))
        if low < 0 or high >= self._vocab_size:
            raise DataError(
                f"the {what} has token id {low if low < 0 else high}; the model knows 0 to {self._vocab_size - 1}. "
                f"Was it tokenized with another tokenizer?"
            )


def _expected_weights(model_dir: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor an update must bring; stored frequencies of rotary embeddings are no weights."""
    if not (Path(model_dir) / "config.json").is_file():
        raise ModelError(f"{model_dir} is not a Hugging Face model directory: it has no config.json")
    shapes = checkpoint_shapes(model_dir)
    return {name: shape for name, shape in shapes.items() if not name.endswith("rotary_emb.inv_freq")}
