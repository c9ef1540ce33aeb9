"""Weights & Biases: online where there is a key and a server that answers, offline otherwise."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from bolt_ray.training.telemetry.sinks.sink import Say, SinkStart, as_table

ANSWER_S = 30.0
"""How long the server may take to take the run, and at the end the rest of its data."""


class WandbSink:
    """One run of wandb, whose id is kept in the run directory, so that a resumed run goes on with it.

    Args:
        start: options ``mode`` (online, offline), ``project``, ``entity``, ``group``, ``tags``.
    """

    def __init__(self, start: SinkStart, say: Say) -> None:
        # wandb tells its maker of its own errors, with their texts, unless it is told not to.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb = wandb
        self._run: Any = None
        offline = start.options["mode"] == "offline" or os.environ.get("WANDB_MODE") == "offline"
        if not offline:
            try:
                self._run = self._init(start, "online")
                say(f"wandb: {self._run.url}")
            except (wandb.errors.UsageError, wandb.errors.CommError) as error:  # no key, or no such server
                why = str(error).partition("\n")[0]
                say(f"Warning: wandb cannot go online ({why}): the run is recorded offline")
        if self._run is None:
            wandb.teardown()  # its service still holds the id
            self._run = self._init(start, "offline")
            say(f"wandb: to upload it, wandb sync {Path(self._run.dir).parent}")
        self._run.define_metric("*", step_metric="step")

    def _init(self, start: SinkStart, mode: Literal["online", "offline"]) -> Any:
        # Nothing of the machine, its command lines or its code leaves it: they may hold what the masked config hides.
        quiet = {"silent": True, "console": "off", "x_disable_stats": True, "x_save_requirements": False}
        private = {"x_disable_meta": True, "x_disable_machine_info": True, "disable_git": True, "disable_code": True}
        settings = self._wandb.Settings(
            **quiet,
            **private,
            save_code=False,
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", ANSWER_S)),
            finish_timeout=ANSWER_S,
        )
        return self._wandb.init(
            mode=mode,
            project=start.options["project"],
            entity=start.options["entity"],
            group=start.options["group"],
            tags=start.options["tags"],
            name=start.run.name,
            id=_run_id(start.run),
            resume="allow",
            dir=start.directory,
            config=dict(start.config),
            allow_val_change=True,
            settings=settings,
        )

    def record(self, record: Mapping[str, float]) -> None:
        self._run.log(dict(record))

    def samples(self, kind: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        columns, cells = as_table(rows)
        table = self._wandb.Table(columns=columns, data=cells, allow_mixed_types=True)
        self._run.log({f"samples/{kind}": table, "step": step})

    def close(self) -> None:
        self._run.finish()
        self._wandb.teardown()


def _run_id(run: Path) -> str:
    file = run / "wandb" / "id"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(secrets.token_hex(4), encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
