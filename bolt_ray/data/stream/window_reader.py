"""Reads a refresh window: Ray Data fetches just its rows and tokenizes them; the driver puts them in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from bolt_ray.core.errors import DataError, ModelError
from bolt_ray.core.records import DrawnPrompt, Prompt
from bolt_ray.data.background_feed import Feed
from bolt_ray.data.ingest.ingest_source import TASK_CPUS, quiet_dataset
from bolt_ray.data.store import PromptStore, shared_store
from bolt_ray.data.stream.draw_log import WindowDraws

DRAWS_PER_TASK = 512
"""Rows one Ray Data task fetches; the order of the prompts does not depend on it."""

CONCURRENT_TASKS = 2
"""A window is a few tasks of milliseconds; more processes would each load a tokenizer and take from the others."""

Tokenize = Callable[[Sequence[Prompt]], list[NDArray[np.int32]]]
"""Prompts to int32 token ids; runs in Ray Data workers, so it must pickle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusableDraw:
    """A draw whose prompt has no tokens or too many."""

    group_id: int
    row: int
    num_tokens: int

    @property
    def reason(self) -> str:
        return "too_many_tokens" if self.num_tokens else "no_tokens"


UNUSABLE_HINT = (
    "Set data.on_long_prompt: skip, or raise the limit: a run may be resumed with either. A shorter prompt makes it "
    "another dataset, which takes a new run"
)


def why_unusable(num_tokens: int, max_tokens: int) -> str:
    """What is wrong with a prompt of so many tokens."""
    if num_tokens == 0:
        return "the tokenizer makes no token of the prompt"
    limits = "data.max_prompt_tokens, and the model's context"
    return f"the prompt has {num_tokens:,} tokens, the limit is {max_tokens:,} ({limits})"


def read_tokenized(
    store: PromptStore, rows: NDArray[np.int64], tokenize: Tokenize
) -> list[tuple[Prompt, NDArray[np.int32]]]:
    """A few rows with their token ids, in the order asked for; read and tokenized by this process itself.

    Args:
        store: where the rows are.
        rows: int64 [n], store rows.
        tokenize: see :data:`Tokenize`.
    """
    prompts = store.read(rows)
    return list(zip(prompts, tokenize(prompts), strict=True))


class DrawnRows(Datasource):  # type: ignore[misc]
    """Reads rows of a prompt store by number.

    Args:
        directory: the store's.
        rows: int64 [n], store rows.
        first_place: place of rows[0] in the window.
    """

    def __init__(self, directory: str, rows: NDArray[np.int64], *, first_place: int) -> None:
        super().__init__()
        self._directory = directory
        self._rows = rows
        self._first_place = first_place

    def get_name(self) -> str:
        return "DrawnPrompts"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        tasks = []
        for start in range(0, self._rows.size, DRAWS_PER_TASK):
            rows = self._rows[start : start + DRAWS_PER_TASK]
            known = BlockMetadata(num_rows=int(rows.size), size_bytes=None, input_files=None, exec_stats=None)
            tasks.append(ReadTask(partial(_fetch, self._directory, rows, self._first_place + start), known))
        return tasks


def _fetch(directory: str, rows: NDArray[np.int64], first_place: int) -> Iterator[pa.Table]:
    table = shared_store(directory).table(rows)
    places = np.arange(first_place, first_place + rows.size, dtype=np.int64)
    yield table.append_column("place", pa.array(places)).append_column("row", pa.array(rows))


def _tokenize_table(table: pa.Table, *, directory: str, tokenize: Tokenize, max_tokens: int) -> pa.Table:
    """Append ``token_ids``, ``num_tokens`` and ``error``; a prompt that is too long keeps no tokens.

    A user's error travels as data (class and message): Ray Data hands exceptions on as text only.
    """
    rows = table["row"].to_numpy()
    failure = ""
    try:
        tokens = tokenize(shared_store(directory).to_prompts(rows, table))
    except (DataError, ModelError) as error:
        tokens = [np.empty(0, np.int32)] * table.num_rows
        failure = f"{type(error).__name__}:{error}"
    counts = [int(token_ids.size) for token_ids in tokens]
    kept = [token_ids if token_ids.size <= max_tokens else token_ids[:0] for token_ids in tokens]
    return (
        table.append_column("token_ids", pa.array(kept, pa.large_list(pa.int32())))
        .append_column("num_tokens", pa.array(counts, pa.int64()))
        .append_column("error", pa.array([failure] * table.num_rows, pa.string()))
    )


class WindowReader:
    """Prompts of one window in draw order, fetched ahead in the background.

    Args:
        store: where the rows are.
        draws: the window.
        offset: draws at the beginning that are not wanted any more.
        first_group_id: group id of the window's first draw.
        tokenize: see :data:`Tokenize`.
        max_tokens: longest usable prompt.
    """

    def __init__(
        self,
        *,
        store: PromptStore,
        draws: WindowDraws,
        offset: int,
        first_group_id: int,
        tokenize: Tokenize,
        max_tokens: int,
    ) -> None:
        self._store = store
        self._draws = draws
        self._next = offset
        self._first_group_id = first_group_id
        self._max_tokens = max_tokens
        self._ready: dict[int, DrawnPrompt | UnusableDraw] = {}
        directory = str(store.directory)
        source = DrawnRows(directory, draws.rows[offset:], first_place=offset)
        step = partial(_tokenize_table, directory=directory, tokenize=tokenize, max_tokens=max_tokens)
        blocks = -(-(draws.rows.size - offset) // DRAWS_PER_TASK)
        self._feed: Feed[pa.Table] = Feed(
            lambda: _stream(source, step, blocks), what=f"the prompts of window {draws.window}"
        )

    @property
    def exhausted(self) -> bool:
        return self._next >= self._draws.rows.size

    def next(self, timeout_s: float) -> DrawnPrompt | UnusableDraw:
        """The next draw; call only while not exhausted.

        Raises:
            StallError: nothing came within ``timeout_s``.
            BoltRayError: what reading or tokenizing raised.
        """
        while self._next not in self._ready:
            table = self._feed.get(timeout_s)
            assert table is not None, "Ray Data ended before all rows of the window came"
            self._take(table)
        drawn = self._ready.pop(self._next)
        self._next += 1
        return drawn

    def close(self) -> None:
        self._feed.close()

    def _take(self, table: pa.Table) -> None:
        kind, _, message = table["error"][0].as_py().partition(":")
        if kind:
            raise {"DataError": DataError, "ModelError": ModelError}[kind](message)
        rows = table["row"].to_numpy()
        prompts = self._store.to_prompts(rows, table)
        tokens = table["token_ids"].combine_chunks()
        values, offsets = tokens.values.to_numpy(), tokens.offsets.to_numpy()
        places, counts = table["place"].to_pylist(), table["num_tokens"].to_pylist()
        for number, (place, prompt, count) in enumerate(zip(places, prompts, counts, strict=True)):
            group_id = self._first_group_id + place
            if not 0 < count <= self._max_tokens:
                self._ready[place] = UnusableDraw(group_id=group_id, row=prompt.row, num_tokens=count)
                continue
            self._ready[place] = DrawnPrompt(
                group_id=group_id,
                prompt=prompt,
                # A copy: a view would keep the whole block in the object store.
                token_ids=values[offsets[number] : offsets[number + 1]].astype(np.int32, copy=True),
                num_samples=int(self._draws.num_samples[place]),
                weight=float(self._draws.weights[place]),
            )


def _stream(source: DrawnRows, step: Callable[[pa.Table], pa.Table], blocks: int) -> Iterator[pa.Table]:
    # The same resources for both, so that Ray Data makes one task of fetching and tokenizing.
    tasks = min(CONCURRENT_TASKS, blocks)
    dataset = ray.data.read_datasource(source, override_num_blocks=blocks, num_cpus=TASK_CPUS, concurrency=tasks)
    dataset = dataset.map_batches(
        step,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=TASK_CPUS,
        compute=ray.data.TaskPoolStrategy(size=tasks),
    )
    dataset.set_name("prompts")
    yield from quiet_dataset(dataset).iter_batches(batch_size=None, batch_format="pyarrow")
