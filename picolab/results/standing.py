"""The state of a campaign: for each planned trial its result, or why it has none. Only this module decides it.

`status`, `resume`, `export`, `results.csv`, the console and the reports all use it. A trial has a result when it has a
valid record of its own, in its side file or else in its notebook, made with the plan's parameters. The ledger only adds
what left no file: faults, and results that are gone (`lost`). Files that cannot be read, and contradictions, are rows
of `problems` and never counted.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from picolab.config.plan import PLAN_FILE, Plan, PlannedTrial
from picolab.config.sizes import MIB
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import CampaignNotFound, PicolabError, RecordError, UnreadableFile
from picolab.files.foreign import collection_paused, read_text
from picolab.record.outcomes import FAULTS, Outcome
from picolab.record.record import SAMPLES_SCRAP, Record
from picolab.results import begun_file
from picolab.results.ledger import LEDGER_FILE, MOST_ATTEMPTS, LedgerEntry, read_ledger
from picolab.results.records import Records
from picolab.results.rows import FAULT_COLUMNS
from picolab.results.second_process import SecondProcess, TrialRead
from picolab.results.starts_file import STARTS_FILE, read_starts
from picolab.results.stop_file import STOPPED_FILE, stopped_after
from picolab.results.trial_files import (
    checked_row,
    read_record,
    read_scraps,
    record_data,
    sample_columns,
    samples_of,
    side_data,
)
from picolab.text.foreign import one_line
from picolab.text.wording import listed

if TYPE_CHECKING:  # numpy is slow to import, and a campaign that runs does not need it.
    import numpy as np
    from numpy.typing import NDArray

RECORD_SUFFIX = ".record.json"
RESULTS_FILE = "results.csv"
LARGEST_RESULTS_BYTES = 64 * MIB
_SET_BY_CAMPAIGN = ("machine_name",)
"""Parameters of a trial that the campaign gives it, whatever the plan says."""
_LONGEST_SENTENCE = 600


class Problem(NamedTuple):
    """Something unreadable, missing or contradictory; `path` is relative to the campaign's folder."""

    path: str
    problem: str


@dataclass
class Standing:
    """The state of a campaign.

    Attributes:
        plan: None when it cannot be read; then every record in `trials/` counts, and missing trials are not known.
        needed: the trials of the plan, without those after the block in which `repeats: auto` had enough.
        results: records of trials that have a result, by trial_id, in the order of the plan.
        rows: of the records that were read, from `picolab.results.rows.record_row`, by trial_id.
        lost: trials for which the ledger names a result that is not there any more, and which result that was.
        entries: the lines of the ledger that can be believed.
        faults: attempts that ended in a fault of the instrument, rows of `FAULT_COLUMNS`.
        samples: columns of the samples scraps by trial_id, if they were asked for; NaN where there is no value.
        accepted: changes since the beginning that somebody accepted.
        ledger_trouble: why the ledger cannot be read as a whole; empty when it can.
    """

    folder: Path
    plan: Plan | None = None
    needed: list[PlannedTrial] = field(default_factory=list)
    results: Records = field(default_factory=lambda: Records({}))
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost: dict[str, Outcome] = field(default_factory=dict)
    entries: list[LedgerEntry] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    ledger_trouble: str = ""

    def durations_s(self) -> dict[str, float | None]:
        """Return how long each trial took as a whole that gave a result; None where nobody timed it."""
        return {entry.trial_id: entry.duration_s for entry in self.entries if not entry.outcome.is_fault}

    def last_attempts(self) -> dict[str, int]:
        """Return the highest number of an attempt at each trial that has been filed."""
        known = [(entry.trial_id, entry.attempt) for entry in self.entries]
        known += [(str(row["trial_id"]), int(row["attempt"])) for row in self.faults]
        return dict(sorted(known))


def read_standing(folder: Path, with_samples: bool = False) -> Standing:
    """Read the state of a campaign.

    Args:
        with_samples: read every notebook too, for its samples; else only where there is no valid side file.

    Raises:
        CampaignNotFound: no such folder, or one without a campaign in it.
    """
    if not folder.is_dir():
        raise CampaignNotFound(f"{folder}: there is no such campaign; `picolab status` lists those there are")
    if not (folder / PLAN_FILE).exists() and not (folder / "trials").is_dir():
        raise CampaignNotFound(f"{folder}: is no campaign: it has neither plan.json nor trials/")
    with collection_paused():
        return _Reader(folder, with_samples).read()


def read_trials(folder: Path, trial_ids: list[str]) -> dict[str, TrialRead]:
    """Return what reading some trials of a campaign with their samples finds, see `picolab.results.second_process`."""
    with collection_paused():
        return _Reader(folder, with_samples=True).read_only(trial_ids)


def difference_from_plan(record: Record, trial: PlannedTrial, campaign: str) -> str:
    """Return how a record differs from what was planned, one sentence; empty when it does not."""
    identity = record.identity
    if identity.trial_id != trial.trial_id:
        return f"holds the record of another trial ({identity.trial_id})"
    if identity.campaign != campaign:
        return f"holds the record of another campaign ({identity.campaign})"
    places = (("block", identity.block, trial.block), ("position", identity.position, trial.position))
    differing = [f"{name} {has} where the plan says {said}" for name, has, said in places if has != said]
    if differing:
        return f"holds a record of {listed(differing)}"
    differing = parameter_differences(record.parameters, trial.parameters)
    return f"was measured with {'; '.join(differing)}" if differing else ""


def parameter_differences(has: TrialParameters, planned: TrialParameters) -> list[str]:
    """Return each parameter that is not as planned, such as `ram_mb = 512 where the plan says 128`."""
    return [
        f"{name} = {getattr(has, name)!r} where the plan says {getattr(planned, name)!r}"
        for name in TrialParameters.model_fields
        if name not in _SET_BY_CAMPAIGN and getattr(has, name) != getattr(planned, name)
    ]


class _Reader:
    def __init__(self, folder: Path, with_samples: bool) -> None:
        self.folder = folder
        self.with_samples = with_samples
        self.found = Standing(folder)
        self.planned: dict[str, PlannedTrial] = {}
        self.campaign = ""

    def read(self) -> Standing:
        found = self.found
        self._read_plan()
        self._read_ledger()
        records = self._read_trials()
        order = {trial.trial_id: index for index, trial in enumerate(found.needed)}
        found.results = Records(
            {
                trial_id: records[trial_id]
                for trial_id in sorted(records, key=lambda name: (order.get(name, len(order)), name))
                if self._outcome(trial_id) not in FAULTS
            }
        )
        found.lost = {
            entry.trial_id: entry.outcome
            for entry in found.entries
            if not entry.outcome.is_fault and entry.trial_id not in found.results
            if entry.trial_id in order or found.plan is None
        }
        found.faults = self._faults(Records({name: records[name] for name in records if name not in found.results}))
        self._list_missing()
        self._check_small_files()
        return found

    def _problem(self, path: Path, sentence: str) -> None:
        # Messages begin with the path, which the table has in a column of its own.
        words = one_line(sentence.removeprefix(f"{path}: "))
        if len(words) > _LONGEST_SENTENCE:
            words = f"{words[:_LONGEST_SENTENCE]} ..."
        self.found.problems.append(Problem(one_line(str(path.relative_to(self.folder))), words))

    def _read_plan(self) -> None:
        path, found = self.folder / PLAN_FILE, self.found
        try:
            plan = Plan.load(self.folder)
        except PicolabError as error:
            why = (
                str(error).removeprefix(f"{path}: this picolab cannot read the plan: ").split("; the notebooks next")[0]
            )
            why = "it is not there" if isinstance(error, CampaignNotFound) else why
            self._problem(path, f"the plan is damaged, so it is unknown which trials are missing: {why}")
            return
        found.plan, found.needed, self.campaign = plan, list(plan.trials), plan.campaign
        self.planned = {trial.trial_id: trial for trial in plan.trials}
        last = stopped_after(self.folder)
        may_stop = plan.stopping is not None or plan.answer is not None
        most = max([plan.repeats, *(trial.block for trial in plan.trials)])
        if last is not None and (not may_stop or last > most):
            self._problem(self.folder / STOPPED_FILE, f"names block {last}, which this plan cannot end after: ignored")
        elif last is not None:
            # What `repeats: auto` did not need is not missing.
            found.needed = [trial for trial in plan.trials if trial.block <= last]
        elif (self.folder / STOPPED_FILE).exists():
            self._problem(self.folder / STOPPED_FILE, "is damaged: ignored")
        begun = begun_file.read_beginning(self.folder)
        for sentence in begun.problems:
            self._problem(self.folder / begun_file.BEGUN_FILE, sentence)
        found.accepted = begun.accepted
        changes = begun.plan_changes(plan)
        if changes:
            self._problem(path, f"is not the plan that the campaign began with: {begun_file.in_short(changes)}")
        for sentence in begun.accepted:
            self._problem(self.folder / begun_file.BEGUN_FILE, sentence)

    def _read_ledger(self) -> None:
        path, found = self.folder / LEDGER_FILE, self.found
        try:
            entries, damaged, count = read_ledger(path)
        except UnreadableFile as error:
            found.ledger_trouble = str(error)
            self._problem(path, str(error))
            return
        for number, kind, why in damaged:
            torn = "torn: the campaign was killed while it wrote it" if kind == "torn" else f"damaged ({why[:200]})"
            self._problem(path, f"line {number} is {torn}")
        if count > len(damaged):
            self._problem(path, f"{count - len(damaged)} more lines are damaged")
        unplanned: Counter[str] = Counter()
        attempts: set[tuple[str, int]] = set()
        repeated: Counter[tuple[str, int]] = Counter()
        for entry in entries:
            if self.planned and entry.trial_id not in self.planned:
                unplanned[entry.trial_id] += 1
            elif (entry.trial_id, entry.attempt) in attempts:
                repeated[entry.trial_id, entry.attempt] += 1
            else:
                attempts.add((entry.trial_id, entry.attempt))
                found.entries.append(entry)
        for trial_id in unplanned:
            self._problem(path, f"names {trial_id}, which is not in the plan: not counted")
        for trial_id, attempt in repeated:
            self._problem(path, f"has two lines for attempt {attempt} at {trial_id}: only the first line counts")

    def _outcome(self, trial_id: str) -> Outcome:
        """Return the outcome of a record that was read, parsed or not."""
        return Outcome(self.found.rows[trial_id]["outcome"])

    def _read_trials(self) -> dict[str, Record | str]:
        place = self.folder / "trials"
        needed = {trial.trial_id for trial in self.found.needed}
        said = {(entry.trial_id, entry.attempt): entry.outcome for entry in self.found.entries}
        named = {e.trial_id: e.outcome for e in self.found.entries if not e.outcome.is_fault}
        records: dict[str, Record | str] = {}
        stems = {path.stem for path in place.glob("*.ipynb")}
        stems |= {path.name.removesuffix(RECORD_SUFFIX) for path in place.glob(f"*{RECORD_SUFFIX}")}
        counted = [stem for stem in sorted(stems) if not self.planned or stem in needed]
        # Without samples half as much is read, and by a campaign that begins: it has one process.
        with SecondProcess(self.folder, counted if self.with_samples else []) as second:
            for trial_id in sorted(stems):
                path = place / f"{trial_id}.ipynb"
                if self.planned and trial_id not in needed:
                    late = trial_id in self.planned
                    why = "is of a block that the campaign did not need" if late else "is not in the plan"
                    self._problem(path, f"{why}: not counted")
                    continue
                read = second.read(trial_id)
                record = self._read_trial(trial_id, path) if read is None else self._take(trial_id, read)
                if record is None:
                    continue
                outcome = self._outcome(trial_id)
                same_attempt = said.get((trial_id, self.found.rows[trial_id]["attempt"]), outcome)
                ledger = named.get(trial_id, same_attempt)
                if ledger != outcome:
                    self._problem(path, f"says {outcome} where the ledger says {ledger}")
                records[trial_id] = record
        return records

    def read_only(self, trial_ids: list[str]) -> dict[str, TrialRead]:
        """Return what reading these trials finds, in the second process."""
        import numpy as np

        self._read_plan()
        found, parts = self.found, {}
        for trial_id in trial_ids:
            found.problems.clear()
            record = self._read_trial(trial_id, self.folder / "trials" / f"{trial_id}.ipynb")
            samples = found.samples.pop(trial_id, None)
            parts[trial_id] = TrialRead(
                list(found.problems),
                None if record is None else record.model_dump_json(),
                found.rows.pop(trial_id, None),
                # One array: a campaign has twenty columns a trial, and each array takes its time in a pipe.
                None if samples is None else (list(samples), np.array(list(samples.values()))),
            )
        return parts

    def _take(self, trial_id: str, read: TrialRead) -> str | None:
        """Add what the second process found of a trial, and return its record as JSON."""
        self.found.problems += read.problems
        if read.row is not None:
            self.found.rows[trial_id] = read.row
        if read.samples is not None:
            self.found.samples[trial_id] = dict(zip(*read.samples, strict=True))
        return read.record

    def _read_trial(self, trial_id: str, path: Path) -> Record | None:
        """Return the record of a trial, or None when there is nothing that counts.

        The files that the trial wrote itself are the truth: a notebook may have been run again by hand since.
        """
        side_file = path.with_name(f"{trial_id}{RECORD_SUFFIX}")
        own, own_data = self._believed(trial_id, side_file)
        if own is not None and not self.with_samples:
            return own
        in_notebook, scrap, sentence = None, None, ""
        try:
            scraps = read_scraps(path)
            scrap = scraps.get(SAMPLES_SCRAP)
            data = record_data(scraps, path)
            if own is not None and data == own_data:
                in_notebook = own
            else:
                in_notebook, row = checked_row(data, path)
                sentence = self._difference(in_notebook, trial_id)
                if own is None:
                    self.found.rows[trial_id] = row
        except RecordError as error:
            sentence = str(error).removeprefix(f"{path}: ")
        if own is None:
            if sentence:
                self._problem(path, f"{sentence}: not counted" if in_notebook is not None else sentence)
            own = None if sentence else in_notebook
        elif sentence or in_notebook != own:
            by_hand = "holds another record than the trial made (was it run again by hand?)"
            self._problem(path, f"{sentence or by_hand}; the trial's own files count")
            scrap = samples_of(path.with_name(f"{trial_id}.samples.jsonl"), own)
        if self.with_samples and own is not None and own.outcome not in FAULTS:
            self.found.samples[trial_id], trouble = sample_columns(scrap)
            # A server that died before its upload was never sampled: then nothing is missing.
            if trouble and (scrap is not None or own.memory is not None):
                self._problem(path, trouble)
        return own

    def _believed(self, trial_id: str, path: Path) -> tuple[Record, Any] | tuple[None, None]:
        """Return the record in a side file, and the JSON that it was read from, if it counts."""
        try:
            data = side_data(path)
            record, row = checked_row(data, path)
        except FileNotFoundError:
            return None, None
        except (UnreadableFile, RecordError) as error:
            self._problem(path, str(error))
            return None, None
        difference = self._difference(record, trial_id)
        if difference:
            self._problem(path, f"{difference}: not counted")
            return None, None
        self.found.rows[trial_id] = row
        return record, data

    def _difference(self, record: Record, trial_id: str) -> str:
        if trial_id in self.planned:
            return difference_from_plan(record, self.planned[trial_id], self.campaign)
        if record.identity.trial_id != trial_id:
            return f"holds the record of another trial ({record.identity.trial_id})"
        return ""

    def _faults(self, records: Records) -> list[dict[str, Any]]:
        """Return the attempts that ended in a fault; `records` are those of trials without a result."""
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for entry in self.found.entries:
            if entry.outcome.is_fault:
                known = entry.model_dump(mode="json", include=set(FAULT_COLUMNS))
                rows[entry.trial_id, entry.attempt] = known
        for path in sorted((self.folder / "faults").glob("*.ipynb")):
            trial_id, _, attempt = path.stem.rpartition(".attempt")
            number = int(attempt) if attempt.isascii() and attempt.isdecimal() and len(attempt) < 10 else 0
            if not trial_id or not 1 <= number <= MOST_ATTEMPTS or (self.planned and trial_id not in self.planned):
                self._problem(path, "is of no trial in the plan: not counted")
                continue
            place = {"notebook": str(path.relative_to(self.folder))}
            key = (trial_id, number)
            if key in rows:
                rows[key] |= place
            else:
                rows[key] = {"trial_id": trial_id, "attempt": number, **place, **self._fault_in(path)}
        for trial_id, record in records.items():
            key = (trial_id, record.identity.attempt)
            rows.setdefault(
                key,
                {
                    **_fault_row(record),
                    "trial_id": trial_id,
                    "attempt": key[1],
                    "notebook": f"trials/{trial_id}.ipynb",
                },
            )
        return [rows[key] for key in sorted(rows)]

    def _fault_in(self, path: Path) -> dict[str, Any]:
        """Return the columns of a fault that only its notebook records."""
        try:
            return _fault_row(read_record(path))
        except RecordError as error:
            return {"outcome_detail": one_line(str(error).removeprefix(f"{path}: "))[:_LONGEST_SENTENCE]}

    def _list_missing(self) -> None:
        found = self.found
        named = {problem.path for problem in found.problems}
        for trial_id in dict.fromkeys([*(trial.trial_id for trial in found.needed), *found.lost]):
            path = self.folder / "trials" / f"{trial_id}.ipynb"
            if trial_id in found.results or str(path.relative_to(self.folder)) in named:
                continue
            attempts = [str(row.get("outcome")) for row in found.faults if row["trial_id"] == trial_id]
            if trial_id in found.lost:
                self._problem(path, f"is gone: the ledger says that this trial ended {found.lost[trial_id]}")
            elif attempts:
                self._problem(path, f"no result: only faults of the instrument ({', '.join(attempts)})")
            else:
                self._problem(path, "no result yet: planned and not run")

    def _check_small_files(self) -> None:
        for sentence in read_starts(self.folder)[1]:
            self._problem(self.folder / STARTS_FILE, sentence)
        path = self.folder / RESULTS_FILE
        try:
            file = io.StringIO(read_text(path, LARGEST_RESULTS_BYTES), newline="")
            rows = [row.get("trial_id") for row in csv.DictReader(file)]
        except FileNotFoundError:
            return
        except (UnreadableFile, csv.Error) as error:
            self._problem(path, f"cannot be read ({str(error).removeprefix(f'{path}: ')})")
            return
        if sorted(map(str, rows)) != sorted(self.found.results):
            self._problem(
                path,
                f"has {len(rows)} rows, which are not the {len(self.found.results)} results that are there; "
                f"`picolab export` and `picolab resume` renew it",
            )


def _fault_row(record: Record) -> dict[str, Any]:
    return {
        "outcome": record.outcome.value,
        "outcome_detail": record.outcome_detail,
        "started_at": record.identity.started_at,
    }
