"""Memory and disk a sandboxed program uses at the moment, measured from outside."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_of_tree(root: int, *, enough: int) -> int:
    """Bytes of memory of all descendants of a process.

    Resident pages are summed first; only when that exceeds ``enough`` are shared pages counted by share, because a
    forked process shares most of its pages with its parent.
    """
    pids = descendants(root)
    resident = sum(_resident(pid) for pid in pids)
    if resident <= enough:
        return resident
    return sum(_proportional(pid) for pid in pids)


def descendants(root: int) -> list[int]:
    """Pids of all children of a process, their children, and so on; empty where the kernel has no list of them."""
    found: list[int] = []
    todo = [root]
    while todo:
        tasks = Path(f"/proc/{todo.pop()}/task")
        for thread in _names(tasks):
            children = [int(pid) for pid in _read(tasks / thread / "children").split()]
            found += children
            todo += children
    return found


def size_of_directory(directory: str, *, enough: int) -> int:
    """Bytes on disk below a directory, counted no further than past ``enough``."""
    total = 0
    todo = [directory]
    while todo and total <= enough:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    if total > enough:
                        return total
        except OSError:
            continue
    return total


def _names(directory: Path) -> list[str]:
    """What a directory below /proc holds; nothing if its process is gone."""
    try:  # Path.glob raises if the process goes while it looks
        return [path.name for path in directory.iterdir()]
    except OSError:
        return []


def _read(path: Path) -> str:
    """Text of a file below /proc; "" if its process is gone."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _resident(pid: int) -> int:
    fields = _read(Path(f"/proc/{pid}/statm")).split()
    return int(fields[1]) * _PAGE if fields else 0


def _proportional(pid: int) -> int:
    for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)
