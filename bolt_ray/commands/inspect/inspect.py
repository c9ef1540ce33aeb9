"""``bolt-ray inspect``: what a run's baseline knows, as tables and a picture. Reads files only; starts nothing."""

from __future__ import annotations

import base64
import html as html_text
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bolt_ray.commands.inspect.picture import draw_baseline
from bolt_ray.config.loading import load_config
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.baseline import BaselineStore
from bolt_ray.core.baseline.metrics import EASY_ABOVE, HARD_BELOW
from bolt_ray.core.baseline.sharded_snapshot import read_sharded_snapshot
from bolt_ray.core.errors import CheckpointError, DataError
from bolt_ray.core.keys import KeyBatch
from bolt_ray.core.records import Messages
from bolt_ray.data.store import PromptStore
from bolt_ray.training.run_directory import STEP_PREFIX, RunDirectory, list_checkpoints
from bolt_ray.training.telemetry.record import read_metrics

BINS = 10
_BAR, _TEXT = 40, 70


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineView:
    """The baseline as one checkpoint keeps it; n prompts with evidence.

    Attributes:
        step: finished optimizer steps.
        keys: n keys.
        v_hat, n_eff: float64 [n], as of the checkpoint's policy version.
        visits: int32 [n], 0 for a prompt that was only warm-started.
        stats: ``baseline/*`` and ``curriculum/*``.
    """

    step: int
    keys: KeyBatch
    v_hat: NDArray[np.float64]
    n_eff: NDArray[np.float64]
    visits: NDArray[np.int32]
    stats: Mapping[str, float]

    def histogram(self, bins: int = BINS) -> NDArray[np.int64]:
        """int64 [bins]: prompts by v̂, bins of equal width over [0, 1]."""
        counts, _ = np.histogram(self.v_hat, bins=bins, range=(0.0, 1.0))
        return counts.astype(np.int64)


def inspect_run(path: Path, *, top: int, png: Path | None, html: Path | None, console: Console) -> None:
    """Print the tables and draw the picture.

    Args:
        path: a run directory, or one checkpoint of it.
        top: prompts in each list.
        png: the picture; None: ``baseline.png`` in the run directory.
        html: also a page with both.

    Raises:
        CheckpointError: no run, no checkpoint, a damaged one, or a file that cannot be written.
        ConfigError: the run's ``config.yaml`` cannot be read.
    """
    run, checkpoints = find_checkpoints(path)
    config = load_config(run.config)
    prompts = _prompt_store(checkpoints[-1], config)
    newest = read_baseline(checkpoints[-1], config, prompts)
    views = [*(read_baseline(checkpoint, config, None) for checkpoint in checkpoints[:-1]), newest]
    records = [record for record in read_metrics(run.metrics_jsonl) if record["step"] <= newest.step]
    picture = io.BytesIO()
    draw_baseline(
        picture,
        title=run.root.name,
        histograms={view.step: view.histogram(2 * BINS) for view in views},
        records=records,
    )
    items = _tables(newest, run, prompts, top=top)
    for item in items:
        console.print(item, highlight=False)
    png = png or run.root / "baseline.png"
    _write(png, picture.getvalue(), option="--png")
    console.print(f"Picture: {png}", markup=False, highlight=False, soft_wrap=True)
    if html is not None:
        page = _page(run.root.name, items, picture.getvalue())
        _write(html, page.encode(), option="--html")
        console.print(f"Page: {html}", markup=False, highlight=False, soft_wrap=True)


def find_checkpoints(path: Path) -> tuple[RunDirectory, list[Path]]:
    """The run and its checkpoints, oldest first; those up to the one that ``path`` names.

    Raises:
        CheckpointError: ``path`` is no run, or there is no checkpoint.
    """
    path = path.absolute()
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: there is no such directory; name a run directory, for example runs/<name>-<time>"
        )
    of_checkpoint = path.name.startswith(STEP_PREFIX) and path.parent.name == "checkpoints"
    run = RunDirectory(path.parent.parent if of_checkpoint else path)
    if not run.config.is_file():
        raise CheckpointError(f"{path}: not a run of bolt-ray, config.yaml is missing")
    found = [checkpoint for checkpoint in list_checkpoints(run) if not of_checkpoint or checkpoint <= path]
    if not found:
        raise CheckpointError(
            f"{path}: this run has no checkpoint yet, and the baseline is read from one; they are written every "
            f"checkpoint.every_steps steps, at the end and on an interrupt"
        )
    return run, found


def read_baseline(checkpoint: Path, config: RunConfig, prompts: PromptStore | None) -> BaselineView:
    """The baseline of one checkpoint; ``prompts`` are its data set, for the coverage.

    Raises:
        CheckpointError: the snapshot is missing or damaged.
    """
    state = _state(checkpoint)
    snapshot = read_sharded_snapshot(checkpoint / "baseline")
    store = BaselineStore(config.baseline)
    if prompts is not None:
        rows, _ = prompts.split_heldout(fraction=config.data.heldout_fraction, size=config.data.heldout_size)
        store.register(prompts.keys().take(rows).to_pylist(), prompts.source_names(rows))
    store.restore([snapshot])
    version = int(state["version"])
    v_hat, n_eff = store.get_many(snapshot.keys, version)
    return BaselineView(
        step=int(state["step"]),
        keys=snapshot.keys,
        v_hat=v_hat,
        n_eff=n_eff,
        visits=snapshot.columns["visits"],
        stats={**store.metrics(version), **store.get_curriculum_stats(), "rows": float(store.num_rows)},
    )


def notable(view: BaselineView, *, top: int) -> list[tuple[str, NDArray[np.int64]]]:
    """Titles, and the prompts to list under them as positions in ``view``; of equals those with more evidence first."""
    v_hat, n_eff = view.v_hat, view.n_eff
    kinds = (
        ("Most uncertain", np.ones(v_hat.size, dtype=np.bool_), np.abs(v_hat - 0.5)),
        (f"Solved (v̂ > {EASY_ABOVE})", v_hat > EASY_ABOVE, -v_hat),
        (f"Unsolved (v̂ < {HARD_BELOW})", v_hat < HARD_BELOW, v_hat),
    )
    lists = []
    for title, among, distance in kinds:
        which = np.flatnonzero(among)
        order = np.lexsort((-n_eff[which], distance[which]))[:top]
        count = f": {which.size:,} of {v_hat.size:,} prompts" if not among.all() else f" of {v_hat.size:,} prompts"
        lists.append((title + count, which[order]))
    return lists


def prompt_texts(prompts: PromptStore, keys: Sequence[str]) -> list[str | None]:
    """The prompt of each key on one line; None for a key of no row."""
    found = pc.index_in(pa.array(keys, pa.large_string()), value_set=prompts.keys()).to_pylist()
    rows = np.array([row for row in found if row is not None], dtype=np.int64)
    texts = iter([_one_line(prompt.prompt) for prompt in prompts.read(rows)] if rows.size else [])
    return [None if row is None else next(texts) for row in found]


def _one_line(prompt: str | Messages) -> str:
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    line = " ".join(text.split())
    return line if len(line) <= _TEXT else line[: _TEXT - 1] + "…"


def _prompt_store(checkpoint: Path, config: RunConfig) -> PromptStore | None:
    """The store the run drew from, None if it is not there any more."""
    address = str(_state(checkpoint)["prompts"]["stream"]["store"])
    try:
        return PromptStore.open(Path(config.data.store_dir).expanduser() / address)
    except DataError:
        return None


def _state(checkpoint: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint}: not a checkpoint of bolt-ray, state.json cannot be read ({error})"
        ) from None
    return state


def _tables(view: BaselineView, run: RunDirectory, prompts: PromptStore | None, *, top: int) -> list[Table | Text]:
    """What is printed, top to bottom."""
    items: list[Table | Text] = [Text(f"Baseline of {run.root.name} after {view.step:,} steps", "bold")]
    items += [_summary_table(view), _histogram_table(view)]
    for title, which in notable(view, top=top):
        items.append(Text(title, "bold"))
        if which.size:
            items.append(_list_table(view, which, prompts))
    if prompts is None:
        items.append(Text("The prompt store of this run is gone: prompts go by their keys, the coverage is unknown."))
    return items


def _summary_table(view: BaselineView) -> Table:
    stats = view.stats
    table = Table(show_header=False)
    rows = int(stats["rows"])
    coverage = f"{stats['curriculum/coverage']:.1f} % of {rows:,} prompts were trained on" if rows else "unknown"
    table.add_row("prompts with evidence", f"{view.v_hat.size:,}")
    table.add_row("coverage", coverage)
    if rows:
        table.add_row("without evidence", f"{100 * stats['baseline/cold_fraction']:.1f} %")
    if view.v_hat.size:
        table.add_row("v̂", f"mean {view.v_hat.mean():.3f}, from {view.v_hat.min():.3f} to {view.v_hat.max():.3f}")
        table.add_row("N_eff", f"mean {view.n_eff.mean():.2f}, from {view.n_eff.min():.2f} to {view.n_eff.max():.2f}")
        table.add_row("visits", f"mean {view.visits.mean():.2f}, at most {view.visits.max():,}")
        for name, text in (("easy", "easy, v̂ > .8"), ("hard", "hard, v̂ < .2"), ("learning_edge", ".3 ≤ v̂ ≤ .7")):
            table.add_row(text, f"{stats[f'curriculum/pct_{name}']:.1f} %")
    return table


def _histogram_table(view: BaselineView) -> Table:
    table = Table("v̂", "prompts", "")
    table.columns[1].justify = "right"
    counts = view.histogram()
    longest = max(int(counts.max()), 1)
    for number, count in enumerate(counts.tolist()):
        edges = f"{number / BINS:.1f} – {(number + 1) / BINS:.1f}"
        table.add_row(edges, f"{count:,}", "█" * round(_BAR * count / longest))
    return table


def _list_table(view: BaselineView, which: NDArray[np.int64], prompts: PromptStore | None) -> Table:
    table = Table("v̂", "N_eff", "visits", "prompt" if prompts is not None else "key")
    for column in table.columns[:3]:
        column.justify = "right"
    keys = view.keys.take(which).strings()
    texts = [None] * len(keys) if prompts is None else prompt_texts(prompts, keys)
    for index, key, text in zip(which.tolist(), keys, texts, strict=True):
        numbers = (f"{view.v_hat[index]:.3f}", f"{view.n_eff[index]:.2f}", f"{view.visits[index]:,}")
        table.add_row(*numbers, Text(key if text is None else text))
    return table


def _page(title: str, items: Sequence[Table | Text], picture: bytes) -> str:
    recorder = Console(record=True, file=io.StringIO(), width=120)
    for item in items:
        recorder.print(item)
    tables = recorder.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
    image = base64.b64encode(picture).decode()
    name = html_text.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>body{{font-family:sans-serif;max-width:75em;margin:2em auto}}pre{{line-height:1.2}}"
        f"img{{max-width:100%}}</style></head>\n<body><h1>{name}</h1>\n"
        f'<img alt="v̂ over the run" src="data:image/png;base64,{image}">\n{tables}\n</body></html>\n'
    )


def _write(path: Path, content: bytes, *, option: str) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); name another file with {option}"
        ) from None
