"""Stores of the estimator that is not the default."""

from __future__ import annotations

from typing import Any

from bolt_ray.core.baseline import BaselineStore


def beta_store(**changes: Any) -> BaselineStore:
    """A store of Beta counts that forgets by policy version, unless ``changes`` say otherwise."""
    return BaselineStore(**{"estimator": "beta", "forgetting": "event"} | changes)
