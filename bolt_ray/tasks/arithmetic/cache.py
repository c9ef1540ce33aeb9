"""Names of the embedded task's cached directories: digests of the settings that made them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Any, cast

from bolt_ray.core.settings import Settings
from bolt_ray.tasks.arithmetic.problems import RECIPE


def settings_digest(settings: Settings, part: type[Settings]) -> str:
    """32 hex digits of the settings that belong to ``part``, a record ``settings`` is one of; equal settings give equal
    digests on every machine."""
    chosen = {field.name: getattr(settings, field.name) for field in fields(cast("Any", part))}
    text = json.dumps({"recipe": RECIPE, **chosen}, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
