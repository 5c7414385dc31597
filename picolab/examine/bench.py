"""The machine on which a server is examined: starts it, with other settings if wanted, kills it and looks at its disk.

In a local machine the server's processes, files and sockets can be looked at from outside. A check that does so, or
that judges times, asks the bench for it, and is not made where that is impossible.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from picolab.config.sizes import MIB
from picolab.examine.check import NotExamined
from picolab.examine.partial_upload import PartOfUpload
from picolab.machines.base import Machine, ProcessSpec, ProcessStatus
from picolab.machines.kinds import kind_of
from picolab.servers.base import Place, Request, Server
from picolab.servers.build import Build
from picolab.servers.client import Client
from picolab.servers.exchange import Answer, redacted
from picolab.servers.measurements import Limits, UploadMeasurement
from picolab.servers.payload import PayloadFile
from picolab.servers.start import await_ready, process_environment

READY_LIMIT_S = 30.0
EMULATED_PATIENCE = 10
"""By how much longer a limit is in an emulated machine, in which a start takes seconds."""
END_LIMIT_S = 20.0
LIMITS = Limits(30.0, 120.0)
REQUEST_LIMIT_S = 10.0
POLL_S = 0.01
SMALL_BYTES = 300_000
"""Of a file that is there before something happens."""
FILE_BYTES = 16 * MIB
"""Of an upload that something happens to; larger than the sockets' buffers together."""


class Running:
    """A server that runs, and a user who is logged in.

    Attributes:
        place: where it runs.
        ready_s: seconds from the start of the process to the first good answer.
        client: logged in.
    """

    def __init__(
        self, bench: Bench, place: Place, base_url: str, ready_s: float, client: Client, session: str | None
    ) -> None:
        self.bench = bench
        self.place = place
        self.base_url = base_url
        self.ready_s = ready_s
        self.client = client
        self.session = session

    def upload(self, seed: int = 1, size_bytes: int = SMALL_BYTES, name: str = "payload.bin") -> UploadMeasurement:
        """Upload a payload."""
        return self.client.upload(seed, size_bytes, LIMITS, name)

    def stored(self, seed: int = 1, size_bytes: int = SMALL_BYTES) -> str:
        """Upload a payload, and return the id of the entry.

        Raises:
            NotExamined: the server did not store it.
        """
        sent = self.upload(seed, size_bytes)
        if sent.entry_id is None:
            raise NotExamined(f"an ordinary upload failed: {said(sent)}")
        return sent.entry_id

    def why_not_intact(self, entry_id: str, seed: int = 1, size_bytes: int = SMALL_BYTES) -> str | None:
        """Return None when an entry comes back with the bytes that were sent (by SHA-256), else what came instead."""
        got = self.client.download(entry_id, seed, size_bytes, LIMITS)
        if got.matched:
            return None
        if got.http_status not in (200, None):
            return f"its download was answered with {got.http_status}: {got.server_message}"
        return f"its download ended with {got.ending} after {got.received_bytes} of {size_bytes} bytes, or differs"

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, limit_s: float = REQUEST_LIMIT_S
    ) -> Answer:
        """Send a request without a body.

        Raises:
            Unanswered: there was no whole answer within the limit.
        """
        return self.client.ask(Request(method, path, headers or {}), limit_s)

    def part(self, seed: int = 2, size_bytes: int = FILE_BYTES, *, logged_in: bool = True) -> PartOfUpload:
        """Open a connection for an upload that is sent in parts.

        Raises:
            NotExamined: nobody would know when the server's kernel has a part.
        """
        if self.bench.is_reached_through_ssh:
            raise NotExamined(
                "the virtual machine is reached through an ssh connection, which takes bytes before the server has them"
            )
        server = self.bench.server
        request = server.upload(self.session if logged_in else None, PayloadFile(seed, size_bytes))
        return PartOfUpload(request, self.bench.machine.endpoint(self.place.port), seed, size_bytes)


class Bench:
    """The machine, the server and its build.

    Args:
        settings: values of the trial parameters that the server heeds.
        folder: on this host, for logs and copies.
    """

    def __init__(self, machine: Machine, server: Server, build: Build, settings: dict[str, Any], folder: Path) -> None:
        self.machine = machine
        self.server = server
        self.folder = folder
        self._build = build
        self._settings = settings
        self._secret = ""
        self._executable = machine.install(build.path)
        is_virtual = kind_of(machine.kind).is_virtual
        virtual = machine.describe().virtual_machine if is_virtual else None
        self.is_emulated = virtual is not None and virtual.acceleration == "emulation"
        self.is_reached_through_ssh = virtual is not None and virtual.route == "ssh_forward"

    def require_this_host(self) -> Path:
        """Return the folder with data folder and TMPDIR, for a check that looks at the server from this host.

        Raises:
            NotExamined: the server runs in a virtual machine.
        """
        if self.machine.work_folder is None:
            raise NotExamined(
                "it looks at files or sockets of the server from this host, and the server runs in a virtual machine"
            )
        return self.machine.work_folder

    def patience_s(self, limit_s: float) -> float:
        """Return how long to wait for something that the server does at once, if it does it at all."""
        return limit_s * EMULATED_PATIENCE if self.is_emulated else limit_s

    def require_real_speed(self) -> None:
        """Do nothing where times are those of the server.

        Raises:
            NotExamined: the machine is emulated.
        """
        if self.is_emulated:
            raise NotExamined("it judges a time, and the virtual machine is emulated by software")

    def fresh_place(self) -> Place:
        """Return a place with empty folders, a free port and a new secret."""
        data, tmp = self.machine.fresh_folders()
        machine = self.machine
        return Place(
            *(self._executable, machine.python, data, tmp, machine.listen_address, machine.free_port()),
            *(secrets.token_urlsafe(24), self._build.identity, self._settings),
        )

    def start(self, place: Place, before: Sequence[str] = (), *, on_loopback: bool = False) -> ProcessStatus:
        """Start the server without waiting for it.

        Args:
            before: words that go before its command line.
            on_loopback: in the network of this host.
        """
        self._secret = place.secret
        launch = self.server.launch(place)
        spec = ProcessSpec(
            [*before, *launch.argv],
            process_environment(place, launch),
            self.folder / "server.log",
            on_loopback=on_loopback,
        )
        return self.machine.start_process(spec)

    @contextlib.contextmanager
    def running(self, place: Place | None = None, before: Sequence[str] = ()) -> Iterator[Running]:
        """Run the server, log in, and end it.

        Args:
            place: None: a fresh one. That of a server that has ended starts it with the same files.

        Raises:
            NotExamined: it does not get ready, or refuses the log-in.
        """
        place = place or self.fresh_place()
        machine = self.machine
        ready_limit_s = self.patience_s(READY_LIMIT_S)
        try:
            status = self.start(place, before)
            started = await_ready(machine, self.server, place.port, status, ready_limit_s)
            if started is None:
                # It listens on loopback alone, see `start_server`.
                machine.stop_process(0)
                place = replace(place, address="127.0.0.1")
                status = self.start(place, before, on_loopback=True)
                started = await_ready(machine, self.server, place.port, status, ready_limit_s)
            if started is None or started.ready_s is None:
                raise NotExamined(f"the server was not ready within {ready_limit_s:.0f} s: {self.last_words()}")
            with Client(self.server, started.base_url) as client:
                login = client.authenticate(place.secret)
                if login.session is None:
                    raise NotExamined(f"the log-in failed: {login.detail}")
                yield Running(self, place, started.base_url, started.ready_s, client, login.session)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the server by SIGKILL, if it runs; in a virtual machine by SIGTERM and at once SIGKILL."""
        if self.machine.work_folder is None:
            self.machine.stop_process(0)
            return
        status = self.machine.process_status()
        if status.running and status.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(status.pid, signal.SIGKILL)
        self.machine.stop_process(END_LIMIT_S)

    def outcome(self, limit_s: float, until: Callable[[], bool] = lambda: False) -> ProcessStatus:
        """Return the server's status when it has ended, `until` is true, or the limit is over."""
        deadline = time.monotonic() + limit_s
        while (status := self.machine.process_status()).running and time.monotonic() < deadline and not until():
            time.sleep(POLL_S)
        return status

    def last_words(self) -> str:
        """Return the last line of the server's log, quoted."""
        lines = redacted(self.machine.process_log(), [self._secret]).strip().splitlines()
        return f"its log ends with {lines[-1][:200]!r}" if lines else "it logged nothing"

    def disk_bytes(self) -> int:
        """Return the disk space that the files in data folder and TMPDIR take, by blocks."""
        self.require_this_host()
        return self.machine.files_bytes()


def said(sent: UploadMeasurement) -> str:
    """Return how an upload ended, in words."""
    if sent.http_status is not None:
        return f"{sent.http_status} {sent.server_message or ''}".strip()
    return f"{sent.ending} ({sent.ending_detail})"


def ended(status: ProcessStatus) -> str:
    """Return how the process is, as words that follow its name."""
    if status.running:
        return "was still running"
    code = status.exit_code
    return f"exited with code {code}" if code is not None else f"was ended by {status.exit_signal}"
