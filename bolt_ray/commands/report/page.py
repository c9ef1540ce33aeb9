"""The page: one HTML file with its style, its script and its data in it, which may load nothing at all."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

STYLES = ("uplot.css", "page.css")
SCRIPTS = ("uplot.js", "state.js", "lines.js", "tenths.js", "samples.js", "page.js")


def page(title: str, data: Mapping[str, Any]) -> str:
    """The whole file. ``data`` may hold any text: it is written so that no text can end the element it stands in.

    The content security policy admits the style and the script below by their hashes, and no request to anywhere.
    """
    style = "\n".join(_file(name) for name in STYLES)
    script = "\n".join(_file(name) for name in SCRIPTS)
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    # Plain ASCII, because a model may write lone surrogates, which no file holds.
    embedded = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    known = {
        "policy": policy,
        "title": html.escape(title.encode("utf-8", "replace").decode()),
        "style": style,
        "data": embedded,
        "script": script,
    }
    parts = _file("page.html").split("%%")
    return "".join(known[part] if number % 2 else part for number, part in enumerate(parts))


def _file(name: str) -> str:
    return (resources.files("bolt_ray.commands.report") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
