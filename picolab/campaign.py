"""A campaign: runs a plan, one papermill process a trial, and loses nothing that was measured.

    outputs/<campaign>/
        plan.json        the plan, frozen
        ledger.jsonl     one line an attempt
        starts.jsonl     one line a start: how long it waited for an idle host, and whether it found one
        stopped.json     after which block `repeats: auto` had enough, and why
        results.csv      one row a result, renewed after each trial
        running/         the trial that is running now
        trials/          <trial_id>.ipynb, .record.json, .samples.jsonl, .server.log of each result
        faults/          the same for each fault of the instrument, with the attempt's number

A trial counts when its record is valid; then its files move to `trials/` by renames and the ledger gets a
line. Whatever the campaign dies of, the next start finishes that for a trial that was already measured, takes
machines down that nobody holds, and goes on.
"""

import csv
import io
import itertools
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from picolab import conditions
from picolab.errors import CampaignBusy, CampaignNotFound, HostUnfit, MachineBusy, ParameterError, RecordError
from picolab.execution import NOTEBOOK_FILE, POLL_S, PROCESS_LOG_FILE, TrialProcess, last_words
from picolab.exit_codes import ExitCode
from picolab.host import disk_of, memory_info
from picolab.ledger import Ledger, LedgerEntry
from picolab.locks import try_lock
from picolab.machines import registry, vagrant
from picolab.machines.cgroup import find_method
from picolab.parameters import DISK_FACTOR, MIB, format_size
from picolab.paths import outputs_dir, state_dir, write_atomically
from picolab.picoshare.build import find_build
from picolab.plan import PLAN_FILE, Plan, PlannedTrial
from picolab.processes import this_process
from picolab.progress import last_line
from picolab.record import Outcome, Record, validate_record
from picolab.salvage import LOST_NOTEBOOK_FILE, salvage_notebook
from picolab.scraps import read_record, record_row
from picolab.stopping import note_stop, stopped_after, why_enough
from picolab.trial_state import (
    DOWNLOAD_SAMPLES_FILE,
    PROGRESS_FILE,
    RECORD_FILE,
    SAMPLES_FILE,
    SERVER_LOG_FILE,
    VAGRANT_LOG_FILE,
    TrialContext,
)

RESULTS_FILE = "results.csv"
_FILES = (
    (SAMPLES_FILE, ".samples.jsonl"),
    (DOWNLOAD_SAMPLES_FILE, ".download-samples.jsonl"),
    (SERVER_LOG_FILE, ".server.log"),
    (VAGRANT_LOG_FILE, ".vagrant.log"),
)
_FILES_OF_TROUBLE = ((PROCESS_LOG_FILE, ".papermill.log"), (LOST_NOTEBOOK_FILE, ".lost.ipynb.txt"))
_FILES_LAST = ((RECORD_FILE, ".record.json"), (NOTEBOOK_FILE, ".ipynb"))
"""The files of a trial, and how each is called beside those of other trials, in the order in which they move."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,50}")
_LIMIT_MARGIN_S = 120.0
_BOX_COPY_LIMIT_S = 900.0


class _Interrupted(Exception):
    """Somebody asked the campaign to stop."""


class _MachineKept(Exception):
    """A trial failed and its machine is to stay up: the next trial would need the same machine."""


@dataclass
class Progress:
    """How far a campaign is, for whoever shows it.

    Attributes:
        total: trials in the plan.
        done: trials with a result.
        eta_s: seconds until the end by what trials took so far; None before the first one ended.
        current: the trial that is running.
        attempt: which attempt at it.
        line: what that trial says of its upload, when it has said something.
    """

    total: int
    done: int
    eta_s: float | None = None
    current: PlannedTrial | None = None
    attempt: int = 1
    line: str = ""


@dataclass
class Watcher:
    """What a campaign tells while it runs; each is called from the campaign's own thread."""

    progress: Callable[[Progress], None] = lambda _: None
    ended: Callable[[LedgerEntry, Progress], None] = lambda _entry, _progress: None
    waiting: Callable[[str], None] = lambda _line: None
    note: Callable[[str], None] = lambda _line: None
    stop_requested: Callable[[], bool] = lambda: False


def campaign_folder(name: str) -> Path:
    """Return the folder of a campaign that is given by its name or its path."""
    path = Path(name)
    return path.resolve() if path.is_dir() and (path / PLAN_FILE).exists() else outputs_dir() / name


def all_campaigns() -> list[Path]:
    """Return the folders of all campaigns, oldest first."""
    folders = (path.parent for path in outputs_dir().glob(f"*/{PLAN_FILE}"))
    return sorted(folders, key=lambda folder: (folder / PLAN_FILE).stat().st_mtime)


def check_name(name: str) -> str:
    """Return the name of a campaign if it can be one.

    Raises:
        ParameterError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ParameterError(
            f"campaign {name!r}: a name has up to 51 letters, digits, dots, dashes and underscores, "
            f"and begins with a letter or digit"
        )
    return name


def check_host(plan: Plan) -> None:
    """Refuse a plan that this host cannot carry out, as far as that can be known before.

    Raises:
        HostUnfit: too little disk or RAM, or no way to limit memory.
        BuildError: a build is not there.
    """
    for wanted in {(trial.parameters.build, trial.parameters.release_base_url) for trial in plan.trials}:
        find_build(wanted[0], wanted[0], wanted[1])
    for trial in plan.trials:
        _check_disk(trial, plan.source)
    if any(
        trial.parameters.memory_limit == "enforced" and trial.parameters.machine == "local" for trial in plan.trials
    ):
        find_method()
    for provider in sorted({t.parameters.provider for t in plan.trials if t.parameters.machine == "vagrant"}):
        vagrant.check_host(provider)
    largest = max(trial.parameters.ram_mb for trial in plan.trials) * MIB
    total = memory_info()["MemTotal"]
    if largest > total:
        raise HostUnfit(
            f"{plan.source}: ram_mb = {largest // MIB} is more than this host's {total // MIB} MiB, so the limit "
            f"would mean nothing; choose smaller levels"
        )


def _check_disk(trial: PlannedTrial, source: str) -> None:
    size, needed = trial.parameters.uploaded_bytes, trial.parameters.needed_disk_bytes
    if trial.parameters.machine == "vagrant":
        place, free = "the storage of virtual machines", vagrant.free_disk_bytes(trial.parameters.provider)
    else:
        work = Path(trial.parameters.work_dir).expanduser() if trial.parameters.work_dir else state_dir()
        place, free = str(work), disk_of(work).free_bytes
    if free is not None and free < needed:
        elsewhere = ", or set work_dir to a folder on a larger disk" if trial.parameters.machine == "local" else ""
        raise HostUnfit(
            f"{source}: an upload of {format_size(size)} needs {DISK_FACTOR} times its size on disk, "
            f"{needed / MIB:,.0f} MiB, and {place} has {free / MIB:,.0f} MiB free; free some, or choose "
            f"smaller files{elsewhere}"
        )


@dataclass
class Campaign:
    """One execution of a plan."""

    folder: Path
    plan: Plan
    watcher: Watcher = field(default_factory=Watcher)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.folder)

    @classmethod
    def create(cls, plan: Plan, watcher: Watcher) -> "Campaign":
        """Make the folder of a new campaign and freeze its plan.

        Raises:
            ParameterError: there is one of that name already.
        """
        folder = outputs_dir() / plan.campaign
        if folder.exists():
            raise ParameterError(
                f"campaign {plan.campaign!r}: {folder} is already there; go on with `picolab resume "
                f"{plan.campaign}`, or choose another name with --campaign"
            )
        folder.mkdir(parents=True)
        plan.save(folder)
        return cls(folder, plan, watcher)

    @classmethod
    def load(cls, folder: Path, watcher: Watcher | None = None) -> "Campaign":
        """Open a campaign that exists.

        Raises:
            CampaignNotFound: there is none.
        """
        return cls(folder, Plan.load(folder), watcher or Watcher())

    def run(self) -> ExitCode:
        """Run every trial that has no result yet, and return how the campaign stands then.

        Raises:
            CampaignBusy: another process runs this campaign.
            HostUnfit: the host cannot do it.
        """
        with self._alone():
            registry.sweep()
            registry.check_free(self.machine_name)
            registry.check_not_kept(self.machine_name)
            self._recover()
            check_host(self.plan)
            try:
                self._run_blocks()
            except _Interrupted:
                return ExitCode.INTERRUPTED
            except _MachineKept:
                pass
            finally:
                if not self._machine_is_kept():
                    self._release_machine()
                self._write_results()
                with suppress(OSError):
                    (self.folder / "running").rmdir()
        return self.exit_code()

    def exit_code(self) -> ExitCode:
        """Return the code that says how the campaign stands."""
        results = self.ledger.results()
        if any(trial.trial_id not in results for trial in self.needed):
            return ExitCode.INSTRUMENT_FAULT
        if any(entry.outcome is not Outcome.OK for entry in results.values()):
            return ExitCode.TRIALS_FAILED
        return ExitCode.OK

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as lock:
            if not try_lock(lock):
                raise CampaignBusy(
                    f"campaign {self.plan.campaign!r} is being run by another process; wait for it, or look at it "
                    f"with: picolab status {self.folder.name}"
                ) from None
            yield

    @property
    def needed(self) -> list[PlannedTrial]:
        """The trials of the plan, without those after the block in which `repeats: auto` had enough."""
        last = stopped_after(self.folder)
        return [trial for trial in self.plan.trials if last is None or trial.block <= last]

    def _run_blocks(self) -> None:
        if all(trial.trial_id in self.ledger.results() for trial in self.needed):
            return
        self._wait_for_idle_host()
        for block, trials in itertools.groupby(self.plan.trials, key=lambda trial: trial.block):
            if stopped_after(self.folder) is not None and block > (stopped_after(self.folder) or 0):
                return
            for trial in trials:
                if trial.trial_id not in self.ledger.results():
                    self._run_trial(trial)
            self._look(block)

    def _wait_for_idle_host(self) -> None:
        """Wait for an idle host, and write down whether there was one.

        Raises:
            HostUnfit: there was none, and the plan does not want to run then.
        """
        if not self.plan.idle_limit_s:
            return
        found = conditions.wait_for_idle(self.plan.idle_limit_s, self.watcher.waiting, self.watcher.stop_requested)
        if found.stopped:
            raise _Interrupted
        line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(found)}
        with (self.folder / conditions.STARTS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if found.idle:
            return
        if self.plan.busy_host == "refuse":
            raise HostUnfit(
                f"{found.line}, and busy_host is refuse; end what runs beside, then: picolab resume {self.folder.name}"
            )
        self.watcher.note(f"{found.line[0].upper()}{found.line[1:]}. The campaign runs, and its comparison says so.")

    def _look(self, block: int) -> None:
        """Stop after this block when `repeats: auto` has enough."""
        results = self.ledger.results()
        upto = {trial.trial_id: trial.block for trial in self.plan.trials if trial.trial_id in results}
        if self.plan.stopping is None or block < max(upto.values(), default=0):
            return
        ran_s = sum(results[name].duration_s or 0.0 for name in upto)
        reason = why_enough(self.plan, self._rows(), block, ran_s)
        if reason is not None:
            note_stop(self.folder, block, reason)
            self.watcher.note(f"Stopped after block {block} of at most {self.plan.repeats}: {reason}.")

    # One trial

    def _run_trial(self, trial: PlannedTrial) -> None:
        for _ in range(1 + self.plan.fault_retries):
            entry = self._attempt(trial, self.ledger.attempts(trial.trial_id) + 1)
            if entry.outcome is Outcome.INTERRUPTED or self.watcher.stop_requested():
                raise _Interrupted
            if self._machine_is_kept():
                raise _MachineKept
            if not entry.outcome.is_fault:
                return

    @property
    def machine_name(self) -> str:
        return self.plan.campaign

    def _attempt(self, trial: PlannedTrial, attempt: int) -> LedgerEntry:
        if self.watcher.stop_requested():
            raise _Interrupted
        folder = self.folder / "running" / trial.trial_id
        started_at, begun = datetime.now(UTC), time.monotonic()
        parameters = trial.parameters.model_copy(update={"machine_name": self.machine_name})
        process = TrialProcess(
            parameters,
            TrialContext(
                folder=folder,
                trial_id=trial.trial_id,
                owner=this_process().to_json(),
                campaign=self.plan.campaign,
                block=trial.block,
                position=trial.position,
                attempt=attempt,
            ),
        )
        try:
            fault = self._wait(process, trial, attempt)
        finally:
            process.kill()
        entry = self._settle(trial, attempt, started_at, time.monotonic() - begun, fault)
        machine = registry.attach(self.machine_name)
        # A virtual machine that gave a result is good for the next trial; after a fault it may have been the reason.
        if machine is not None and not machine.kept and (entry.outcome.is_fault or machine.kind == "local"):
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
        limit_s = parameters.ready_limit_s + 3 * parameters.upload_limit_s + _LIMIT_MARGIN_S
        if parameters.machine == "vagrant":
            # One that is not clean may be brought up twice, and another's first copy of the box be waited for.
            limit_s += 2 * parameters.boot_limit_s + _BOX_COPY_LIMIT_S
        deadline = time.monotonic() + limit_s
        while not process.wait(POLL_S):
            self.watcher.progress(self.progress(trial, attempt, last_line(process.folder / PROGRESS_FILE)))
            if self.watcher.stop_requested():
                process.interrupt()
                return Outcome.INTERRUPTED, "the campaign was stopped while this trial ran"
            if time.monotonic() > deadline:
                process.interrupt()
                return Outcome.MACHINE_FAILED, f"the trial's process did not end within {limit_s:.0f} s"
        return None

    def _settle(
        self,
        trial: PlannedTrial,
        attempt: int,
        started_at: datetime | None,
        duration_s: float | None,
        fault: tuple[Outcome, str] | None,
    ) -> LedgerEntry:
        """Decide what an ended attempt was, put its files in their place and write the ledger.

        Args:
            started_at, duration_s: None for an attempt of a campaign that was killed: nobody timed it.
            fault: what it was if its own record does not say that it has a result.
        """
        folder = self.folder / "running" / trial.trial_id
        record, reason = self._valid_record(folder, trial)
        if record is not None and (fault is None or not record.outcome.is_fault):
            outcome, detail = record.outcome, record.outcome_detail
        else:
            outcome, detail = fault or (Outcome.INVALID, reason)
        places = self._move(folder, trial, None if not outcome.is_fault else attempt)
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
        self._write_results()
        self.watcher.ended(entry, self.progress())
        return entry

    def _valid_record(self, folder: Path, trial: PlannedTrial) -> tuple[Record | None, str]:
        """Return the record of an ended trial, or why there is none. A notebook without it is made anew."""
        side_file, notebook = folder / RECORD_FILE, folder / NOTEBOOK_FILE
        try:
            record = validate_record(json.loads(side_file.read_text()), str(side_file))
        except (OSError, ValueError):
            words = last_words(folder)
            return None, f"the trial's process ended without a record{': ' + words if words else ''}"
        except RecordError as error:
            return None, str(error)
        if (record.identity.trial_id, record.identity.campaign) != (trial.trial_id, self.plan.campaign):
            return None, f"{side_file}: is the record of another trial, {record.identity.trial_id}"
        try:
            whole = read_record(notebook) == record
        except RecordError:
            whole = False
        if not whole:
            # The notebook was lost on the way (a killed kernel or papermill), the measurement was not.
            salvage_notebook(folder, record)
        return record, ""

    def _move(self, folder: Path, trial: PlannedTrial, fault_attempt: int | None) -> dict[str, str]:
        """Move a trial's files to `trials/` or `faults/`; return the new place of each, notebook last."""
        target = self.folder / ("trials" if fault_attempt is None else "faults")
        target.mkdir(exist_ok=True)
        stem = trial.trial_id if fault_attempt is None else f"{trial.trial_id}.attempt{fault_attempt}"
        troubled = fault_attempt is not None or (folder / LOST_NOTEBOOK_FILE).exists()
        places = {}
        for name, suffix in (*_FILES, *(_FILES_OF_TROUBLE if troubled else ()), *_FILES_LAST):
            if (folder / name).exists():
                (folder / name).replace(target / f"{stem}{suffix}")
                places[name] = f"{target.name}/{stem}{suffix}"
        for extra in folder.glob("*samples.attempt*.jsonl") if folder.is_dir() else ():
            extra.replace(target / f"{stem}.{extra.name}")
        if not self._machine_is_kept():
            shutil.rmtree(folder, ignore_errors=True)
        return places

    def _recover(self) -> None:
        """Settle what a campaign that was killed has left: trials that ran, and trials that were being filed."""
        running = self.folder / "running"
        results = self.ledger.results()
        for trial in self.plan.trials:
            folder = running / trial.trial_id
            if trial.trial_id in results:
                continue
            for name, suffix in (*_FILES, *_FILES_OF_TROUBLE, *_FILES_LAST):
                filed = self.folder / "trials" / f"{trial.trial_id}{suffix}"
                if filed.exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    filed.replace(folder / name)
            if folder.is_dir():
                fault = Outcome.INTERRUPTED, "the campaign was killed while this trial ran"
                self._settle(trial, self.ledger.attempts(trial.trial_id) + 1, None, None, fault)
        shutil.rmtree(running, ignore_errors=True)

    # What may be asked

    def progress(self, current: PlannedTrial | None = None, attempt: int = 1, line: str = "") -> Progress:
        results = self.ledger.results()
        return Progress(len(self.needed), len(results), self._eta_s(results), current, attempt, line)

    def _eta_s(self, results: dict[str, LedgerEntry]) -> float | None:
        """Return the expected seconds for the trials that are left: each like its case so far, or by its size."""
        trials = {trial.trial_id: trial for trial in self.plan.trials}
        taken = [
            (trials[name], entry.duration_s)
            for name, entry in results.items()
            if name in trials and entry.duration_s is not None
        ]
        if not taken:
            return None
        total_s = sum(duration for _, duration in taken)
        per_byte_s = total_s / sum(trial.parameters.file_size_bytes for trial, _ in taken)
        left_s = 0.0
        for trial in self.needed:
            if trial.trial_id in results:
                continue
            same = [duration for done, duration in taken if done.case == trial.case]
            left_s += sum(same) / len(same) if same else per_byte_s * trial.parameters.file_size_bytes
        return left_s

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for entry in self.ledger.results().values():
            with suppress(RecordError, OSError, ValueError):
                if entry.record is not None:
                    path = self.folder / entry.record
                    rows.append(record_row(validate_record(json.loads(path.read_text()), str(path))))
        return rows

    def _write_results(self) -> None:
        rows = self._rows()
        if not rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.folder / RESULTS_FILE, text.getvalue())


def find_campaign(name: str) -> Path:
    """Return the folder of a campaign.

    Raises:
        CampaignNotFound: there is none of that name; the message lists those there are.
    """
    folder = campaign_folder(name)
    if not (folder / PLAN_FILE).is_file():
        names = ", ".join(path.name for path in all_campaigns()) or "none yet"
        raise CampaignNotFound(f"campaign {name!r}: there is no such campaign in {outputs_dir()}; there are: {names}")
    return folder
