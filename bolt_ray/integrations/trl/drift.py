"""How far an optimizer step moves the policy: a few sequences of its batch, scored before and after it.

Both scores are forward passes of the same shape, so that their difference is the policy's move and not the arithmetic
of another batch. Four sequences over all processes, as under Ray: a hundredth of a step of usual size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NUM_PROBES = 4
_NEEDED = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
_MULTIMODAL = ("pixel_values", "token_type_ids", "mm_token_type_ids")


class ProbeDrift:
    """``Drift`` of a TRL trainer.

    Args:
        trainer: whose model is scored, with its own ``_get_per_token_logps_and_entropies``.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._probes: dict[str, Tensor] | None = None
        self._before: Tensor | None = None

    def offer(self, inputs: Mapping[str, Any]) -> None:
        """A micro-batch about to be trained on; the first of each step is probed. Images are not."""
        if self._probes is None and not any(name in inputs for name in _MULTIMODAL):
            count = max(1, NUM_PROBES // int(self._trainer.accelerator.num_processes))
            self._probes = {name: inputs[name][:count] for name in _NEEDED}

    def before(self) -> None:
        self._before = self._score()

    def after(self) -> float | None:
        """Mean over sequences of their tokens' mean |log π_new − log π_before|, over all processes."""
        before, self._before = self._before, None
        after = self._score() if before is not None else None
        probes, self._probes = self._probes, None
        if before is None or after is None or probes is None:
            return None
        mask = probes["completion_mask"].to(before.dtype)
        moves = ((after - before).abs() * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        sums = torch.stack([moves.sum(), (mask.sum(1) > 0).sum().to(moves.dtype)])
        total, count = self._trainer.accelerator.reduce(sums, reduction="sum").tolist()
        return float(total / count) if count else None

    def _score(self) -> Tensor | None:
        """Log-probs of the probes' completions, float [probes, T]; None if this trainer class gives none."""
        if self._probes is None:
            return None
        trainer, probes = self._trainer, self._probes
        was_training = trainer.model.training
        trainer.model.eval()
        try:
            with torch.no_grad():
                found = trainer._get_per_token_logps_and_entropies(
                    trainer.model,
                    torch.cat([probes["prompt_ids"], probes["completion_ids"]], dim=1),
                    torch.cat([probes["prompt_mask"], probes["completion_mask"]], dim=1),
                    probes["completion_ids"].size(1),
                )[0]
        finally:
            trainer.model.train(was_training)
        return None if found is None else found.detach().float()
