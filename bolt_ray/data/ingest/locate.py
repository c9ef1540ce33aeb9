"""From the name of a dataset to its files: local or cloud paths, globs, directories, splits."""

from __future__ import annotations

import fnmatch
import glob
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from bolt_ray.core.errors import DataError
from bolt_ray.core.hints import nearest
from bolt_ray.data.settings import DatasetSettings

FORMATS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
}
COMPRESSIONS = {".gz", ".bz2", ".zst", ".lz4"}
NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
}
_URI = re.compile(r"^[a-z][a-z0-9+.-]+://")
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A file of a dataset.

    Attributes:
        path: absolute local path, or a URI for every other filesystem.
        format: "json", "jsonl", "parquet", "csv" or "arrow".
        compressed: True if the name ends in a compression's suffix.
        size: bytes.
        mtime_ns: time of last change, 0 if the filesystem does not tell.
    """

    path: str
    format: str
    compressed: bool
    size: int
    mtime_ns: int

    @property
    def local(self) -> bool:
        return not is_uri(self.path)


def is_uri(name: str) -> bool:
    return _URI.match(name) is not None


def is_hub_dataset(dataset: DatasetSettings) -> bool:
    """True if the name is to be looked up by Hugging Face ``datasets`` rather than on a filesystem."""
    name = dataset.name
    if dataset.data_files is not None or dataset.config_name is not None or dataset.revision is not None:
        return True
    if is_uri(name) or name.startswith(("/", ".", "~")) or glob.has_magic(name) or Path(name).exists():
        return False
    return format_of(name) is None and _HUB_NAME.match(name) is not None


def format_of(path: str) -> str | None:
    """The format a file's name tells, compression suffix aside; None if it tells none."""
    pure = PurePosixPath(path)
    suffix = pure.with_suffix("").suffix if pure.suffix.lower() in COMPRESSIONS else pure.suffix
    return FORMATS.get(suffix.lower())


def open_filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """The pyarrow filesystem of a local path or URI, and the path inside it.

    Raises:
        DataError: the URI's scheme is unknown or its filesystem cannot be reached.
    """
    if not is_uri(path):
        return fs.LocalFileSystem(), path
    try:
        return fs.FileSystem.from_uri(path)  # type: ignore[no-any-return]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"cannot reach {path}: {error}. Use a local path or a URI that pyarrow supports: s3://, gs://, hdfs://"
        ) from error


def find_files(dataset: DatasetSettings) -> list[DataFile]:
    """The files a dataset's name stands for, sorted by path.

    A directory is searched through; where names of files or folders in it tell splits (``train``, ``test``,
    ``validation`` and their usual abbreviations) only the wanted split is taken. A single file or a glob is
    taken as it is, whatever the split.

    Raises:
        DataError: nothing is there, a file's format is unknown, or the split is not there.
    """
    name = dataset.name
    found, base = _list_uri(name) if is_uri(name) else _list_local(name)
    if base is not None:
        found = [info for info in found if _looks_like_data(info[0], base, anything=dataset.format is not None)]
        if not found:
            raise DataError(
                f"directory {name} holds no data files; accepted are {', '.join(sorted(FORMATS))}, "
                f"each also with {', '.join(sorted(COMPRESSIONS))}"
            )
        chosen = choose_split([path for path, _, _ in found], base=base, split=dataset.split)
        found = [info for info in found if info[0] in chosen]
    return [_data_file(info, dataset) for info in sorted(found)]


_Info = tuple[str, int, int]


def _list_local(name: str) -> tuple[list[_Info], str | None]:
    """(path, size, mtime) of each match, and the directory if the name is one."""
    path = Path(name).expanduser().absolute()
    if path.is_dir():
        return [_stat(entry) for entry in path.rglob("*") if entry.is_file()], str(path)
    if path.exists():
        return [_stat(path)], None
    if glob.has_magic(name):
        # Path.glob takes no absolute pattern.
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        files = [_stat(match) for match in matches if match.is_file()]
        if not files:
            raise DataError(f"no file matches {path}; check datasets: name")
        return files, None
    parent = path.parent
    near = nearest(path.name, (entry.name for entry in parent.iterdir())) if parent.is_dir() else None
    hint = f"; did you mean {parent / near}?" if near else "; check datasets: name"
    raise DataError(f"no such file or directory: {path}{hint}")


def _stat(path: Path) -> _Info:
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def _list_uri(name: str) -> tuple[list[_Info], str | None]:
    magic = re.search(r"[*?\[]", name)
    root = name[: name.rindex("/", 0, magic.start())] if magic else name
    filesystem, path = open_filesystem(root)
    prefix = root[: len(root) - len(path)] if root.endswith(path) else root.split("://")[0] + "://"
    try:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.File and not magic:
            return [(name, info.size, info.mtime_ns or 0)], None
        if info.type != fs.FileType.Directory:
            raise DataError(f"no such file or directory: {root}; check datasets: name")
        entries = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot list {root}: {error}") from error
    files = [(prefix + entry.path, entry.size, entry.mtime_ns or 0) for entry in entries if entry.is_file]
    if not magic:
        return files, prefix + path
    files = [info for info in files if fnmatch.fnmatchcase(info[0], name)]
    if not files:
        raise DataError(f"no file matches {name}; check datasets: name")
    return files, None


def _looks_like_data(path: str, base: str, *, anything: bool) -> bool:
    parts = path[len(base) :].strip("/").split("/")
    if parts[-1] in NOT_DATA or any(part.startswith((".", "_")) for part in parts):
        return False
    return anything or format_of(path) is not None


def choose_split(paths: list[str], *, base: str, split: str | None) -> set[str]:
    """Those of a directory's files that belong to a split.

    A file belongs to the split its path below ``base`` names. Without ``split``, ``train`` is taken where
    some file is named so, otherwise everything.

    Raises:
        DataError: the split asked for is not there; the message names those that are.
    """
    by_split: dict[str, set[str]] = {}
    for path in paths:
        words = re.findall(r"[a-z]+", path[len(base) :].lower())
        named = next((SPLITS[word] for word in words if word in SPLITS), "")
        by_split.setdefault(named, set()).add(path)
    if split is None:
        return by_split.get("train") or set(paths)
    wanted = SPLITS.get(split.lower(), split)
    if wanted in by_split:
        return by_split[wanted]
    if wanted == "train" and "" in by_split:
        return by_split[""]
    exact = {path for path in paths if split in re.split(r"[/.]|-\d", path[len(base) :])}
    if exact:
        return exact
    raise DataError(
        f"directory {base} has no split '{split}'; its files are of: "
        + ", ".join(sorted(name or "no split (taken as train)" for name in by_split))
    )


def _data_file(info: _Info, dataset: DatasetSettings) -> DataFile:
    path, size, mtime_ns = info
    file_format = dataset.format or format_of(path)
    if file_format is None:
        raise DataError(
            f"{path}: the name tells no format; set format: to one of " + ", ".join(sorted(set(FORMATS.values())))
        )
    compressed = PurePosixPath(path).suffix.lower() in COMPRESSIONS
    return DataFile(path=path, format=file_format, compressed=compressed, size=size, mtime_ns=mtime_ns)
