"""The kernel calls the sandbox needs, by ctypes: namespaces, mounts, capabilities, Landlock.

Standard library only: this runs in the launcher, before the program is isolated.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from collections.abc import Sequence

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
ALL_NAMESPACES = (
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
)
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 28, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SECBITS_NOROOT_LOCKED = 0b1111
_CAPABILITY_VERSION_3 = 0x20080522
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR, _CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 442, 444, 445, 446

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    return _check(int(_libc.syscall(ctypes.c_long(number), *arguments)), what)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, even while it hangs."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl(PDEATHSIG)")


def unshare(flags: int) -> None:
    """Move to new namespaces of the kinds in ``flags``. Raises: OSError."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2). Raises: OSError."""
    _check(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()),
        f"mount {target}",
    )


def set_mount_flags(target: str, attributes: int, *, recursive: bool) -> None:
    """Add mount attributes, leaving those that are there (mount_setattr, Linux 5.12). Raises: OSError."""
    value = struct.pack("=QQQQ", attributes, 0, 0, 0)
    _syscall(
        f"mount_setattr {target}",
        _MOUNT_SETATTR,
        ctypes.c_int(AT_FDCWD),
        target.encode(),
        ctypes.c_uint(AT_RECURSIVE if recursive else 0),
        value,
        ctypes.c_size_t(len(value)),
    )


def pivot_to(new_root: str) -> None:
    """Make ``new_root`` the root and drop the old tree. Raises: OSError."""
    os.chdir(new_root)
    _syscall("pivot_root", _PIVOT_ROOT[platform.machine()], b".", b".")
    _check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def no_new_privileges() -> None:
    """From here on neither setuid programs nor file capabilities grant privileges."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(NO_NEW_PRIVS)")


def hide_memory() -> None:
    """No other process without privileges may read this one's memory, descriptors or environment."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(DUMPABLE)")


def drop_capabilities() -> None:
    """Drop every capability irrevocably; one that this process may not drop it does not have."""
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _libc.prctl(_PR_SET_SECUREBITS, _SECBITS_NOROOT_LOCKED, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, bytes(24)), "capset")


def landlock_abi() -> int:
    """Version of Landlock the kernel offers; 0 if it has none or it is switched off."""
    version = int(_libc.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint(1)))
    return max(0, version)


# Access rights by bit: execute, write_file, read_file, read_dir, remove_dir, remove_file, make_char, make_dir,
# make_reg, make_sock, make_fifo, make_block, make_sym, refer (ABI 2), truncate (3), ioctl_dev (5).
_FS_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_FS_READ = 0b1101
_FS_ON_FILES = 0b1100000000000111
_FS_NO_DEVICES = ~(1 << 6 | 1 << 11)


def landlock(read_only: Sequence[str], read_write: Sequence[str]) -> None:
    """Restrict this process and its descendants to these paths; TCP and signals to outside are refused.

    Args:
        read_only: directories and files that may be read and executed.
        read_write: those that may be changed too.

    Raises:
        OSError: the kernel refuses.
    """
    abi = landlock_abi()
    handled = (1 << _FS_RIGHTS_BY_ABI[min(abi, 5)]) - 1
    attributes = struct.pack("=QQQ", handled, 0b11, 0b11)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _syscall(
        "landlock_create_ruleset",
        _CREATE_RULESET,
        attributes,
        ctypes.c_size_t(len(attributes)),
        ctypes.c_uint(0),
    )
    wanted = [(path, _FS_READ) for path in read_only]
    wanted += [(path, handled & _FS_NO_DEVICES) for path in read_write]
    for path, rights in wanted:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = rights & handled if os.path.isdir(path) else rights & handled & _FS_ON_FILES  # noqa: PTH112
        rule = struct.pack("=Qi", allowed, fd)
        _syscall(
            f"landlock_add_rule {path}",
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(1),
            rule,
            ctypes.c_uint(0),
        )
        os.close(fd)
    _syscall("landlock_restrict_self", _RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    os.close(ruleset)
