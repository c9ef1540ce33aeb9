"""What the ranks write together: the same files at every number of ranks, shared between them; a full disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from support.disks import small_disk
from support.ranks import RankPool
from torch import Tensor

from bolt_ray.core.digests import digest_file
from bolt_ray.core.errors import StorageError
from bolt_ray.engines.learner.rank_files import RankFiles

KILOBYTE = 256
"""Numbers of float32 in it."""


def tensors() -> Iterator[tuple[str, Tensor]]:
    """40 kB in tensors of 1 to 7 kB, and one of a single number."""
    for number, size in enumerate((1, 2, 3, 4, 5, 6, 7, 5, 4, 3)):
        yield f"weight-{number}", torch.full((size, KILOBYTE), float(number))
    yield "step", torch.tensor(3.0)


def write(rank: int, directory: str) -> None:
    files = RankFiles(Path(directory))
    names = files.tensors(tensors(), stem="optimizer", shard_bytes=8 * 1024)
    files.on_first_rank(lambda: (Path(directory) / "state.json").write_text(json.dumps(names)))
    own = sorted(files._digests)
    digests = files.finish()
    assert sorted(digests) == sorted(names)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    assert own == sorted(names)[rank::ranks]
    (Path(directory) / f"of-{rank}.json").write_text(json.dumps(sum(digests[name].bytes for name in own)))
    if rank == 0:
        assert all(digest_file(Path(directory) / name) == digest for name, digest in digests.items())


def test_two_ranks_write_the_files_of_one_and_share_the_work(tmp_path: Path, two_ranks: RankPool) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
    write(0, str(tmp_path / "1"))
    two_ranks.run(write, str(tmp_path / "2"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "1").glob("optimizer*")}
    assert len(files) == 8  # four to seven kilobytes in each, and the index
    assert {path.name: path.read_bytes() for path in (tmp_path / "2").glob("optimizer*")} == files
    shares = [json.loads((tmp_path / "2" / f"of-{rank}.json").read_text()) for rank in (0, 1)]
    assert max(shares) < 0.7 * sum(shares)
    index = json.loads(files["optimizer.safetensors.index.json"])["weight_map"]
    for name, tensor in tensors():
        assert torch.equal(load_file(tmp_path / "2" / index[name])[name], tensor)


def write_on_full_disk(rank: int, directory: str) -> None:
    """Tensors are gathered to their end by every rank, and all raise the same."""
    gathered = []

    def gather() -> Iterator[tuple[str, Tensor]]:
        for number in range(64):
            tensor = torch.full((KILOBYTE * 8,), float(number))
            dist.all_reduce(tensor)
            gathered.append(number)
            yield f"weight-{number}", tensor

    files = RankFiles(Path(directory) / "learner")
    files.tensors(gather(), stem="optimizer", shard_bytes=16 * 1024)
    with pytest.raises(StorageError, match=r"learner's files could not be written \(rank .*No space left on device"):
        files.finish()
    assert len(gathered) == 64
    total = torch.tensor(1.0)
    dist.all_reduce(total)  # the ranks are still in step
    assert total == 2.0


def test_a_disk_that_fills_up_is_one_error_on_all_ranks(tmp_path: Path, two_ranks: RankPool) -> None:
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        two_ranks.run(write_on_full_disk, str(disk))


def test_one_rank_without_a_disk_is_an_error_on_all(tmp_path: Path, two_ranks: RankPool) -> None:
    (tmp_path / "1").write_text("no directory")
    (tmp_path / "0").mkdir()
    two_ranks.run(write_in_own_directory, str(tmp_path))


def write_in_own_directory(rank: int, directory: str) -> None:
    files = RankFiles(Path(directory) / str(rank))
    files.tensors(tensors(), stem="optimizer")
    with pytest.raises(StorageError, match=r"\(rank 1: .*File exists\)"):
        files.finish()
