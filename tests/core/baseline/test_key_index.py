from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bolt_ray.core.baseline.key_index import KeyIndex
from bolt_ray.core.keys import encode_keys


@given(st.lists(st.lists(st.sampled_from([f"id-{i}" for i in range(40)] + ["00" * 16, "ff" * 16]))))
def test_slots_are_those_of_a_dictionary_filled_in_order(batches: list[list[str]]) -> None:
    index, expected = KeyIndex(), dict[str, int]()
    for keys in batches:
        for key in keys:
            expected.setdefault(key, len(expected))
        assert index.add(encode_keys(keys)).tolist() == [expected[key] for key in keys]
    assert len(index) == len(expected)
    assert index.keys().strings() == list(expected)
    assert index.find(encode_keys(["never"]).digests).tolist() == [-1]


def test_many_keys_through_several_growths() -> None:
    index = KeyIndex()
    keys = [f"{i:032d}" for i in range(50_000)]
    for start in range(0, len(keys), 777):
        index.add(encode_keys(keys[start : start + 777]))
    batch = encode_keys(keys)
    assert np.array_equal(index.find(batch.digests), np.arange(50_000))
    assert np.array_equal(index.add(batch), np.arange(50_000))
    assert index.keys(np.array([49_999, 3])).strings() == [keys[49_999], keys[3]]


def test_texts_of_own_ids_come_back_beside_digests() -> None:
    index = KeyIndex()
    index.add(encode_keys(["ab" * 16]))
    index.add(encode_keys(["first", "cd" * 16, "zweite é"]))
    assert index.keys().strings() == ["ab" * 16, "first", "cd" * 16, "zweite é"]
    assert index.keys(np.array([3, 0])).strings() == ["zweite é", "ab" * 16]


def test_reserved_room_is_exact() -> None:
    index = KeyIndex()
    index.reserve(1000)
    index.add(encode_keys([f"{i:032x}" for i in range(1000)]))
    assert index.nbytes == 1000 * 16 + 2048 * 4


def test_empty() -> None:
    index = KeyIndex()
    assert index.find(encode_keys(["a"]).digests).tolist() == [-1]
    assert index.add(encode_keys([])).tolist() == []
    assert index.keys().strings() == []
