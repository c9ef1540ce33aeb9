"""``bolt-ray export``: the policy of a run, a checkpoint or an adapter as a plain model directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from bolt_ray.commands.model_source import find_model
from bolt_ray.core.errors import ConfigError, ModelError
from bolt_ray.engines.learner.lora import export_merged


def export_model(source: str, output: Path, *, base: str | None, say: Callable[[str], None]) -> None:
    """Copy a plain model, or merge a LoRA adapter into its base; ``output`` appears only when it is whole.

    Args:
        source: a run, checkpoint, adapter or model directory.
        base: the adapter's base model, in place of the one it names.

    Raises:
        ConfigError: ``output`` is there already or cannot be written.
        ModelError: there is no model in ``source``, or adapter and base do not fit.
    """
    if output.exists():
        raise ConfigError(f"{output} is there already and is not overwritten; name a new directory")
    found = find_model(source, base=base)
    if found.adapter is None and not Path(found.model).is_dir():
        raise ModelError(f"there is no directory {source}; name a run, a checkpoint, an adapter or a model directory")
    output = output.absolute()
    aside = output.with_name(f".writing-{output.name}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        if found.adapter is None:
            shutil.copytree(found.model, aside)
        else:
            disable_progress_bar()
            export_merged(found.model, str(found.adapter), aside)
        aside.rename(output)
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    what = "copied" if found.adapter is None else f"merged into {found.model} and written"
    say(f"{found.adapter or found.model}: {what} to {output}")
