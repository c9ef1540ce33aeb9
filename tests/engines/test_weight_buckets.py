from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bolt_ray.core.errors import ModelError, WeightSyncError
from bolt_ray.engines.weight_buckets import (
    check_complete,
    checkpoint_shapes,
    pack_buckets,
    unpack,
)


def _tensors() -> list[tuple[str, torch.Tensor]]:
    return [
        ("a", torch.arange(6, dtype=torch.float32).reshape(2, 3)),
        ("b", torch.tensor([1.5, -2.0, 3.25], dtype=torch.bfloat16)),
        ("scalar", torch.tensor(7, dtype=torch.int64)),
        ("empty", torch.empty(0, 4)),
        ("c", torch.arange(100, dtype=torch.float32)),
    ]


def test_a_round_trip_keeps_names_shapes_dtypes_and_values() -> None:
    manifest, buckets = pack_buckets(_tensors(), bucket_bytes=1 << 20, version=3)
    assert manifest.version == 3
    # 64-byte starts: a 24 B at 0, b 6 B at 64, scalar 8 B at 128, empty at 192, c 400 B at 192.
    assert [(e.name, e.bucket, e.offset) for e in manifest.tensors] == [
        ("a", 0, 0),
        ("b", 0, 64),
        ("scalar", 0, 128),
        ("empty", 0, 192),
        ("c", 0, 192),
    ]
    assert manifest.bucket_sizes == (592,)
    for (name, original), (got_name, got) in zip(_tensors(), unpack(manifest, buckets), strict=True):
        assert (got_name, got.dtype, got.shape) == (name, original.dtype, original.shape)
        assert torch.equal(got, original)


def test_buckets_are_cut_at_the_limit_and_a_large_tensor_has_its_own() -> None:
    manifest, buckets = pack_buckets(_tensors(), bucket_bytes=128, version=0)
    assert [e.bucket for e in manifest.tensors] == [0, 0, 1, 1, 2]
    assert [bucket.size for bucket in buckets] == [70, 64, 400]
    assert [name for name, _ in unpack(manifest, buckets)] == ["a", "b", "scalar", "empty", "c"]


def test_no_tensors_make_no_buckets() -> None:
    manifest, buckets = pack_buckets([], bucket_bytes=128)
    assert (manifest.tensors, buckets, manifest.num_bytes) == ((), [], 0)
    assert list(unpack(manifest, buckets)) == []


def test_a_tensor_is_copied_before_the_next_is_asked_for() -> None:
    scratch = torch.empty(4)

    def gathered() -> object:
        for value in (1.0, 2.0):
            yield str(value), scratch.fill_(value)

    manifest, buckets = pack_buckets(gathered(), bucket_bytes=1024)  # type: ignore[arg-type]
    assert [tensor.tolist() for _, tensor in unpack(manifest, buckets)] == [[1.0] * 4, [2.0] * 4]


def test_unpack_gives_views_of_read_only_buckets() -> None:
    manifest, buckets = pack_buckets(_tensors(), bucket_bytes=1 << 20)
    buckets[0].flags.writeable = False
    views = dict(unpack(manifest, buckets))
    address = buckets[0].__array_interface__["data"][0]
    assert [views["a"].data_ptr() - address, views["c"].data_ptr() - address] == [0, 192]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda buckets: buckets[:-1], "2 buckets arrived, the manifest lists 3"),
        (lambda buckets: [buckets[0], buckets[1][:-1], buckets[2]], "bucket 1 has 63 bytes, expected 64"),
        (lambda buckets: [buckets[0], buckets[1], buckets[2] ^ np.uint8(1)], "bucket 2 was corrupted"),
    ],
)
def test_other_buckets_are_refused(spoil: object, message: str) -> None:
    manifest, buckets = pack_buckets(_tensors(), bucket_bytes=128)
    with pytest.raises(WeightSyncError, match=message):
        unpack(manifest, spoil(buckets))  # type: ignore[operator]


def test_pack_refuses_what_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="'a' is given twice"):
        pack_buckets([("a", torch.ones(1)), ("a", torch.ones(1))], bucket_bytes=64)
    with pytest.raises(ValueError, match=r"'z' has dtype torch\.complex64"):
        pack_buckets([("z", torch.ones(1, dtype=torch.complex64))], bucket_bytes=64)
    with pytest.raises(ValueError, match="bucket_bytes must be positive, not 0"):
        pack_buckets([], bucket_bytes=0)


def test_completeness_names_what_is_missing_surplus_and_reshaped() -> None:
    manifest, _ = pack_buckets([("a", torch.ones(2)), ("x", torch.ones(1))], bucket_bytes=64, version=4)
    with pytest.raises(WeightSyncError) as caught:
        check_complete(manifest, {"a": (3,), "b": (1,), "c": (1,), "d": (1,), "e": (1,)})
    assert str(caught.value) == (
        "weights of version 4 do not fit the generator's model: 4 missing (b, c, d and 1 more); 1 surplus (x); "
        "1 of another shape (a: [2] instead of [3])"
    )


def test_an_optional_tensor_may_be_sent_or_left_out() -> None:
    manifest, _ = pack_buckets([("a", torch.ones(2)), ("head", torch.ones(2))], bucket_bytes=64)
    check_complete(manifest, {"a": (2,)}, optional=frozenset({"head"}))
    check_complete(manifest, {"a": (2,), "head": (2,), "old": (1,)}, optional=frozenset({"old"}))
    with pytest.raises(WeightSyncError, match=r"1 of another shape \(head: \[2\] instead of \[5\]\)"):
        check_complete(manifest, {"a": (2,), "head": (5,)}, optional=frozenset({"head"}))


def test_checkpoint_shapes_read_all_shards(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, 3)}, tmp_path / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    save_file({"b": torch.ones(4)}, tmp_path / "model-00002-of-00002.safetensors")
    assert checkpoint_shapes(tmp_path) == {"a": (2, 3), "b": (4,)}


def test_checkpoint_shapes_refuse_a_directory_without_weights_and_a_torn_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no \*\.safetensors file"):
        checkpoint_shapes(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x10\x27\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        checkpoint_shapes(tmp_path)
