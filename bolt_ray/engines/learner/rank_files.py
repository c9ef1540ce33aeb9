"""Files that the learner's ranks write together: tensors by turns, so that W ranks share writing, hashing and memory.

    tensors   1 2 3 4 │ 5 6 7 │ 8 9 …      the same order on every rank, for gathering them is collective
    files     00001   │ 00002 │ 00003      cut at ``shard_bytes``
    written by rank 0 │ rank 1│ rank 0     file k by rank (k - 1) mod W, while the next tensors are gathered

What is cut where depends on the tensors alone: the same files come out at every world size and ZeRO stage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from bolt_ray.core.digests import FileDigest, describe_os_error, write_digested
from bolt_ray.core.errors import StorageError

SHARD_BYTES = 2**30
"""Largest safetensors file written, unless one tensor is larger."""


class RankFiles:
    """This rank's part of the files in one directory; all ranks call the same methods in the same order.

    After an error a rank writes nothing more but takes part in everything collective, up to ``finish``.
    """

    def __init__(self, directory: Path) -> None:
        """Makes the directory; without a process group this is the only rank."""
        together = dist.is_available() and dist.is_initialized()
        self._rank, self._num_ranks = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        self._directory = directory
        self._digests: dict[str, FileDigest] = {}
        self._error: OSError | None = None
        self._attempt(lambda: directory.mkdir(parents=True, exist_ok=True))

    def on_first_rank(self, write: Callable[[], object]) -> None:
        """Let rank 0 write small files; they are digested by whoever reads them."""
        if self._rank == 0:
            self._attempt(write)

    def tensors(self, named: Iterable[tuple[str, Tensor]], *, stem: str, shard_bytes: int = SHARD_BYTES) -> list[str]:
        """Write named tensors as ``<stem>-00001.safetensors`` …, or as one ``<stem>.safetensors``, with an index.

        Collective where ``named`` is: it is consumed to its end, one tensor at a time. A rank holds the file it fills
        and the one it writes in host memory.

        Returns:
            The names of all files, the index left out; the same on every rank.
        """
        shard: dict[str, Tensor] = {}
        index: dict[str, str] = {}
        sizes = [0]
        with ThreadPoolExecutor(max_workers=1) as writer:
            writing: Future[None] | None = None

            def flush() -> None:
                nonlocal shard, writing
                if shard:
                    if writing is not None:
                        writing.result()
                    writing = writer.submit(self._write_shard, _file_name(stem, len(sizes)), shard)
                    shard = {}

            for name, tensor in named:
                num_bytes = tensor.numel() * tensor.element_size()
                if sizes[-1] and sizes[-1] + num_bytes > shard_bytes:
                    flush()
                    sizes.append(0)
                sizes[-1] += num_bytes
                index[name] = _file_name(stem, len(sizes))
                if (len(sizes) - 1) % self._num_ranks == self._rank and self._error is None:
                    # A copy: the gathered tensor is released, and safetensors refuses tensors that share memory.
                    shard[name] = tensor.detach().to("cpu", copy=True).contiguous()
            flush()
        if writing is not None:
            writing.result()
        return self._name_files(index, stem=stem, total=sum(sizes))

    def finish(self) -> dict[str, FileDigest]:
        """The digests of all that the ranks wrote through ``tensors``, by file name. Collective.

        Raises:
            StorageError: a rank could not write; on every rank.
        """
        text = None if self._error is None else describe_os_error(self._error)
        answers: list[Any] = [(text, self._digests)]
        if self._num_ranks > 1:
            answers = [None] * self._num_ranks
            dist.all_gather_object(answers, (text, self._digests))
        failures = [f"rank {rank}: {failure}" for rank, (failure, _) in enumerate(answers) if failure is not None]
        if failures:
            raise StorageError(f"{self._directory}: the learner's files could not be written ({'; '.join(failures)})")
        return {name: digest for _, digests in answers for name, digest in digests.items()}

    def _write_shard(self, name: str, shard: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        def write() -> None:
            self._digests[name] = write_digested(self._directory / name, [save(shard, metadata={"format": "pt"})])

        self._attempt(write)

    def _name_files(self, index: dict[str, str], *, stem: str, total: int) -> list[str]:
        """Give a single file its plain name, and several an index."""
        files = list(dict.fromkeys(index.values()))
        if len(files) == 1:
            plain = f"{stem}.safetensors"
            if files[0] in self._digests:
                self._digests[plain] = self._digests.pop(files[0])
                self._attempt(lambda: (self._directory / files[0]).rename(self._directory / plain))
            return [plain]
        if files:
            content = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2, sort_keys=True)
            path = self._directory / f"{stem}.safetensors.index.json"
            self.on_first_rank(lambda: path.write_text(content + "\n", encoding="utf-8"))
        return files

    def _attempt(self, write: Callable[[], object]) -> None:
        if self._error is None:
            try:
                write()
            except OSError as error:
                self._error = error


def _file_name(stem: str, number: int) -> str:
    return f"{stem}-{number:05d}.safetensors"
