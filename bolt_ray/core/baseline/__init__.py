"""The persistent baseline: an estimate v̂ for every prompt, and the evidence behind it."""

from bolt_ray.core.baseline.settings import BaselineSettings
from bolt_ray.core.baseline.store import BaselineStore

__all__ = ["BaselineSettings", "BaselineStore"]
