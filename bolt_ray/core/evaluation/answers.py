"""The answer in a completion, normalized for voting and for tables; in time linear in the text."""

from __future__ import annotations

import re
from fractions import Fraction

_TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_BRACES = re.compile(r"(\\(?:boxed|fbox)\s*\{)|\\.|([{}])", re.DOTALL)
_NUMBER = re.compile(r"(?:(?<![\w)])[-+−])?\$?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:\s?/\s?\d+)?(?:\s?\\?%)?")
_PLAIN_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:/\d+)?")
# Python refuses to read integers of some thousand digits; such a number is no answer either.
_MAX_NUMBER_CHARS = 64


def extract_answer(text: str) -> str | None:
    """The answer two completions must share to vote for the same.

    It is the last ``<answer>…</answer>``, else the last ``\\boxed{…}``, else the last number, else the whole text;
    ``\\boxed{…}`` inside the tags is opened too. White space is made one blank, ``$`` around it goes, and a number
    is written one way: ``1,200.0`` is ``1200``, ``2/4`` is ``1/2``.

    Returns:
        None if there is nothing but white space.
    """
    tagged = _TAG.findall(text)
    inner = str(tagged[-1]) if tagged else text
    boxed = last_boxed(inner)
    if boxed is not None:
        return normalize_answer(boxed)
    if tagged:
        return normalize_answer(inner)
    return normalize_answer(last_number(text) or text)


def normalize_answer(answer: str) -> str | None:
    """One way to write equal answers; None if there is nothing in it."""
    plain = " ".join(answer.split()).strip("$").strip()
    number, percent = plain.replace("−", "-").replace(",", ""), ""
    if number.endswith("%"):
        number, percent = number.rstrip("%").rstrip("\\").rstrip(), "%"
    number = number.replace("$", "")
    if len(number) <= _MAX_NUMBER_CHARS and _PLAIN_NUMBER.fullmatch(number):
        numerator, _, denominator = number.partition("/")
        if int(denominator or 1) != 0:
            return f"{Fraction(numerator) / int(denominator or 1)}{percent}"
    return plain or None


def last_tagged(text: str) -> str | None:
    """The content of the last closed ``<answer>…</answer>``; None if there is none."""
    tagged = _TAG.findall(text)
    return str(tagged[-1]) if tagged else None


def last_boxed(text: str) -> str | None:
    """The content of the last closed ``\\boxed{…}`` (or ``\\fbox``), braces balanced; None if there is none."""
    opened: list[int | None] = []
    found: tuple[int, int] | None = None
    for match in _BRACES.finditer(text):
        if match.group(1):
            opened.append(match.end())
        elif match.group(2) == "{":
            opened.append(None)
        elif match.group(2) == "}" and opened:
            start = opened.pop()
            if start is not None and (found is None or start > found[0]):
                found = (start, match.start())
    return None if found is None else text[found[0] : found[1]].strip()


def last_number(text: str) -> str | None:
    """The last number in a text, as ``-1,234.5``, ``3/4`` or ``12%``; None if there is none."""
    last = None
    for match in _NUMBER.finditer(text):
        if any(character.isdigit() for character in match.group()):
            last = match.group()
    return None if last is None else last.replace("$", "").replace("−", "-").replace(" ", "").replace("\\", "")
