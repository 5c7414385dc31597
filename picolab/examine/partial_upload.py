"""An upload that is sent in parts over a socket of its own: HTTP clients send a whole body or nothing."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import struct
import termios
import time
from typing import Self

from picolab.servers.base import UploadRequest
from picolab.servers.payload import pieces

_LIMIT_S = 30.0
_POLL_S = 0.002


class PartOfUpload:
    """One upload request. A context manager: its end closes the connection, also in the middle of the body.

    Args:
        address: host and port of the server.
    """

    def __init__(self, request: UploadRequest, address: tuple[str, int], seed: int, size_bytes: int) -> None:
        length = len(request.before) + size_bytes + len(request.after)
        host = f"{address[0]}:{address[1]}"
        headers = {"Host": host, "User-Agent": "picolab", **request.headers, "Content-Length": str(length)}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f"{request.method} {request.path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
        self._before, self._after = request.before, request.after
        self._payload = b"".join(pieces(seed, size_bytes))
        self._sent = 0
        self._socket = socket.create_connection(address, timeout=_LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def head(self) -> None:
        """Send the head of the request alone."""
        self._socket.sendall(self._head)

    def first(self, share: float) -> None:
        """Send the head and this share of the file, and wait until the server's kernel has it."""
        self.head()
        self._sent = int(len(self._payload) * share)
        self._socket.sendall(self._before + self._payload[: self._sent])
        self._await_delivery()

    def rest(self) -> None:
        """Send the rest of the body, and wait until the server's kernel has it; a closed connection ends it."""
        with contextlib.suppress(OSError):
            self._socket.sendall(self._payload[self._sent :] + self._after)
            self._await_delivery()

    def answers_within(self, limit_s: float) -> bool:
        """Return whether an answer, or the end of the connection, can be read within a time."""
        return bool(select.select([self._socket], [], [], limit_s)[0])

    def status(self, limit_s: float) -> int | None:
        """Return the status of the answer; None when none came within the limit."""
        deadline = time.monotonic() + limit_s
        line = b""
        with contextlib.suppress(OSError):
            while b"\r\n" not in line and (left_s := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left_s)
                got = self._socket.recv(4096)
                if not got:
                    break
                line += got
        words = line.split(b" ", 2)
        return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else None

    def _await_delivery(self) -> None:
        deadline = time.monotonic() + _LIMIT_S
        # termios.TIOCOUTQ has the value of SIOCOUTQ on Linux (tcp(7)).
        while struct.unpack("=i", fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4)))[0] > 0:
            if time.monotonic() > deadline:
                return
            time.sleep(_POLL_S)
