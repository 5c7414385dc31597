"""TCP connections of the client, which cost less of a processor than those of httpcore.

httpcore copies what is left of a piece each time the kernel has taken a part of it: 1.5 copies of all bytes with a
bounded send buffer. What is sent and when is the same.
"""

import contextlib
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

BODY_PIECE_BYTES = 512 * 1024
"""Of the body of an answer of known length, read at most at a time."""


@contextlib.contextmanager
def _as(late: type[Exception], failed: type[Exception]) -> Iterator[None]:
    """Turn errors of a socket into those that httpx knows."""
    try:
        yield
    except TimeoutError as error:
        raise late(error) from error
    except OSError as error:
        raise failed(error) from error


class Stream(httpcore.NetworkStream):
    """A connection."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner
        self._socket: socket.socket = inner.get_extra_info("socket")

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _as(httpcore.ReadTimeout, httpcore.ReadError):
            self._socket.settimeout(timeout)
            return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            # The end of a body: sendall would wait for room in the send buffer, and an early answer would not be read.
            return
        with _as(httpcore.WriteTimeout, httpcore.WriteError):
            self._socket.settimeout(timeout)
            self._socket.sendall(buffer)

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return self._inner.start_tls(*args, **options)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    def connect_tcp(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return Stream(super().connect_tcp(*args, **options))


class Transport(httpx.HTTPTransport):
    """httpx' transport over such connections: each request has its own, and the environment's proxies are ignored."""

    def __init__(self, socket_options: Iterable[tuple[int, int, int]]) -> None:
        super().__init__(verify=False, trust_env=False)
        # httpx has no parameter for it.
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(verify=False, trust_env=False),
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=_Backend(),
            socket_options=list(socket_options),
        )
