"""A run that is killed and resumed ends with the store, the draws and the weights of one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.trl_runs import Kill, KilledError, evidence, trainer

from bolt_ray.core.errors import CheckpointError

CHANGES: dict[str, Any] = {
    "max_steps": 7,
    "save_strategy": "steps",
    "save_steps": 1,
    "curriculum_update_freq": 2,
    "beta": 0.1,
    "kl_adaptation_method": "clip+dynamic",
}


@pytest.mark.parametrize("step", [1, 4])
def test_kill_and_resume_give_the_run_that_was_not_killed(tmp_path: Path, tiny_model: Path, step: int) -> None:
    """In the first epoch of three batches, and in the second."""
    whole = trainer(tiny_model, tmp_path / "whole", **CHANGES)
    whole.train()
    killed = trainer(tiny_model, tmp_path / "killed", callbacks=[Kill(step)], **CHANGES)
    with pytest.raises(KilledError):
        killed.train()
    resumed = trainer(tiny_model, tmp_path / "killed", **CHANGES)
    resumed.train(resume_from_checkpoint=True)
    assert evidence(resumed.baseline.store) == evidence(whole.baseline.store)
    assert resumed.baseline.store.counters == whole.baseline.store.counters
    assert resumed._bolt_kl.controller.state_dict() == whole._bolt_kl.controller.state_dict()
    assert (resumed._bolt_sampler.weights == whole._bolt_sampler.weights).all()
    pairs = zip(resumed.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_checkpoint_without_a_store_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    run = trainer(tiny_model, tmp_path, **CHANGES | {"max_steps": 1})
    run.train()
    (tmp_path / "checkpoint-1" / "bolt_ray_baseline.npz").unlink()
    again = trainer(tiny_model, tmp_path, **CHANGES)
    with pytest.raises(CheckpointError, match=r"has no such file.*Resume from an earlier one"):
        again.train(resume_from_checkpoint=True)


def test_a_damaged_state_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    run = trainer(tiny_model, tmp_path, **CHANGES | {"max_steps": 1})
    run.train()
    for name in ("bolt_ray_curriculum.npz", "bolt_ray_kl.json"):
        path = tmp_path / "checkpoint-1" / name
        kept = path.read_bytes()
        path.write_bytes(kept[: len(kept) // 2])
        with pytest.raises(CheckpointError, match=f"{name}: cannot be used"):
            trainer(tiny_model, tmp_path, **CHANGES).train(resume_from_checkpoint=True)
        path.write_bytes(kept)
