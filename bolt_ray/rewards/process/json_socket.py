"""JSON messages over a socket between a scorer and its reward process.

One frame is four bytes of length (big endian) and that many bytes of UTF-8 JSON. The reward process runs
other people's code, so nothing it sends is unpickled.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

MAX_FRAME_BYTES = 256 * 1024 * 1024
_HEADER = struct.Struct(">I")


class PeerTimeoutError(Exception):
    """The other side did not answer, or did not listen, in time."""


class PeerGoneError(Exception):
    """The other side closed the connection, died, or sent something that is not a frame."""


def plain(value: object) -> object:
    """``json.dumps(default=…)`` for dataset columns: numpy to lists, dates and everything else to text."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)


class FrameSocket:
    """One end of the connection.

    Args:
        sock: a connected stream socket; owned by this object from now on.
        death_fd: a descriptor that becomes readable when the other side's process ends (a pidfd). The
            socket alone is not enough: a grandchild may hold a copy of it open.
    """

    def __init__(self, sock: socket.socket, *, death_fd: int | None = None) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._death_fd = death_fd
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ)
        if death_fd is not None:
            self._selector.register(death_fd, selectors.EVENT_READ)

    def send(self, message: Mapping[str, Any], *, timeout_s: float | None = None) -> None:
        """Send one message.

        Raises:
            PeerTimeoutError: it was not received within ``timeout_s``.
            PeerGoneError: the other side is gone.
        """
        body = json.dumps(message, default=plain).encode()
        self._sock.settimeout(timeout_s)
        try:
            self._sock.sendall(_HEADER.pack(len(body)) + body)
        except TimeoutError as problem:
            raise PeerTimeoutError("the message was not received in time") from problem
        except OSError as problem:
            raise PeerGoneError(str(problem)) from problem

    def receive(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """The next message.

        Raises:
            PeerTimeoutError: none came within ``timeout_s``.
            PeerGoneError: none will come.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            message = self._take()
            if message is not None:
                return message
            self._read_more(deadline)

    def close(self) -> None:
        self._selector.close()
        self._sock.close()

    def _take(self) -> dict[str, Any] | None:
        if len(self._buffer) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._buffer)
        if length > MAX_FRAME_BYTES:
            raise PeerGoneError(f"a frame of {length} bytes was announced")
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_HEADER.size : end])
        del self._buffer[:end]
        try:
            message = json.loads(body)
        except ValueError as problem:
            raise PeerGoneError("the message is not JSON") from problem
        if not isinstance(message, dict):
            raise PeerGoneError("the message is not an object")
        return message

    def _read_more(self, deadline: float | None) -> None:
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            raise PeerTimeoutError("no answer in time")
        ready = {key.fd for key, _ in self._selector.select(remaining)}
        if not ready:
            raise PeerTimeoutError("no answer in time")
        # What was sent before the peer died still counts, so the socket is read first.
        if self._sock.fileno() not in ready:
            raise PeerGoneError("its process ended")
        self._sock.settimeout(0)
        try:
            data = self._sock.recv(1 << 20)
        except OSError as problem:
            raise PeerGoneError(str(problem)) from problem
        if not data:
            raise PeerGoneError("it closed the connection")
        self._buffer += data
