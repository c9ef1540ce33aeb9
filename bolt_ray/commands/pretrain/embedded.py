"""The embedded model, taught when it is not cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bolt_ray.commands.pretrain.progress import teaching_bar
from bolt_ray.tasks.arithmetic.pretrain import (
    PretrainProgress,
    PretrainReport,
    default_model_dir,
    ensure_model,
)
from bolt_ray.tasks.arithmetic.settings import ArithmeticSettings, PretrainSettings


def ensure_embedded_model(arithmetic: ArithmeticSettings, *, say: Callable[[str], None], show_progress: bool) -> Path:
    """The pretrained model's directory; teaches it now, in about a minute or two, if it is not cached."""
    if not default_model_dir(arithmetic, cache_dir=arithmetic.cache).is_dir():
        say(f"No cached model: teaching the {arithmetic.size} arithmetic model for {arithmetic.total_steps:,} steps")
    path, report = _teach(arithmetic, cache_dir=arithmetic.cache, show_progress=show_progress)
    say(f"Model: {report.parameters:,} parameters, {100 * report.sampled_accuracy:.0f}% when sampled ({path})")
    return path


def _teach(settings: PretrainSettings, *, cache_dir: Path, show_progress: bool) -> tuple[Path, PretrainReport]:
    with teaching_bar(settings.total_steps, show=show_progress) as update:

        def on_progress(progress: PretrainProgress) -> None:
            update(progress.step, f"loss {progress.loss:.3f}")

        return ensure_model(settings, cache_dir=cache_dir, on_progress=on_progress)
