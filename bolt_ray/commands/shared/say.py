"""What commands print: to the person on the console, and to the run's log."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console

log = logging.getLogger(__name__)


def say(console: Console, text: str) -> None:
    """Print a line as it is, and log it."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)
    log.info(text)


def shown(path: Path) -> str:
    """The path, relative to the working directory where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
