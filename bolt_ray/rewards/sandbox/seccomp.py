"""The seccomp filter: which system calls a sandboxed program is refused.

A list of what is refused, not of what is allowed: namespaces or Landlock confine the program, and the filter closes
what they leave open (io_uring, memfd, keys, other processes, metadata of files outside). System calls newer than the
list do not exist for the program (ENOSYS, on which libraries fall back), so the list does not go stale.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import struct
from collections.abc import Sequence

from bolt_ray.rewards.sandbox.system_calls import ALWAYS, HIGHEST_KNOWN, NUMBERS, WITHOUT_NAMESPACES

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32_BIT = 0x40000000
_NEW_NAMESPACE_FLAGS = 0x7E020080
_CLONE_THREAD = 0x00010000
_AF_UNIX = 1
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
# A descriptor's owner is sent signals: another process, without kill.
_OWNER_BY_FCNTL = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX
_OWNER_BY_IOCTL = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP

_LOAD, _JUMP_EQUAL, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_Instruction = tuple[int, int, int, int]


def supported() -> bool:
    """Whether the numbers of this machine's system calls are known here."""
    return platform.machine() in _ARCHITECTURES


def _fail(code: int) -> _Instruction:
    return (_RETURN, 0, 0, 0x00050000 | code)


def _argument(index: int) -> _Instruction:
    """Load the low half of an argument (both architectures are little endian)."""
    return (_LOAD, 0, 0, 16 + 8 * index)


def build_filter(*, namespaces: bool, machine: str | None = None) -> list[_Instruction]:
    """The filter as BPF instructions (code, jump if true, jump if false, operand).

    Args:
        namespaces: the program has namespaces of its own; without them more is refused.
        machine: ``x86_64`` or ``aarch64``; None: this machine's.
    """
    architecture, column = _ARCHITECTURES[machine or platform.machine()]

    def number(name: str) -> int | None:
        return NUMBERS[name][column]

    program: list[_Instruction] = [(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)]
    program.append((_LOAD, 0, 0, 0))
    if column == 0:
        program += [(_JUMP_GE, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL)]
    program += [(_JUMP_GE, 0, 1, HIGHEST_KNOWN + 1), _fail(errno.ENOSYS)]
    names = ALWAYS if namespaces else [*ALWAYS, *WITHOUT_NAMESPACES]
    for refused in (number(name) for name in names):
        if refused is not None:
            program += [(_JUMP_EQUAL, 0, 1, refused), _fail(errno.EPERM)]

    def when(name: str, body: list[_Instruction]) -> None:
        nr = number(name)
        assert nr is not None
        program.extend([(_JUMP_EQUAL, 0, len(body), nr), *body])

    allow: _Instruction = (_RETURN, 0, 0, _ALLOW)
    # glibc falls back to clone, whose flags a filter can read
    when("clone3", [_fail(errno.ENOSYS)])
    own_processes = [] if namespaces else [(_JUMP_SET, 1, 0, _CLONE_THREAD), _fail(errno.EPERM)]
    no_namespaces = [(_JUMP_SET, 0, 1, _NEW_NAMESPACE_FLAGS), _fail(errno.EPERM)]
    when("clone", [_argument(0), *no_namespaces, *own_processes, allow])
    when(
        "socket",
        [_argument(0), (_JUMP_EQUAL, 0, 1, _AF_UNIX), allow, _fail(errno.EPERM)]
        if namespaces
        else [_fail(errno.EPERM)],
    )

    def but(codes: Sequence[int]) -> list[_Instruction]:
        refusals = [i for code in codes for i in ((_JUMP_EQUAL, 0, 1, code), _fail(errno.EPERM))]
        return [_argument(1), *refusals, allow]

    when("ioctl", but(_TERMINAL_INJECTION if namespaces else _TERMINAL_INJECTION + _OWNER_BY_IOCTL))
    if not namespaces:
        when("fcntl", but(_OWNER_BY_FCNTL))
        when("prlimit64", [_argument(0), (_JUMP_EQUAL, 1, 0, 0), _fail(errno.EPERM), allow])
    program.append(allow)
    return program


@functools.cache
def packed_filter(*, namespaces: bool) -> bytes:
    """The filter of this machine as the kernel reads it, eight bytes an instruction."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in build_filter(namespaces=namespaces))


def install(*, namespaces: bool) -> None:
    """Put the filter on this process and its descendants, irrevocably; needs ``no_new_privileges`` first.

    Raises:
        OSError: the kernel refuses.
    """
    code = packed_filter(namespaces=namespaces)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, header, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(SECCOMP): {os.strerror(number)}")
