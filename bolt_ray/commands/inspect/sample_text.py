"""One sample in the terminal: its numbers and texts, at any width, without what a model could do to a terminal."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]

TEXTS = ("prompt", "completion", "answer")

_SHORT_LINES, _SHORT_CHARS = 8, 600
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, and those that change the direction or the end of a line: a terminal obeys them."""


def printable(text: str) -> str:
    """The text as a terminal can show it: what would move the cursor or turn the writing around stands escaped."""
    return _UNPRINTABLE.sub(lambda found: ascii(found.group())[1:-1], text.expandtabs(4))


def show_sample(row: Row, console: Console, *, full: bool) -> None:
    """Print one: what it is, its numbers, its texts."""
    head = " · ".join([f"step {row.get('step')}", str(row.get("kind")), ", ".join(map(str, list_of(row, "why")))])
    console.print(Rule(Text(printable(head), style="bold"), align="left", characters="─"))
    for facts in (_verdict(row), _baseline(row), _origin(row), _parts(row)):
        if facts:
            text = printable(" · ".join(facts))
            console.print(Text(text if full else _short(text)), highlight=False)
    if row.get("unscored") is not None:
        console.print(Text(printable(f"unscored: {row['unscored']}"), style="yellow"), highlight=False)
    texts = Table.grid(padding=(0, 2))
    texts.add_column(style="bold cyan", no_wrap=True)
    texts.add_column(overflow="fold")
    for name in TEXTS:
        text = printable(prose_of(row, name))
        texts.add_row(name, Text(text if full else _short(text)))
    console.print(texts, highlight=False)


def _verdict(row: Row) -> list[str]:
    facts = [_said(row, "reward", "reward {:.3f}"), _said(row, "advantage", "advantage {:+.3f}")]
    if row.get("correct") is not None:
        facts.append("right" if row["correct"] is True else "wrong")
    if row.get("dropped") is not None:
        facts.append(f"not trained on: {row['dropped']}")
    facts.append(_said(row, "num_tokens", "{:,.0f} tokens") + (", truncated" if row.get("truncated") is True else ""))
    return [fact for fact in facts if fact]


def _baseline(row: Row) -> list[str]:
    said = {
        "v_hat": "v̂ {:.3f}",
        "surprise": "|r̃ − v̂| {:.3f}",
        "visits": "visits {:.0f}",
        "draw_weight": "draw weight {:.2f}",
        "mean_logprob": "mean log p {:.3f}",
        "gap": "gap {:.2g} nats",
    }
    return [fact for name, words in said.items() if (fact := _said(row, name, words))]


def _origin(row: Row) -> list[str]:
    oldest, newest = (_said(row, f"{which}_version", "{:.0f}") for which in ("oldest", "newest"))
    facts = [f"prompt {row.get('prompt_id')}", str(row.get("source") or "")]
    facts += [
        _said(row, "sample_index", "sample {:.0f}"),
        f"policy version {oldest}" + (f" to {newest}" if newest != oldest else ""),
    ]
    return [fact for fact in facts if fact]


def _parts(row: Row) -> list[str]:
    """What each reward gave, and what they said beside it."""
    found = []
    for name in ("parts", "metrics", "extras"):
        table = row.get(name)
        for key, value in (table if isinstance(table, dict) else {}).items():
            found.append(f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {_plain(value)}")
    return found


def _short(text: str) -> str:
    """Beginning and end, a few lines each."""
    lines = text.split("\n")
    if len(lines) > _SHORT_LINES:
        half = _SHORT_LINES // 2
        lines = [*lines[:half], f"[… {len(lines) - 2 * half:,} lines …]", *lines[-half:]]
    short = "\n".join(lines)
    if len(short) > _SHORT_CHARS:
        half = _SHORT_CHARS // 2
        short = f"{short[:half]} [… {len(short) - 2 * half:,} characters …] {short[-half:]}"
    return short


def prose_of(row: Row, name: str) -> str:
    """A text of a row; chat messages each behind its role."""
    value = row.get(name)
    if not isinstance(value, list):
        return _plain(value)
    return "\n".join(
        f"{message.get('role')}: {_plain(message.get('content'))}" if isinstance(message, dict) else _plain(message)
        for message in value
    )


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _said(row: Row, name: str, words: str) -> str:
    number = number_of(row, name)
    return "" if number is None else words.format(number)


def number_of(row: Row, name: str) -> float | None:
    """A number of a row; None for none, and for what only another program can have put there."""
    value = row.get(name)
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return value if known else None


def list_of(row: Row, name: str) -> list[Any]:
    value = row.get(name)
    return value if isinstance(value, list) else []
