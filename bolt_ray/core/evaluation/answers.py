"""The answer in a completion, normalized for voting and for tables; in time linear in the text."""

from __future__ import annotations

import re
from fractions import Fraction

_TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_MARKED_LINE = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)$", re.MULTILINE)
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")
_NUMBERING = re.compile(r"\d+[.):]|\W*")
_BRACES = re.compile(r"(\\(?:boxed|fbox)\s*\{)|\\.|([{}])", re.DOTALL)
_NUMBER = re.compile(r"(?:(?<![\w)])[-+−])?\$?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:\s?/\s?\d+)?(?:\s?\\?%)?")
_PLAIN_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:/\d+)?")
# Python refuses to read integers of some thousand digits; such a number is no answer either.
_MAX_NUMBER_CHARS = 64


def extract_answer(text: str) -> str | None:
    """The answer two completions must share to vote for the same.

    It is the last ``<answer>…</answer>``, else what the text marks as its answer (`marked_answer`), else the last
    number, else the whole text; what is marked inside the tags is opened too. White space is made one blank, ``$``
    around it goes, and a number is written one way: ``1,200.0`` is ``1200``, ``2/4`` is ``1/2``.

    Returns:
        None if there is nothing but white space.
    """
    tagged = last_tagged(text)
    inner = text if tagged is None else tagged
    marked = marked_answer(inner)
    if marked is not None:
        return normalize_answer(marked)
    if tagged is not None:
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


def marked_answer(text: str) -> str | None:
    """What a text marks as its answer: the later of its last ``\\boxed{…}`` and its last line ``#### …``.

    The line is GSM8K's (arXiv 2110.14168).

    Returns:
        None if nothing is marked; "" where the last mark is a box that is empty, or opened and not closed.
    """
    start, marked = _last_box(text)
    for line in _MARKED_LINE.finditer(text):
        content = line.group(1).strip().strip("*_").strip()
        last = not text[line.end() :].strip()
        if line.start() > start and not _is_heading(content, last=last):
            marked = content
    return marked


def _is_heading(content: str, *, last: bool) -> bool:
    """Whether the line is one of Markdown: ``Step 2``, ``2)``, ``---``; an answer in words is the text's last line."""
    if _NUMBERING.fullmatch(content):
        return True
    return bool(_WORD.search(content)) and (not last or any(map(str.isdigit, content)))


def last_boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{…}`` (or ``\\fbox``), braces balanced; "" if it does not close, None if there
    is none."""
    return _last_box(text)[1]


def _last_box(text: str) -> tuple[int, str | None]:
    """Where the last box begins, -1 for none, and what is in it, "" if it does not close."""
    opened: list[int | None] = []
    found: tuple[int, str | None] = (-1, None)
    for match in _BRACES.finditer(text):
        if match.group(1):
            opened.append(match.end())
        elif match.group(2) == "{":
            opened.append(None)
        elif match.group(2) == "}" and opened:
            start = opened.pop()
            if start is not None and start > found[0]:
                found = (start, text[start : match.start()].strip())
    unclosed = max((start for start in opened if start is not None), default=-1)
    return (unclosed, "") if unclosed > found[0] else found


def last_number(text: str) -> str | None:
    """The last number in a text, as ``-1,234.5``, ``3/4`` or ``12%``; None if there is none."""
    last = None
    for match in _NUMBER.finditer(text):
        if any(character.isdigit() for character in match.group()):
            last = match.group()
    return None if last is None else last.replace("$", "").replace("−", "-").replace(" ", "").replace("\\", "")
