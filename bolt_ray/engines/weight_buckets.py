"""Weights on their way from the learner to the generators: buckets of bytes and a manifest that describes them.

    learner ──(name, tensor)…──▶ pack_buckets ──manifest, buckets──▶ unpack ──(name, tensor)…──▶ generator

A few large buffers cost a few transfers; one message per parameter would cost hundreds. Tensors keep their dtype.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from bolt_ray.core.errors import ModelError, WeightSyncError

ALIGNMENT = 64
"""Bytes; every tensor starts at a multiple, so that a view of any dtype is aligned."""

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies.

    Attributes:
        name: its name in a Hugging Face checkpoint of the model.
        shape: its shape; () for a scalar.
        dtype: a key of ``DTYPES``.
        bucket: index of its bucket.
        offset: bytes from the start of the bucket.
    """

    name: str
    shape: Shape
    dtype: str
    bucket: int
    offset: int

    @property
    def num_bytes(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightManifest:
    """What a set of buckets holds.

    Attributes:
        version: the policy version of these weights.
        tensors: every tensor, in the order packed.
        bucket_sizes: bytes of each bucket.
        checksums: xxh3-64 of each bucket, hexadecimal.
    """

    version: int
    tensors: tuple[TensorEntry, ...]
    bucket_sizes: tuple[int, ...]
    checksums: tuple[str, ...]

    @property
    def shapes(self) -> dict[str, Shape]:
        return {entry.name: entry.shape for entry in self.tensors}

    @property
    def num_bytes(self) -> int:
        return sum(self.bucket_sizes)


def pack_buckets(
    named_tensors: Iterable[tuple[str, torch.Tensor]], *, bucket_bytes: int, version: int = 0
) -> tuple[WeightManifest, list[NDArray[np.uint8]]]:
    """Copy tensors, on any device, into buckets of at most ``bucket_bytes``.

    Each tensor is copied before the next is requested, so an iterator may gather and release one at a time. A
    tensor larger than ``bucket_bytes`` gets a bucket of its own.

    Returns:
        The manifest, and uint8 [bucket_sizes[i]] for each bucket.

    Raises:
        ValueError: a name given twice, a dtype that is not in ``DTYPES``, or ``bucket_bytes`` below one.
    """
    if bucket_bytes < 1:
        raise ValueError(f"bucket_bytes must be positive, not {bucket_bytes}")
    entries: dict[str, TensorEntry] = {}
    buckets: list[NDArray[np.uint8]] = []
    buffer, used = np.empty(0, dtype=np.uint8), 0
    for name, tensor in named_tensors:
        if name in entries:
            raise ValueError(f"tensor {name!r} is given twice")
        if tensor.dtype not in DTYPE_NAMES:
            raise ValueError(f"tensor {name!r} has dtype {tensor.dtype}, which cannot be sent")
        source = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        offset = -(-used // ALIGNMENT) * ALIGNMENT
        if not entries or offset + source.numel() > buffer.size:
            if entries:
                buckets.append(buffer[:used])
            # Pages that are never written are never backed by memory: a small model does not pay for a large bucket.
            buffer, offset = np.empty(max(bucket_bytes, source.numel()), dtype=np.uint8), 0
        used = offset + source.numel()
        torch.from_numpy(buffer[offset:used]).copy_(source)
        entries[name] = TensorEntry(
            name=name,
            shape=tuple(tensor.shape),
            dtype=DTYPE_NAMES[tensor.dtype],
            bucket=len(buckets),
            offset=offset,
        )
    if entries:
        buckets.append(buffer[:used])
    manifest = WeightManifest(
        version=version,
        tensors=tuple(entries.values()),
        bucket_sizes=tuple(bucket.size for bucket in buckets),
        checksums=tuple(_checksum(bucket) for bucket in buckets),
    )
    return manifest, buckets


def unpack(manifest: WeightManifest, buckets: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) in the order packed. The tensors are views of the buckets: read them, never write.

    Raises:
        WeightSyncError: a bucket is missing, or has another size or checksum than the manifest says.
    """
    check_buckets(manifest, buckets)
    return _views(manifest, buckets)


def check_buckets(manifest: WeightManifest, buckets: Sequence[NDArray[np.uint8]]) -> None:
    """Refuse buckets that are not the ones the manifest describes.

    Raises:
        WeightSyncError: naming the first bucket that differs.
    """
    if len(buckets) != len(manifest.bucket_sizes):
        raise WeightSyncError(
            f"weights of version {manifest.version}: {len(buckets)} buckets arrived, "
            f"the manifest lists {len(manifest.bucket_sizes)}"
        )
    for index, (bucket, size, checksum) in enumerate(
        zip(buckets, manifest.bucket_sizes, manifest.checksums, strict=True)
    ):
        if bucket.dtype != np.uint8 or bucket.size != size:
            raise WeightSyncError(
                f"weights of version {manifest.version}: bucket {index} has {bucket.nbytes} bytes, expected {size}"
            )
        if _checksum(bucket) != checksum:
            raise WeightSyncError(f"weights of version {manifest.version}: bucket {index} was corrupted on its way")


def check_complete(
    manifest: WeightManifest, expected: Mapping[str, Shape], *, optional: frozenset[str] = frozenset()
) -> None:
    """Refuse a manifest that is not exactly the model: a partial update would be accepted silently by the engine.

    Args:
        expected: name and shape of every tensor of the model.
        optional: names that may be missing, and may be sent although they are not expected.

    Raises:
        WeightSyncError: saying which tensors are missing, surplus or of another shape.
    """
    sent = manifest.shapes
    problems = []
    missing = sorted(set(expected) - set(sent) - optional)
    surplus = sorted(set(sent) - set(expected) - optional)
    reshaped = sorted(name for name in set(sent) & set(expected) if sent[name] != tuple(expected[name]))
    if missing:
        problems.append(f"{len(missing)} missing ({_some(missing)})")
    if surplus:
        problems.append(f"{len(surplus)} surplus ({_some(surplus)})")
    if reshaped:
        shown = _some([f"{name}: {list(sent[name])} instead of {list(expected[name])}" for name in reshaped])
        problems.append(f"{len(reshaped)} of another shape ({shown})")
    if problems:
        raise WeightSyncError(
            f"weights of version {manifest.version} do not fit the generator's model: {'; '.join(problems)}"
        )


def checkpoint_shapes(model_dir: str | Path) -> dict[str, Shape]:
    """Name and shape of every tensor in a Hugging Face model directory, read from the safetensors headers.

    Raises:
        ModelError: no ``*.safetensors`` file, or a torn one.
    """
    # Some repositories hold the same weights a second time under another name (consolidated.safetensors).
    files = sorted(Path(model_dir).glob("model*.safetensors")) or sorted(Path(model_dir).glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{model_dir} has no *.safetensors file; save the model with save_pretrained(safe_serialization=True)"
        )
    shapes: dict[str, Shape] = {}
    for file in files:
        for name, entry in _safetensors_header(file).items():
            if name != "__metadata__":
                shapes[name] = tuple(entry["shape"])
    return shapes


def _safetensors_header(file: Path) -> dict[str, Any]:
    """The JSON header: 8 bytes of little-endian length, then the text."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= file.stat().st_size:
            raise ModelError(f"{file} is not a whole safetensors file")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise ModelError(f"{file} is not a whole safetensors file: {error}") from error
    assert isinstance(header, dict)
    return header


def _views(manifest: WeightManifest, buckets: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[str, torch.Tensor]]:
    with warnings.catch_warnings():
        # Buffers out of shared memory are read-only; nobody writes to these views.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        whole = [torch.from_numpy(bucket) for bucket in buckets]
    for entry in manifest.tensors:
        raw = whole[entry.bucket][entry.offset : entry.offset + entry.num_bytes]
        yield entry.name, raw.view(DTYPES[entry.dtype]).reshape(entry.shape)


def _checksum(bucket: NDArray[np.uint8]) -> str:
    digest: str = xxhash.xxh3_64_hexdigest(bucket.data)
    return digest


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
