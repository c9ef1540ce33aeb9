"""Opens the prompt store of a command, and reads its held-out problems."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import DataError
from bolt_ray.core.records import DrawnPrompt
from bolt_ray.data.ingest.build import build_store
from bolt_ray.data.settings import DatasetSettings
from bolt_ray.data.store import PromptStore
from bolt_ray.data.stream.window_reader import UNUSABLE_HINT, read_tokenized, why_unusable
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
    for number, dataset in enumerate(datasets):
        _check_rewards(store, number, dataset)
    return store


def _check_rewards(store: PromptStore, number: int, dataset: DatasetSettings) -> None:
    """Whether a dataset with a reward for each data_source has one for all of them.

    Raises:
        DataError: for one it has none.
    """
    if not isinstance(dataset.reward, Mapping):
        return
    without = [name for name in store.names_in(number) if name not in dataset.reward]
    if without:
        raise DataError(
            f"dataset '{store.sources[number].name}': reward: names none for {', '.join(map(repr, without[:5]))}, of "
            f"which it has rows; it has {', '.join(map(repr, dataset.reward))}. Add one, or one name for all rows"
        )


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
    max_tokens: int,
    on_long_prompt: str,
    say: Callable[[str], None],
) -> list[DrawnPrompt]:
    """The problems of an evaluation: ``rows``, but those longer than ``max_tokens``, of which ``say`` is told.

    Raises:
        DataError: a problem is longer and ``on_long_prompt`` is "error", or all of them are.
    """
    problems: list[DrawnPrompt] = []
    left_out = ""
    for prompt, token_ids in read_tokenized(store, rows, tokenize):
        if 0 < len(token_ids) <= max_tokens:
            problems.append(DrawnPrompt(group_id=len(problems), prompt=prompt, token_ids=token_ids))
            continue
        left_out = left_out or f"{store.place(prompt.row)}: {why_unusable(len(token_ids), max_tokens)}"
        if on_long_prompt == "error":
            raise DataError(f"held-out problem {left_out}. {UNUSABLE_HINT}")
    if left_out and not problems:
        raise DataError(f"not one held-out problem can be used; {left_out}. Raise the limit, or shorten the prompts")
    if left_out:
        say(f"{len(rows) - len(problems):,} of {len(rows):,} held-out problems are left out. The first, {left_out}")
    return problems
