"""The learner: one DeepSpeed engine that turns a batch of scored completions into an optimizer step.

    TrainingBatch ─▶ [π_old, π_ref: forward passes] ─▶ for each epoch, each mini-batch:
                     micro-batches ─▶ loss ─▶ backward ─▶ … ─▶ clip, AdamW step ─▶ StepReport

Every rank is given the same whole batch and takes its share; every rank returns the same report. Runs under an
initialized ``torch.distributed`` (Ray Train, torchrun) or alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from bolt_ray.core.digests import FileDigest
from bolt_ray.core.errors import ModelError
from bolt_ray.core.kl_controllers import kl_controller
from bolt_ray.core.records import StepReport, TrainingBatch
from bolt_ray.engines.learner.checkpoint import Counters, load_state, save_state
from bolt_ray.engines.learner.deepspeed import (
    deepspeed_config,
    effective_zero_stage,
    initialize_engine,
    partitioned_loading,
    prepare_deepspeed,
)
from bolt_ray.engines.learner.flops import Utilization
from bolt_ray.engines.learner.logprobs import Extra
from bolt_ray.engines.learner.lora import attach_adapter, iter_adapter_weights, save_adapter
from bolt_ray.engines.learner.model import (
    copy_model_files,
    load_policy,
    packing_self_test,
    torch_dtype,
    training_device,
)
from bolt_ray.engines.learner.packing import TokenColumns
from bolt_ray.engines.learner.passes import PassPlanner
from bolt_ray.engines.learner.rank_files import RankFiles
from bolt_ray.engines.learner.reference import make_reference
from bolt_ray.engines.learner.report import count_bad, step_metrics
from bolt_ray.engines.learner.settings import LearnerSettings
from bolt_ray.engines.learner.step import BatchTrainer
from bolt_ray.engines.learner.weights import iter_named_weights

log = logging.getLogger(__name__)


class DeepSpeedLearner:
    """The trained policy, its optimizer, its reference and its KL controller.

    Methods that train, gather or save are collective: all ranks call them, in the same order.

    Attributes:
        settings: as given.
        counters: policy version, optimizer steps and bad steps so far.
        planner: how a pass is cut into micro-batches.
        reference: the reference policy; None if nothing reads it.
    """

    def __init__(self, settings: LearnerSettings) -> None:
        """Load the model and build engine and reference.

        Raises:
            ModelError: the model cannot be loaded, or its log-probs cannot be computed from its hidden states.
        """
        prepare_deepspeed()
        self.settings = settings
        self.counters = Counters()
        self._dtype, self._device = torch_dtype(settings.model.dtype), training_device()
        self._stage = effective_zero_stage(settings, self._dtype)
        config = deepspeed_config(settings, dtype=self._dtype, world_size=dist.get_world_size())
        with partitioned_loading(config if self._stage == 3 else None):
            self._module = load_policy(settings, dtype=self._dtype)
        self._peft: Any = None
        if settings.model.use_peft:
            self._peft = attach_adapter(self._module.model, settings.model, seed=settings.seed)
        trainable = [parameter for parameter in self._module.parameters() if parameter.requires_grad]
        self._engine = initialize_engine(self._module, parameters=trainable, config=config)
        self._engine.train()
        packs = packing_self_test(self._engine, self._module, dtype=self._dtype, device=self._device)
        planner = PassPlanner(
            token_budget=settings.train.micro_batch_tokens,
            packing=packs and settings.train.packing,
            # This kernel does not compute attention between sequences, so one long row costs nothing extra.
            row_capacity=settings.train.micro_batch_tokens if settings.model.attention == "flash_attention_2" else None,
        )
        self._controller = kl_controller(settings.kl)
        self._utilization = Utilization.of(
            self._module.model, device=self._device, dtype=self._dtype, ranks=dist.get_world_size()
        )
        self.reference = make_reference(
            settings,
            engine=self._engine,
            module=self._module,
            peft_model=self._peft,
            stage=self._stage,
            dtype=self._dtype,
            device=self._device,
        )
        self.planner = planner
        self._trainer = BatchTrainer(
            engine=self._engine,
            trainable=trainable,
            stage=self._stage,
            planner=planner,
            device=self._device,
            settings=settings,
            controller=self._controller,
            reference=self.reference,
        )
        log.info(
            "learner: %s weights, float32 master weights and optimizer state, ZeRO stage %d, %d rank(s), %s",
            str(self._dtype).removeprefix("torch."),
            self._stage,
            dist.get_world_size(),
            "packed" if planner.packing else "not packed",
        )

    @property
    def policy_version(self) -> int:
        """Weight updates so far; a skipped batch makes none."""
        return self.counters.policy_version

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps applied so far; several per update with epochs or mini-batches."""
        return self.counters.optimizer_steps

    def train_step(self, batch: TrainingBatch) -> StepReport:
        """Train one batch: ``ppo_epochs`` passes over its mini-batches.

        A non-finite loss or gradient ends the batch there and leaves weights and optimizer as they were before
        that optimizer step. The report says ``skipped`` if the batch changed nothing at all.

        Raises:
            UnhealthyTrainingError: ``max_bad_steps`` batches in a row met a non-finite loss or gradient.
            ValueError: columns of the batch do not fit each other.
        """
        rate = self.settings.schedule.at(batch.step)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        began = time.perf_counter()
        outcome = self._trainer.train(batch)
        utilization = self._utilization.metrics(batch, outcome.trained, seconds=time.perf_counter() - began)
        self.counters.optimizer_steps += outcome.applied
        if outcome.applied:
            self.counters.policy_version += 1
            if self.reference is not None:
                self.reference.after_update(self.counters.policy_version)
        count_bad(outcome, counters=self.counters, step=batch.step, max_bad_steps=self.settings.train.max_bad_steps)
        controller = self._controller.metrics() if self.reference is not None else {}
        return StepReport(
            step=batch.step,
            policy_version=self.counters.policy_version,
            skipped=outcome.applied == 0,
            metrics=step_metrics(outcome, counters=self.counters, learning_rate=rate, controller=controller)
            | utilization,
            logprobs_before=outcome.before,
        )

    def logprobs(
        self, sequences: Sequence[NDArray[np.integer]], prompt_lengths: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        """log π of every completion token, as sampled in training. Collective; the same on every rank.

        Args:
            sequences: prompt and completion of each, int [P + T].
            prompt_lengths: P of each, at least 1.

        Returns:
            float32 [T] for each sequence.
        """
        return self._score(sequences, prompt_lengths, extra="nothing")[0]

    def probe(
        self, sequences: Sequence[NDArray[np.integer]]
    ) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        """log p of every token but a sequence's first, in one forward pass. Collective; the same on every rank.

        Returns:
            Twice float32 [n-1] for each sequence of n tokens: of the model alone (temperature 1, no filter), which is
            what an inference engine returns for a prompt, and as sampled in training.
        """
        sampled, plain = self._score(sequences, [1] * len(sequences), extra="plain")
        return plain, sampled

    def _score(
        self, sequences: Sequence[NDArray[np.integer]], prompt_lengths: Sequence[int], *, extra: Extra
    ) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        columns = TokenColumns.of_sequences(sequences, prompt_lengths)
        if not columns.num_sequences:
            return [], []
        first, second = self._trainer.score(columns, np.arange(columns.num_sequences), extra=extra)
        cuts = columns.completion_starts[1:]
        return np.split(first, cuts), np.split(second, cuts)

    def iter_weights(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """All weights by their Hugging Face checkpoint names; collective, all ranks iterate to the end.

        A tensor is valid until the next is asked for. See `iter_named_weights`.

        Raises:
            ModelError: with LoRA, where only the adapter changes.
        """
        if self._peft is not None:
            raise ModelError("a LoRA learner changes its adapter only; use iter_adapter_weights")
        return iter_named_weights(self._module.model, dtype=dtype)

    def iter_adapter_weights(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """The adapter by PEFT's names; collective.

        Raises:
            ModelError: without LoRA.
        """
        return iter_adapter_weights(self._require_adapter(), dtype=dtype)

    def save_adapter(self, directory: str | Path) -> dict[str, FileDigest]:
        """Write the adapter as PEFT and vLLM read it; collective.

        Returns:
            what was written, see `RankFiles.finish`.

        Raises:
            ModelError: without LoRA.
            StorageError: a file could not be written; the learner is as before.
        """
        return save_adapter(self._require_adapter(), Path(directory), base=self.settings.model_path)

    def save_hf(self, directory: str | Path) -> dict[str, FileDigest]:
        """Write a model directory for Transformers and vLLM (with LoRA: an adapter directory); collective.

        Returns:
            what was written, see `RankFiles.finish`.

        Raises:
            ModelError: ``model_path`` is no local directory to take config and tokenizer from.
            StorageError: a file could not be written; the learner is as before.
        """
        if self._peft is not None:
            return self.save_adapter(directory)
        path = Path(directory)
        files = RankFiles(path)
        files.on_first_rank(lambda: copy_model_files(self.settings.model_path, path, dtype=self._dtype))
        files.tensors(iter_named_weights(self._module.model, name_tied_output=False), stem="model")
        return files.finish()

    def save(self, directory: str | Path) -> dict[str, FileDigest]:
        """Write what `load` needs to continue exactly, at any world size; collective.

        Master weights, optimizer moments, a reference that follows the policy, the KL controller and the counters,
        as safetensors and JSON.

        Returns:
            what was written, see `RankFiles.finish`.

        Raises:
            StorageError: a file could not be written; the learner is as before.
        """
        return save_state(
            Path(directory),
            engine=self._engine,
            model=self._module.model,
            stage=self._stage,
            counters=self.counters,
            controller=self._controller,
            reference=self.reference,
        )

    def load(self, directory: str | Path) -> None:
        """Restore what `save` wrote, under any ZeRO stage and world size; collective.

        Raises:
            CheckpointError: a file is missing or belongs to another model.
        """
        self.counters = load_state(
            Path(directory),
            engine=self._engine,
            model=self._module.model,
            stage=self._stage,
            controller=self._controller,
            reference=self.reference,
        )
        dist.barrier()

    def close(self) -> None:
        """Release the engine; the process group stays open, its creator closes it."""
        self._engine.destroy()

    def _require_adapter(self) -> Any:
        if self._peft is None:
            raise ModelError("this learner trains all weights: it has no adapter (set model.use_peft)")
        return self._peft
