"""The machines of a campaign at work: trials begin on those that are idle, and the campaign sleeps until one ends.

A plan with one machine is the same loop with one slot. A trial that runs alone begins when no other runs, and no other
begins meanwhile. All others begin in the order of the plan as long as the budget of the host lasts; when they may
measure, they decide among themselves (`picolab.trial.turn`).
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from picolab.campaign.budget import Budget
from picolab.config.order import machine_key
from picolab.config.plan import PlannedTrial
from picolab.errors import MachineBusy, MachineError
from picolab.files.foreign import remove_tree_inside
from picolab.host.processes import this_process
from picolab.jupyter.live_line import last_line
from picolab.jupyter.notebook_process import (
    TrialProcess,
    interrupt,
    trial_fork_server,
    wait_for_one,
)
from picolab.jupyter.trial_context import TrialContext
from picolab.machines import registry
from picolab.machines.kinds import kind_of
from picolab.record.outcomes import Outcome
from picolab.trial.state import PROGRESS_FILE
from picolab.trial.turn import BEGINS, ENDS, Board

if TYPE_CHECKING:
    from picolab.campaign.runner import Campaign

_LIMIT_MARGIN_S = 120.0
_BOARD = ".board"
"""In `running/`; no trial has a name like that."""


class Interrupted(Exception):
    """Somebody asked the campaign to stop."""


class MachineWasKept(Exception):
    """A trial failed and its machine is to stay up: the next trial would need the same machine."""


@dataclass
class _Attempt:
    """A running attempt at a trial.

    Attributes:
        begun_s, deadline_s: on the monotonic clock.
        limit_s: seconds that it may take, without those in which it waits for its turn.
    """

    trial: PlannedTrial
    number: int
    process: TrialProcess
    started_at: datetime
    begun_s: float
    limit_s: float
    deadline_s: float = 0.0

    def __post_init__(self) -> None:
        self.deadline_s = self.begun_s + self.limit_s


@dataclass
class _Slot:
    """A machine, and the trials that it has to run one after another.

    Attributes:
        tries: how often the first of them has been tried.
        up: the trial that has left the machine up for a later one; None while a trial runs, and when it is down.
    """

    machine: str
    trials: deque[PlannedTrial] = field(default_factory=deque)
    tries: int = 0
    attempt: _Attempt | None = None
    up: PlannedTrial | None = None


class Slots:
    """The machines of a campaign.

    Args:
        campaign: whose trials run.
        machines: their names.
    """

    def __init__(self, campaign: "Campaign", machines: Iterable[str]) -> None:
        self._campaign = campaign
        self._slots = [_Slot(name) for name in machines]
        self._waiting: deque[list[PlannedTrial]] = deque()
        self._budget: Budget | None = None
        self._kept = self._interrupted = False
        self._fork_server = trial_fork_server(trial.parameters.machine for trial in campaign.plan.trials)

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the trials that run."""
        return tuple(slot.attempt.trial.trial_id for slot in self._slots if slot.attempt is not None)

    @property
    def first_unfinished_block(self) -> int | None:
        """The first block with a trial that runs or has not begun; None when all have ended."""
        left = [group[0] for group in itertools.islice(self._waiting, 1)]
        left += [trial for slot in self._slots for trial in slot.trials]
        return min((trial.block for trial in left), default=None)

    @property
    def last_begun_block(self) -> int:
        """The last block of which a trial runs, or belongs to one that does; 0 when nothing runs."""
        return max((trial.block for slot in self._slots for trial in slot.trials), default=0)

    def forget_after(self, block: int) -> None:
        """Forget the trials of later blocks; those that run continue."""
        self._waiting = deque(group for group in self._waiting if group[0].block <= block)

    def run(self, groups: Iterable[list[PlannedTrial]], settled: Callable[[], None] = lambda: None) -> None:
        """Run trials that belong together on one machine each; return when all have ended.

        Args:
            settled: is called when a trial has a result, or no further try.

        Raises:
            Interrupted: somebody asked the campaign, or a trial, to stop. What had ended is filed.
            MachineWasKept: a machine stays up for debugging. Trials on others have ended.
        """
        self._waiting = deque(groups)
        if len(self._slots) > 1:
            self._budget = Budget.of_host()
            self._board_folder.mkdir(parents=True, exist_ok=True)
            for slot in self._slots:
                Board(self._board_folder, slot.machine).idle("")
        self._kept = self._interrupted = False
        try:
            while True:
                if self._interrupted or self._campaign.watcher.stop_requested():
                    self._stop()
                    raise Interrupted
                if not self._kept:
                    self._begin()
                busy = [slot for slot in self._slots if slot.attempt is not None]
                if not busy:
                    break
                self._sleep(busy)
                for slot in busy:
                    if self._has_ended(slot) and not self._campaign.watcher.stop_requested():
                        self._end(slot, settled)
            if self._kept:
                raise MachineWasKept
        finally:
            for slot in self._slots:
                if slot.attempt is not None:
                    slot.attempt.process.kill()
            self._waiting.clear()

    def close(self) -> None:
        """Take down the machines, unless they are kept, and the process that starts the trials.

        A machine that cannot be taken down is named.
        """
        self._fork_server.close()
        for slot in self._slots:
            if not is_kept(slot.machine):
                self._take_down(slot, "")
        remove_tree_inside(self._campaign.folder, self._board_folder)

    @property
    def _board_folder(self) -> Path:
        return self._campaign.filing.running / _BOARD

    def _board(self, slot: _Slot) -> Board | None:
        return Board(self._board_folder, slot.machine) if len(self._slots) > 1 else None

    # Begin

    def _begin(self) -> None:
        """Begin trials in the order of the plan, until one has to wait."""
        while (idle := [slot for slot in self._slots if slot.attempt is None]) and (self._waiting or self._has_more()):
            running = [slot.attempt.trial for slot in self._slots if slot.attempt is not None]
            begun = [slot for slot in idle if slot.trials]
            free = self._free([slot for slot in idle if not slot.trials])
            slot = min(begun, key=lambda one: one.trials[0].position, default=None)
            if (slot is None or self._comes_first(slot)) and free is not None:
                slot, trial = free, self._waiting[0][0]
            elif slot is not None:
                trial = slot.trials[0]
            else:
                return
            if not self._may_begin(trial, running):
                return
            if not slot.trials:
                slot.trials, slot.tries = deque(self._waiting.popleft()), 0
            slot.up = None
            self._make_room([trial, *running])
            self._start(slot)

    def _free(self, slots: list[_Slot]) -> _Slot | None:
        """Return the slot for the next waiting group: one whose machine fits it as it is, or else one without."""
        if not self._waiting:
            return None
        key = machine_key(self._waiting[0][0].parameters)

        def cost(slot: _Slot) -> int:
            if slot.up is None:
                return 1
            return 0 if machine_key(slot.up.parameters) == key else 2

        return min(slots, key=cost, default=None)

    def _make_room(self, trials: list[PlannedTrial]) -> None:
        """Take down machines that no trial uses now, as far as these trials run alone or need their RAM."""
        for slot in self._slots:
            if slot.up is None:
                continue
            idle_mb = sum(other.up.parameters.ram_mb for other in self._slots if other.up is not None)
            fits = self._budget is None or self._budget.fits((one.parameters for one in trials), idle_mb)
            if not fits or any(one.parameters.runs_alone for one in trials):
                board = self._board(slot)
                if board is not None:
                    board.works(slot.up.trial_id, ENDS)
                self._take_down(
                    slot,
                    f"it may run next to the trial {trials[0].trial_id}; this is tried again when the campaign ends",
                )
                if board is not None:
                    board.idle(slot.up.trial_id)
                slot.up = None

    def _take_down(self, slot: _Slot, then: str = "this is tried again when the campaign ends") -> None:
        """Take a machine down, or note why that failed: what was measured, and other machines, do not depend on it."""
        try:
            _release(slot.machine)
        except (MachineError, OSError) as error:
            self._campaign.watcher.note(f"{registry.not_taken_down(slot.machine, error, then)}.")

    def _has_more(self) -> bool:
        return any(slot.trials for slot in self._slots)

    def _comes_first(self, slot: _Slot) -> bool:
        """Return whether a waiting group is before the next trial of a slot in the plan."""
        return bool(self._waiting) and self._waiting[0][0].position < slot.trials[0].position

    def _may_begin(self, trial: PlannedTrial, running: list[PlannedTrial]) -> bool:
        if not running:
            return True
        if any(one.parameters.runs_alone for one in (trial, *running)):
            return False
        return self._budget is None or self._budget.fits(one.parameters for one in (trial, *running))

    def _start(self, slot: _Slot) -> None:
        campaign, trial = self._campaign, slot.trials[0]
        number = campaign.next_attempt(trial)
        board = self._board(slot)
        if board is not None:
            board.works(trial.trial_id, BEGINS)
        parameters = trial.parameters
        limit_s = 2 * parameters.ready_limit_s + 3 * parameters.upload_limit_s + _LIMIT_MARGIN_S
        limit_s += kind_of(parameters.machine).make_limit_s(parameters)
        on_step = campaign.watcher.step
        started_at, begun_s = datetime.now(UTC), time.monotonic()
        process = TrialProcess(
            parameters.model_copy(update={"machine_name": slot.machine}),
            TrialContext(
                folder=campaign.filing.running_folder(trial),
                trial_id=trial.trial_id,
                owner=this_process().to_json(),
                campaign=campaign.plan.campaign,
                block=trial.block,
                position=trial.position,
                attempt=number,
                board=None if board is None else board.folder,
            ),
            self._fork_server,
            None if on_step is None else lambda line: on_step(trial, line),
        )
        slot.attempt = _Attempt(trial, number, process, started_at, begun_s, limit_s)
        self._show(slot.attempt)

    # While they run

    def _sleep(self, busy: list[_Slot]) -> None:
        """Sleep until a trial has ended, or has run for too long, or a signal has come."""
        attempts = [slot.attempt for slot in busy if slot.attempt is not None]
        refresh_s = self._campaign.watcher.refresh_s
        left_s = min(attempt.deadline_s for attempt in attempts) - time.monotonic()
        ended = wait_for_one([attempt.process for attempt in attempts], min(left_s, refresh_s or left_s))
        if not ended and refresh_s is not None:
            self._show(min(attempts, key=lambda attempt: attempt.begun_s))

    def _show(self, attempt: _Attempt) -> None:
        watcher = self._campaign.watcher
        line = "" if watcher.refresh_s is None else last_line(attempt.process.folder / PROGRESS_FILE)
        watcher.progress(self._campaign.progress(attempt.trial, attempt.number, line))

    def _has_ended(self, slot: _Slot) -> bool:
        """Return whether a trial has ended or is late; the time in which it waited for its turn does not count."""
        attempt = slot.attempt
        if attempt is None:
            return False
        board = self._board(slot)
        if board is not None and not attempt.process.ended and time.monotonic() > attempt.deadline_s:
            attempt.deadline_s = attempt.begun_s + attempt.limit_s + board.slept_s(attempt.begun_s)
        return attempt.process.ended or time.monotonic() > attempt.deadline_s

    def _stop(self) -> None:
        """Have all trials end after cleaning up, and file what comes of them."""
        busy = [slot for slot in self._slots if slot.attempt is not None]
        stopped = [slot for slot in busy if slot.attempt and not slot.attempt.process.ended]
        interrupt([slot.attempt.process for slot in stopped if slot.attempt])
        for slot in busy:
            fault = (Outcome.INTERRUPTED, "the campaign was stopped while this trial ran") if slot in stopped else None
            self._end(slot, lambda: None, fault)

    # End

    def _end(self, slot: _Slot, settled: Callable[[], None], fault: tuple[Outcome, str] | None = None) -> None:
        """Settle an attempt that has ended or takes too long."""
        attempt, campaign = slot.attempt, self._campaign
        assert attempt is not None
        process = attempt.process
        if not process.ended and fault is None:
            interrupt([process])
            fault = Outcome.MACHINE_FAILED, f"the trial's process did not end within {attempt.limit_s:.0f} s"
        killed = process.ended_by()
        if process.lost_fork_server and fault is None:
            fault = Outcome.INVALID, "the fork server was killed, and so the trial ended"
        process.kill()
        slot.attempt = None
        board = self._board(slot)
        if board is not None:
            board.works(attempt.trial.trial_id, ENDS)
        duration_s = time.monotonic() - attempt.begun_s
        kept = is_kept(slot.machine)
        entry = campaign.settle(
            attempt.trial, attempt.number, attempt.started_at, duration_s, fault, killed, keeps_folder=kept
        )
        machine = registry.attach(slot.machine)
        # After a fault the machine may have been the reason.
        is_done = entry.outcome.is_fault or machine is None or not kind_of(machine.kind).reused_between_trials
        if machine is not None and not machine.kept and is_done:
            self._take_down(slot)
        slot.up = None if is_done else attempt.trial
        slot.tries += 1
        if not entry.outcome.is_fault or slot.tries > campaign.plan.fault_retries:
            slot.trials.popleft()
            slot.tries = 0
            settled()
        if board is not None:
            board.idle(attempt.trial.trial_id)
        self._interrupted |= entry.outcome is Outcome.INTERRUPTED
        self._kept |= kept


def is_kept(machine: str) -> bool:
    """Return whether a machine of that name stays up for debugging."""
    found = registry.attach(machine)
    return found is not None and found.kept


def _release(machine: str) -> None:
    with suppress(MachineBusy):
        # Somebody may have taken a machine of this name meanwhile: then it is theirs.
        registry.check_free(machine)
        registry.release_by_name(machine)
