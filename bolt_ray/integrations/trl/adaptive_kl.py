"""The adaptive KL term in TRL's loss: shapes of K from ``core.kl``, weighted over tokens as TRL weights its own.

TRL adds β·k3 (times the ratio) to every token's loss. With a shape its own term is switched off while it computes the
loss, and β·f(K), K = k2, is added, from the log-probs of that same forward pass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bolt_ray.core.errors import CheckpointError, ConfigError
from bolt_ray.core.files import write_file_atomically
from bolt_ray.core.kl import KLTerms, estimate_kl, kl_terms
from bolt_ray.core.kl_controllers import kl_controller
from bolt_ray.core.kl_options import KLSettings
from bolt_ray.integrations.trl.callbacks import BaselineUpdateCallback, CheckpointedCallback, Record

KL_FILE = "bolt_ray_kl.json"
_BY_SEQUENCE = ("grpo", "sapo")
_BY_TOKEN = ("dapo", "cispo", "vespo")


class AdaptiveKL:
    """The KL term of a run, and what was seen of it since the last step."""

    def __init__(self, settings: KLSettings) -> None:
        self.settings = settings
        self.controller = kl_controller(settings)
        self._sums: Tensor | None = None
        self._new_rewards: list[NDArray[np.float64]] = []
        self._rewards = np.zeros(0)

    @property
    def shaped(self) -> bool:
        """Whether TRL's own term is replaced; a controller alone only changes its β."""
        return bool(self.settings.adaptation)

    def term(self, logprobs: Tensor, inputs: Mapping[str, Any], trainer: Any) -> Tensor:
        """β·f(K) of a micro-batch, as it is added to TRL's loss; 0 with no shape, where it is only measured.

        An evaluation's is not counted in the metrics.

        Args:
            logprobs: float [B, T] of the completions, with gradient.
            inputs: of the micro-batch.
            trainer: whose loss type and accumulation say how tokens are weighted.
        """
        mask = loss_mask(inputs)
        active = mask.bool()
        reference = inputs["ref_per_token_logps"]
        rows = torch.arange(mask.shape[0], device=mask.device).unsqueeze(1).expand_as(mask)
        if not self.shaped:
            raw = estimate_kl(logprobs.detach()[active], reference[active], "k3")
            self._count(KLTerms(raw=raw, adapted=raw, raw_unit="token", unit="token"))
            return logprobs.new_zeros(())
        terms = kl_terms(
            logprobs[active],
            reference[active],
            log_ratio=torch.zeros_like(logprobs[active]),  # of the unbiased k3, which no shape is made of
            sequence_ids=rows[active],
            num_sequences=mask.shape[0],
            options=self.settings,
        )
        accumulation = trainer.current_gradient_accumulation_steps if trainer.model.training else 1.0
        if terms.unit == "sequence":
            present = active.any(1).to(terms.adapted.dtype)
            mean = (terms.adapted * present).sum() / present.sum().clamp(min=1.0) / accumulation
        else:
            mean = (token_weights(inputs, trainer)[active] * terms.adapted).sum()
        if trainer.model.training:
            self._count(terms)
        return self.controller.beta * mean

    def see_rewards(self, rewards: NDArray[np.float64]) -> None:
        """Raw rewards of a generation batch, float64 [n]; NaN where there is none. A step may train on several."""
        self._new_rewards.append(rewards[np.isfinite(rewards)])

    def take_rewards(self) -> NDArray[np.float64]:
        """Those scored since the last step; of a step over completions seen before, once more what that step had."""
        if self._new_rewards:
            self._rewards, self._new_rewards = np.concatenate(self._new_rewards), []
        return self._rewards

    def take(self, trainer: Any) -> dict[str, float]:
        """``adaptive_kl/*`` of what was seen since the last call, over all processes."""
        sums, self._sums = self._sums, None
        metrics = dict(self.controller.metrics())
        if sums is not None:
            raw, raw_count, adapted, adapted_count = trainer.accelerator.reduce(sums, reduction="sum").tolist()
            metrics["adaptive_kl/raw_kl"] = raw / max(raw_count, 1.0)
            if self.shaped:
                metrics["adaptive_kl/adapted_kl"] = adapted / max(adapted_count, 1.0)
        return metrics

    def _count(self, terms: KLTerms) -> None:
        found = [terms.raw.sum(), terms.raw.new_tensor(terms.raw.numel()), terms.adapted.detach().sum()]
        sums = torch.stack([*found, terms.raw.new_tensor(terms.adapted.numel())]).detach()
        self._sums = sums if self._sums is None else self._sums + sums


class AdaptiveKLCallback(CheckpointedCallback):
    """Lets the controller see each step that was not skipped and had rewards, and sets the trainer's β."""

    file_name = KL_FILE

    def __init__(self, kl: AdaptiveKL, trainer: Any, *, steps: BaselineUpdateCallback, record: Record) -> None:
        super().__init__()
        self._kl = kl
        self._trainer = trainer
        self._steps = steps
        self._record = record

    def write(self, path: Path) -> None:
        text = json.dumps(self._kl.controller.state_dict())
        write_file_atomically(path, lambda file: file.write(text.encode()))

    def read(self, path: Path) -> None:
        try:
            self._kl.controller.load_state_dict(json.loads(path.read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be used ({error})") from error
        self._trainer.beta = self._kl.controller.beta

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        metrics, rewards = self._kl.take(self._trainer), self._kl.take_rewards()
        if not self._steps.last_skipped and rewards.size:
            self._trainer.beta = self._kl.controller.update(
                kl=metrics.get("adaptive_kl/raw_kl", 0.0),
                mean_reward=float(rewards.mean()),
                num_sequences=rewards.size,
            )
        self._record(metrics | self._kl.controller.metrics())


def loss_mask(inputs: Mapping[str, Any]) -> Tensor:
    """[B, T], 1 for the tokens in TRL's loss: of the completion, and not a tool's."""
    mask: Tensor = inputs["completion_mask"]
    return mask * inputs["tool_mask"] if "tool_mask" in inputs else mask


def token_weights(inputs: Mapping[str, Any], trainer: Any) -> Tensor:
    """float [B, T]: what TRL 1.16 multiplies each token's loss by in the sum that is a micro-batch's loss.

    Raises:
        ConfigError: a loss type that is not known here.
    """
    mask = loss_mask(inputs).float()
    training: bool = trainer.model.training
    accumulation: float = trainer.current_gradient_accumulation_steps if training else 1.0
    kind, sequences, longest = trainer.loss_type, mask.shape[0], int(trainer.max_completion_length)
    if kind in _BY_SEQUENCE:
        return mask / mask.sum(1, keepdim=True).clamp(min=1.0) / sequences / accumulation
    if kind == "bnpo":
        return mask / mask.sum().clamp(min=1.0) / accumulation
    if kind == "dr_grpo":
        return mask / (sequences * longest) / accumulation
    if kind == "luspo":
        return mask / sequences / accumulation
    if kind in _BY_TOKEN:
        total: Tensor = inputs["num_items_in_batch"].clamp(min=1.0) / trainer.accelerator.num_processes
        return mask / (total * accumulation / trainer.args.steps_per_generation if training else total)
    raise ConfigError(f"kl_adaptation_method: shapes of the KL are not known for loss_type {kind!r}")
