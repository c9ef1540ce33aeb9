"""Prompt keys: the identity of a prompt, and the shard that keeps it.

The key of a prompt is its ``prompt_id``, or else a 128-bit digest of its content, written in hex. Inside the
stores a key is a 16-byte digest:

- a key of exactly 32 lower-case hex digits *is* a digest and is read as such;
- any other key (a ``prompt_id`` such as ``"gsm8k-17"``) is digested with the same function over its UTF-8.

The shard is the first eight bytes of that digest, as a big-endian number, modulo the number of shards.
Python's ``hash()`` is salted per process and is never used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.records import Messages

_PERSON = b"bolt_ray.v1"
_DIGEST_BYTES = 16
_HEX_DIGITS = 2 * _DIGEST_BYTES
_NOT_HEX = 255

_NIBBLES = np.full(256, _NOT_HEX, dtype=np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16, dtype=np.uint8)


def prompt_key(prompt: str | Messages) -> str:
    """The key of a prompt without a ``prompt_id``: 32 hex digits, the same in every process.

    It is the 16-byte blake2b digest (person ``bolt_ray.v1``) of the compact JSON of the prompt, text or chat
    messages, with sorted keys.
    """
    text = json.dumps(prompt, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return _digest(text).hex()


def shard_of(key: str, num_shards: int) -> int:
    """The shard that keeps ``key``: the first eight bytes of its digest modulo ``num_shards``.

    Raises:
        ValueError: the key is empty, or ``num_shards`` is below 1.
    """
    return int(encode_keys([key]).shards(num_shards)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyBatch:
    """Keys in columns, n of them, as they travel between processes and lie in files.

    Attributes:
        digests: uint64 [n, 2], each digest as two big-endian numbers.
        text_lengths: int32 [n], bytes of the key's own text; 0 where the key is its digest in hex.
        text: uint8 [sum of text_lengths], the texts one after another, UTF-8.
    """

    digests: NDArray[np.uint64]
    text_lengths: NDArray[np.int32]
    text: NDArray[np.uint8]

    def __len__(self) -> int:
        return int(self.digests.shape[0])

    def shards(self, num_shards: int) -> NDArray[np.int64]:
        """int64 [n]: the shard of each key.

        Raises:
            ValueError: ``num_shards`` is below 1.
        """
        if num_shards < 1:
            raise ValueError(f"num_shards is {num_shards}; there must be at least one shard")
        return (self.digests[:, 0] % np.uint64(num_shards)).astype(np.int64)

    def take(self, which: NDArray[Any]) -> KeyBatch:
        """The keys at the positions ``which`` (int [m], or bool [n]), in that order."""
        lengths = self.text_lengths[which]
        total = int(lengths.sum())
        if total == 0:
            text = np.zeros(0, dtype=np.uint8)
        else:
            starts = (np.cumsum(self.text_lengths, dtype=np.int64) - self.text_lengths)[which]
            ends = np.cumsum(lengths, dtype=np.int64)
            # Byte j of the result comes from: start of its key in the source + its offset within that key.
            text = self.text[np.arange(total) + np.repeat(starts - (ends - lengths), lengths)]
        return KeyBatch(digests=self.digests[which], text_lengths=lengths, text=text)

    def strings(self) -> list[str]:
        """The keys as they were given."""
        hexes = self.digests.astype(">u8").tobytes().hex()
        keys = [hexes[i : i + _HEX_DIGITS] for i in range(0, len(hexes), _HEX_DIGITS)]
        own = np.flatnonzero(self.text_lengths)
        if own.size:
            raw = self.text.tobytes()
            ends = np.cumsum(self.text_lengths[own], dtype=np.int64).tolist()
            start = 0
            for i, end in zip(own.tolist(), ends, strict=True):
                keys[i] = raw[start:end].decode("utf-8", "surrogatepass")
                start = end
        return keys


def encode_keys(keys: Sequence[str]) -> KeyBatch:
    """Turn keys into columns; hex keys are parsed all at once, others are digested one by one.

    Raises:
        ValueError: a key is empty.
    """
    n = len(keys)
    lengths = np.fromiter(map(len, keys), dtype=np.int64, count=n)
    if n and int(lengths.min()) == 0:
        raise ValueError(f"key {int(lengths.argmin())} is empty; every prompt needs a key")
    digests = np.empty((n, 2), dtype=np.uint64)
    is_hex = np.zeros(n, dtype=np.bool_)
    candidates = np.flatnonzero(lengths == _HEX_DIGITS)
    if candidates.size:
        joined = "".join(keys if candidates.size == n else [keys[i] for i in candidates.tolist()])
        # A character outside ASCII becomes one "?", which is no hex digit: the rows keep their length.
        characters = np.frombuffer(joined.encode("ascii", "replace"), dtype=np.uint8)
        nibbles = _NIBBLES[characters].reshape(-1, _HEX_DIGITS)
        is_hex[candidates] = (nibbles != _NOT_HEX).all(axis=1)
        packed = (nibbles[:, 0::2] << 4) | nibbles[:, 1::2]
        digests[candidates] = packed.view(">u8")
    text_lengths = np.zeros(n, dtype=np.int32)
    texts: list[bytes] = []
    for i in np.flatnonzero(~is_hex).tolist():
        texts.append(_utf8(keys[i]))
        text_lengths[i] = len(texts[-1])
        digests[i] = np.frombuffer(_digest(keys[i]), dtype=">u8")
    return KeyBatch(digests=digests, text_lengths=text_lengths, text=np.frombuffer(b"".join(texts), dtype=np.uint8))


def concatenate_keys(batches: Sequence[KeyBatch]) -> KeyBatch:
    """The keys of several batches, one batch after the other."""
    if not batches:
        return encode_keys([])
    return KeyBatch(
        digests=np.concatenate([batch.digests for batch in batches]),
        text_lengths=np.concatenate([batch.text_lengths for batch in batches]),
        text=np.concatenate([batch.text for batch in batches]),
    )


def _utf8(text: str) -> bytes:
    # JSON allows half of a surrogate pair on its own; such a prompt still needs a key.
    return text.encode("utf-8", "surrogatepass")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(_utf8(text), digest_size=_DIGEST_BYTES, person=_PERSON).digest()
