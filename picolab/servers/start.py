"""Starts a server in a machine, with fresh folders and a secret of its own, and waits until it answers."""

import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picolab.errors import MachineError
from picolab.machines.base import Machine, ProcessSpec, ProcessStatus
from picolab.machines.kinds import kind_of
from picolab.servers.base import Launch, Place, Server
from picolab.servers.build import Build
from picolab.servers.client import Client

SECRET_FILE = "secret"


@dataclass(frozen=True)
class StartedServer:
    """A server that was started.

    Attributes:
        base_url: where it is spoken to.
        ready_s: seconds from the start of the process to the first good answer; None when it never came.
        status: of the process at the end of the wait.
        why_not_ready: why the last whole try to speak to it failed; empty when it is ready, or never listened.
    """

    base_url: str
    port: int
    ready_s: float | None
    status: ProcessStatus
    why_not_ready: str = ""


def start_server(
    machine: Machine,
    server: Server,
    build: Build,
    settings: Mapping[str, Any],
    log: Path,
    ready_limit_s: float,
    variables: Mapping[str, str] | None = None,
) -> StartedServer:
    """Start a build with fresh folders and a fresh secret, and wait until it answers.

    The secret lies in a private file of the machine's folder, so that a later process can re-attach; it is in no
    argument, log or record.

    Args:
        settings: values of the trial parameters that the server heeds, by name.
        log: file on the host for the server's output.
        ready_limit_s: seconds until it must have answered.
        variables: environment variables for it; those that picolab sets win.

    Raises:
        MachineError: the port is not the server's own.
    """
    executable = machine.install(build.path)
    data, tmp = machine.fresh_folders()
    port = machine.free_port()
    secret = secrets.token_urlsafe(24)
    store_private(machine.folder / SECRET_FILE, secret)
    place = Place(executable, machine.python, data, tmp, machine.listen_address, port, secret, build.identity, settings)
    launch = server.launch(place)
    environment = process_environment(place, launch, variables)

    def started(on_loopback: bool) -> StartedServer | None:
        spec = ProcessSpec(launch.argv, environment, log, on_loopback=on_loopback)
        return await_ready(machine, server, port, machine.start_process(spec), ready_limit_s)

    found = started(on_loopback=False)
    if found is None:
        # It listens on loopback alone: in a network of its own nobody reaches it, and in this host's nobody else does.
        machine.stop_process(0)
        machine.fresh_folders()
        found = started(on_loopback=True)
        assert found is not None
    return found


def process_environment(place: Place, launch: Launch, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the whole environment of a server's process.

    Args:
        variables: of the trial; those that picolab sets win.
    """
    return {
        **(variables or {}),
        "PATH": os.defpath,
        "HOME": place.data,
        "TMPDIR": place.tmp,
        **launch.environment,
    }


def await_ready(
    machine: Machine, server: Server, port: int, status: ProcessStatus, limit_s: float
) -> StartedServer | None:
    """Return the server when it answers or has ended, or the time is over; None when it listens out of reach.

    Raises:
        MachineError: the port is not the server's own.
    """
    host, host_port = machine.endpoint(port)
    base_url = f"http://{host}:{host_port}"
    begun = time.monotonic() if status.started_monotonic_s is None else status.started_monotonic_s
    why_not = ""
    with Client(server, base_url) as client:
        while status.running and (left_s := limit_s - (time.monotonic() - begun)) > 0:
            listener = machine.listener(port)
            if listener == "other":
                raise MachineError(
                    f"port {port} of the machine {machine.name!r} is served by another program, not by the server "
                    f"that was started; run the trial again, a new port will be chosen"
                )
            if listener == "loopback":
                return None
            if listener == "server":
                found = client.why_not_ready(left_s)
                if found is None:
                    return StartedServer(base_url, port, time.monotonic() - begun, machine.process_status())
                # A try that the end of the limit cut short says less than the one before it.
                if not why_not or time.monotonic() - begun < limit_s:
                    why_not = found
            if server.listen_failed and server.listen_failed in machine.process_log():
                raise MachineError(
                    f"the server runs without a listener because it could not have port {port} of the machine "
                    f"{machine.name!r} (its log says so); run the trial again, a new port will be chosen"
                )
            time.sleep(kind_of(machine.kind).ready_poll_s)
            status = machine.process_status()
    return StartedServer(base_url, port, None, status, why_not)


def store_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, also while it is being written."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
