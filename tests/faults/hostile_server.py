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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
ID = "abcdefghij"
COOKIE = "c29tZSBjb29raWUgdGhhdCBoYXMgKysvLw=="
SECRET = "correct-horse-battery-staple"
VARIABLE = "HOSTILE"
DRIP_S = 0.05
"""Between two bytes: much less than any limit, so that no single read is ever too late."""
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CONTROL = b"it\x1b[31m\x07 broke"
SET_COOKIE = b"Set-Cookie: sharedSecret=" + COOKIE.encode() + b"; Path=/; HttpOnly\r\n"


@dataclass
class Request:
    """A request whose head has been read."""

    connection: socket.socket
    method: str
    path: str
    head: bytes
    server: HostileServer

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


Misbehaviour = Callable[[Request], None]


def answer(content: bytes, status: int = 200, headers: bytes = b"") -> bytes:
    """Return a proper answer."""
    return b"HTTP/1.1 %d Whatever\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(content), content)


def _endless(begins: bytes, piece: bytes) -> Misbehaviour:
    def misbehave(request: Request) -> None:
        request.connection.sendall(begins)
        while True:
            request.connection.sendall(piece)

    return misbehave


def _dripping(begins: bytes, piece: bytes, slowly: bytes = b"") -> Misbehaviour:
    """Send `begins` at once, `slowly` byte by byte, and then a piece at a time without an end."""

    def misbehave(request: Request) -> None:
        request.connection.sendall(begins)
        for byte in slowly:
            request.connection.sendall(bytes([byte]))
            request.server.over.wait(DRIP_S)
        while not request.server.over.wait(DRIP_S):
            request.connection.sendall(piece)

    return misbehave


def _silent(begins: bytes = b"") -> Misbehaviour:
    def misbehave(request: Request) -> None:
        request.connection.sendall(begins)
        while request.connection.recv(MIB):
            pass

    return misbehave


def _says(content: bytes) -> Misbehaviour:
    return lambda request: request.connection.sendall(content)


def _compressed_bomb(request: Request) -> None:
    packed = gzip.compress(bytes(64 * MIB), compresslevel=1)
    request.connection.sendall(answer(packed, headers=b"Content-Encoding: gzip\r\n"))


def _reset(request: Request) -> None:
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _echo(request: Request) -> None:
    """Answer with what the server knows and was told, as it is and escaped."""
    cookie = re.search(rb"sharedSecret=([^\r]*)", request.head)
    told = f"the secret is {request.server.secret}, the cookie {cookie[1].decode() if cookie else 'unknown'}"
    escaped = told.replace("+", "%2B").replace("/", "%2F")
    request.connection.sendall(answer(f"{told}; {escaped}".encode(), 500))


MISBEHAVIOURS: dict[str, Misbehaviour] = {
    # Without an end
    "endless body": _endless(OK + b"\r\n", bytes(MIB)),
    "endless body of a huge length": _endless(OK + b"Content-Length: 99999999999999999999\r\n\r\n", b"x" * MIB),
    "endless chunks": _endless(OK + CHUNKED, b"10000\r\n" + bytes(65536) + b"\r\n"),
    "endless error": _endless(b"HTTP/1.1 500 Oh\r\n\r\nit broke ", b"and broke " * 100_000),
    "endless compressed body": _endless(OK + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(bytes(MIB))),
    "compressed bomb": _compressed_bomb,
    "endless status line": _endless(b"HTTP/1.1 200 ", b"O" * MIB),
    "endless header": _endless(OK + b"X: ", b"x" * MIB),
    "endless headers": _endless(OK, b"X: y\r\n" * 100_000),
    "endless cookies": _endless(OK, b"Set-Cookie: a=b\r\n" * 100_000),
    "endless provisional answers": _endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "endless trailers": _endless(OK + CHUNKED + b"0\r\n", b"X: y\r\n" * 100_000),
    "endless chunk extension": _endless(OK + CHUNKED + b"5;", b"x" * MIB),
    # Slow
    "dripping head": _dripping(b"", b"x", slowly=OK + b"X: "),
    "dripping body": _dripping(OK + b"Content-Length: 1000000\r\n" + SET_COOKIE + b"\r\n", b"x"),
    "dripping body without a length": _dripping(OK + b"\r\n", b"x"),
    "dripping chunks": _dripping(OK + CHUNKED, b"1\r\nx\r\n"),
    "dripping error": _dripping(b"HTTP/1.1 500 Oh\r\n\r\n", b"x"),
    "dripping provisional answers": _dripping(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "silent": _silent(),
    "silent after the head": _silent(OK + b"Content-Length: 9\r\n\r\n"),
    # Cut off
    "closed": _says(b""),
    "reset": _reset,
    "closed in the head": _says(OK + b"Content-Le"),
    "closed in the body": _says(OK + b"Content-Length: 50\r\n\r\n" + b"x" * 10),
    # Odd
    "secret in an error": _echo,
    "id with a line break": _says(answer(rb'{"id":"a\r\nb"}')),
    "id of 5 MB": _says(answer(b'{"id":"' + b"a" * 5_000_000 + b'"}')),
    "200,000 brackets": _says(answer(b"[" * 200_000)),
    "unknown charset": _says(answer(b"not found \xe4", 404, b"Content-Type: text/plain; charset=klingon\r\n")),
    "control characters": _says(answer(CONTROL, 500)),
    "no cookie": _says(answer(b"")),
    "no HTTP": _says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
}


class HostileServer:
    """The server in threads of this process. Use it as a context manager.

    Args:
        misbehaving: requests, by the beginning of method and path, and what they are answered with: the name of a
            misbehaviour, or the bytes.
    """

    def __init__(
        self,
        misbehaving: Mapping[str, str | bytes] | None = None,
        address: tuple[str, int] = ("127.0.0.1", 0),
        secret: str = SECRET,
    ) -> None:
        self.misbehaving = dict(misbehaving or {})
        self.secret = secret
        self.requests: list[str] = []
        self.heads: list[bytes] = []
        self.files: list[bytes] = []
        self.over = threading.Event()
        self._listener = socket.create_server(address)
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
                    connection.sendall(how)
                else:
                    MISBEHAVIOURS[how](request)
                return
        connection.sendall(self._proper(request, request.body()))

    def _proper(self, request: Request, body: bytes) -> bytes:
        if request.path == "/api/auth":
            if json.loads(body)["sharedSecretKey"] != self.secret:
                return answer(b"incorrect shared secret\n", 401)
            return answer(b"", headers=SET_COOKIE)
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
    # On all interfaces, as PicoShare does.
    address = ("", int(os.environ["PORT"]))
    HostileServer(json.loads(os.environ.get(VARIABLE, "{}")), address, os.environ["PS_SHARED_SECRET"]).serve()


if __name__ == "__main__":
    main()
