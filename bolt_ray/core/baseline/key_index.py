"""A hash table from prompt keys to dense slot numbers, looked up and filled a batch at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.keys import KeyBatch

ABSENT = -1
"""The slot of a key that is not in the index."""

_MAX_LOAD = 0.75
_GROWTH = 1.2
_MIN_BITS = 6
_INSERT_CHUNK = 1 << 20
_MIX_HIGH = np.uint64(0x9E3779B97F4A7C15)
_MIX_BOTH = np.uint64(0xBF58476D1CE4E5B9)


class KeyIndex:
    """Slots 0, 1, 2 … in the order in which keys were first added; no key is ever removed.

    Open addressing with linear probing over a power-of-two table of int32 slots, at most 75 % full. Every
    probe is one numpy step for all keys still unresolved. 16 bytes of digest and 5 to 11 bytes of table per
    key; the text of keys that are not digests is kept besides.
    """

    def __init__(self) -> None:
        self._size = 0
        self._digests: NDArray[np.uint64] = np.empty((0, 2), dtype=np.uint64)
        self._table: NDArray[np.int32] = np.full(1 << _MIN_BITS, ABSENT, dtype=np.int32)
        self._text = bytearray()
        # int32 [capacity], allocated when the first key with a text of its own arrives.
        self._text_lengths: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes held: digests, table and texts."""
        lengths = 0 if self._text_lengths is None else self._text_lengths.nbytes
        return self._digests.nbytes + self._table.nbytes + lengths + len(self._text)

    def keys(self, slots: NDArray[np.int64] | None = None) -> KeyBatch:
        """The keys in slot order, or those of ``slots`` (int64 [m])."""
        lengths = self._text_lengths
        everything = KeyBatch(
            digests=self._digests[: self._size],
            text_lengths=np.zeros(self._size, dtype=np.int32) if lengths is None else lengths[: self._size],
            text=np.frombuffer(bytes(self._text), dtype=np.uint8),
        )
        return everything.take(np.arange(self._size) if slots is None else slots)

    def find(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """int64 [n]: the slot of each digest (uint64 [n, 2]), ``ABSENT`` for an unknown one."""
        found = np.full(digests.shape[0], ABSENT, dtype=np.int64)
        if self._size == 0:
            return found
        mask = self._table.shape[0] - 1
        pending = np.arange(digests.shape[0])
        high, low = digests[:, 0], digests[:, 1]
        position = self._home(digests)
        while pending.size:
            slot = self._table[position]
            stored = self._digests[slot]
            used = slot != ABSENT
            match = used & (stored[:, 0] == high) & (stored[:, 1] == low)
            found[pending[match]] = slot[match]
            on = used & ~match
            pending, high, low = pending[on], high[on], low[on]
            position = (position[on] + 1) & mask
        return found

    def add(self, keys: KeyBatch) -> NDArray[np.int64]:
        """int64 [n]: the slot of each key; new keys get the next slots in order of appearance."""
        if len(keys) > _INSERT_CHUNK:
            # In pieces, so that a bulk registration needs no working arrays of its own size.
            pieces = [np.arange(i, min(i + _INSERT_CHUNK, len(keys))) for i in range(0, len(keys), _INSERT_CHUNK)]
            return np.concatenate([self.add(keys.take(piece)) for piece in pieces])
        slots = self.find(keys.digests)
        missing = np.flatnonzero(slots == ABSENT)
        if missing.size:
            first, group = _first_occurrences(keys.digests[missing])
            start = self._size
            self._append(keys.take(missing[first]))
            slots[missing] = start + group
        return slots

    def reserve(self, size: int) -> None:
        """Make room for ``size`` keys at once, with no spare capacity."""
        if size > self._digests.shape[0]:
            self._set_capacity(size)
        self._fit_table(size)

    def _append(self, new: KeyBatch) -> None:
        """Store keys that are absent and all different."""
        start, end = self._size, self._size + len(new)
        if end > self._digests.shape[0]:
            self._set_capacity(max(end, int(start * _GROWTH)))
        self._digests[start:end] = new.digests
        if new.text.size and self._text_lengths is None:
            self._text_lengths = np.zeros(self._digests.shape[0], dtype=np.int32)
        if self._text_lengths is not None:
            self._text_lengths[start:end] = new.text_lengths
            self._text += new.text.tobytes()
        self._fit_table(end)
        self._insert(start, end)
        self._size = end

    def _set_capacity(self, capacity: int) -> None:
        digests = np.empty((capacity, 2), dtype=np.uint64)
        digests[: self._size] = self._digests[: self._size]
        self._digests = digests
        if self._text_lengths is not None:
            lengths = np.zeros(capacity, dtype=np.int32)
            lengths[: self._size] = self._text_lengths[: self._size]
            self._text_lengths = lengths

    def _fit_table(self, size: int) -> None:
        """Grow the table to take ``size`` keys, and enter the present ones again."""
        bits = int(self._table.shape[0]).bit_length() - 1
        needed = bits
        while size > _MAX_LOAD * (1 << needed):
            needed += 1
        if needed == bits:
            return
        self._table = np.full(1 << needed, ABSENT, dtype=np.int32)
        for start in range(0, self._size, _INSERT_CHUNK):
            self._insert(start, min(start + _INSERT_CHUNK, self._size))

    def _insert(self, start: int, end: int) -> None:
        """Enter slots start … end-1, whose digests are stored and not yet in the table."""
        mask = self._table.shape[0] - 1
        slots = np.arange(start, end, dtype=np.int32)
        position = self._home(self._digests[start:end])
        while slots.size:
            free = self._table[position] == ABSENT
            # Of several slots after the same free place one wins; the others find it taken and probe on.
            self._table[position[free]] = slots[free]
            lost = self._table[position] != slots
            slots, position = slots[lost], (position[lost] + 1) & mask

    def _home(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        # Both halves are mixed in: all keys of a shard agree on the first half modulo the number of shards,
        # and own ids of 32 digits may be plain counters.
        bits = int(self._table.shape[0]).bit_length() - 1
        mixed = ((digests[:, 0] * _MIX_HIGH) ^ digests[:, 1]) * _MIX_BOTH
        return (mixed >> np.uint64(64 - bits)).astype(np.int64)


def _first_occurrences(digests: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the distinct digests in order of appearance, and for each digest its number among them."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    starts = np.ones(order.size, dtype=np.bool_)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    # lexsort is stable: the first of each run is the earliest occurrence.
    earliest = order[starts]
    rank = np.empty(earliest.size, dtype=np.int64)
    rank[np.argsort(earliest)] = np.arange(earliest.size)
    group = np.empty(order.size, dtype=np.int64)
    group[order] = rank[np.cumsum(starts) - 1]
    return np.sort(earliest), group
