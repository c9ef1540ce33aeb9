"""One of two processes that train together: python -m torch.distributed.run … trl_process.py MODEL OUT."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def train(model: Path, out: Path, *, ranks: int) -> dict[str, Any]:
    """Two runs of as many completions a step, whatever the number of processes; what they end with."""
    import torch
    from support.trl_runs import by_prompt, evidence, trainer

    shared: dict[str, Any] = {
        "reward": by_prompt,
        "curriculum_update_freq": 1,
        "per_device_train_batch_size": 8 // ranks,
    }
    if ranks > 1:
        shared["ddp_backend"] = "gloo"
    # Rewards depend on prompts alone. Without drift nothing depends on what the model says.
    constant = trainer(model, out / "constant", baseline_rho_max=0.875, save_strategy="steps", save_steps=3, **shared)
    constant.train()
    drifting = trainer(model, out / "drifting", num_generations=2, gradient_accumulation_steps=2, **shared)
    drifting.train()
    own = torch.cat([each["advantages"] for each in drifting._buffered_inputs])
    return {
        "own": sorted(own.tolist()),
        "constant": evidence(constant.baseline.store),
        "drifting": evidence(drifting.baseline.store),
        "drift": drifting.baseline.store.counters.drift_total,
        "advantages": list(drifting._logs["advantages"]),
    }


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.modules["vllm"] = None  # type: ignore[assignment]  # TRL would import it where it is installed: half a minute
    ranks, out = int(os.environ["WORLD_SIZE"]), Path(sys.argv[2])
    found = train(Path(sys.argv[1]), out, ranks=ranks)
    (out / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
