"""The agent in the background: it answers each connection to a unix socket.

A guest whose state is saved with the agent in it needs no Python to start when it is restored, which under emulation
takes longer than everything else.
"""

# ruff: noqa: PTH101, PTH104

from __future__ import annotations

import json
import os
import selectors
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from picolab.agent.requests import Agent


LARGEST_REQUEST_BYTES = 1 << 20


def serve_in_background(path: str, agent: Agent, begin: Callable[[], None]) -> None:
    """Answer on a unix socket from a new process in the background; nothing happens where an agent listens already.

    Args:
        path: of the socket; only the agent's user can open it.
        begin: called in the new process before it answers.

    Raises:
        OSError: the socket cannot be made.
    """
    with socket.socket(socket.AF_UNIX) as other:
        if other.connect_ex(path) == 0:
            return
    with socket.socket(socket.AF_UNIX) as listening:
        # Under another name first: whoever finds the socket can connect to it.
        made = f"{path}.{os.getpid()}"
        listening.bind(made)
        os.chown(made, agent.home.account.pw_uid, -1)
        os.chmod(made, 0o600)
        listening.listen()
        os.rename(made, path)
        if os.fork():
            return
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nowhere, number)
        os.close(nowhere)
        os.chdir("/")
        begin()
        serve(listening, agent.answer)


def serve(listening: socket.socket, answer: Callable[[bytes], dict[str, Any]]) -> None:
    """Answer the lines of all connections, one at a time, forever."""
    waiting = selectors.DefaultSelector()
    waiting.register(listening, selectors.EVENT_READ)
    read: dict[Any, bytes] = {}
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listening:
                connection, _ = listening.accept()
                waiting.register(connection, selectors.EVENT_READ)
                read[connection] = b""
                continue
            connection = key.fileobj  # type: ignore[assignment]
            try:
                piece = connection.recv(1 << 16)
                lines = (read[connection] + piece).split(b"\n")
                read[connection] = lines.pop()
                for line in lines:
                    connection.sendall(json.dumps(answer(line)).encode() + b"\n")
            except OSError:
                piece = b""
            if not piece or len(read[connection]) > LARGEST_REQUEST_BYTES:
                waiting.unregister(connection)
                connection.close()
                del read[connection]
