"""Requests to the keeper of a local machine."""

import json
import os
import socket
from pathlib import Path
from typing import Any

from picolab.errors import MachineError
from picolab.machines.folders import (
    KEEPER,
)
from picolab.machines.local.keeper import SOCKET

_REQUEST_TIMEOUT_S = 60.0


def ask(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Send one request to the keeper of a machine and return its answer.

    Raises:
        MachineError: the keeper is gone, or it says what went wrong.
    """
    try:
        directory = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        raise MachineError(f"the machine {folder.name!r} does not exist (any more)") from None
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_REQUEST_TIMEOUT_S)
            # Through /proc, because the path of a unix socket may not be longer than 107 bytes.
            connection.connect(f"/proc/self/fd/{directory}/{SOCKET}")
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile(encoding="utf-8") as stream:
                answer = json.loads(stream.readline())
    except (OSError, ValueError) as error:
        raise MachineError(f"the keeper of the machine {folder.name!r} does not answer ({error})") from None
    finally:
        os.close(directory)
    if not answer.pop("ok"):
        raise MachineError(answer["error"])
    return dict(answer)


def network_of(folder: Path) -> dict[str, Any]:
    """Return what the keeper says about the network of its machine.

    Raises:
        MachineError: the keeper has not made one: the machine is gone, or just being made, or of an older picolab.
    """
    try:
        return dict(json.loads((folder / KEEPER).read_text())["network"])
    except KeyError:
        raise MachineError(
            f"the machine {folder.name!r} is just being made, or an older picolab made it; try again, or take it away "
            f"with: picolab machines remove {folder.name}"
        ) from None
    except (OSError, ValueError):
        raise MachineError(f"the machine {folder.name!r} does not exist (any more)") from None


def server_of(folder: Path) -> int | None:
    """Return the pid of a machine's server, None when none runs.

    Raises:
        MachineError: the machine's keeper does not answer.
    """
    status = ask(folder, {"do": "status"})
    return int(status["pid"]) if status["running"] else None
