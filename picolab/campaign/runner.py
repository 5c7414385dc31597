"""A campaign: the execution of a plan, its folder and its state; a measured result is never lost.

    outputs/<campaign>/
        plan.json        the plan, frozen
        begun.json       plan, builds and host as they were when it began
        ledger.jsonl     one line for each attempt
        starts.jsonl     one line for each start: how long it waited for an idle host, and whether it found one
        stopped.json     after which block `repeats: auto` had enough or a budget was spent, and why
        results.csv      one row for each result, added when a trial ends
        running/         the trial that is running now
        trials/          <trial_id>.ipynb, .record.json, .samples.jsonl, .server.log of each result
        faults/          the same for each fault of the instrument, with the attempt's number
        set-aside/       files that were in the way and may still matter

The campaign sleeps while a trial runs: nothing of it may work during a measured step.

A trial counts when its record is valid. Then its files are renamed into `trials/`, and the ledger gets a line.
However a campaign dies, the next start files the trials that were already measured, takes down machines that nobody
holds, and continues.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from picolab.analysis.floor_search import floors_of
from picolab.campaign.changes import check_blocks, check_unchanged
from picolab.campaign.filing import FAULTS, RUNNING, TRIALS, Filing
from picolab.campaign.growth import Growth, grow, unfinished_words
from picolab.campaign.preflight import check_plan
from picolab.campaign.progress import Progress, Watcher
from picolab.campaign.slots import Interrupted, MachineWasKept, Slots
from picolab.campaign.stopping import interval_widths, why_enough, why_over_budget
from picolab.campaign.tally import Tally
from picolab.config.plan import PLAN_FILE, Plan, PlannedTrial, together
from picolab.config.project import in_command, outputs_dir
from picolab.errors import (
    CampaignBusy,
    HostBusy,
    ParameterError,
    UnreadableFile,
)
from picolab.exit_codes import ExitCode
from picolab.files.foreign import refuse_links
from picolab.files.set_aside import SET_ASIDE
from picolab.host.idleness import wait_for_idle
from picolab.jupyter.notebook_process import NOTEBOOK_FILE
from picolab.jupyter.trial_template import check_trial_notebook
from picolab.machines import registry
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.results import begun_file
from picolab.results.folders import LOCK_FILE, check_name, locked
from picolab.results.ledger import LEDGER_FILE, Ledger, LedgerEntry
from picolab.results.results_csv import append_result, write_results
from picolab.results.rows import record_row
from picolab.results.standing import RESULTS_FILE, Standing, read_standing
from picolab.results.starts_file import STARTS_FILE, note_start
from picolab.results.stop_file import STOPPED_FILE, note_stop
from picolab.text.wording import counted, duration
from picolab.trial.state import RECORD_FILE

_WRITTEN = (
    *(TRIALS, FAULTS, RUNNING, SET_ASIDE),
    *(LOCK_FILE, LEDGER_FILE, RESULTS_FILE, STOPPED_FILE, begun_file.BEGUN_FILE, STARTS_FILE),
)
"""Everything that a campaign writes into its folder; none of it may be a link to another place."""


@dataclass
class Campaign:
    """One execution of a plan.

    Attributes:
        machine_name: of the machine that its trials use; of several, the part before their numbers.
        earlier_attempts: at trials of the plan, made where this campaign's ledger does not know of them.
    """

    folder: Path
    plan: Plan
    watcher: Watcher = field(default_factory=Watcher)
    machine_name: str = ""
    earlier_attempts: Mapping[str, int] = field(default_factory=dict)
    budget_s: float | None = None
    """Seconds of this run after which no further trial of a plan that grows begins; None: no limit."""

    def __post_init__(self) -> None:
        self.machine_name = self.machine_name or self.plan.campaign
        self.ledger = Ledger(self.folder)
        self.filing = Filing(self.folder, self.plan.campaign)
        self._tally: Tally | None = None
        self._growth: Growth | None = None
        self._grown_at = 0
        self._begun_s = time.monotonic()
        self._looked_at = 0
        self._slots = Slots(self, self.machines)

    @property
    def machines(self) -> list[str]:
        """The names of its machines."""
        if self.plan.machines == 1:
            return [self.machine_name]
        return [f"{self.machine_name}-{number}" for number in range(1, self.plan.machines + 1)]

    @property
    def hosts(self) -> int:
        """How many machines on hosts of their own run its trials at once; 0: those of the plan do, on this host."""
        return 0

    @property
    def tally(self) -> Tally:
        """The results so far, read on first use."""
        if self._tally is None:
            self._tally = Tally(read_standing(self.folder))
        return self._tally

    @classmethod
    def create(cls, plan: Plan, watcher: Watcher) -> "Campaign":
        """Make the folder of a new campaign and freeze its plan.

        Raises:
            ParameterError: there is one of that name already.
        """
        check_trial_notebook()
        folder = outputs_dir() / plan.campaign
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            # An empty folder is nobody's: what was there may have ended before it had a plan.
            if not folder.is_dir() or any(folder.iterdir()):
                remedy = (
                    f"continue with `picolab resume {plan.campaign}`"
                    if (folder / PLAN_FILE).is_file()
                    else "it holds no campaign, remove it"
                )
                raise ParameterError(
                    f"campaign {plan.campaign!r}: {folder} is already there; {remedy}, or choose another name with "
                    f"--campaign"
                ) from None
        try:
            plan.save(folder)
        except BaseException:
            with suppress(OSError):
                folder.rmdir()
            raise
        return cls(folder, plan, watcher)

    @classmethod
    def load(cls, folder: Path, watcher: Watcher | None = None) -> "Campaign":
        """Open a campaign that exists.

        Raises:
            CampaignNotFound: there is none.
        """
        return cls(folder, Plan.load(folder), watcher or Watcher())

    def run(self, accept_changes: bool = False) -> ExitCode:
        """Run every trial that has no result yet, and return the state of the campaign.

        Args:
            accept_changes: continue although plan, builds or host have changed since the campaign began; it is noted.

        Raises:
            CampaignBusy: another process runs this campaign.
            CampaignChanged: plan, a build or the host changed since it began.
            HostUnfit: the host cannot do it.
        """
        check_trial_notebook()
        refuse_links(self.folder, _WRITTEN)
        with self._alone():
            standing = read_standing(self.folder)
            if standing.ledger_trouble:
                raise UnreadableFile(
                    f"{standing.ledger_trouble}; put the ledger in order, or move it away: what is filed still counts"
                )
            self._tally = Tally(standing)
            check_unchanged(self.folder, self.plan, standing, accept_changes, self.watcher.note)
            check_name(self.plan.campaign)
            registry.sweep()
            for name in self.machines:
                registry.check_free(name)
                registry.check_not_kept(name, "begin a campaign of another name, with --campaign NAME")
            self._recover(standing)
            write_results(self.folder, self.tally.rows.values())
            if not self.tally.needed <= self.tally.rows.keys():
                self._check_plan(accept_changes)
                if not (self.folder / begun_file.BEGUN_FILE).exists():
                    begun_file.write_beginning(self.folder, self.plan)
            try:
                self._run_blocks()
            except Interrupted:
                return ExitCode.INTERRUPTED
            except MachineWasKept:
                pass
            finally:
                self._slots.close()
                write_results(self.folder, self.tally.rows.values())
                with suppress(OSError):
                    (self.folder / RUNNING).rmdir()
        return self.exit_code()

    def _check_plan(self, accept_changes: bool) -> None:
        """Refuse what cannot run, before the first trial."""
        if not accept_changes:
            check_blocks(self.folder, self.plan, self.tally.rows, self.tally.needed)
        check_plan(self.plan)

    @property
    def resume_command(self) -> str:
        """The command that continues this campaign as it was begun."""
        return f"picolab resume {in_command(self.folder)}"

    def exit_code(self) -> ExitCode:
        """Return the code that says how the campaign stands."""
        outcomes = self.tally.outcomes
        if not self.tally.needed <= outcomes.keys():
            return ExitCode.INSTRUMENT_FAULT
        if self.plan.floor is not None or self.plan.answer is not None:
            # A trial that died is an answer too.
            return ExitCode.OK
        if any(outcome is not Outcome.OK for outcome in outcomes.values()):
            return ExitCode.TRIALS_FAILED
        return ExitCode.OK

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with locked(self.folder) as got:
            if not got:
                raise CampaignBusy(
                    f"campaign {self.plan.campaign!r} is being run by another process; wait for it, or look at it "
                    f"with: picolab status {in_command(self.folder)}"
                )
            yield

    @property
    def needed(self) -> list[PlannedTrial]:
        """The trials of the plan, without those after the block in which `repeats: auto` had enough."""
        return [trial for trial in self.plan.trials if trial.trial_id in self.tally.needed]

    def _run_growing(self) -> None:
        """Run what is planned, and plan on, until nothing follows or a trial has no result."""
        waited = False
        while True:
            left = [trial for trial in self.plan.trials if trial.trial_id not in self.tally.rows]
            if not left:
                left = self._plan_on()
                if not left:
                    return
                self.plan.save(self.folder)
                for trial in left:
                    self.tally.plan(trial)
            if not waited:
                self._wait_for_idle_host()
                waited = True
            for trial in left:
                if self._is_over_budget():
                    return
                self._slots.run([[trial]])
                if trial.trial_id not in self.tally.rows:
                    return

    def _is_over_budget(self) -> bool:
        """Return whether a trial like those so far would end after the budget of this run, and say so."""
        if self.budget_s is None or not self.tally.done:
            return False
        spent_s, each_s = time.monotonic() - self._begun_s, self.tally.ran_s / self.tally.done
        if spent_s + each_s <= self.budget_s:
            return False
        self.watcher.note(
            f"Stopped after {duration(spent_s)}: another trial takes about {duration(each_s)}, and "
            f"{duration(self.budget_s)} were allowed."
        )
        return True

    def _plan_on(self) -> list[PlannedTrial]:
        """Return the next trials of a plan that grows, which are in the plan then; none when it has ended."""
        planned, rows = len(self.plan.trials), self.tally.rows
        found = grow(self.plan, rows, self.tally.ran_s, self.folder)
        self.plan, self._growth, self._grown_at = found.plan, found, self.tally.done
        if found.why_over:
            note_stop(self.folder, self.plan.trials[-1].block, found.why_over)
            self.watcher.note(f"Stopped after {counted(len(rows), 'trial')}: {found.why_over}.")
        return self.plan.trials[planned:]

    def _run_blocks(self) -> None:
        if self.plan.grows:
            self._run_growing()
            return
        if self.tally.needed <= self.tally.rows.keys():
            return
        self._wait_for_idle_host()
        first = next(trial for trial in self.needed if trial.trial_id not in self.tally.rows).block
        if all(row["block"] < first for row in self.tally.rows.values()):
            self._look_at(first - 1)
        else:
            self._looked_at = first - 1
        left = [trial for trial in self.needed if trial.trial_id not in self.tally.rows]
        self._slots.run(together(self.plan, left), self._look)

    def _wait_for_idle_host(self) -> None:
        """Wait for an idle host, and write down whether there was one.

        Raises:
            HostBusy: there was none, and the plan refuses a busy host.
        """
        if not self.plan.idle_limit_s:
            return
        found = wait_for_idle(self.plan.idle_limit_s, self.watcher.waiting, self.watcher.stop_requested)
        if found.stopped:
            raise Interrupted
        note_start(self.folder, found)
        if found.idle:
            return
        if self.plan.busy_host == "refuse":
            raise HostBusy(
                f"{found.line}, and busy_host is refuse; end the other programs, then: "
                f"picolab resume {in_command(self.folder)}"
            )
        self.watcher.note(f"{found.line[0].upper()}{found.line[1:]}. The campaign runs, and its results say so.")

    def _look(self) -> None:
        """Look whether to stop, when another block is complete."""
        first = self._slots.first_unfinished_block
        self._look_at(self.plan.trials[-1].block if first is None else first - 1)

    def _look_at(self, block: int) -> None:
        """Stop after this block when `repeats: auto` has enough, or the budget of an answer is spent.

        Blocks that other machines have begun meanwhile are completed, and those that have ended count.
        """
        never = self.plan.stopping is None and self.plan.answer is None
        if never or block <= self._looked_at or len(self.tally.needed) < len(self.plan.trials):
            return
        self._looked_at = block
        rows = [row for row in self.tally.rows.values() if row["block"] <= block]
        reason = why_over_budget(self.plan, block, self.tally.ran_s, self.tally.left_s())
        reason = reason or why_enough(self.plan, rows, block, self.tally.running.seconds)
        if reason is not None:
            last = max(self._slots.last_begun_block, *(row["block"] for row in self.tally.rows.values()), block)
            widths = interval_widths(self.plan, rows) if self.plan.stopping is not None else []
            note_stop(self.folder, last, reason, [asdict(width) for width in widths])
            self.tally.need([trial for trial in self.plan.trials if trial.block <= last])
            self._slots.forget_after(last)
            self.watcher.note(f"Stopped after block {last} of at most {self.plan.repeats}: {reason}.")

    @property
    def unfinished(self) -> str:
        """That a campaign whose plan grows has not ended, one sentence; empty when it has, and for all others."""
        if not self.plan.grows:
            return ""
        return unfinished_words(self.plan, self.tally.rows, self.tally.ran_s, self.folder)

    # One trial

    def next_attempt(self, trial: PlannedTrial) -> int:
        """Return the number of the next attempt at a trial, from 1."""
        known = self.tally.last_attempt.get(trial.trial_id, 0), self.earlier_attempts.get(trial.trial_id, 0)
        return max(known) + 1

    def settle(
        self,
        trial: PlannedTrial,
        attempt: int,
        started_at: datetime | None,
        duration_s: float | None,
        fault: tuple[Outcome, str] | None,
        killed: str = "",
        known: Record | None = None,
        keeps_folder: bool = False,
        worker: str | None = None,
    ) -> LedgerEntry:
        """Decide what an ended attempt was, put its files in their place and write the ledger.

        Args:
            started_at, duration_s: None for an attempt of a campaign that was killed: nobody timed it.
            fault: what it was if its own record does not say that it has a result.
            killed: which of its processes a signal has ended, in words.
            known: its valid record, if the campaign had it before; its own file may be damaged and its notebook whole.
            keeps_folder: the folder in which it ran stays: its machine is kept.
            worker: that was lost while it ran; None: none was.
        """
        record, reason = self.filing.read_record(trial, killed)
        record = record or known
        if record is not None and (fault is None or not record.outcome.is_fault):
            outcome, detail = record.outcome, record.outcome_detail
        else:
            outcome, detail = fault or (Outcome.INVALID, reason)
        places = self.filing.file(trial, attempt if outcome.is_fault else None)
        if not keeps_folder:
            self.filing.remove_running_folder(trial)
        entry = LedgerEntry(
            trial_id=trial.trial_id,
            attempt=attempt,
            outcome=outcome,
            outcome_detail=detail,
            started_at=started_at.isoformat(timespec="milliseconds")
            if started_at is not None
            else (record.identity.started_at if record is not None else None),
            ended_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            duration_s=None if duration_s is None else round(duration_s, 3),
            notebook=places.get(NOTEBOOK_FILE),
            record=places.get(RECORD_FILE),
            worker=worker if outcome.is_fault else None,
        )
        self.ledger.append(entry)
        result = record if not outcome.is_fault else None
        self.tally.add(entry, result)
        if result is not None:
            append_result(self.folder, record_row(result))
        self.watcher.ended(entry, self.progress())
        return entry

    def _recover(self, standing: Standing) -> None:
        """Settle the trials that a killed campaign left: running, or not filed yet."""
        for trial in self.filing.unfinished(self.needed, standing):
            worker = self.filing.worker_of(trial)
            ran = "this trial ran" if worker is None else f"the worker {worker} ran this trial"
            fault = Outcome.INTERRUPTED, f"the campaign was killed while {ran}"
            known = standing.results.get(trial.trial_id)
            self.settle(trial, self.next_attempt(trial), None, None, fault, known=known, worker=worker)
        self.filing.clear_running()
        if self.tally.lost:
            names = ", ".join(list(self.tally.lost)[:3]) + (" ..." if len(self.tally.lost) > 3 else "")
            count = len(self.tally.lost)
            which = "1 result that the ledger names is" if count == 1 else f"{count} results that the ledger names are"
            self.watcher.note(f"{which} gone, and measured again: {names}")

    def progress(self, current: PlannedTrial | None = None, attempt: int = 1, line: str = "") -> Progress:
        """Return how far the campaign is."""
        tally = self.tally
        if self.plan.grows:
            if self._growth is None and self.plan.floor is not None:
                expected = sum(floor.expected_left for floor in floors_of(self.plan, tally.rows).values())
                self._growth, self._grown_at = Growth(self.plan, expected), tally.done
            planned = self._growth.left - (tally.done - self._grown_at) if self._growth is not None else 0
            left = max(planned, tally.total - tally.done)
            eta_s = tally.ran_s / tally.done * left if tally.done else None
            if self._growth is not None and self._growth.left_s is not None:
                eta_s = self._growth.left_s * left / max(1, self._growth.left)
            return Progress(tally.done + left, tally.done, eta_s, current, attempt, line, self._slots.running)
        return Progress(tally.total, tally.done, tally.left_s(self.hosts), current, attempt, line, self._slots.running)
