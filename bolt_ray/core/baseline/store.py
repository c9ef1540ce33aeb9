"""The persistent baseline: for every prompt an estimate v̂ of its success probability, kept over the whole run.

BOLT / SPO (arXiv 2509.13232), SPO++ (arXiv 2608.24870). Per prompt a Beta(α, β) whose old evidence fades:
v̂ = α/(α+β), N_eff = α+β. The advantage r̃ - v̂ needs no group of completions. v̂ is read at dispatch and the
outcome committed after the optimizer step, so a reward never takes part in its own baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from bolt_ray.core.advantages import scale_rewards
from bolt_ray.core.baseline.settings import BaselineSettings
from bolt_ray.core.baseline.snapshot import read_snapshot, write_snapshot
from bolt_ray.core.baseline.update import baseline_update
from bolt_ray.core.baseline.values import PromptValues
from bolt_ray.core.baseline.warm_start import RowKey, WarmStartReport, match_prompts, read_warm_start

__all__ = ["BaselineSettings", "BaselineStore"]


class BaselineStore(PromptValues):
    """``PromptValues`` with single prompts, outcomes as they come, metrics and files.

    ``BaselineStore(rho_min=0.9)`` takes the fields of ``BaselineSettings`` by name, and
    ``BaselineStore(settings)`` a settings object.
    """

    def __init__(self, settings: BaselineSettings | None = None, /, **changes: Any) -> None:
        super().__init__(replace(settings or BaselineSettings(), **changes))

    def get(self, key: str, version: int | None = None) -> tuple[float, float]:
        """(v̂, N_eff) of one prompt; see ``get_many``."""
        v_hat, n_eff = self.get_many([key], version=version)
        return float(v_hat[0]), float(n_eff[0])

    def update(self, key: str, reward: float, kl: float | None = None, version: int | None = None) -> None:
        """Take one outcome.

        Args:
            key: the prompt.
            reward: raw; it is scaled by ``reward_range`` and clipped.
            kl: D of this visit for ``kl`` forgetting; None uses the drift counted by ``update_many``.
            version: policy version that produced it; None is the newest known.

        Raises:
            ValueError: the reward is not finite, or another argument impossible; nothing has changed then.
        """
        scaled = scale_rewards([reward], *self.settings.reward_range)
        self.apply(
            baseline_update([key], scaled, [1], versions=version, known_version=self._counters.version, distance=kl)
        )

    def update_many(
        self,
        keys: Sequence[str],
        reward_sums: ArrayLike,
        counts: ArrayLike,
        *,
        drift: float | None = None,
        versions: ArrayLike | None = None,
        update_id: str | None = None,
    ) -> bool:
        """Take the outcomes of one commit; several entries of one key are one visit and decay once.

        Args:
            keys: n keys.
            reward_sums: [n], sums of *scaled* rewards r̃ (``scale_rewards``).
            counts: [n], scored completions behind each sum; entries of count 0 are ignored.
            drift: mean token |Δ log π| by which the step just done moved the policy. It is counted after the
                outcomes are taken, which were produced before it. With ``kl_source="batch"`` it is D itself.
            versions: [n] or one number, the policy version of each entry; None is the newest known.
            update_id: an id seen before (among the last 10,000) makes the call do nothing.

        Returns:
            False if ``update_id`` had been applied.

        Raises:
            ValueError: an argument is impossible; nothing has changed then.
        """
        return self.apply(
            baseline_update(
                keys,
                reward_sums,
                counts,
                versions=versions,
                known_version=self._counters.version,
                update_id=update_id,
                drift=drift,
            )
        )

    def load_from_json(
        self, path: str | Path, *, row_key: RowKey | None = None, allow_pickle: bool = False
    ) -> WarmStartReport:
        """Start from a warm-start file (see ``core.baseline.warm_start``).

        Only registered prompts are matched; if none is registered, every entry of the file is taken.

        Args:
            path: a JSON file.
            row_key: (dataset, row index) -> key, for files keyed ``<dataset>_<row index>``.
            allow_pickle: also read the old ``.pkl`` form, restricted to plain data.

        Raises:
            CheckpointError: the file cannot be used or fits no prompt; nothing has changed then.
        """
        file = read_warm_start(
            Path(path),
            strength=self.settings.warm_start_strength,
            reward_range=self.settings.reward_range,
            allow_pickle=allow_pickle,
        )
        found = match_prompts(file, rows_of=self.rows_of, num_rows=self.num_rows, row_key=row_key)
        self.seed(found.keys, found.alpha, found.beta)
        return found.report

    def metrics(self, version: int | None = None) -> dict[str, float]:
        """``baseline/*``, N_eff as of ``version`` (None: the newest known)."""
        return self.totals(version).baseline_metrics(prior=self.prior, drift_ema=self._counters.drift_ema)

    def get_curriculum_stats(self) -> dict[str, float]:
        """``curriculum/*`` over the tracked prompts; see ``BaselineTotals.curriculum_metrics``."""
        return self.totals().curriculum_metrics(prior=self.prior)

    def save(self, path: str | Path) -> None:
        """Write the evidence of all tracked prompts to the file ``path`` atomically."""
        write_snapshot(Path(path), self.snapshot())

    def load(self, path: str | Path) -> None:
        """Replace all evidence by that of a file written by ``save``; registered rows stay.

        Raises:
            CheckpointError: the file is missing, cut off, altered, of another version or written under other
                settings; nothing has changed then.
        """
        self.restore([read_snapshot(Path(path))])
