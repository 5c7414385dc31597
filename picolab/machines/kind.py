"""A kind of machine: everything that the rest of picolab asks before, without or about a machine of that kind.

A declaration is light and imports nothing that is slow. The code that does the work is imported inside the methods,
when it is used. A new kind is a folder with such a declaration, and one line in `kinds.py`.
"""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from picolab.config.sizes import MIB
from picolab.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from picolab.config.trial_parameters import TrialParameters
    from picolab.host.finding import Check
    from picolab.host.leftovers import LeftoverKind
    from picolab.machines.base import Holder, Machine, MachineWish


@dataclass(frozen=True)
class HostDisk:
    """The disk of this host that a trial fills.

    Attributes:
        name: in a few words, or its path.
        free_bytes: None when that is not known yet.
        advice: where else the data could go, as the end of a sentence; empty when there is no other place.
    """

    name: str
    free_bytes: int | None
    advice: str = ""


_MERGED = re.compile(r"/(s?bin|lib[^/]*)/")
"""Folders that are links into /usr on a system whose /usr is merged."""


@dataclass(frozen=True)
class GuestSystem:
    """The system in a guest, as far as it decides whether a program can start.

    Attributes:
        processor: as `uname -m` prints it.
        files: paths of programs, dynamic loaders and libraries below /usr; empty: unknown.
        complete: whether these are all of them, and not only the loaders.
        glibc: its version, such as (2, 36); empty: unknown.
    """

    processor: str
    files: frozenset[str] = frozenset()
    complete: bool = False
    glibc: tuple[int, ...] = ()

    def has(self, path: str) -> bool:
        """Return whether a file is there."""
        return path in self.files or (bool(_MERGED.match(path)) and f"/usr{path}" in self.files)

    def has_command(self, name: str) -> bool:
        """Return whether a program of that name is found by a search."""
        return any(f"/usr/{folder}/{name}" in self.files for folder in ("bin", "sbin", "local/bin", "local/sbin"))

    def has_library(self, name: str) -> bool:
        """Return whether a library of that name is there."""
        return name in self._libraries

    @functools.cached_property
    def _libraries(self) -> frozenset[str]:
        return frozenset(path.rpartition("/")[2] for path in self.files if path.startswith("/usr/lib"))


@dataclass(frozen=True)
class Foreseen:
    """A machine as a plan foresees it for a trial.

    Attributes:
        way: how it will be reached.
        key: the `change_key` of the trial.
        fresh_for: what it is fresh for.
        saved: name and MiB of RAM of its saved states, the oldest first.
    """

    way: Literal["boot", "restore", "cleaned up"]
    key: tuple[Any, ...] | None = None
    fresh_for: str = ""
    saved: tuple[tuple[str, int], ...] = ()


class MachineKind(ABC):
    """A kind of machine. Its methods know the machines of this kind only."""

    name: ClassVar[str]
    """The value of the parameter `machine`."""
    meaning: ClassVar[str]
    """What it is, in a few words."""
    is_virtual: ClassVar[bool]
    """It has a kernel and a disk of its own: `MachineRecord.virtual_machine` describes it."""
    memory_limit_methods: ClassVar[tuple[str, ...]]
    """How its memory is limited: values of `MemoryLimit.method`."""
    reused_between_trials: ClassVar[bool]
    """A trial that ended well leaves it up for the next one."""
    shows_progress: ClassVar[bool]
    """Making it takes long enough to show lines of progress."""
    ready_poll_s: ClassVar[float]
    """Seconds between two looks at a server that is starting. Each look takes time from the server."""
    assumed_boot_s: ClassVar[float]
    """Seconds of a boot in an estimate, where none was measured; 0: it needs none."""
    assumed_restore_s: ClassVar[float]
    """Seconds to restore a saved state in an estimate, where that was not measured; 0: it has none."""
    assumed_change_s: ClassVar[float]
    """The same, when the trial before had another RAM or another number of processors."""
    assumed_overhead_s: ClassVar[float]
    """Seconds of a trial besides boot, upload and verification in an estimate, where none was measured."""
    smallest_ram_mb: ClassVar[int]
    """The smallest memory that it can have, in MiB."""
    ram_step_mb: ClassVar[float]
    """Its memory is a multiple of this, in MiB."""
    imports: ClassVar[tuple[str, ...]]
    """The modules that its trials need and that take long to import. A campaign imports them once."""

    @abstractmethod
    def why_unfit(self, parameters: TrialParameters) -> str | None:
        """Return why these parameters make no sense on this kind, one sentence with the remedy; None if they do."""

    @abstractmethod
    def change_key(self, parameters: TrialParameters) -> tuple[Any, ...] | None:
        """Return a value that differs when the machine must be rebooted or made anew between two trials.

        A plan groups trials by it. None: a change costs nothing.
        """

    def foresee(self, parameters: TrialParameters, fresh_for: str, before: Foreseen | None) -> Foreseen:
        """Return how the machine of a trial will be reached.

        Args:
            fresh_for: what needs a fresh machine; with the same text it is reused. Empty: it need not be fresh.
            before: the answer for the trial before; None when there is no machine of this kind yet.
        """
        return Foreseen("cleaned up")

    def processors(self, parameters: TrialParameters) -> int:
        """Return how many processors of this host a machine for a trial needs."""
        return 1

    @abstractmethod
    def make_limit_s(self, parameters: TrialParameters) -> float:
        """Return the seconds that a trial may need to get its machine, on top of its other limits."""

    # Before a campaign

    @abstractmethod
    def check_host(self, wanted: Sequence[TrialParameters]) -> None:
        """Do nothing if this host can make the machines of these trials.

        Raises:
            HostUnfit: it cannot; the message names what is missing.
        """

    def largest_ram_mb(self) -> int:
        """Return the largest memory that a machine can have, in MiB: that of this host."""
        from picolab.host.facts import memory_info

        return memory_info()["MemTotal"] // MIB

    @abstractmethod
    def checks(self) -> tuple[Check, ...]:
        """Return what the doctor looks at for this kind, in the order of importance."""

    @abstractmethod
    def disk_key(self, parameters: TrialParameters) -> str:
        """Return a text that is the same for trials that fill the same disk."""

    @abstractmethod
    def host_disk(self, parameters: TrialParameters) -> HostDisk:
        """Return the disk of this host that a trial fills.

        Raises:
            HostUnfit: nothing can be written there.
        """

    def guest_system(self, parameters: TrialParameters) -> GuestSystem | None:
        """Return the system in which a trial's server will run; None when it is this host's, or unknown."""
        return None

    # The machines that exist, by their folder in `.picolab/machines/`

    @abstractmethod
    def obtain(self, wish: MachineWish, holder: Holder) -> Machine:
        """Return the wanted machine: the one of that name if it fits and nobody else holds it, else a new one.

        Raises:
            MachineBusy: a living process holds it.
            HostUnfit: this host cannot make such a machine.
            MachineError: it could not be made.
        """

    @abstractmethod
    def attach(self, folder: Path) -> Machine | None:
        """Return the machine if it is up and has a keeper, without taking hold of it."""

    @abstractmethod
    def exists(self, folder: Path) -> bool:
        """Return True when the machine is more than a folder with what a dead one left."""

    @abstractmethod
    def server_of(self, folder: Path) -> str:
        """Return where the machine's server is, such as `pid 42`; `none` when there is none.

        Raises:
            MachineError: the machine does not answer.
        """

    @abstractmethod
    def way_in(self, folder: Path) -> str | None:
        """Return the command with which a person gets into the machine; None when it is this host."""

    def state(self, folder: Path, limit_s: float) -> str:
        """Return `running`, `suspended`, `off`, `not created`, or another word for a machine that has a folder.

        Raises:
            MachineError: that is not known after `limit_s` seconds.
        """
        return "running" if self.exists(folder) else "off"

    def ssh_words(self, folder: Path) -> list[str]:
        """Return the command that logs in to the machine; the words of a command to run there may follow.

        Raises:
            ParameterError: the machine is this host.
            HostUnfit: it does not run.
        """
        raise ParameterError(
            f"machine {folder.name!r}: it is {self.meaning} on this host, so there is nothing to log in to"
        )

    def halt(self, folder: Path, report: Callable[[str], None] | None = None) -> bool:
        """Have the machine shut down, and return when it is off; return False when it did not run.

        Args:
            report: gets a line while another process makes the machine or takes it down.

        Raises:
            ParameterError: a machine of this kind has no power to turn off.
            MachineBusy: a process that is alive holds it.
            MachineError: it did not shut down.
        """
        raise ParameterError(
            f"machine {folder.name!r}: it is {self.meaning} on this host, which cannot be powered off; take it down "
            f"with: picolab machines remove {folder.name}"
        )

    def start(self, folder: Path, report: Callable[[str], None] | None = None) -> bool:
        """Boot a machine that is off, or resume a suspended one, as it was left; return False when it ran.

        It has been reached when this returns.

        Args:
            report: as in `halt`; gets the lines of the boot as well.

        Raises:
            ParameterError: a machine of this kind has no power to turn on.
            MachineBusy: a process that is alive holds it.
            MachineError: it did not boot.
        """
        raise ParameterError(
            f"machine {folder.name!r}: it is {self.meaning} on this host, which cannot be powered on; run a trial to "
            f"get one"
        )

    def why_silent(self, limit_s: float) -> str | None:
        """Return why nothing is known of the machines of this kind; None when the daemon answers, or there is none.

        Args:
            limit_s: seconds after which an answer is not waited for any more.
        """
        return None

    def saved_states_mb(self, folder: Path) -> list[int]:
        """Return the MiB of RAM of each saved state of a machine, the oldest first; empty when it has none."""
        return []

    def by_hand(self, folder: Path) -> str | None:
        """Return a line of shell with which the program that made the machine is used on it; None without one."""
        return None

    def foreign_guests(self, limit_s: float) -> list[str]:
        """Return the guests of this kind that run on this host and are no machines of this state folder.

        Raises:
            MachineError: that is not known after `limit_s` seconds.
        """
        return []

    def is_worth_keeping(self, folder: Path) -> bool:
        """Return whether there is something in the machine that a person may want to look at."""
        return self.exists(folder)

    @abstractmethod
    def release(self, folder: Path, report: Callable[[str], None] | None = None) -> None:
        """Take the machine down, whoever holds it.

        Args:
            report: gets a line while another process makes it or takes it down.

        Raises:
            MachineError: something of it could not be removed.
        """

    @abstractmethod
    def is_abandoned(self, folder: Path) -> bool:
        """Return True when nothing looks after the machine any more, so that `sweep` would remove it."""

    @abstractmethod
    def sweep(self, folder: Path) -> bool:
        """Remove the machine if it is abandoned; return whether it was.

        Raises:
            MachineError: something of it could not be removed.
        """

    def sweep_lost(self) -> list[str]:
        """Remove what machines without a folder have left, and return its names."""
        return []

    @abstractmethod
    def leftovers(self) -> tuple[LeftoverKind, ...]:
        """Return the kinds of things that dead machines may have left beyond their folders."""
