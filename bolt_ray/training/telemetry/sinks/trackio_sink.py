"""trackio: a run's numbers in a database of the user's, shown by ``trackio show``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bolt_ray.training.telemetry.sinks.sink import Say, SinkStart, as_table


class TrackioSink:
    """One run of trackio, named as the run directory; a resumed run goes on with it."""

    def __init__(self, start: SinkStart, say: Say) -> None:
        import trackio

        self._trackio = trackio
        self._run = trackio.init(
            project=start.options["project"],
            name=start.run.name,
            group=start.options["group"],
            config=dict(start.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        say(f'trackio: to see it, trackio show --project "{start.options["project"]}"')

    def record(self, record: Mapping[str, float]) -> None:
        self._run.log({name: value for name, value in record.items() if name != "step"}, step=int(record["step"]))

    def samples(self, kind: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        columns, cells = as_table(rows)
        self._run.log({f"samples/{kind}": self._trackio.Table(columns=columns, data=cells)}, step=step)

    def close(self) -> None:
        self._run.finish()
