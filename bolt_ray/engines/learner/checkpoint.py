"""The learner's checkpoint: independent of ZeRO stage and world size, and free of pickles.

    state.json                  format, counters, KL controller, names of the files
    optimizer-*.safetensors     per trained parameter: master/<name>, exp_avg/<name>, exp_avg_sq/<name>, step/<name>
    frozen weights              not saved: they are the model directory's
    reference-*.safetensors     only a reference that follows the policy

DeepSpeed's own checkpoints hold one rank's flat partitions as pickles and refuse another world size. Here every
parameter is put together on all ranks, one after another, and written by one of them (`RankFiles`); when it is read,
a rank reads what ZeRO leaves to it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bolt_ray.core.digests import FileDigest
from bolt_ray.core.errors import CheckpointError
from bolt_ray.core.kl_controllers import KLController
from bolt_ray.engines.learner.rank_files import RankFiles
from bolt_ray.engines.learner.reference import Reference
from bolt_ray.engines.learner.weights import gathered

FORMAT = 1
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(slots=True, kw_only=True)
class Counters:
    """What a learner counts.

    Attributes:
        policy_version: weight updates.
        optimizer_steps: applied optimizer steps.
        bad_in_a_row, bad_total: batches that met a non-finite loss or gradient.
    """

    policy_version: int = 0
    optimizer_steps: int = 0
    bad_in_a_row: int = 0
    bad_total: int = 0


def save_state(
    directory: Path,
    *,
    engine: Any,
    model: nn.Module,
    stage: int,
    counters: Counters,
    controller: KLController,
    reference: Reference | None,
) -> dict[str, FileDigest]:
    """Write the whole state; collective, every rank writes its part. What it gives and raises: `RankFiles.finish`."""
    state = _OptimizerState(engine, stage=stage)
    files = RankFiles(directory)
    optimizer_files = files.tensors(_optimizer_tensors(model, state), stem="optimizer")
    kept = iter(()) if reference is None else reference.iter_state()
    text = {
        "format": FORMAT,
        "counters": asdict(counters),
        "kl_controller": controller.state_dict(),
        "optimizer_files": optimizer_files,
        "reference_files": files.tensors(kept, stem="reference"),
    }
    path = directory / "state.json"
    files.on_first_rank(lambda: path.write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8"))
    return files.finish()


def load_state(
    directory: Path,
    *,
    engine: Any,
    model: nn.Module,
    stage: int,
    controller: KLController,
    reference: Reference | None,
) -> Counters:
    """Restore what `save_state` wrote; collective.

    Raises:
        CheckpointError: a file is missing or torn, or the checkpoint is of another model.
    """
    text = _read_state(directory)
    with ExitStack() as stack:
        tensors = _Tensors(directory, text["optimizer_files"], stack)
        state = _OptimizerState(engine, stage=stage)
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if any(f"master/{name}" not in tensors for name, _ in trained):
            raise CheckpointError(f"{directory} holds the state of another model or of other LoRA settings")
        started = "exp_avg/" + trained[0][0] in tensors
        if started:
            state.create()
        for name, parameter in trained:
            state.set_master(parameter, tensors, f"master/{name}")
            if started:
                for moment in MOMENTS:
                    state.set_moment(parameter, moment, tensors, f"{moment}/{name}")
        if started:
            state.set_step(float(tensors[f"step/{trained[0][0]}"]))
        if reference is not None:
            reference.load_state(_Tensors(directory, text["reference_files"], stack))
    try:
        controller.load_state_dict(text["kl_controller"])
    except ValueError as error:
        raise CheckpointError(f"{directory}: {error}") from error
    return Counters(**text["counters"])


def _read_state(directory: Path) -> dict[str, Any]:
    path = directory / "state.json"
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; use an earlier checkpoint") from error
    if state.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {state.get('format')!r}; this version reads {FORMAT}")
    return state


class _Tensors(Mapping[str, Tensor]):
    """Tensors of several safetensors files, read when asked for."""

    def __init__(self, directory: Path, files: list[str], stack: ExitStack) -> None:
        from safetensors import SafetensorError, safe_open

        self._where: dict[str, Any] = {}
        for name in files:
            try:
                opened = stack.enter_context(safe_open(str(directory / name), framework="pt"))
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"{directory / name} cannot be read: {error}; use an earlier checkpoint"
                ) from error
            self._where.update(dict.fromkeys(opened.keys(), opened))

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file(name).get_tensor(name)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file(name).get_slice(name).get_shape())

    def part(self, name: str, start: int, length: int) -> Tensor:
        """``length`` numbers of the flattened tensor from ``start`` on, zeros behind its end; no other row is read."""
        shape = self.shape(name)
        row = max(1, math.prod(shape[1:]))
        end = min(start + length, math.prod(shape))
        if not shape:
            found = self[name].reshape(-1)[start:end]
        else:
            first = start // row
            rows = self._file(name).get_slice(name)[first : max(first, -(-end // row))]
            found = rows.reshape(-1)[start - first * row : max(start, end) - first * row]
        return torch.nn.functional.pad(found, (0, length - found.numel()))

    def _file(self, name: str) -> Any:
        if name not in self._where:
            raise CheckpointError(f"the checkpoint lacks {name!r}; use an earlier one")
        return self._where[name]

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


@torch.no_grad()
def _optimizer_tensors(model: nn.Module, state: _OptimizerState) -> Iterator[tuple[str, Tensor]]:
    step = state.step()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        yield f"master/{name}", state.master(parameter)
        if step is not None:
            for moment in MOMENTS:
                yield f"{moment}/{name}", state.moment(parameter, moment)
            yield f"step/{name}", torch.tensor(step)


class _OptimizerState:
    """Master weights and Adam moments per parameter, under every ZeRO stage.

    Stage 0 has the parameters themselves in a plain AdamW. Stages 1 to 3 keep flat float32 partitions, which
    DeepSpeed maps to parameters; those states exist only after the first step and must be created to be loaded.
    """

    def __init__(self, engine: Any, *, stage: int) -> None:
        self._stage = stage
        self._wrapper: Any = engine.optimizer
        self._adam: Any = engine.optimizer if stage == 0 else engine.optimizer.optimizer

    def step(self) -> float | None:
        """Adam's step count; None before the first step."""
        counts = [float(entry["step"]) for entry in self._adam.state.values() if "step" in entry]
        return counts[0] if counts else None

    def set_step(self, step: float) -> None:
        for entry in self._adam.state.values():
            entry["step"] = torch.tensor(step)

    def create(self) -> None:
        """Zero moments where there are none yet."""
        for tensor in self._flat():
            if "exp_avg" not in self._adam.state[tensor]:
                self._adam.state[tensor] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(tensor),
                    "exp_avg_sq": torch.zeros_like(tensor),
                }
        if self._stage in (1, 2):
            self._wrapper._lazy_init_hp_params_optimizer_state()

    def _flat(self) -> list[Tensor]:
        """What Adam steps: parameters (stage 0) or flat partitions."""
        if self._stage == 3:
            return list(self._wrapper.fp32_partitioned_groups_flat)
        return [tensor for group in self._adam.param_groups for tensor in group["params"]]

    def master(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        if self._stage == 0:
            return parameter.data
        value: Tensor = safe_get_full_fp32_param(parameter)
        return value

    def moment(self, parameter: nn.Parameter, name: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        if self._stage == 0:
            value: Tensor = self._adam.state[parameter][name]
            return value
        value = safe_get_full_optimizer_state(parameter, name)
        return value

    def set_master(self, parameter: nn.Parameter, tensors: _Tensors, name: str) -> None:
        """Set the float32 master and the weight computed with."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        _check_shape(parameter, tensors.shape(name))
        if self._stage == 3:
            with gathered([parameter], modifier_rank=0), torch.no_grad():
                if dist.get_rank() == 0:
                    parameter.data.copy_(tensors[name])
            safe_set_local_fp32_param(parameter, _own_part(parameter, tensors, name))
            return
        value = tensors[name]
        with torch.no_grad():
            parameter.data.copy_(value)
        if self._stage > 0:
            safe_set_full_fp32_param(parameter, value.to(parameter.device))

    def set_moment(self, parameter: nn.Parameter, moment: str, tensors: _Tensors, name: str) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self._stage == 0:
            self._adam.state[parameter][moment].copy_(tensors[name])
        elif self._stage == 3:
            safe_set_local_optimizer_state(parameter, _own_part(parameter, tensors, name), moment)
        elif parameter._hp_mapping is not None:  # type: ignore[attr-defined]  # a part of it is this rank's
            safe_set_full_optimizer_state(parameter, tensors[name].to(parameter.device), moment)


def _check_shape(parameter: nn.Parameter, shape: tuple[int, ...]) -> None:
    expected = tuple(getattr(parameter, "ds_shape", parameter.shape))
    if shape != expected:
        raise CheckpointError(
            f"the checkpoint has a weight of shape {shape} where the model has {expected}; it was "
            "saved from another model"
        )


def _own_part(parameter: Any, tensors: _Tensors, name: str) -> Tensor:
    """This rank's ZeRO-3 partition of a whole tensor; the last one is padded with zeros."""
    size = parameter.ds_tensor.numel()
    return tensors.part(name, size * dist.get_rank(), size).to(parameter.ds_tensor.device)
