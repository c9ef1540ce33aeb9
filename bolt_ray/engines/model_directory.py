"""Where a model is on this machine: every process of a run finds its own copy, on whatever node it starts."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from bolt_ray.core.errors import ModelError


def model_directory(model: str) -> Path:
    """The directory of a model on this machine.

    Args:
        model: the path of a directory; or ``owner/name@revision``, a model of the Hugging Face hub, which is taken from
            this machine's cache, or downloaded into it. A node that joins later does the same.

    Raises:
        ModelError: this machine does not see the directory, or cannot get the model.
    """
    name, at, revision = model.partition("@")
    if not at or model.startswith(("/", ".", "~")):
        path = Path(model).expanduser()
        if not path.is_dir():
            raise ModelError(
                f"model.name_or_path: there is no directory {path} on the node {platform.node()}; put it on storage "
                "that all nodes share, or name a model of the Hugging Face hub, which every node gets for itself (for "
                "the embedded model, set arithmetic.cache_dir to a directory that all nodes share)"
            )
        return path
    return hub_snapshot(name, revision or None)


def hub_snapshot(name: str, revision: str | None, *, only: Sequence[str] | None = None) -> Path:
    """The files of a hub model; the last part of their directory's path is the commit.

    Args:
        only: patterns of the files that are wanted.

    Raises:
        ModelError: it is neither in the cache nor to be had from the hub.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=None if only is None else list(only)))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        asked = name if revision is None else f"{name} at {revision}"
        raise ModelError(
            f"model.name_or_path: {asked!r} cannot be had from the Hugging Face hub on the node {platform.node()} "
            f"({type(error).__name__}), and is not in its cache"
        ) from None
