"""The seccomp filter, call by call: its instructions are run here as the kernel would run them."""

from __future__ import annotations

import errno

import pytest

from bolt_ray.rewards.sandbox.seccomp import build_filter

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000

# Written out from the kernel's own tables (unistd_64.h, asm-generic/unistd.h), so that a rule that is lost, or one too
# many, shows.
REFUSED = {
    "x86_64": """
        29 30 64 68 101 103 135 153 154 155 159 161 163 164 165 166 167 168 169 170 171 172 173 175 176 179 227 237
        240 246 248 249 250 256 272 279 298 300 301 303 304 305 308 310 311 312 313 319 320 321 323 425 426 427 428
        429 430 431 432 433 438 442 443 447 467
    """,
    "aarch64": """
        39 40 41 51 58 60 89 92 97 104 105 106 112 116 117 142 161 162 170 171 180 186 190 194 196 217 218 219 224
        225 235 238 239 241 262 263 264 265 266 268 270 271 272 273 279 280 282 294 425 426 427 428 429 430 431 432
        433 438 442 443 447 467
    """,
}
REFUSED_WITHOUT_NAMESPACES = {
    "x86_64": """
        57 58 62 90 91 92 93 94 109 112 129 132 141 142 144 188 189 190 197 198 199 200 203 234 235 251 260 261 268
        280 297 314 424 434 440 448 452 463 466 469
    """,
    "aarch64": """
        5 6 7 14 15 16 30 52 53 54 55 88 118 119 122 129 130 131 138 140 154 157 240 274 424 434 440 448 452 463 466
        469
    """,
}
CALLS = {  # those whose arguments decide
    "x86_64": {"clone": 56, "clone3": 435, "socket": 41, "ioctl": 16, "fcntl": 72, "prlimit64": 302},
    "aarch64": {"clone": 220, "clone3": 435, "socket": 198, "ioctl": 29, "fcntl": 25, "prlimit64": 261},
}
MACHINES = pytest.mark.parametrize("machine", ARCHITECTURES)
WALLS = pytest.mark.parametrize("namespaces", [True, False], ids=["namespaces", "landlock"])


def verdict(machine: str, namespaces: bool, number: int, *arguments: int, architecture: int | None = None) -> str:
    """What becomes of a call: "allowed", "killed", or the name of the error it fails with."""
    words = {0: number, 4: architecture or ARCHITECTURES[machine]}
    words |= {16 + 8 * index: value & 0xFFFFFFFF for index, value in enumerate([*arguments, 0, 0])}
    program = build_filter(namespaces=namespaces, machine=machine)
    loaded, position = 0, 0
    while True:
        code, if_true, if_false, operand = program[position]
        position += 1
        if code == 0x20:
            loaded = words[operand]
        elif code == 0x06:
            if operand in (ALLOW, KILL):
                return "allowed" if operand == ALLOW else "killed"
            assert operand & 0xFFFF0000 == FAIL
            return errno.errorcode[operand & 0xFFFF]
        else:
            holds = {0x15: loaded == operand, 0x35: loaded >= operand, 0x45: bool(loaded & operand)}[code]
            position += if_true if holds else if_false


@MACHINES
@WALLS
def test_exactly_the_listed_calls_are_refused(machine: str, namespaces: bool) -> None:
    expected = {int(number) for number in REFUSED[machine].split()}
    if not namespaces:
        expected |= {int(number) for number in REFUSED_WITHOUT_NAMESPACES[machine].split()}
    decided_by_arguments = set(CALLS[machine].values())
    others = [number for number in range(470) if number not in decided_by_arguments]
    assert {number for number in others if verdict(machine, namespaces, number) == "EPERM"} == expected
    assert {verdict(machine, namespaces, number) for number in others} == {"EPERM", "allowed"}


@MACHINES
@WALLS
@pytest.mark.parametrize("number", [470, 471, 600, 100_000, 0x3FFFFFFF])
def test_a_call_newer_than_the_list_does_not_exist(machine: str, namespaces: bool, number: int) -> None:
    assert verdict(machine, namespaces, number) == "ENOSYS"


@MACHINES
@WALLS
def test_another_architecture_is_killed(machine: str, namespaces: bool) -> None:
    assert verdict(machine, namespaces, 0, architecture=0x40000003) == "killed"  # i386
    if machine == "x86_64":
        assert verdict(machine, namespaces, 0x40000000) == "killed"  # x32


@MACHINES
@WALLS
def test_calls_that_are_refused_by_their_arguments(machine: str, namespaces: bool) -> None:
    def got(name: str, *arguments: int) -> str:
        return verdict(machine, namespaces, CALLS[machine][name], *arguments)

    alone = "allowed" if namespaces else "EPERM"
    assert got("clone3") == "ENOSYS"  # glibc falls back to clone
    assert got("clone", 17) == alone  # a child process (SIGCHLD)
    assert got("clone", 0x3D0F00) == "allowed"  # a thread
    for namespace in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert got("clone", namespace | 17) == got("clone", namespace | 0x3D0F00) == "EPERM"
    assert got("socket", 1) == alone
    assert got("socket", 2) == got("socket", 10) == got("socket", 16) == got("socket", 17) == "EPERM"
    assert got("ioctl", 0, 0x5412) == got("ioctl", 0, 0x541C) == "EPERM"
    assert got("ioctl", 0, 0x5401) == "allowed"
    for owner in (8, 10, 15):  # F_SETOWN, F_SETSIG, F_SETOWN_EX: whom a descriptor signals
        assert got("fcntl", 0, owner) == alone
    assert got("ioctl", 0, 0x8901) == got("ioctl", 0, 0x8902) == alone  # FIOSETOWN, SIOCSPGRP
    assert {got("fcntl", 0, command) for command in (0, 1, 2, 3, 4, 9, 11, 16, 1030, 1033)} == {"allowed"}
    assert got("prlimit64", 0) == "allowed"
    assert got("prlimit64", 1234) == alone
