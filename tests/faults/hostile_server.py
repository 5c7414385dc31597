"""A server on bare sockets that keeps PicoShare's contract, except for the requests it is told to answer otherwise.

Tests of the client run it in threads (`HostileServer`). A trial runs it as a build: `hostile_build` writes an
executable, and the trial's `environment` says how it misbehaves, as in
`misbehaving({"POST /api/auth": "dripping head"})`. It needs nothing but Python.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
ID = "abcdefghij"
COOKIE = "c29tZSBjb29raWUgdGhhdCBoYXMgKysvLw=="
SECRET = "correct-horse-battery-staple"
VARIABLE = "HOSTILE"
DRIP_S = 0.1
"""Between two bytes: much less than any limit, so that no single read is ever too late."""
OK = b"HTTP/1.1 200 OK\r\n"


@dataclass
class Request:
    """A request whose head has been read."""

    connection: socket.socket
    method: str
    path: str
    head: bytes
    server: HostileServer

    def send(self, content: bytes) -> None:
        self.connection.sendall(content)

    def forever(self, piece: bytes) -> None:
        """Send something until the other side goes away."""
        while True:
            self.connection.sendall(piece)

    def drip(self, pieces: Iterable[bytes]) -> None:
        """Send slowly, as long as the other side stays."""
        for piece in pieces:
            self.connection.sendall(piece)
            if self.server.over.wait(DRIP_S):
                return

    def drip_bytes(self, content: bytes) -> None:
        self.drip(content[i : i + 1] for i in range(len(content)))

    def drip_forever(self, piece: bytes) -> None:
        self.drip(iter(lambda: piece, None))

    def wait(self) -> None:
        """Say nothing until the other side goes away."""
        while self.connection.recv(MIB):
            pass

    def body(self) -> bytes:
        """Read the request's body."""
        length = re.search(rb"content-length: (\d+)", self.head, re.IGNORECASE)
        left = int(length[1]) if length else 0
        parts = []
        while left > 0:
            part = self.connection.recv(min(left, MIB))
            if not part:
                raise ConnectionError("the client is gone")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


def answer(content: bytes, status: int = 200, headers: bytes = b"") -> bytes:
    """Return a proper answer."""
    return b"HTTP/1.1 %d Whatever\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(content), content)


def _of_id(content: bytes) -> Callable[[Request], None]:
    return lambda request: request.send(answer(content, headers=b"Content-Type: application/json\r\n"))


def _reset(request: Request) -> None:
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _bomb(request: Request) -> None:
    """Answer with what is a thousand times as large when it is decompressed."""
    packed = gzip.compress(bytes(256 * MIB), compresslevel=1)
    request.send(answer(packed, headers=b"Content-Encoding: gzip\r\n"))


def _echo(request: Request) -> None:
    told = f"the secret is {request.server.secret}, the cookie {request.server.cookie}"
    request.send(answer(f"{told}; {told.replace('+', '%2B').replace('/', '%2F')}".encode(), 500))


MISBEHAVIOURS: dict[str, Callable[[Request], None]] = {
    # Without an end
    "endless body": lambda request: (request.send(OK + b"\r\n"), request.forever(bytes(MIB)))[0],
    "endless body of a huge length": lambda request: (
        request.send(OK + b"Content-Length: 99999999999999999999\r\n\r\n"),
        request.forever(b"x" * MIB),
    )[0],
    "endless chunks": lambda request: (
        request.send(OK + b"Transfer-Encoding: chunked\r\n\r\n"),
        request.forever(b"10000\r\n" + bytes(65536) + b"\r\n"),
    )[0],
    "endless error": lambda request: (
        request.send(b"HTTP/1.1 500 Oh\r\n\r\nit broke "),
        request.forever(b"and broke " * 100_000),
    )[0],
    "endless compressed body": lambda request: (
        request.send(OK + b"Content-Encoding: gzip\r\n\r\n"),
        request.forever(gzip.compress(bytes(MIB))),
    )[0],
    "compressed bomb": _bomb,
    "endless status line": lambda request: (request.send(b"HTTP/1.1 200 "), request.forever(b"O" * MIB))[0],
    "endless header": lambda request: (request.send(OK + b"X: "), request.forever(b"x" * MIB))[0],
    "endless headers": lambda request: (request.send(OK), request.forever(b"X: y\r\n" * 100_000))[0],
    "endless cookies": lambda request: (request.send(OK), request.forever(b"Set-Cookie: a=b\r\n" * 100_000))[0],
    "endless provisional answers": lambda request: request.forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "endless trailers": lambda request: (
        request.send(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"),
        request.forever(b"X: y\r\n" * 100_000),
    )[0],
    "endless chunk extension": lambda request: (
        request.send(OK + b"Transfer-Encoding: chunked\r\n\r\n5;"),
        request.forever(b"x" * MIB),
    )[0],
    # Slow
    "dripping head": lambda request: (
        request.drip_bytes(OK + b"X: "),
        request.drip_forever(b"x"),
    )[0],
    "dripping body": lambda request: (
        request.send(OK + b"Content-Length: 1000000\r\nSet-Cookie: sharedSecret=" + COOKIE.encode() + b"\r\n\r\n"),
        request.drip_forever(b"x"),
    )[0],
    "dripping body without a length": lambda request: (request.send(OK + b"\r\n"), request.drip_forever(b"x"))[0],
    "dripping chunks": lambda request: (
        request.send(OK + b"Transfer-Encoding: chunked\r\n\r\n"),
        request.drip_forever(b"1\r\nx\r\n"),
    )[0],
    "dripping error": lambda request: (request.send(b"HTTP/1.1 500 Oh\r\n\r\n"), request.drip_forever(b"x"))[0],
    "dripping provisional answers": lambda request: request.drip_forever(b"HTTP/1.1 102 Processing\r\n\r\n"),
    "silent": Request.wait,
    "silent after the head": lambda request: (request.send(OK + b"Content-Length: 9\r\n\r\n"), request.wait())[0],
    # Cut off
    "closed": lambda request: None,
    "reset": _reset,
    "closed in the head": lambda request: request.send(OK + b"Content-Le"),
    "closed in the body": lambda request: request.send(OK + b"Content-Length: 50\r\n\r\n" + b"x" * 10),
    # What only some requests can be answered with
    "secret in an error": _echo,
    "id with a line break": _of_id(rb'{"id":"a\r\nb"}'),
    "id of 5 MB": _of_id(b'{"id":"' + b"a" * 5_000_000 + b'"}'),
    "200,000 brackets": _of_id(b"[" * 200_000),
    "unknown charset": lambda request: request.send(
        answer(b"not found \xe4", 404, b"Content-Type: text/plain; charset=klingon\r\n")
    ),
    "log-in without a cookie": lambda request: request.send(answer(b"")),
    "no HTTP": lambda request: request.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
}
"""Lambdas that do two things return what the first one does: nothing."""


class HostileServer:
    """The server in threads of this process. Use it as a context manager.

    Args:
        misbehaving: requests, by the beginning of method and path, and what they are answered with: the name of a
            misbehaviour, or the bytes.
    """

    def __init__(
        self, misbehaving: Mapping[str, str | bytes] | None = None, port: int = 0, secret: str = SECRET
    ) -> None:
        self.misbehaving = dict(misbehaving or {})
        self.secret = secret
        self.cookie = COOKIE
        self.requests: list[str] = []
        self.heads: list[bytes] = []
        self.files: list[bytes] = []
        self.over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> HostileServer:
        self._acceptor = threading.Thread(target=self.serve)
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def serve(self) -> None:
        """Accept connections until the listener is shut down; each has a thread."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with self._lock:
                    self._connections.add(connection)
                thread = threading.Thread(target=self._converse, args=(connection,))
                self._threads = [thread, *(old for old in self._threads if old.is_alive())]
                thread.start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._answer(connection)
        finally:
            with self._lock:
                self._connections.discard(connection)
                connection.close()

    def _answer(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            byte = connection.recv(1)
            if not byte:
                return
            head += byte
        method, path = head.decode("latin-1").split(" ", 2)[:2]
        request = Request(connection, method, path, head, self)
        self.requests.append(f"{method} {path}")
        self.heads.append(head)
        for begins, how in self.misbehaving.items():
            if f"{method} {path}".startswith(begins) and (begins != "GET /" or path == "/"):
                request.body()
                if isinstance(how, bytes):
                    request.send(how)
                else:
                    MISBEHAVIOURS[how](request)
                return
        request.send(self._proper(request, request.body()))

    def _proper(self, request: Request, body: bytes) -> bytes:
        if request.path == "/api/auth":
            if json.loads(body)["sharedSecretKey"] != self.secret:
                return answer(b"incorrect shared secret\n", 401)
            return answer(b"", headers=b"Set-Cookie: sharedSecret=" + self.cookie.encode() + b"; Path=/; HttpOnly\r\n")
        if request.path.startswith("/api/entry?"):
            self.files.append(body[body.index(b"\r\n\r\n") + 4 : body.rindex(b"\r\n--")])
            return answer(b'{"id":"' + ID.encode() + b'"}')
        if request.path == f"/-{ID}":
            return answer(self.files[-1]) if self.files else answer(b"entry not found\n", 404)
        return answer(b"<h1>PicoShare</h1>" if request.path == "/" else b"")


def hostile_build(folder: Path) -> str:
    """Write an executable that is this server, and return its path."""
    path = folder / "hostile-server"
    path.write_text(f"#!/bin/sh\nexec {sys.executable} -I -S {Path(__file__).resolve()}\n")
    path.chmod(0o755)
    return str(path)


def misbehaving(requests: Mapping[str, str]) -> dict[str, str]:
    """Return the `environment` of a trial whose server misbehaves at these requests."""
    return {VARIABLE: json.dumps(requests)}


def main() -> None:
    """Be the server that a trial starts, until it is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    HostileServer(
        json.loads(os.environ.get(VARIABLE, "{}")), int(os.environ["PORT"]), os.environ["PS_SHARED_SECRET"]
    ).serve()


if __name__ == "__main__":
    main()
