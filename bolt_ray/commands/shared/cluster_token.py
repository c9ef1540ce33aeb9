"""The token a Ray cluster asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

MODE = "RAY_AUTH_MODE"


def has_unused_token(environ: Mapping[str, str], home: Path) -> bool:
    """Whether there is a token for Ray, and nothing says whether to use it.

    A cluster's head takes a token file for the wish to authenticate; whoever joins it or submits to it does not, and is
    refused.
    """
    if MODE in environ:
        return False
    named = any(environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or (home / ".ray" / "auth_token").is_file()


def use_token() -> None:
    """Authenticate with the token of this machine, if it has one; before Ray connects to anything."""
    if has_unused_token(os.environ, Path.home()):
        from ray._raylet import Config  # type: ignore[attr-defined]

        os.environ[MODE] = "token"
        Config.initialize("")  # Ray read the variable when it was imported
