"""The protocol between a trial and the machine in which its server runs.

A machine knows nothing about the server under test: it runs an executable with limited memory, reports its state, and
takes everything down again. Paths in `ProcessSpec` are paths inside the machine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from picolab.host.processes import ProcessIdentity
from picolab.machines.kinds import DEFAULT_KIND
from picolab.record.machine import MachineRecord


@dataclass(frozen=True)
class MachineWish:
    """The machine that a trial wants.

    Attributes:
        name: the machine's name, unique among machines that exist at the same time.
        ram_mb: memory in MiB.
        memory_limit: `enforced`, or `none` for an unlimited run.
        work_dir: folder for data folder and TMPDIR; empty: next to the machine's state. `local` only.
        kind: a name in `KINDS`; the rest is for a virtual machine only.
        cpus: processors.
        box: the image that it is made of; empty: picolab's own where it was built, else a public one.
        provider: what Vagrant makes it with.
        boot_limit_s: seconds that a boot may take.
        fresh_for: names what the machine shall be fresh for (a trial, a block): another name than before means
            that cleaning up is not enough, and that the guest is put back to the state after its boot.
        save_state: save the state after each boot, so that no memory size has to be booted twice.
        log: file that gets what Vagrant said while the machine was brought into this state.
        report: is called with a line now and then while that takes long.
    """

    name: str
    ram_mb: float
    memory_limit: Literal["enforced", "none"]
    work_dir: str
    kind: str = DEFAULT_KIND
    cpus: int = 1
    box: str = ""
    provider: Literal["libvirt", "virtualbox"] = "libvirt"
    boot_limit_s: float = 300.0
    fresh_for: str = ""
    save_state: bool = False
    log: Path | None = None
    report: Callable[[str], None] | None = None


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
        on_loopback: it listens on its loopback interface alone, so that a network of its own would keep out this host
            too.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    on_loopback: bool = False


@dataclass(frozen=True)
class ProcessStatus:
    """How the process in the machine is.

    Attributes:
        pid: in the machine; None when none was started.
        started_monotonic_s, ended_monotonic_s: on the host's monotonic clock.
        stop_s: seconds from SIGTERM to its end, when it was stopped.
        oom_kills: at the machine's memory limit since this process was started; None when nobody counts them.
        oom_evidence: the line of the kernel's log that names this process, when there is one.
    """

    pid: int | None
    running: bool
    exit_code: int | None
    exit_signal: str | None
    started_monotonic_s: float | None
    ended_monotonic_s: float | None
    stop_s: float | None
    oom_kills: int | None
    oom_evidence: str | None = None


class Stream(Protocol):
    """A program that runs in the machine next to the server and writes lines to a file on the host.

    It ends when its standard input is closed, which also happens when the process that started it is killed.
    """

    clock_drift_s: float | None = None
    """By how much the machine's clock moved against the host's while the program ran; None for the host's own clock."""

    def finish(self, patience_s: float = 10.0) -> int | None:
        """Close its input, wait until it has ended, and return its exit code (negative: a signal; None: unknown)."""


class Machine(Protocol):
    """A place with limited memory in which one server runs."""

    kind: str
    name: str
    listen_address: str
    """Where a server in the machine must listen so that the host can reach it."""
    folder: Path
    """The machine's state on the host; private files of a trial may lie here and vanish with the machine."""
    python: str
    """A python3 in the machine."""
    reused: bool

    @property
    def kept(self) -> bool:
        """True when the machine outlives its holder for a while, so that somebody may re-attach."""

    @property
    def way_in(self) -> str | None:
        """How a person gets into the machine; None when it is this host."""

    def describe(self) -> MachineRecord:
        """Return what the record says about the machine."""

    def own_processes(self) -> frozenset[int]:
        """Return the pids on this host that run the machine; with their descendants they are all of it.

        Raises:
            MachineError: they were not found, so that its CPU time cannot be told from that of other programs.
        """

    @property
    def work_folder(self) -> Path | None:
        """The folder on this host that holds data folder and TMPDIR; None when they are on a virtual disk."""

    def install(self, executable: Path) -> str:
        """Bring an executable into the machine and return its path there."""

    def fresh_folders(self) -> tuple[str, str]:
        """Empty and return (data folder, TMPDIR), both on the machine's disk."""

    def free_port(self) -> int:
        """Return a port that nobody listens on at this moment."""

    def listener(self, port: int) -> Literal["nobody", "server", "loopback", "other"]:
        """Return who listens on a port: nobody, the server or a process that it has started, or something else.

        `loopback` is a server that listens on loopback alone in a network of its own: this host does not reach it.
        """

    def endpoint(self, port: int) -> tuple[str, int]:
        """Return the address and the port at which the host reaches a port of the machine."""

    def exposed_addresses(self, port: int) -> list[str]:
        """Return the addresses of this host at which others may reach the server, such as `0.0.0.0:4001`.

        There are none where the server is not in this host's own network.
        """

    def start_process(self, spec: ProcessSpec) -> ProcessStatus:
        """Start the server under the memory limit, detached from the caller."""

    def process_status(self) -> ProcessStatus: ...

    def process_anon_bytes(self) -> int | None:
        """Return the server's anonymous memory at this moment; None when the kernel does not say."""

    def process_log(self) -> str:
        """Return what this server has printed so far (its last 64 KiB)."""

    def save_log(self) -> None:
        """Bring what this server has printed so far to the file on the host that `ProcessSpec.log` names."""

    def stop_process(self, grace_s: float) -> ProcessStatus:
        """SIGTERM, after `grace_s` seconds SIGKILL; return when the process is gone."""

    def drop_page_cache(self) -> str | None:
        """Empty the page cache: None when it is done, else a sentence that says why it could not be.

        Whether it is done is looked up: the pages of the data folder's files are counted afterwards (mincore(2)).
        Dirty pages are written first. Pages count for the memory cgroup of the process that has read or written
        them, but the kernel can drop those of the whole machine only: on the local machine that of all programs of
        this host, which read their files anew. In a virtual machine it is the guest's cache alone; the host may
        still hold parts of its disk in memory.
        """

    def lift_memory_limit(self) -> str | None:
        """Let the server use all memory for a step that is not measured: None when done, else why that cannot be."""

    def restore_memory_limit(self) -> str | None:
        """Put a lifted limit back without harm to the server: None when it holds, else why it could not be done.

        Page cache beyond the limit is given up by the kernel; what the server itself holds beyond it is not. A limit
        that was never lifted holds. When nobody calls this, the next stage or the next server begins with it.
        """

    def sync_data(self) -> float:
        """Bring what the server has written into its data folder to the disk; return the seconds that took.

        It is fsync of every file and folder there, because that waits for this server's data, where syncfs waits
        for what any program has written to the file system. A server may have synced most of it itself before
        that, and the kernel writes old dirty pages on its own.

        The time is taken in the machine: that of the way to a guest and back is not in it, which also means that a
        guest has had that long to write before the clock starts (see `clock_uncertainty_s` in the record). "Disk"
        is what the kernel takes for one: a disk's own cache is flushed, a virtual disk's as far as its host does so.

        Raises:
            MachineError: it could not be done; the sentence says why. So with a data folder that lies in memory.
        """

    def files_bytes(self) -> int:
        """Return the disk space that the files in data folder and TMPDIR take now.

        Raises:
            MachineError: they cannot be read.
        """

    def probe(self, interval_s: float, output: Path) -> Stream:
        """Start the memory probe on the server process; return when its first sample is in `output`."""

    def hold(self, holder: Holder) -> None:
        """Say who answers for the machine from now on."""

    def hand_back(self) -> None:
        """Give the machine back to whoever answers for it, for its next trial; it may be taken down instead."""

    def release(self) -> None:
        """Take everything down: process, limit, folders, state. May be called twice."""
