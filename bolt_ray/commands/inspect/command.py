"""``bolt-ray inspect`` as the command line has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bolt_ray.core.errors import ConfigError

_PANEL = "With --samples"


def inspect(
    run: Annotated[Path, typer.Argument(help="a run directory, or one of its checkpoints", show_default=False)],
    top: Annotated[int | None, typer.Option(min=1, help="prompts in each list; default: 10")] = None,
    png: Annotated[Path | None, typer.Option(help="where to draw; default: baseline.png in the run")] = None,
    html: Annotated[Path | None, typer.Option(help="also write a page with the tables and the picture")] = None,
    samples: Annotated[
        bool, typer.Option("--samples", help="read completions instead, also of a run that goes on")
    ] = False,
    step: Annotated[
        str | None, typer.Option(help="of these steps: `120`, `100-200`, `100-`", rich_help_panel=_PANEL)
    ] = None,
    kind: Annotated[str | None, typer.Option(help="train or eval", rich_help_panel=_PANEL)] = None,
    source: Annotated[str | None, typer.Option(help="of this dataset", rich_help_panel=_PANEL)] = None,
    why: Annotated[
        str | None,
        typer.Option(help="best, worst, longest, truncated, surprise or unscored", rich_help_panel=_PANEL),
    ] = None,
    min_reward: Annotated[float | None, typer.Option(help="reward at least", rich_help_panel=_PANEL)] = None,
    max_reward: Annotated[float | None, typer.Option(help="reward at most", rich_help_panel=_PANEL)] = None,
    unscored: Annotated[bool, typer.Option("--unscored", help="without a reward", rich_help_panel=_PANEL)] = False,
    truncated: Annotated[bool, typer.Option("--truncated", help="cut at the length limit", rich_help_panel=_PANEL)] = (
        False
    ),
    grep: Annotated[
        str | None, typer.Option(help="with this in prompt, completion or answer; no pattern", rich_help_panel=_PANEL)
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="reward, v_hat, surprise (|r̃ − v̂|), length, gap or advantage; default: newest step first",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    ascending: Annotated[
        bool, typer.Option("--ascending", help="with --sort: smallest first, not largest", rich_help_panel=_PANEL)
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="samples shown; default: 10", rich_help_panel=_PANEL)] = None,
    full: Annotated[bool, typer.Option("--full", help="whole texts", rich_help_panel=_PANEL)] = False,
) -> None:
    """Show a run's baseline, or with --samples its completions, filtered and sorted.

    Of the baseline: v̂ as a histogram, solved, unsolved and uncertain prompts, coverage.
    """
    of_samples = {
        "step": step,
        "kind": kind,
        "source": source,
        "why": why,
        "min_reward": min_reward,
        "max_reward": max_reward,
        "unscored": unscored,
        "truncated": truncated,
        "grep": grep,
        "sort": sort,
        "ascending": ascending,
        "limit": limit,
        "full": full,
    }
    given: dict[str, Any] = {name: value for name, value in of_samples.items() if value not in (None, False)}
    of_baseline = {"top": top, "png": png, "html": html}
    if samples:
        from bolt_ray.commands.inspect.samples import SampleQuery, show_samples

        _refuse([name for name, value in of_baseline.items() if value is not None], "does not go with --samples")
        show_samples(run, SampleQuery(**given), console=Console())
        return
    from bolt_ray.commands.inspect.inspect import inspect_run

    _refuse(list(given), "needs --samples")
    inspect_run(run, top=top or 10, png=png, html=html, console=Console())


def _refuse(options: list[str], why: str) -> None:
    for option in options:
        raise ConfigError(f"--{option.replace('_', '-')} {why}")
