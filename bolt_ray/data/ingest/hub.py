"""Hugging Face datasets, through ``datasets.load_dataset``; its cache keeps what was downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bolt_ray.core.errors import DataError
from bolt_ray.data.ingest.known_datasets import known_dataset
from bolt_ray.data.settings import DatasetSettings


def hub_arguments(dataset: DatasetSettings) -> dict[str, Any]:
    """Keyword arguments of ``load_dataset``; relative ``data_files`` made absolute: workers run elsewhere."""
    known = known_dataset(dataset.name) if dataset.data_files is None else None
    config_name = dataset.config_name or (None if known is None else known.config_name)
    name = str(Path(dataset.name).absolute()) if Path(dataset.name).exists() else dataset.name
    return {
        "path": name,
        "name": config_name,
        "split": split_of(dataset),
        "revision": dataset.revision,
        "data_files": _absolute(dataset.data_files),
    }


def split_of(dataset: DatasetSettings) -> str:
    """The split asked for, else the one a known dataset has its rows in, else train."""
    known = known_dataset(dataset.name)
    return dataset.split or ("train" if known is None else known.split)


def _absolute(data_files: Any) -> Any:
    if isinstance(data_files, dict):
        return {split: _absolute(files) for split, files in data_files.items()}
    if isinstance(data_files, list | tuple):
        return [_absolute(entry) for entry in data_files]
    if isinstance(data_files, str) and Path(data_files).expanduser().exists():
        return str(Path(data_files).expanduser().absolute())
    return data_files


def load_hub(arguments: dict[str, Any]) -> Any:
    """A map-style ``datasets.Dataset``, memory-mapped from the cache.

    Raises:
        DataError: it is not there, its configuration or split is not, or its files cannot be read.
    """
    with _told_by_name(arguments) as datasets:
        return datasets.load_dataset(**arguments)


def first_hub_rows(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows in order, downloaded as they are asked for.

    Raises:
        DataError: see `load_hub`.
    """
    with _told_by_name(arguments) as datasets:
        yield from datasets.load_dataset(**arguments, streaming=True)


@contextmanager
def _told_by_name(arguments: dict[str, Any]) -> Iterator[Any]:
    """The package ``datasets``; what it raises becomes a `DataError` that names the dataset."""
    import datasets

    datasets.disable_progress_bars()
    try:
        yield datasets
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        chosen = ", ".join(f"{key}={value!r}" for key, value in arguments.items() if value is not None)
        reason = str(error.__cause__ or error).strip() or type(error).__name__
        raise DataError(
            f"'{arguments['path']}' is no local path, and Hugging Face datasets cannot load it ({chosen}): {reason}"
        ) from error


def hub_fingerprint(loaded: Any, *, cache: Path) -> str:
    """Number of rows and the cache files with their sizes, by their places in the cache: these carry the hash of the
    data, and are the same on every machine.

    Args:
        loaded: of `load_hub`.
        cache: the directory that ``datasets`` keeps its data sets in.
    """
    files = [Path(entry["filename"]).absolute() for entry in loaded.cache_files]
    places = [file.relative_to(cache) if file.is_relative_to(cache) else file for file in files]
    sizes = sorted((str(place), file.stat().st_size) for place, file in zip(places, files, strict=True))
    return repr((loaded.num_rows, sizes))


def hub_cache() -> Path:
    """Where ``datasets`` keeps its data sets on this machine."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE).expanduser().absolute()
