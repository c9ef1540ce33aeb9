"""Settings of the datasets and of how they are read, seen in the prompts of a store and in a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.effects import Effect, Workplace, effect
from support.setting_effects.run import calls, left, made
from support.wired_run import store_here, write_rows

from bolt_ray.commands.shared.inputs import prepare_inputs
from bolt_ray.commands.shared.made_datasets import datasets_as_files
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import BoltRayError
from bolt_ray.data.ingest.hub import hub_arguments
from bolt_ray.data.ingest.locate import is_hub_dataset

ROWS = [
    {"prompt": "one", "answer": "1", "prompt_id": "a", "question": "first?", "roman": "I"},
    {"prompt": "two", "answer": "2", "prompt_id": "b", "question": "second?", "roman": "II"},
    {"prompt": "one", "answer": "1", "prompt_id": "c", "question": "third?", "roman": "III"},
]


def write_files(here: Workplace) -> None:
    write_rows(here.directory)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (here.directory / "few.jsonl").write_text(lines)
    (here.directory / "few.data").write_text(lines)
    (here.directory / "few.csv").write_text("prompt;answer\none;1\n")
    (here.directory / "splits").mkdir()
    (here.directory / "splits" / "train.jsonl").write_text(lines)
    (here.directory / "splits" / "test.jsonl").write_text(lines.splitlines()[0] + "\n")


def prompts(config: RunConfig, here: Workplace) -> Any:
    """All prompts of the store, or why there is none."""
    write_files(here)
    try:
        store = store_here(config.datasets, config)
    except BoltRayError as error:
        return str(error)
    return [store.report(), list(store.read(np.arange(store.num_rows))), [source.name for source in store.sources]]


def task_rows(config: RunConfig, here: Workplace) -> Any:
    """The problems made of a task."""
    pytest.importorskip("reasoning_gym")
    (train, _) = datasets_as_files(config, say=lambda text: None, show_progress=False)
    return Path(train[0].name).read_text().splitlines()


def stores(config: RunConfig, here: Workplace) -> Any:
    """Where the store is."""
    write_files(here)
    store_here(config.datasets, config)
    return [name for name in ("stores", "elsewhere") if (here.directory / name).is_dir()]


def hub(config: RunConfig, here: Workplace) -> Any:
    """How a dataset would be asked of Hugging Face."""
    (dataset,) = config.datasets
    return [is_hub_dataset(dataset), hub_arguments(dataset)]


def heldout(config: RunConfig, here: Workplace) -> Any:
    """The datasets that an evaluation reads."""
    return prepare_inputs(config, say=lambda text: None).heldout


def with_second_dataset(look: Any) -> Any:
    """Looks at a run whose second dataset is ``few.jsonl``."""

    def found(config: RunConfig, here: Workplace) -> Any:
        write_files(here)
        other = config.datasets[0].__class__(name="few.jsonl")
        return look(config.model_copy(update={"datasets": (*config.datasets, other)}), here)

    return found


FEW = {"datasets[]__name": "few.jsonl"}
HELD_OUT = {"data__heldout_size": 3}

TASK: dict[str, Any] = {"datasets[]__name": "reasoning_gym/chain_sum", "datasets[]__size": 3}
EFFECTS: tuple[Effect, ...] = (
    effect("datasets[].name", "few.jsonl", prompts),
    effect("datasets[].size", 4, task_rows, **TASK),
    effect("datasets[].seed", 3, task_rows, **TASK),
    effect("datasets[].options", {"min_terms": 3, "max_terms": 3}, task_rows, **TASK),
    effect("datasets[].split", "test", prompts, hub, **{"datasets[]__name": "splits"}),
    effect("datasets[].config_name", "main", hub, **{"datasets[]__name": "some/dataset"}),
    effect("datasets[].revision", "v2", hub, **{"datasets[]__name": "some/dataset"}),
    effect("datasets[].data_files", "a.json", hub, **{"datasets[]__name": "some/dataset"}),
    effect("datasets[].source", "mine", prompts),
    effect("datasets[].weight", 0.25, with_second_dataset(made("prompts", "schedule"))),
    effect("datasets[].reward", "exact", made("scorers", "by_source")),
    effect("datasets[].format", "jsonl", prompts, **{"datasets[]__name": "few.data"}),
    effect("datasets[].delimiter", ";", prompts, **{"datasets[]__name": "few.csv"}),
    effect("datasets[].preset", "gsm8k", prompts, **FEW),
    effect("datasets[].columns.prompt", "question", prompts, **FEW),
    effect("datasets[].columns.answer", "roman", prompts, **FEW),
    effect("datasets[].columns.prompt_id", "roman", prompts, **FEW),
    effect("datasets[].columns.metadata", ["roman"], prompts, **FEW),
    effect("datasets[].prompt_template", "Q: {question}", prompts, **FEW),
    effect("datasets[].chat", True, prompts, **FEW),
    effect("datasets[].system_prompt", "Be brief.", prompts, **{"datasets[]__chat": True}, **FEW),
    effect("datasets[].filters.min_chars", 6, prompts),
    effect("datasets[].filters.max_chars", 6, prompts),
    effect("datasets[].filters.drop_duplicates", False, prompts, **{"datasets[]__columns__prompt_id": None}, **FEW),
    effect("eval.datasets", [{"name": "few.jsonl"}], heldout),
    effect("data.on_bad_row", "skip", prompts, data__max_prompt_chars=8),
    effect("data.on_long_prompt", "error", made("prompts", "schedule")),
    effect("data.on_long_prompt", "error", left("problem"), data__max_prompt_tokens=16, **HELD_OUT),
    effect("data.max_prompt_tokens", 8, made("prompts", "schedule")),
    effect("data.max_prompt_tokens", 4, calls("generators", "eval"), **HELD_OUT),
    effect("data.max_prompt_chars", 8, prompts),
    effect("data.store_dir", "elsewhere", stores),
    effect("data.heldout_fraction", 0.5, calls("shards", "register"), calls("generators", "eval")),
    effect("data.heldout_size", 3, calls("shards", "register"), calls("generators", "eval")),
    effect("deadlines.prompts_s", 7.0, lambda config, here: opened_with(config, here)["stall_timeout_s"]),
)


def opened_with(config: RunConfig, here: Workplace) -> dict[str, Any]:
    """What a store is asked for."""
    from bolt_ray.commands.shared.prompts import open_store

    asked: dict[str, Any] = {}

    def build(datasets: Any, **given: Any) -> Any:
        asked.update(given)
        return store_here(datasets, config)

    write_files(here)
    open_store(config.datasets, config, build=build)
    return asked
