"""TensorBoard's event files, by tensorboardX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from bolt_ray.training.telemetry.sinks.sink import Say, SinkStart

SHOWN_CHARS = 4_000
"""Of a sample's prompt and of its completion, shown as text."""

COMPARED = ("reward/mean", "eval/pass@1")
"""Metrics by which TensorBoard's page HPARAMS compares runs."""


class TensorBoardSink:
    """Scalars and texts in ``tensorboard/`` of the run directory; a resumed run hides the steps it trains again."""

    def __init__(self, start: SinkStart, say: Say) -> None:
        from tensorboardX import SummaryWriter
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.summary import hparams

        self._summary = Summary
        self._writer = SummaryWriter(
            logdir=str(start.run / "tensorboard"),
            purge_step=start.first_step + 1 if start.first_step else None,
            flush_secs=10,
        )
        self._writer.add_text("config", _code(yaml.safe_dump(dict(start.config), sort_keys=False)), start.first_step)
        if not start.first_step:
            for summary in hparams(dict(_flat(start.config)), dict.fromkeys(COMPARED, 0.0)):
                self._writer.file_writer.add_summary(summary)

    def record(self, record: Mapping[str, float]) -> None:
        # As one summary: add_scalar would rename eval/pass@1.
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in record.items() if name != "step"]
        self._writer.file_writer.add_summary(self._summary(value=values), int(record["step"]))

    def samples(self, kind: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self._writer.add_text(f"samples/{kind}", "\n\n---\n\n".join(_sample(row) for row in rows), step)

    def close(self) -> None:
        self._writer.close()


def _sample(row: Mapping[str, Any]) -> str:
    numbers = ", ".join(
        f"{name} {row[name]}" for name in ("reward", "v_hat", "advantage", "answer", "why") if name in row
    )
    shown = [_code(str(row.get(name, ""))[:SHOWN_CHARS]) for name in ("prompt", "completion")]
    return "\n\n".join((numbers.replace("`", "'"), *shown))


def _code(text: str) -> str:
    """As Markdown that shows it as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, bool | float | str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        elif value is not None:
            yield f"{above}{key}", value if isinstance(value, bool | int | float | str) else str(value)
