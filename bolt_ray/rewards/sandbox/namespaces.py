"""The namespaces and the file tree of one box; runs in its supervisor."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bolt_ray.rewards.sandbox import kernel

INNER_ID = 1000
WORK_DIR = "/box"
DEVICES = ("null", "zero", "random", "urandom")
_STAGING = ("/mnt", "/media", "/srv", "/opt", "/tmp")
_MANY_IDS, _SOME_IDS = 4_000_000, 65_000


def enter_namespaces(spec: Mapping[str, Any]) -> bool:
    """New namespaces and a new file tree. True if the program gets a user id that no other process has."""
    mapped_root = _unshare_and_map()
    _build_root(spec)
    return mapped_root


def _unshare_and_map() -> bool:
    """New namespaces with ids mapped; True if ``INNER_ID`` is mapped to an unused id outside."""
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    private_id = _private_id() if outer_uid == 0 else None
    if private_id is None:
        kernel.unshare(kernel.ALL_NAMESPACES)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{INNER_ID} {outer_uid} 1")
        Path("/proc/self/gid_map").write_text(f"{INNER_ID} {outer_gid} 1")
        return False
    # Two ids need a writer that stays in the outer namespace.
    go_read, go_write = os.pipe()
    done_read, done_write = os.pipe()
    parent = os.getpid()
    writer = os.fork()
    if writer == 0:
        os.close(go_write)
        if not os.read(go_read, 1):  # its parent ended
            os._exit(1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{parent}/{name}").write_text(f"0 0 1\n{INNER_ID} {private_id} 1\n")
        os.write(done_write, b"x")
        os._exit(0)
    kernel.unshare(kernel.ALL_NAMESPACES)
    os.write(go_write, b"x")
    os.close(done_write)
    mapped = os.read(done_read, 1)
    os.waitpid(writer, 0)
    for fd in (go_read, go_write, done_read):
        os.close(fd)
    if not mapped:
        raise OSError(f"the user ids could not be mapped to {private_id}")
    return True


def _private_id() -> int | None:
    """An unused user id for the program, where root can map one: process limits then count its processes only."""
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    span = max((int(line.split()[2]) for line in lines if line.split()[0] == "0"), default=0)
    if span > _MANY_IDS:
        return 2_000_000 + random.SystemRandom().randrange(2_000_000)
    return 50_000 + random.SystemRandom().randrange(10_000) if span > _SOME_IDS else None


def _build_root(spec: Mapping[str, Any]) -> None:
    """A new tree: the interpreter read-only, four devices, and one small writable directory in memory."""
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    sources: Sequence[str] = spec["read_only"]
    root = next(d for d in _STAGING if os.path.isdir(d) and not any(s.startswith(f"{d}/") for s in sources))  # noqa: PTH112
    safe = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("sandbox", root, "tmpfs", safe, "size=1m,mode=755")
    for source in sources:
        _bring_in(source, root)
    Path(root, "dev").mkdir()
    for device in DEVICES:
        Path(root, "dev", device).touch()
        kernel.mount(f"/dev/{device}", f"{root}/dev/{device}", "", kernel.MS_BIND)
    work = root + WORK_DIR
    Path(work).mkdir()
    Path(root, "tmp").symlink_to(WORK_DIR)
    size = f"size={spec['disk_bytes']},nr_inodes=4096,mode=700,uid={INNER_ID},gid={INNER_ID}"
    kernel.mount("work", work, "tmpfs", safe, size)
    write_files(spec, work)
    kernel.set_mount_flags(root, kernel.MOUNT_ATTR_RDONLY, recursive=False)
    kernel.pivot_to(root)


def _bring_in(source: str, root: str) -> None:
    """Mount one directory, file or link of the host read-only at the same place below ``root``."""
    target = Path(root + source)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if Path(source).is_symlink():
        target.symlink_to(os.readlink(source))  # noqa: PTH115
        return
    if Path(source).is_dir():
        target.mkdir()
    else:
        target.touch()
    kernel.mount(source, str(target), "", kernel.MS_BIND | kernel.MS_REC)
    read_only = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
    kernel.set_mount_flags(str(target), read_only, recursive=True)


def write_files(spec: Mapping[str, Any], directory: str) -> None:
    """The program and its further files."""
    for name, text in spec["files"].items():
        path = Path(directory, name)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
