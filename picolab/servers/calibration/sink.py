#!/usr/bin/env python3
"""Be a server that costs as little as possible, to find out how fast picolab's own client is.

One file, standard library only, Python >= 3.9. It reads an upload into one buffer and throws it away. A file that is
named keep.bin is kept in memory, and every download is that file. One request a connection, one connection at a time.

    PORT=4001 PICOLAB_CALIBRATION_HOST=127.0.0.1 sink.py
"""

from __future__ import annotations

import os
import re
import socket
import sys

BUFFER_BYTES = 1 << 20
KEPT_NAME = b'filename="keep.bin"'
ANSWER = b'{"id":"abcdefghij"}'


class Sink:
    """The state between two requests: one buffer, and one file."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.kept = memoryview(b"")

    def serve(self, connection: socket.socket) -> None:
        """Answer one request."""
        head, rest = _until_blank_line(connection, b"")
        if head.startswith(b"GET /-"):
            _answer(connection, self.kept)
        elif head.startswith(b"GET "):
            _answer(connection, b"a null sink\n")
        else:
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            self._receive(connection, rest, int(length[1]) if length else 0)
            _answer(connection, ANSWER)

    def _receive(self, connection: socket.socket, rest: bytes, body_bytes: int) -> None:
        left = body_bytes - len(rest)
        part, start = _until_blank_line(connection, rest)
        left -= len(part) + len(start) - len(rest)
        if KEPT_NAME in part:
            self._keep(connection, part, start, left)
            return
        while left > 0:
            left -= _count(connection.recv_into(self.buffer))

    def _keep(self, connection: socket.socket, part: bytes, start: bytes, left: int) -> None:
        content = bytearray(len(start) + left)
        content[: len(start)] = start
        view, filled = memoryview(content), len(start)
        while filled < len(content):
            filled += _count(connection.recv_into(view[filled:]))
        # Behind the file: line end, dashes and boundary as in the part's first line, two dashes, line end.
        tail = 2 + len(part.partition(b"\r\n")[0]) + 2 + 2
        self.kept = view[: len(content) - tail]


def _count(received: int) -> int:
    if not received:
        raise ConnectionError("the client has gone")
    return received


def _until_blank_line(connection: socket.socket, start: bytes) -> tuple[bytes, bytes]:
    """Return (what is there up to a blank line and with it, what came behind it already)."""
    text = start
    while b"\r\n\r\n" not in text:
        piece = connection.recv(65536)
        _count(len(piece))
        text += piece
    end = text.index(b"\r\n\r\n") + 4
    return text[:end], text[end:]


def _answer(connection: socket.socket, body: bytes | memoryview) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(head.encode() + b"\r\n")
    connection.sendall(body)


def main() -> None:
    """Serve until the process is ended."""
    sink = Sink()
    address = (os.environ.get("PICOLAB_CALIBRATION_HOST", "127.0.0.1"), int(os.environ["PORT"]))
    with socket.create_server(address) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    sink.serve(connection)
                except OSError as error:
                    sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    main()
