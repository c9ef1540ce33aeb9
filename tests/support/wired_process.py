"""A training with stand-ins as a process of its own, in ``run/`` of its working directory, with ``model/`` beside it.

python -m support.wired_process '{"train.max_steps": 4}'
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.effects import Workplace, config_of
from support.wired_run import LearnerPart, run_once

from bolt_ray.core.records import StepReport, TrainingBatch

STEP_S = 0.1


class SlowLearner(LearnerPart):
    """Long enough for a run to be ended in the middle of a step."""

    def train(self, batch: TrainingBatch, *, timeout_s: float, idle: Callable[[], None]) -> StepReport:
        time.sleep(STEP_S)
        return super().train(batch, timeout_s=timeout_s, idle=idle)


def main() -> None:
    settings: dict[str, Any] = json.loads(sys.argv[1])
    here = Workplace(directory=Path.cwd(), model=Path.cwd() / "model")
    done = run_once(config_of(settings), here, learner_part=SlowLearner)
    print(done["problem"])


if __name__ == "__main__":
    main()
