"""When the store learns and the weights change: callbacks of ``transformers.Trainer``, for any trainer of TRL's shape.

``BaselineUpdateCallback`` commits outcomes after the optimizer step that trained on them, ``CurriculumCallback``
refreshes the sampler's weights. Each keeps its state in a file of the trainer's checkpoints.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from bolt_ray.core.curriculum import Curriculum
from bolt_ray.core.errors import CheckpointError, ConfigError
from bolt_ray.core.files import write_file_atomically
from bolt_ray.integrations.trl.baseline import BASELINE_FILE, UnifiedBaseline, quality, row_key
from bolt_ray.integrations.trl.sampler import DynamicWeightedSampler

log = logging.getLogger(__name__)

CURRICULUM_FILE = "bolt_ray_curriculum.npz"
_NOT_ARGUMENTS = ("trainer_state", "log_extra", "log_metric", "environments", "completion_ids", "completions")

Record = Callable[[Mapping[str, float]], None]
"""Takes metrics by name."""
RewardFunction = Callable[..., Sequence[float | None]]


class Drift(Protocol):
    """Measures how far an optimizer step moves the policy."""

    def before(self) -> None:
        """The gradient is there, the weights are still the old ones."""

    def after(self) -> float | None:
        """Mean token |Δ log π|, the same on every process; None if it cannot be measured."""


class CheckpointedCallback(TrainerCallback):  # type: ignore[misc]  # Transformers has no types here
    """A callback with a state of its own in the file ``file_name`` of each checkpoint."""

    file_name: str

    def __init__(self) -> None:
        self._loaded = False

    def write(self, path: Path) -> None:
        raise NotImplementedError

    def read(self, path: Path) -> None:
        raise NotImplementedError

    def load_checkpoint(self, directory: str | Path) -> None:
        """Go on from a checkpoint of the trainer.

        Raises:
            CheckpointError: it lacks this callback's file, or that cannot be used.
        """
        path = Path(directory) / self.file_name
        if not path.is_file():
            raise CheckpointError(
                f"{path}: the checkpoint has no such file; it was written without bolt_ray.integrations.trl, or the "
                "run was killed while it saved. Resume from an earlier one"
            )
        self.read(path)
        self._loaded = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # With a trainer of its own BoltTrainerMixin has loaded it; any other only tells the step it resumes at.
        if state.global_step > 0 and not self._loaded:
            named = args.resume_from_checkpoint
            own = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            self.load_checkpoint(named if isinstance(named, str) and Path(named).is_dir() else own)
        self._loaded = False  # a trainer may be killed and resumed several times

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.should_save:
            self.write(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / self.file_name)


class BaselineUpdateCallback(CheckpointedCallback):
    """Commits a baseline's outcomes after the optimizer step that trained on them, once.

    A step whose gradient is not finite is skipped: weights, moments and baseline stay as they are. The outcomes of a
    batch whose steps were all skipped are dropped, as they are under Ray.

    Args:
        baseline: whose outcomes.
        record: is told the metrics of the store when the trainer logs; None: of a trainer that logs what `watch` says.
        drift: measures D; None: it is not measured, and evidence fades by rho_max a visit.
    """

    file_name = BASELINE_FILE

    def __init__(self, baseline: UnifiedBaseline, *, record: Record | None = None, drift: Drift | None = None) -> None:
        super().__init__()
        self.baseline = baseline
        self.last_skipped = False
        self._record = record
        self._drift = drift
        self._watched: Any = None
        self._session = 0

    def watch(self, reward: RewardFunction) -> RewardFunction:
        """The same reward function, whose values are the baseline's outcomes: for a plain ``GRPOTrainer``.

        One function is watched, the one that says what is right; its values in evaluations are left alone.

        Raises:
            ConfigError: it is no plain function.
        """
        if not callable(reward) or inspect.iscoroutinefunction(reward) or isinstance(reward, torch.nn.Module):
            raise ConfigError("watch: takes a reward function that is not async, and no model")

        def watched(*, prompts: list[Any], completions: list[Any], **columns: Any) -> Sequence[float | None]:
            values = reward(prompts=prompts, completions=completions, **columns)
            if self._watched is not None and self._watched.training:
                named = {name: column for name, column in columns.items() if name not in _NOT_ARGUMENTS}
                rows = [
                    {"prompt": prompt, **{name: column[i] for name, column in named.items()}}
                    for i, prompt in enumerate(prompts)
                ]
                self._observe(rows, values, log_metric=columns.get("log_metric"))
            return values

        watched.__name__ = getattr(reward, "__name__", type(reward).__name__)
        return watched

    def _observe(self, rows: list[dict[str, Any]], values: Sequence[float | None], *, log_metric: Any) -> None:
        keys = gather_object([row_key(row) for row in rows])
        numbers = gather_object([math.nan if value is None else float(value) for value in values])
        v_hat = self.baseline.read(keys).v_hat
        scaled = self.baseline.observe(keys, numbers, version=self.baseline.store.counters.num_updates)
        if log_metric is not None:
            for name, value in (self.baseline.metrics() | quality(scaled, v_hat)).items():
                if math.isfinite(value):
                    log_metric(name, value)

    def write(self, path: Path) -> None:
        self.baseline.save(path)

    def read(self, path: Path) -> None:
        self.baseline.load(path)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control)
        # What a training that was broken off left behind goes when a batch comes that this one trains on.
        self.baseline.skip()
        self._watched = model
        # Steps are counted anew when a trainer trains a second time.
        self._session = self.baseline.store.counters.num_updates

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        self.last_skipped = not _finite_gradient(model)
        if self.last_skipped and getattr(optimizer, "scaler", None) is None:
            # Without gradients the step changes neither weights nor moments. A scaler skips it by itself.
            optimizer.zero_grad(set_to_none=True)
            log.warning("step %d is skipped: a gradient is not finite", state.global_step + 1)
        if self._drift is not None and not self.last_skipped:
            self._drift.before()

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.last_skipped = self.last_skipped or bool(optimizer is not None and optimizer.step_was_skipped)
        if self.last_skipped:
            self.baseline.skip()
        else:
            drift = None if self._drift is None else self._drift.after()
            self.baseline.commit(f"{self._session}/step-{state.global_step}", drift=drift)
        self._tell(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell(control)

    def _tell(self, control: Any) -> None:
        if self._record is not None and control.should_log:
            self._record(self.baseline.metrics() | {"optim/skipped": float(self.last_skipped)})


class CurriculumCallback(CheckpointedCallback):
    """Refreshes a sampler's weights from the baseline every ``update_freq`` steps.

    Args:
        baseline: what is known of the prompts; the rows of the data set must be registered there, in their order.
        sampler: what draws by the weights.
        curriculum: how they are formed; its strategy may keep no state of its own (``uncertainty``, ``thompson``, …).
        record: is told the metrics when the trainer logs.
    """

    file_name = CURRICULUM_FILE

    def __init__(
        self,
        baseline: UnifiedBaseline,
        sampler: DynamicWeightedSampler,
        curriculum: Curriculum,
        *,
        record: Record | None = None,
    ) -> None:
        super().__init__()
        self._baseline = baseline
        self._sampler = sampler
        self._curriculum = curriculum
        self._record = record

    def write(self, path: Path) -> None:
        state = json.dumps(self._curriculum.state_dict()).encode()
        arrays = self._sampler.state_dict() | {"curriculum": np.frombuffer(state, dtype=np.uint8)}
        write_file_atomically(path, lambda file: np.savez(file, allow_pickle=False, **arrays))

    def read(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            self._curriculum.load_state_dict(json.loads(arrays.pop("curriculum").tobytes()))
            self._sampler.load_state_dict(arrays)
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise CheckpointError(f"{path}: cannot be used ({error})") from error

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control)
        if state.global_step == 0:
            self._sampler.forget_draws()
            self._refresh(state)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._sampler.start_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self._curriculum.settings.update_freq == 0:
            self._refresh(state)
        self._tell(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell(control)

    def _tell(self, control: Any) -> None:
        if self._record is not None and control.should_log:
            self._record(self._baseline.store.get_curriculum_stats() | self._curriculum.metrics())

    def _refresh(self, state: Any) -> None:
        window = state.global_step // self._curriculum.settings.update_freq
        self._sampler.set_weights(
            self._curriculum.weights(
                self._baseline.store.columns(),
                step=state.global_step,
                total_steps=state.max_steps,
                window=window,
                version=self._baseline.store.counters.version,
            )
        )


def _finite_gradient(model: Any) -> bool:
    """Whether every gradient of this model is finite, on every process; True where none can be seen (DeepSpeed)."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not gradients:
        return True
    finite = torch.isfinite(torch.nn.utils.get_total_norm(gradients)).float()
    if PartialState().num_processes > 1:
        torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN)
    return bool(finite.item() > 0)
