"""Which TRL there is: none is refused with what to install, one that was not tested is told."""

from __future__ import annotations

import importlib.metadata
import warnings

from bolt_ray.core.errors import EnvironmentProblem

TESTED_VERSION = "1.16.0"
"""The version every test of this package runs with."""


def require_trl() -> None:
    """Look at the TRL installed.

    Raises:
        EnvironmentProblem: there is none.
    """
    try:
        found = importlib.metadata.version("trl")
    except importlib.metadata.PackageNotFoundError:
        raise EnvironmentProblem(
            "bolt_ray.integrations.trl needs TRL, which is not installed: pip install 'bolt-ray[trl]'"
        ) from None
    tell_untested(found)


def tell_untested(found: str) -> None:
    """Warn of a version other than the one tested."""
    if found != TESTED_VERSION:
        warnings.warn(
            f"bolt_ray.integrations.trl is tested with TRL {TESTED_VERSION} and found {found}: its internals may have "
            f"changed; compare advantages and metrics, or pip install trl=={TESTED_VERSION}",
            stacklevel=2,
        )
