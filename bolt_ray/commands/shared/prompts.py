"""Opens the prompt store of a command, and reads its held-out problems."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import DataError
from bolt_ray.core.records import DrawnPrompt
from bolt_ray.data.ingest.build import build_store
from bolt_ray.data.settings import DatasetSettings
from bolt_ray.data.store import PromptStore
from bolt_ray.data.stream.window_reader import read_tokenized
from bolt_ray.engines.tokenizer import PromptTokenizer

log = logging.getLogger(__name__)

FIRST_PROMPTS = 4
"""Of a dataset, looked at before the run."""


def open_store(
    datasets: Sequence[DatasetSettings], config: RunConfig, *, build: Callable[..., PromptStore] = build_store
) -> PromptStore:
    """The prompt store of ``datasets``, built once and then found again."""
    store = build(
        list(datasets),
        store_dir=config.data.store_dir,
        on_bad_row=config.data.on_bad_row,
        max_prompt_chars=config.data.max_prompt_chars,
        stall_timeout_s=config.deadlines.prompts_s,
    )
    for line in store.report().splitlines():
        log.info("%s", line)
    return store


def store_row_keys(store: PromptStore) -> Callable[[str, int], str | None]:
    """How warm-start files of other systems name a row, ``<dataset>_<row of that dataset>``, to the prompt's key."""
    numbers = {source.name: number for number, source in enumerate(store.sources)}
    sources, rows, keys = store.source_ids(), store.dataset_rows(), store.keys()
    found = {(int(source), int(row)): index for index, (source, row) in enumerate(zip(sources, rows, strict=True))}

    def key_of(dataset: str, row: int) -> str | None:
        index = found.get((numbers.get(dataset, -1), row))
        return None if index is None else str(keys[index])

    return key_of


def prompt_doubts(store: PromptStore, tokenize: PromptTokenizer) -> list[str]:
    """What looks wrong with the first prompts of each of the store's datasets; see ``PromptTokenizer.doubts``.

    Raises:
        ModelError: they cannot be tokenized.
    """
    sources = store.source_ids()
    rows = [np.flatnonzero(sources == number)[:FIRST_PROMPTS] for number in range(len(store.sources))]
    return tokenize.doubts(store.read(np.concatenate(rows)))


def heldout_problems(
    store: PromptStore,
    rows: NDArray[np.int64],
    *,
    tokenize: PromptTokenizer,
    limit: int | None,
    max_tokens: int,
) -> list[DrawnPrompt]:
    """The problems of an evaluation: the first ``limit`` of ``rows``.

    Raises:
        DataError: a problem is longer than ``max_tokens``.
    """
    problems = []
    for index, (prompt, token_ids) in enumerate(read_tokenized(store, rows[:limit], tokenize)):
        if not 0 < len(token_ids) <= max_tokens:
            raise DataError(
                f"{store.place(prompt.row)}: the held-out prompt has {len(token_ids):,} tokens; the limit is "
                f"{max_tokens:,} (data.max_prompt_tokens, and the model's context)"
            )
        problems.append(DrawnPrompt(group_id=index, prompt=prompt, token_ids=token_ids))
    return problems
