"""The loop of a campaign: one papermill process for each trial of a plan; a measured result is never lost.

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

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from picolab.analysis.floor_search import floors_of
from picolab.campaign.changes import check_unchanged
from picolab.campaign.filing import FAULTS, RUNNING, TRIALS, Filing
from picolab.campaign.growth import Growth, grow, unfinished_words
from picolab.campaign.preflight import check_plan
from picolab.campaign.progress import Progress, Watcher
from picolab.campaign.stopping import interval_widths, why_enough, why_over_budget
from picolab.campaign.tally import Tally
from picolab.config.plan import PLAN_FILE, Plan, PlannedTrial
from picolab.config.project import in_command, outputs_dir
from picolab.errors import (
    CampaignBusy,
    HostUnfit,
    MachineBusy,
    ParameterError,
    UnreadableFile,
)
from picolab.exit_codes import ExitCode
from picolab.files.foreign import refuse_links
from picolab.files.set_aside import SET_ASIDE
from picolab.host.idleness import wait_for_idle
from picolab.host.processes import this_process
from picolab.jupyter.live_line import last_line
from picolab.jupyter.notebook_process import NOTEBOOK_FILE, TrialProcess, trial_fork_server
from picolab.jupyter.trial_context import TrialContext
from picolab.jupyter.trial_template import check_trial_notebook
from picolab.machines import registry
from picolab.machines.kinds import kind_of
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.results import beginning
from picolab.results.folders import LOCK_FILE, check_name, locked
from picolab.results.ledger import LEDGER_FILE, Ledger, LedgerEntry
from picolab.results.results_csv import append_result, write_results
from picolab.results.rows import record_row
from picolab.results.standing import RESULTS_FILE, Standing, read_standing
from picolab.results.starts import STARTS_FILE, note_start
from picolab.results.stop_file import STOPPED_FILE, note_stop
from picolab.text.wording import counted, duration
from picolab.trial.state import (
    PROGRESS_FILE,
    RECORD_FILE,
)

_WRITTEN = (
    *(TRIALS, FAULTS, RUNNING, SET_ASIDE),
    *(LOCK_FILE, LEDGER_FILE, RESULTS_FILE, STOPPED_FILE, beginning.BEGUN_FILE, STARTS_FILE),
)
"""Everything that a campaign writes into its folder; none of it may be a link to another place."""
_LIMIT_MARGIN_S = 120.0


class Interrupted(Exception):
    """Somebody asked the campaign to stop."""


class _MachineKept(Exception):
    """A trial failed and its machine is to stay up: the next trial would need the same machine."""


@dataclass
class Campaign:
    """One execution of a plan.

    Attributes:
        machine_name: of the machine that its trials use.
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
        self._filing = Filing(self.folder, self.plan.campaign)
        self._tally: Tally | None = None
        self._growth: Growth | None = None
        self._grown_at = 0
        self._begun_s = time.monotonic()
        self._fork_server = trial_fork_server(trial.parameters.machine for trial in self.plan.trials)

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
            registry.check_free(self.machine_name)
            registry.check_not_kept(self.machine_name, "begin a campaign of another name, with --campaign NAME")
            self._recover(standing)
            write_results(self.folder, self.tally.rows.values())
            if not self.tally.needed <= self.tally.rows.keys():
                self._check_plan()
                if not (self.folder / beginning.BEGUN_FILE).exists():
                    beginning.write_beginning(self.folder, self.plan)
            try:
                self._run_blocks()
            except Interrupted:
                return ExitCode.INTERRUPTED
            except _MachineKept:
                pass
            finally:
                self._fork_server.close()
                if not self._machine_is_kept():
                    self._release_machine()
                write_results(self.folder, self.tally.rows.values())
                with suppress(OSError):
                    (self.folder / RUNNING).rmdir()
        return self.exit_code()

    def _check_plan(self) -> None:
        """Refuse what cannot run, before the first trial."""
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
                self._run_trial(trial)
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
        for block, trials in itertools.groupby(self.plan.trials, key=lambda trial: trial.block):
            for trial in trials:
                if trial.trial_id in self.tally.needed and trial.trial_id not in self.tally.rows:
                    self._run_trial(trial)
            self._look(block)

    def _wait_for_idle_host(self) -> None:
        """Wait for an idle host, and write down whether there was one.

        Raises:
            HostUnfit: there was none, and the plan refuses a busy host.
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
            raise HostUnfit(
                f"{found.line}, and busy_host is refuse; end the other programs, then: "
                f"picolab resume {in_command(self.folder)}"
            )
        self.watcher.note(f"{found.line[0].upper()}{found.line[1:]}. The campaign runs, and its results say so.")

    def _look(self, block: int) -> None:
        """Stop after this block when `repeats: auto` has enough, or the budget of an answer is spent."""
        rows = self.tally.rows
        last = max((trial.block for trial in self.plan.trials if trial.trial_id in rows), default=0)
        if block < last or len(self.tally.needed) < len(self.plan.trials):
            return
        reason = why_over_budget(self.plan, block, self.tally.ran_s, self.tally.left_s())
        reason = reason or why_enough(self.plan, list(rows.values()), block, self.tally.ran_s)
        if reason is not None:
            widths = interval_widths(self.plan, list(rows.values())) if self.plan.stopping is not None else []
            note_stop(self.folder, block, reason, [asdict(width) for width in widths])
            self.tally.need([trial for trial in self.plan.trials if trial.block <= block])
            self.watcher.note(f"Stopped after block {block} of at most {self.plan.repeats}: {reason}.")

    @property
    def unfinished(self) -> str:
        """That a campaign whose plan grows has not ended, one sentence; empty when it has, and for all others."""
        if not self.plan.grows:
            return ""
        return unfinished_words(self.plan, self.tally.rows, self.tally.ran_s, self.folder)

    # One trial

    def _run_trial(self, trial: PlannedTrial) -> None:
        for _ in range(1 + self.plan.fault_retries):
            entry = self._attempt(trial, self._next_attempt(trial))
            if entry.outcome is Outcome.INTERRUPTED or self.watcher.stop_requested():
                raise Interrupted
            if self._machine_is_kept():
                raise _MachineKept
            if not entry.outcome.is_fault:
                return

    def _next_attempt(self, trial: PlannedTrial) -> int:
        known = self.tally.last_attempt.get(trial.trial_id, 0), self.earlier_attempts.get(trial.trial_id, 0)
        return max(known) + 1

    def _attempt(self, trial: PlannedTrial, attempt: int) -> LedgerEntry:
        if self.watcher.stop_requested():
            raise Interrupted
        started_at, begun = datetime.now(UTC), time.monotonic()
        parameters = trial.parameters.model_copy(update={"machine_name": self.machine_name})
        on_step = self.watcher.step
        process = TrialProcess(
            parameters,
            TrialContext(
                folder=self._filing.running_folder(trial),
                trial_id=trial.trial_id,
                owner=this_process().to_json(),
                campaign=self.plan.campaign,
                block=trial.block,
                position=trial.position,
                attempt=attempt,
            ),
            self._fork_server,
            None if on_step is None else lambda line: on_step(trial, line),
        )
        try:
            fault = self._wait(process, trial, attempt)
            killed = process.ended_by()
            if process.lost_fork_server and fault is None:
                fault = Outcome.INVALID, "the fork server was killed, and so the trial ended"
        finally:
            process.kill()
        entry = self._settle(trial, attempt, started_at, time.monotonic() - begun, fault, killed)
        machine = registry.attach(self.machine_name)
        # After a fault the machine may have been the reason.
        is_done = entry.outcome.is_fault or machine is None or not kind_of(machine.kind).reused_between_trials
        if machine is not None and not machine.kept and is_done:
            self._release_machine()
        return entry

    def _release_machine(self) -> None:
        with suppress(MachineBusy):
            # Somebody may have taken a machine of this name meanwhile: then it is theirs.
            registry.check_free(self.machine_name)
            registry.release_by_name(self.machine_name)

    def _machine_is_kept(self) -> bool:
        machine = registry.attach(self.machine_name)
        return machine is not None and machine.kept

    def _wait(self, process: TrialProcess, trial: PlannedTrial, attempt: int) -> tuple[Outcome, str] | None:
        """Wait for a trial; return a fault when it had to be stopped."""
        parameters = trial.parameters
        limit_s = 2 * parameters.ready_limit_s + 3 * parameters.upload_limit_s + _LIMIT_MARGIN_S
        limit_s += kind_of(parameters.machine).make_limit_s(parameters)
        deadline = time.monotonic() + limit_s
        self._show(process, trial, attempt)
        while not process.wait(min(deadline - time.monotonic(), self.watcher.refresh_s or limit_s)):
            if self.watcher.stop_requested():
                process.interrupt()
                return Outcome.INTERRUPTED, "the campaign was stopped while this trial ran"
            if time.monotonic() > deadline:
                process.interrupt()
                return Outcome.MACHINE_FAILED, f"the trial's process did not end within {limit_s:.0f} s"
            if self.watcher.refresh_s is not None:
                self._show(process, trial, attempt)
        return None

    def _show(self, process: TrialProcess, trial: PlannedTrial, attempt: int) -> None:
        line = "" if self.watcher.refresh_s is None else last_line(process.folder / PROGRESS_FILE)
        self.watcher.progress(self.progress(trial, attempt, line))

    def _settle(
        self,
        trial: PlannedTrial,
        attempt: int,
        started_at: datetime | None,
        duration_s: float | None,
        fault: tuple[Outcome, str] | None,
        killed: str = "",
        known: Record | None = None,
    ) -> LedgerEntry:
        """Decide what an ended attempt was, put its files in their place and write the ledger.

        Args:
            started_at, duration_s: None for an attempt of a campaign that was killed: nobody timed it.
            fault: what it was if its own record does not say that it has a result.
            killed: which of its processes a signal has ended, in words.
            known: its valid record, if the campaign had it before; its own file may be damaged and its notebook whole.
        """
        record, reason = self._filing.read_record(trial, killed)
        record = record or known
        if record is not None and (fault is None or not record.outcome.is_fault):
            outcome, detail = record.outcome, record.outcome_detail
        else:
            outcome, detail = fault or (Outcome.INVALID, reason)
        places = self._filing.file(trial, attempt if outcome.is_fault else None)
        if not self._machine_is_kept():
            self._filing.remove_running_folder(trial)
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
        for trial in self._filing.unfinished(self.needed, standing):
            fault = Outcome.INTERRUPTED, "the campaign was killed while this trial ran"
            self._settle(
                trial, self._next_attempt(trial), None, None, fault, known=standing.results.get(trial.trial_id)
            )
        self._filing.clear_running()
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
            return Progress(tally.done + left, tally.done, eta_s, current, attempt, line)
        return Progress(tally.total, tally.done, tally.left_s(), current, attempt, line)
