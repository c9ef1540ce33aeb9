"""One screen about a run. Reads files only, so it works on every machine that sees the run's directory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bolt_ray.commands.shared.say import shown
from bolt_ray.commands.status.condition import Condition, Here, Standing, condition
from bolt_ray.commands.status.reading import find_run, last_record, read_state
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.console import eval_numbers, step_numbers
from bolt_ray.training.telemetry.health import judge
from bolt_ray.training.telemetry.pace import duration
from bolt_ray.training.telemetry.record import read_metrics
from bolt_ray.training.telemetry.state import pid_space, started_ticks

REFRESH_S = 2.0
COLORS = {Standing.RUNNING: "green", Standing.STALLED: "bold red", Standing.ENDED: "yellow"}


def show_status(run: Path | None, *, watch: bool, console: Console) -> Standing:
    """Print how a run stands; with ``watch`` again and again until it has ended.

    Args:
        run: its directory; None: the newest.

    Returns:
        how it stood last; the value is the exit code.

    Raises:
        CheckpointError: there is no such run, or its state cannot be read.
    """
    found = find_run(run)
    screen, standing = _screen(found)
    if not (watch and console.is_terminal):
        console.print(screen)
    if not watch:
        return standing
    with Live(screen, console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while standing is not Standing.ENDED:
            time.sleep(REFRESH_S)
            screen, standing = _screen(found)
            if live is None:
                console.print(screen)
            else:
                live.update(screen, refresh=True)
    return standing


def _screen(run: RunDirectory) -> tuple[Table, Standing]:
    state, now = read_state(run), time.time()
    found = condition(state, now=now, here=Here(pid_space=pid_space(), started=started_ticks))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _rows(run, state, found, now=now):
        table.add_row(name, Text(_printable(text), style=COLORS[found.standing] if name == "standing" else ""))
    return table, found.standing


def _rows(run: RunDirectory, state: Mapping[str, Any], found: Condition, *, now: float) -> Iterator[tuple[str, str]]:
    why = f": {found.text}" if found.text else ""
    yield "run", shown(run.root)
    yield "standing", f"{found.standing.name.lower()}{why}"
    record = last_record(run.metrics_jsonl, kind="reward/")
    if state:
        yield "step", _progress(state, found, now=now)
    elif record is not None:
        yield "step", str(record["step"])
    if record is not None:
        yield "last step", step_numbers(record)
    score = _last_score(run, state)
    if score:
        yield "evaluation", score
    if state and found.standing is not Standing.ENDED:
        typical = state["phase_typical_s"]
        usually = "" if typical is None else f" (usually {_seconds(typical)})"
        yield "phase", f"{state['phase']} for {_seconds(now - state['phase_since'])}{usually}"
        for process in state["processes"]:
            size = f"{process['memory_bytes'] / 2**30:.1f} GiB"
            yield process["role"], f"{process['name']}: process {process['pid']} on {process['node']}, {size}"
    if state.get("last_warning"):
        yield "last warning", state["last_warning"]
    # Of a run without a state all records are read, for what the run itself would have said.
    verdicts = state["verdicts"] if state else [asdict(verdict) for verdict in judge(read_metrics(run.metrics_jsonl))]
    for verdict in verdicts:
        yield verdict["rule"], f"step {verdict['step']}: {verdict['text']}. {verdict['advice']}"


def _progress(state: Mapping[str, Any], found: Condition, *, now: float) -> str:
    done = f"{state['step']}/{state['max_steps']}"
    if found.standing is Standing.ENDED:
        return f"{done} in {duration(state['updated'] - state['started'])}"
    left = "" if state["eta_s"] is None else f", {duration(state['eta_s'])} left"
    return f"{done}, {duration(now - state['started'])} so far{left}"


def _last_score(run: RunDirectory, state: Mapping[str, Any]) -> str | None:
    if state.get("last_eval"):
        return f"step {state['last_eval']['step']}: {state['last_eval']['text']}"
    if state:
        return None
    record = last_record(run.metrics_jsonl, kind="eval/")
    return None if record is None else f"step {record['step']}: {eval_numbers(record)}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _printable(text: str) -> str:
    """Without what would steer the terminal: a warning may quote what a model wrote."""
    return "".join(each if each.isprintable() else " " for each in text)
