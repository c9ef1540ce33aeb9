"""What a prompt's text looks like, as a few small numbers: from these the level of an unseen prompt is told.

A prompt gets at most 11 *features*: how long it is, how many numbers it has, how many digits the longest of them, and
eight pieces of its text. Pieces are words of four letters or more where there are many, as in prose, else three bytes
in a row, as in formulas. Of all pieces those with the eight least hashes are taken (bottom-k sampling, Broder 1997), so
that texts which share pieces tend to be told by the same ones. Every feature is hashed into one of 16,383 buckets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

NUM_FEATURES = 11
BUCKETS = 1 << 14
"""Bucket 0 stands for no feature."""

_NUM_PIECES = NUM_FEATURES - 3
_FEWEST_WORDS = 8
_MOST = 15
_LONGEST_TEXT = 4096
_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"[^\W\d_]{4,}")
_MIX = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], dtype=np.uint32)
"""Odd numbers to multiply bytes with (Knuth's multiplicative hashing)."""


def prompt_text(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """The text that tells a prompt from others: its own, of a conversation what the user says."""
    if isinstance(prompt, str):
        return prompt
    said = [message for message in prompt if message.get("role") == "user"] or list(prompt)
    return "\n".join(_content(message.get("content")) for message in said)


def _content(content: Any) -> str:
    """A message's text; of one in parts, theirs, without images."""
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if isinstance(part, dict) and "text" in part)
    return str(content or "")


def prompt_features(texts: Sequence[str]) -> NDArray[np.uint16]:
    """uint16 [n, 11]: the buckets of each text's features, 0 where it has fewer. Texts count to 4,096 characters.

    About 20 µs for a formula and 70 µs for a paragraph.
    """
    features = np.zeros((len(texts), NUM_FEATURES), dtype=np.uint16)
    for row, whole in zip(features, texts, strict=True):
        text = whole[:_LONGEST_TEXT]
        numbers = _NUMBER.findall(text)
        shape = (
            f"length {int(2 * np.log2(len(text) + 1))}",
            f"numbers {min(len(numbers), _MOST)}",
            f"digits {min(max(map(len, numbers), default=0), _MOST)}",
        )
        row[:3] = [_bucket(xxhash.xxh32_intdigest(name.encode())) for name in shape]
        pieces = _pieces(text)
        row[3 : 3 + pieces.size] = [_bucket(piece) for piece in pieces.tolist()]
    return features


def _pieces(text: str) -> NDArray[np.uint32]:
    """At most eight hashes of pieces, ascending."""
    words = {word.lower() for word in _WORD.findall(text)}
    if len(words) >= _FEWEST_WORDS:
        hashes = np.array([xxhash.xxh32_intdigest(word.encode()) for word in words], dtype=np.uint32)
    else:
        # Begin and end are bytes of their own, which no text in UTF-8 has.
        data = np.frombuffer(b"\xfe" + text.encode("utf-8", "replace") + b"\xff", dtype=np.uint8).astype(np.uint32)
        triples = data[:-2] * _MIX[0] + data[1:-1] * _MIX[1] + data[2:] * _MIX[2] if data.size > 2 else data[:1]
        hashes = (triples ^ (triples >> 15)) * _MIX[1]
    return np.unique(hashes)[:_NUM_PIECES]


def _bucket(value: int) -> int:
    # Not by the low bits: the least hashes of a text are alike in the high ones.
    return 1 + (value * 0x9E3779B1 & 0xFFFFFFFF) % (BUCKETS - 1)
