"""Progress of a running campaign, and the callbacks that receive it."""

from collections.abc import Callable
from dataclasses import dataclass

from picolab.config.plan import PlannedTrial
from picolab.results.ledger import LedgerEntry


@dataclass
class Progress:
    """How far a campaign is.

    Attributes:
        total: trials that the campaign needs.
        done: trials with a result.
        eta_s: expected seconds until the end; None before the first trial has ended.
        current: the trial that is running.
        attempt: number of the attempt at it.
        line: the trial's own line of progress; empty when it has none.
        running: the ids of all trials that run on this host.
    """

    total: int
    done: int
    eta_s: float | None = None
    current: PlannedTrial | None = None
    attempt: int = 1
    line: str = ""
    running: tuple[str, ...] = ()


@dataclass
class Watcher:
    """Callbacks of a running campaign, called from its own thread."""

    progress: Callable[[Progress], None] = lambda _: None
    """Called when an attempt begins, and then every `refresh_s`."""
    ended: Callable[[LedgerEntry, Progress], None] = lambda _entry, _progress: None
    waiting: Callable[[str], None] = lambda _line: None
    note: Callable[[str], None] = lambda _line: None
    stop_requested: Callable[[], bool] = lambda: False
    step: Callable[[PlannedTrial, str], None] | None = None
    """Receives each step of the boot of a trial's machine; None: nobody wants them."""
    refresh_s: float | None = None
    """Interval of `progress` while a trial runs; None: never."""
