"""A kind of machine: everything that the rest of picolab asks before, without or about a machine of that kind.

A declaration is light and imports nothing that is slow. The code that does the work is imported inside the methods,
when it is used. A new kind is a folder with such a declaration, and one line in `kinds.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence
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

    @abstractmethod
    def release(self, folder: Path) -> None:
        """Take the machine down, whoever holds it.

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
