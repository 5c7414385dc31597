"""The guest: one kept ssh connection to it, the agent at its other end, and its clock."""

import base64
import concurrent.futures
import contextlib
import json
import shlex
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picolab.agent import bundle
from picolab.errors import MachineError
from picolab.machines.base import Stream
from picolab.machines.vagrant import full_disk
from picolab.machines.vagrant.domain import domain_state
from picolab.machines.vagrant.libvirt import LibvirtError
from picolab.machines.vagrant.state import State

if TYPE_CHECKING:
    from picolab.machines.vagrant.ssh import Address, Connection, RemoteProgram, RemoteSocket

GUEST_HOME = "/var/lib/picolab"
USER = "vagrant"
PYTHON = "/usr/bin/python3"
ASK_LIMIT_S = 300.0
"""A guest that is out of memory may take very long to answer, and that is what is to be measured."""
STATUS_LIMIT_S = 60.0
"""For the state of the server, and for the end of the probe: a guest whose probe could not lock its memory was seen to
pause for 10 s."""
_STATES = {"paused": "suspended", "shutoff": "off", "not_created": "gone"}
"""Words of libvirt and Vagrant for the state of a machine that does not run, and ours."""
_LOOK_S = 2.0
_END_LIMIT_S = 10.0
AGENT_ZIPAPP = f"{GUEST_HOME}/agent.pyz"
_AGENT = f"{GUEST_HOME}/agent"
_AGENT_SOCKET = "/run/picolab-agent"
"""In memory: a guest that boots has none."""
_CLOCK_READINGS = 12
_SHORT_LOG_BYTES = 1 << 16
_PROBE_START_LIMIT_S = 60.0
_RELAY_LIMIT_S = 10.0


def program(module: str, *words: str) -> str:
    """Return the command that starts a program of the agent in the guest, as root."""
    return shlex.join(["sudo", "-n", PYTHON, *bundle.words(module, _AGENT), *words])


def agent_mark(version: str) -> str:
    """Return the file whose existence in the guest says that this version of the agent is installed."""
    return f"{GUEST_HOME}/agent-{version}"


def unpack_agent() -> str:
    """Return the command that installs `AGENT_ZIPAPP`, in a guest or in the root file system of a box.

    Compiled once, the agent takes less memory and time to start, of which a small guest has little.
    """
    return (
        f"rm -rf {_AGENT} {agent_mark('*')} && {PYTHON} -I -m zipfile -e {AGENT_ZIPAPP} {_AGENT} && "
        f"{PYTHON} -I -m compileall -q -b {_AGENT} && find {_AGENT} -name '*.py' -delete && rm {AGENT_ZIPAPP}"
    )


class Clock:
    """By how much the guest's monotonic clock is ahead of the host's, and how sure that is. Seconds."""

    def __init__(self, ahead_s: float, uncertainty_s: float) -> None:
        self.ahead_s = ahead_s
        self.uncertainty_s = uncertainty_s


class Guest:
    """A running guest. It is connected to when something is asked of it.

    Args:
        state: of the machine.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._name: str = state["name"]
        self._connection: Connection | None = None
        self._agent: RemoteSocket | None = None
        self._clock: Clock | None = None

    @property
    def open_connection(self) -> "Connection | None":
        """The connection, if there is one already."""
        return self._connection if self._connection is not None and self._connection.is_open else None

    @property
    def clock(self) -> "Clock":
        """The last reading of the guest's clock."""
        if self._clock is None:
            self._clock = self.read_clock()
        return self._clock

    @property
    def address(self) -> "Address":
        from picolab.machines.vagrant.ssh import Address

        found = self._state["address"]
        return Address(
            host=found["host"],
            port=found["port"],
            user=found["user"],
            key=Path(found["key"]),
            known_hosts=(self._state.folder / "known_hosts").resolve(),
            alias=f"picolab-{self._name}",
        )

    def connected(self, limit_s: float = 60.0, why_stop: Callable[[], str | None] | None = None) -> "Connection":
        """Return the open connection with an agent at its other end, connecting anew if there is none.

        Args:
            why_stop: asked every few seconds why it is not waited for any more, in place of `why_down`.
        """
        if self._connection is not None and self._connection.is_open:
            return self._connection
        self.drop_connection()
        if "address" not in self._state:
            raise MachineError(f"the machine {self._name!r} has not been reached yet; run the provision cell")
        from picolab.machines.vagrant.ssh import Connection

        self._connection = Connection.open(self.address, self._name, limit_s, why_stop or self.why_down)
        for guest_port, host_port in self._state.get("forwards", {}).items():
            # The same ports for every kernel, so that addresses that were handed out stay good.
            self._connection.forward(int(guest_port), host_port)
        return self._connection

    def drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._agent = self._clock = None

    def ask(self, request: dict[str, Any], limit_s: float = ASK_LIMIT_S) -> dict[str, Any]:
        """Have the agent in the guest do something.

        Raises:
            MachineError: the guest cannot be reached, or says what went wrong.
        """
        connection = self.connected()
        if self._agent is None:
            self._agent = self._reach_agent(connection)
        try:
            answer = self._agent.ask(request, limit_s, self.why_down)
        except (MachineError, KeyboardInterrupt):
            # A late answer would be taken for the answer to the next request.
            self.drop_connection()
            raise
        if not answer.pop("ok"):
            raise MachineError(f"machine {self._name!r}: {answer['error']}")
        return answer

    def _reach_agent(self, connection: "Connection") -> "RemoteSocket":
        """Return a connection to the agent, which is started if none runs."""
        with contextlib.suppress(MachineError):
            return connection.open_socket(_AGENT_SOCKET)
        started = connection.run(
            program("__main__", "--home", GUEST_HOME, "--user", USER, "--listen", _AGENT_SOCKET), ASK_LIMIT_S
        )
        if started.exit_code != 0:
            said = started.stderr.strip().splitlines()
            raise MachineError(
                f"machine {self._name!r}: the agent in the guest did not start "
                f"({said[-1] if said else f'exit code {started.exit_code}'})"
            )
        return connection.open_socket(_AGENT_SOCKET)

    def log(self) -> bytes | None:
        """Return the server's whole log; None when there is none.

        A short one comes over the open connection to the agent: sftp starts a program in the guest.

        Raises:
            MachineError: it cannot be fetched.
        """
        answer = self.ask({"do": "whole_log", "limit_bytes": _SHORT_LOG_BYTES}, STATUS_LIMIT_S)
        if answer["size_bytes"] is None:
            return None
        if answer["base64"] is not None:
            return base64.b64decode(answer["base64"])
        fetched = self._state.folder / "server.log"
        try:
            self.connected().get(f"{GUEST_HOME}/server.log", fetched)
            return fetched.read_bytes()
        finally:
            fetched.unlink(missing_ok=True)

    def why_down(self) -> str | None:
        """Return why no answer of the guest is worth waiting for; None while the virtual machine runs."""
        if not self._state.folder.is_dir():
            return "the machine was taken away while it was in use"
        try:
            state = domain_state(self._state.folder, self._state)
        except LibvirtError:
            # The virtual machine runs on without the daemon.
            return None
        if state == "running":
            return None
        why = ""
        if state == "paused" and self._state["provider"] == "libvirt":
            with contextlib.suppress(LibvirtError):
                why = full_disk.why_paused(self._state["prefix"])
        remedy = f", because {why}; free some space there, then run the trial again" if why else ""
        return f"the virtual machine does not run any more: it is {_STATES.get(state, state)}{remedy}"

    def to_host(self, guest_s: float | None) -> float | None:
        """Return a time of the guest's monotonic clock on the host's."""
        return None if guest_s is None else guest_s - self.clock.ahead_s

    def read_clock(self) -> "Clock":
        """Map the guest's clock to the host's: the reading with the shortest round trip is the most exact."""
        best = None
        for _ in range(_CLOCK_READINGS):
            before = time.monotonic()
            guest_s = float(self.ask({"do": "clock"})["monotonic_s"])
            after = time.monotonic()
            if best is None or after - before < 2 * best.uncertainty_s:
                best = Clock(guest_s - (before + after) / 2, (after - before) / 2)
        assert best is not None
        return best

    def install_agent(self) -> None:
        """Bring the agent into the guest, unless the box or an earlier start has brought this version.

        Raises:
            MachineError: the box lacks sudo without a password, or a usable Python.
        """
        connection = self.connected()
        mark = agent_mark(self._state["agent"])
        if connection.run(f"test -e {mark}").exit_code == 0:
            return
        made = connection.run(f"sudo -n install -d -m 0755 -o {USER} {GUEST_HOME} {GUEST_HOME}/builds")
        if made.exit_code != 0:
            raise MachineError(
                f"machine {self._name!r}: {GUEST_HOME} could not be made in the guest ({made.stderr.strip()}); a box "
                f"needs the user {USER} with sudo without a password"
            )
        zipapp = self._state.folder / "agent.pyz"
        zipapp.write_bytes(bundle.zipapp())
        connection.put(zipapp, AGENT_ZIPAPP, 0o644)
        zipapp.unlink()
        unpacked = connection.run(f"{unpack_agent()} && sync && touch {mark}")
        if unpacked.exit_code != 0:
            raise MachineError(
                f"machine {self._name!r}: {PYTHON} does not work in the guest ({unpacked.stderr.strip()}); use a box "
                f"with Python 3.9 or newer, such as the one that `picolab box build` makes"
            )

    def probe(self, pid: int | None, interval_s: float, disk: str | None, output: Path) -> Stream:
        """Start the memory probe on a process; return when its first sample is in `output`, on the host's clock."""
        words = ["--pid", str(pid), "--interval", str(interval_s), "--whole-machine"]
        words += ["--disk", disk] if disk else []
        words += ["--folder", f"{GUEST_HOME}/data", "--folder", f"{GUEST_HOME}/tmp"]
        clock = self._clock = self.read_clock()
        started = self.connected().start(program("memory_probe", *words))
        stream = _GuestStream(started, output, clock, self.read_clock, self.why_down)
        # What happens next shall be sampled from its beginning. A probe that cannot start is noticed by its reader.
        stream.await_first(_PROBE_START_LIMIT_S)
        return stream


class _GuestStream(Stream):
    """The probe in the guest: each sample is put on the host's clock as it arrives."""

    def __init__(
        self,
        program: "RemoteProgram",
        output: Path,
        clock: Clock,
        read_clock: Callable[[], Clock],
        why_down: Callable[[], str | None],
    ) -> None:
        self._program = program
        self._why_down = why_down
        self._clock = clock
        self._read_clock = read_clock
        self._file = output.open("ab", buffering=0)
        self._first = threading.Event()
        self._over = threading.Event()
        self._relayed = program.relay(self._take)
        self._relayed.add_done_callback(lambda _: self._first.set())
        self._relayed.add_done_callback(lambda _: self._over.set())

    def _take(self, line: bytes) -> None:
        with contextlib.suppress(ValueError):
            values = json.loads(line)
            if isinstance(values, list):
                values[0] = round(values[0] - self._clock.ahead_s, 6)
                line = json.dumps(values).encode() + b"\n"
                self._first.set()
        self._file.write(line)
        if line.startswith(b'{"end"'):
            self._over.set()

    def await_first(self, limit_s: float) -> None:
        self._first.wait(limit_s)

    def finish(self, patience_s: float = STATUS_LIMIT_S) -> int | None:
        self._program.close_input()
        deadline = time.monotonic() + patience_s
        down = None
        while not self._over.wait(max(0.0, min(_LOOK_S, deadline - time.monotonic()))):
            down = self._why_down()
            if down is not None or time.monotonic() >= deadline:
                break
        # All is on file now; in a guest without memory sudo and sshd may take long to end after the probe.
        exit_code = self._program.finish(0.0 if down is not None else _END_LIMIT_S, self._why_down)
        if down is not None:
            self._relayed.cancel()
        # However the connection ended: the samples that have arrived are on file, and their last line is missing.
        with contextlib.suppress(Exception, concurrent.futures.CancelledError):
            self._relayed.result(_RELAY_LIMIT_S)
        self._file.close()
        if down is not None or not self._over.is_set():
            # A guest that has not answered so far would be waited for again.
            return exit_code
        with contextlib.suppress(MachineError):
            self.clock_drift_s = self._read_clock().ahead_s - self._clock.ahead_s
        return exit_code
