"""``BoltGRPOTrainer``: TRL's ``GRPOTrainer`` with advantages against the persistent baseline.

    sampler ─▶ rows ─▶ keys, v̂ ─▶ TRL: generate, score ─▶ advantages replaced, outcomes held
                                                                    │
       weights ◀── CurriculumCallback ◀── BaselineUpdateCallback ◀── TRL: loss, optimizer step

`BoltTrainerMixin` overrides methods of TRL's trainer and calls them all, so it can stand before any class that has
them, such as the one Unsloth puts in place of ``GRPOTrainer``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import IterableDataset
from numpy.typing import NDArray
from torch import Tensor
from trl import GRPOTrainer

from bolt_ray.core.advantages import compute_advantages
from bolt_ray.core.curriculum import Curriculum
from bolt_ray.core.errors import ConfigError, EnvironmentProblem
from bolt_ray.integrations.trl.adaptive_kl import AdaptiveKL, AdaptiveKLCallback, loss_mask
from bolt_ray.integrations.trl.baseline import IMAGES, UnifiedBaseline, quality, row_key
from bolt_ray.integrations.trl.callbacks import BaselineUpdateCallback, CurriculumCallback
from bolt_ray.integrations.trl.config import BoltConfigMixin
from bolt_ray.integrations.trl.convert import warm_start
from bolt_ray.integrations.trl.drift import ProbeDrift
from bolt_ray.integrations.trl.sampler import DynamicWeightedSampler

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object


class BoltTrainerMixin(_Trainer):  # type: ignore[misc]  # TRL has no types
    """Persistent baseline, curriculum and adaptive KL for a class of the shape of TRL's ``GRPOTrainer``.

    Stands first: ``class Mine(BoltTrainerMixin, GRPOTrainer)``. ``args`` must be a `BoltConfig`, or another class
    derived from `BoltConfigMixin`.

    Attributes:
        baseline: what is known of the prompts; evaluations never touch it.

    Raises:
        ConfigError: ``args`` is no such config, or the data set does not go with it.
        CheckpointError: the warm start cannot be used.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        config = kwargs.get("args", args[2] if len(args) > 2 else None)
        if not isinstance(config, BoltConfigMixin):
            raise ConfigError(f"args: is a {type(config).__name__}; BoltGRPOTrainer takes a BoltConfig")
        self._bolt = config
        self._bolt_rewards: Tensor | None = None
        self._bolt_logprobs: Tensor | None = None
        self._bolt_in_loss = False
        self._bolt_sampler: DynamicWeightedSampler | None = None
        self._bolt_drift: ProbeDrift | None = None
        self._bolt_kl: AdaptiveKL | None = None
        super().__init__(*args, **kwargs)
        self.baseline = UnifiedBaseline(config.baseline_settings)
        self._bolt_callbacks = self._make_callbacks(config)
        for callback in self._bolt_callbacks:
            self.add_callback(callback)

    def _make_callbacks(self: Any, config: BoltConfigMixin) -> list[Any]:
        if config.rho_varies and config.keeps_store:
            self._bolt_drift = ProbeDrift(self)
        steps = BaselineUpdateCallback(
            self.baseline, record=self._bolt_record if config.keeps_store else None, drift=self._bolt_drift
        )
        callbacks: list[Any] = [steps]
        if config.keeps_store:
            self._register_rows()
        if config.baseline_warm_start is not None:
            report = warm_start(self.baseline.store, config.baseline_warm_start)
            if report.warning is not None:
                log.warning(report.warning)
        if config.curriculum_enabled:
            callbacks.append(self._make_curriculum(config))
        if config.kl_adaptation_method != "none":
            self._bolt_kl = AdaptiveKL(config.kl_settings)
            callbacks.append(AdaptiveKLCallback(self._bolt_kl, self, steps=steps, record=self._bolt_record))
        return callbacks

    def _register_rows(self: Any) -> None:
        rows = self.train_dataset
        if not isinstance(rows, IterableDataset):
            identifying = ("prompt_id",) if "prompt_id" in rows.column_names else ("prompt", *IMAGES)
            wanted = [name for name in (*identifying, "data_source") if name in rows.column_names]
            prompts = self.args.generation_batch_size // self.num_generations
            if len(rows) < prompts:
                raise ConfigError(
                    f"per_device_train_batch_size: a generation batch takes {prompts} prompts at num_generations "
                    f"{self.num_generations}, and the data set has {len(rows)} rows; lower the batch, or raise "
                    "num_generations"
                )
            self.baseline.register(rows.select_columns(wanted))
        elif self._bolt.curriculum_enabled:
            raise ConfigError(
                "curriculum_enabled: the curriculum draws rows by number, and a streamed data set has none; load it "
                "whole, or set curriculum_enabled=False"
            )

    def _make_curriculum(self: Any, config: BoltConfigMixin) -> CurriculumCallback:
        self._bolt_sampler = DynamicWeightedSampler(
            len(self.train_dataset),
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            seed=self.args.seed,
        )
        curriculum = Curriculum(config.curriculum_settings, seed=self.args.seed)
        return CurriculumCallback(self.baseline, self._bolt_sampler, curriculum, record=self._bolt_record)

    def _bolt_record(self: Any, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            # TRL prints every number: the twenty of both histograms are left out.
            if not name.partition("/")[2].startswith(("hist_", "asked_")):
                self._metrics["train"][name].append(value)

    def _get_train_sampler(self: Any, dataset: Any = None) -> Any:
        return self._bolt_sampler or super()._get_train_sampler(dataset)

    def _load_optimizer_and_scheduler(self: Any, checkpoint: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            for callback in self._bolt_callbacks:
                callback.load_checkpoint(checkpoint)

    def _calculate_rewards(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._bolt_rewards = super()._calculate_rewards(*args, **kwargs)
        return self._bolt_rewards

    def _generate_and_score_completions(self: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training or not (self._bolt.keeps_store or self._bolt_kl):
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
            return output
        keys = gather_object([row_key(row) for row in inputs]) if self._bolt.keeps_store else []
        # Read before anything is scored: an outcome never takes part in its own baseline.
        read = self.baseline.read(keys, version=self.state.global_step)
        self._bolt_rewards = None
        output = super()._generate_and_score_completions(inputs)
        rewards = self._total_rewards()
        if self._bolt_kl is not None:
            self._bolt_kl.see_rewards(rewards)
        if self._bolt.keeps_store:
            scaled = self.baseline.observe(keys, rewards, version=self.state.global_step)
            self._bolt_record(quality(scaled, read.v_hat))
            if self._bolt.use_baseline_advantages:
                self._replace_advantages(output, scaled, read.v_hat, read.n_eff)
        return output

    def _total_rewards(self: Any) -> NDArray[np.float64]:
        """float64 [n]: the weighted sum of the rewards of all processes' completions; NaN where there is none."""
        if self._bolt_rewards is None:
            raise EnvironmentProblem(
                f"{type(self).__mro__[2].__name__} scores completions without _calculate_rewards, which the baseline "
                "learns from; this version of the trainer is not supported, see 'bolt-ray docs trl'"
            )
        parts = self._bolt_rewards.detach().double().cpu()
        totals = (parts * self.reward_weights.double().cpu()).nansum(dim=1)
        totals[torch.isnan(parts).all(dim=1)] = torch.nan
        return np.asarray(totals.numpy(), dtype=np.float64)

    def _replace_advantages(
        self: Any,
        output: dict[str, Any],
        scaled: NDArray[np.float64],
        v_hat: NDArray[np.float64],
        n_eff: NDArray[np.float64],
    ) -> None:
        """Put advantages against the baseline in place of TRL's, normalized over the whole generation batch."""
        local = loss_mask(output).sum(dim=1)
        lengths = self.accelerator.gather(local).cpu().numpy()
        found = compute_advantages(
            scaled,
            v_hat,
            n_eff,
            np.arange(scaled.size) // self.num_generations,
            lengths,
            active=np.isfinite(scaled) & (lengths > 0),
            **asdict(self._bolt.advantage_options),
        )
        first = self.accelerator.process_index * local.shape[0]
        own = found.advantages[first : first + local.shape[0]]
        output["advantages"] = torch.as_tensor(own, device=local.device)
        shown = self._logs["advantages"]
        for _ in range(min(len(shown), scaled.size)):
            shown.pop()
        shown.extend(found.advantages.tolist())
        self._bolt_record(found.metrics)

    def _get_per_token_logps_and_entropies(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._bolt_in_loss:
            self._bolt_logprobs = found[0]
        return found

    def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self._bolt_drift is not None and self.model.training:
            self._bolt_drift.offer(inputs)
        kl = self._bolt_kl
        if kl is None or self.beta == 0.0:
            return super().compute_loss(model, inputs, *args, **kwargs)
        beta = self.beta
        self._bolt_logprobs, self._bolt_in_loss = None, True
        if kl.shaped:
            self.beta = 0.0
        try:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            self.beta, self._bolt_in_loss = beta, False
        logprobs, self._bolt_logprobs = self._bolt_logprobs, None
        if logprobs is None and kl.shaped:
            raise EnvironmentProblem(
                f"kl_adaptation_method: {self._bolt.kl_adaptation_method!r} shapes the KL of each token, and "
                f"{type(self).__mro__[2].__name__} computes its loss without showing the log-probs; dynamic alone works"
            )
        if logprobs is None or not (kl.shaped or self.model.training):
            return loss
        return loss + kl.term(logprobs, inputs, self)


class BoltGRPOTrainer(BoltTrainerMixin, GRPOTrainer):  # type: ignore[misc]  # TRL has no types
    """TRL's ``GRPOTrainer`` with a persistent baseline, a curriculum and adaptive KL; takes a `BoltConfig`.

    ``GRPOTrainer`` is what TRL's package gives when this module is first imported: after ``import unsloth``, Unsloth's.
    """
