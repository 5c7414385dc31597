"""What every machine can do: the protocol between a trial and the place where its server runs.

A machine knows nothing about PicoShare: it runs an executable with limited memory, says how it is, and takes
everything down again. Paths in `ProcessSpec` are paths inside the machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

from picolab.processes import ProcessIdentity
from picolab.record import MachineRecord


@dataclass(frozen=True)
class MachineWish:
    """The machine that a trial wants.

    Attributes:
        name: the machine's name, unique among machines that exist at the same time.
        ram_mb: memory in MiB.
        memory_limit: `enforced`, or `none` for an unlimited run.
        work_dir: folder for data folder and TMPDIR; empty: beside the machine's state.
    """

    name: str
    ram_mb: int
    memory_limit: Literal["enforced", "none"]
    work_dir: str


@dataclass(frozen=True)
class Holder:
    """Who answers for a machine.

    Attributes:
        process: the process whose end means that nobody holds the machine any more.
        keep: what happens then: kept for a while so that somebody may re-attach, or taken down at once.
    """

    process: ProcessIdentity
    keep: bool


@dataclass(frozen=True)
class ProcessSpec:
    """A process to start in a machine.

    Attributes:
        argv: executable and arguments; never a secret, since everybody on the machine can read them.
        env: the whole environment.
        log: file on the host that gets what the process prints.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path


@dataclass(frozen=True)
class ProcessStatus:
    """How the process in the machine is.

    Attributes:
        pid: in the machine; None when none was started.
        started_monotonic_s, ended_monotonic_s: on the host's monotonic clock.
        stop_s: seconds from SIGTERM to its end, when it was stopped.
        oom_kills: at the machine's memory limit since this process was started; None when nobody counts them.
    """

    pid: int | None
    running: bool
    exit_code: int | None
    exit_signal: str | None
    started_monotonic_s: float | None
    ended_monotonic_s: float | None
    stop_s: float | None
    oom_kills: int | None


@dataclass
class Stream:
    """A program that runs in the machine beside the server and writes lines to a file on the host.

    It ends when its standard input is closed, which also happens when the process that started it is killed.
    """

    stdin: IO[bytes]
    pid: int | None

    def finish(self, patience_s: float = 10.0) -> int:
        """Close its input, wait until it has ended, and return its exit code (negative: a signal)."""
        raise NotImplementedError


class Machine(Protocol):
    """A place with limited memory in which one server runs."""

    kind: str
    name: str
    address: str
    """Where the host reaches a port of the machine."""
    folder: Path
    """The machine's state on the host; private files of a trial may lie here and vanish with the machine."""
    python: str
    """A python3 in the machine."""
    reused: bool

    def describe(self) -> MachineRecord:
        """Return what the record says about the machine."""

    def install(self, executable: Path) -> str:
        """Bring an executable into the machine and return its path there."""

    def fresh_folders(self) -> tuple[str, str]:
        """Empty and return (data folder, TMPDIR), both on the machine's disk."""

    def free_port(self) -> int:
        """Return a port that nobody listens on at this moment."""

    def listener(self, port: int) -> Literal["nobody", "server", "other"]:
        """Tell who listens on a port: nobody, the machine's server process, or something else."""

    def start_process(self, spec: ProcessSpec) -> ProcessStatus:
        """Start the server under the memory limit, detached from the caller."""

    def process_status(self) -> ProcessStatus: ...

    def process_anon_bytes(self) -> int | None:
        """Return the server's anonymous memory at this moment; None when the kernel does not say."""

    def process_log(self) -> str:
        """Return what this server has printed so far (its last 64 KiB)."""

    def stop_process(self, grace_s: float) -> ProcessStatus:
        """SIGTERM, after `grace_s` seconds SIGKILL; return when the process is gone."""

    def probe(self, interval_s: float, output: Path) -> Stream:
        """Start the memory probe on the server process; return when its first sample is in `output`."""

    def hold(self, holder: Holder) -> None:
        """Say who answers for the machine from now on."""

    def release(self) -> None:
        """Take everything down: process, limit, folders, state. May be called twice."""
