"""``bolt-ray config``: the settings, explained."""

from __future__ import annotations

import json

from bolt_ray.config.reference import explain, json_schema


def schema_text() -> str:
    """The JSON schema of a config file, as text."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def explanation(key: str) -> str:
    """A setting, or all settings of a section, in words.

    Raises:
        ConfigError: there is none of that name.
    """
    return explain(key) + "\n"
