"""What the sandbox needs of the host: the interpreter's paths, sealed memory, removal of a directory."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from pathlib import Path


def interpreter_paths() -> list[str]:
    """What the program's Python needs to run: its own prefix, and the system's libraries."""
    system = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"]
    prefix = os.path.realpath(sys.base_prefix)
    wanted = ["/usr"] if prefix == "/usr" else [prefix, *system[:2]]
    return [path for path in [*wanted, *system[2:]] if Path(path).exists()]


def remove_tree(directory: str) -> None:
    """Remove a directory a program wrote in, whatever file modes it set there; links are not followed."""
    Path(directory).chmod(0o700)
    for parent, names, _ in os.walk(directory):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(directory)


def sealed(data: bytes) -> int:
    """A descriptor to read ``data`` from that cannot be written to."""
    fd = os.memfd_create("bolt-ray", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    return fd


def package_root() -> str:
    """The directory ``bolt_ray`` is imported from."""
    return str(Path(__file__).resolve().parents[3])
