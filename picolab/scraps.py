"""Tolerant reading of executed notebooks: scraps, records, and a whole campaign as tidy frames.

The wire format is scrapbook's (github.com/nteract/scrapbook): a cell output whose data has the mime type
`application/scrapbook.scrap.<encoder>+json` and the payload `{"name", "data", "encoder", "version"}`.
scrapbook's own reader gives up on the first notebook that it cannot read; this one says which and goes on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picolab.errors import CampaignNotFound, ProbeError, RecordError
from picolab.probes.samples import read_samples, samples_scrap
from picolab.record import FAULTS, RECORD_SCRAP, SAMPLES_SCRAP, Record, validate_record
from picolab.rows import FAULT_COLUMNS, record_row, sample_frame, trial_frame
from picolab.stopping import stopped_after

if TYPE_CHECKING:  # pandas takes half a second, and a trial that only reads a record does not need it.
    import pandas as pd

__all__ = ["CampaignData", "read_campaign", "read_record", "read_scraps", "record_row"]

RECORD_SUFFIX = ".record.json"
_SCRAP_MIME_PREFIX = "application/scrapbook.scrap."


@dataclass
class CampaignData:
    """A campaign as frames."""

    folder: Path
    plan: dict[str, Any]
    """What `plan.json` says; empty when it cannot be read (then `problems` says so)."""
    trials: pd.DataFrame
    """One row a trial whose outcome is a result, columns `ROW_COLUMNS`."""
    faults: pd.DataFrame
    """One row an attempt that ended in a fault of the instrument, columns `FAULT_COLUMNS`."""
    samples: pd.DataFrame
    """One row a sample of the trials above: `trial_id`, `CASE_COLUMNS`, `picolab.probes.memory.COLUMNS`."""
    problems: pd.DataFrame
    """Everything that could not be read or is not there: `path` (relative to the folder) and `problem`."""
    records: dict[str, Record] = field(default_factory=dict)
    """The records behind `trials`, by trial_id."""


def read_scraps(path: Path) -> dict[str, Any]:
    """Return the scraps of an executed notebook by name; of two with one name the last wins.

    Raises:
        RecordError: the file cannot be read or is no notebook.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise RecordError(f"{path}: is not a notebook: the file is not text in UTF-8") from None
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = "is empty" if not text.strip() else f"is cut off or damaged ({error})"
        raise RecordError(f"{path}: is not a notebook: the file {what}") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise RecordError(f"{path}: is not a notebook: it has no list of cells")
    scraps: dict[str, Any] = {}
    for payload in (payload for cell in cells for payload in _payloads(cell)):
        if isinstance(payload, dict) and isinstance(payload.get("name"), str) and "data" in payload:
            scraps[payload["name"]] = _decode(payload["data"], payload.get("encoder"))
    return scraps


def _payloads(cell: Any) -> list[Any]:
    outputs = cell.get("outputs") if isinstance(cell, dict) else None
    if not isinstance(outputs, list):
        return []
    bundles = [output.get("data") for output in outputs if isinstance(output, dict)]
    return [
        payload
        for bundle in bundles
        if isinstance(bundle, dict)
        for mime, payload in bundle.items()
        if mime.startswith(_SCRAP_MIME_PREFIX)
    ]


def _decode(data: Any, encoder: Any) -> Any:
    if encoder == "json" and isinstance(data, str):
        # scrapbook parses a string glued as JSON once more, and keeps it as it is when it is not JSON.
        try:
            return json.loads(data)
        except ValueError:
            return data
    return data


def read_record(path: Path) -> Record:
    """Return the valid record of a trial's executed notebook.

    Raises:
        RecordError: the notebook cannot be read, has no record, or the record is not valid.
    """
    return _record_of(read_scraps(path), path)


def _record_of(scraps: dict[str, Any], path: Path) -> Record:
    if RECORD_SCRAP not in scraps:
        raise RecordError(f"{path}: holds no record: the trial ended before its collect stage")
    return validate_record(scraps[RECORD_SCRAP], str(path))


def read_campaign(folder: Path) -> CampaignData:
    """Read everything that a campaign left: plan, ledger, notebooks.

    The files that a trial wrote itself are the truth about it, then its notebook; the ledger adds the attempts
    that left neither. What cannot be read, is not valid, is not there or contradicts becomes a row of `problems`.

    Raises:
        CampaignNotFound: no such folder, or one without a campaign in it.
    """
    if not folder.is_dir():
        raise CampaignNotFound(f"{folder}: there is no such campaign; `picolab status` lists those there are")
    if not (folder / "plan.json").exists() and not (folder / "trials").is_dir():
        raise CampaignNotFound(f"{folder}: is no campaign: it has neither plan.json nor trials/")
    reader = _CampaignReader(folder)
    return reader.read()


class _CampaignReader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[dict[str, str]] = []

    def read(self) -> CampaignData:
        import pandas as pd

        plan = self._read_plan()
        ledger = self._read_ledger()
        records, samples = self._read_trials(plan, ledger)
        results = {trial_id: record for trial_id, record in records.items() if record.outcome not in FAULTS}
        faults = self._faults(ledger, records)
        self._report_missing(plan, ledger, results, faults)
        trials = trial_frame([record_row(record) for record in results.values()])
        return CampaignData(
            folder=self.folder,
            plan=plan,
            trials=trials,
            faults=pd.DataFrame(faults, columns=list(FAULT_COLUMNS)),
            samples=sample_frame(samples, trials),
            problems=pd.DataFrame(self.problems, columns=["path", "problem"]),
            records=results,
        )

    def _problem(self, path: Path, sentence: str) -> None:
        relative = str(path.relative_to(self.folder))
        # Messages begin with the path, which the table has in a column of its own.
        self.problems.append({"path": relative, "problem": sentence.removeprefix(f"{path}: ")})

    def _read_plan(self) -> dict[str, Any]:
        path = self.folder / "plan.json"
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
            [trial["trial_id"] for trial in plan["trials"]]
            last = stopped_after(self.folder)
            if last is not None:
                # What `repeats: auto` did not need is not missing.
                plan["trials"] = [trial for trial in plan["trials"] if trial["block"] <= last]
        except OSError as error:
            self._problem(path, f"the plan cannot be read ({error.strerror}): nobody can tell what is not done yet")
        except (ValueError, KeyError, TypeError) as error:
            self._problem(path, f"the plan is damaged ({error!r}): nobody can tell what is not done yet")
        else:
            return dict(plan)
        return {}

    def _read_ledger(self) -> list[dict[str, Any]]:
        path = self.folder / "ledger.jsonl"
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            self._problem(path, f"the ledger cannot be read ({error.strerror})")
            return []
        entries: list[dict[str, Any]] = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                entries.append({"trial_id": entry["trial_id"], "outcome": entry["outcome"], **entry})
            except (ValueError, KeyError, TypeError):
                torn = "torn: the campaign was killed while it wrote it" if number == len(lines) else "damaged"
                self._problem(path, f"line {number} is {torn}")
        return entries

    def _read_trials(
        self, plan: dict[str, Any], ledger: list[dict[str, Any]]
    ) -> tuple[dict[str, Record], dict[str, dict[str, Any]]]:
        planned = {trial["trial_id"] for trial in plan.get("trials", [])}
        said = {entry["trial_id"]: entry["outcome"] for entry in ledger}
        records: dict[str, Record] = {}
        samples: dict[str, dict[str, Any]] = {}
        place = self.folder / "trials"
        notebooks = {path.stem for path in place.glob("*.ipynb")}
        side_files = {path.name.removesuffix(RECORD_SUFFIX) for path in place.glob(f"*{RECORD_SUFFIX}")}
        for trial_id in sorted(notebooks | side_files):
            path = place / f"{trial_id}.ipynb"
            found = self._read_trial(trial_id, path)
            if found is None:
                continue
            record, scrap = found
            if planned and trial_id not in planned:
                self._problem(path, "is not in the plan: not counted")
                continue
            if said.get(trial_id, record.outcome) != record.outcome:
                self._problem(path, f"says {record.outcome} where the ledger says {said[trial_id]}")
            records[trial_id] = record
            if record.outcome not in FAULTS:
                columns, sentence = _sample_columns(scrap)
                samples[trial_id] = columns
                if sentence:
                    self._problem(path, sentence)
        return records, samples

    def _read_trial(self, trial_id: str, path: Path) -> tuple[Record, Any] | None:
        """Return the record and the samples scrap of a trial, or None when there is nothing that counts.

        The files that the trial wrote itself are the truth: a notebook may have been run again by hand since.
        """
        in_notebook, scrap, sentence = None, None, ""
        try:
            scraps = read_scraps(path)
            scrap = scraps.get(SAMPLES_SCRAP)
            in_notebook = _record_of(scraps, path)
        except RecordError as error:
            sentence = str(error)
        if in_notebook is not None and in_notebook.identity.trial_id != trial_id:
            sentence = f"holds the record of another trial ({in_notebook.identity.trial_id}): not counted"
            in_notebook = None
        own = self._read_side_file(trial_id)
        if own is None:
            if sentence:
                self._problem(path, sentence)
            return None if in_notebook is None else (in_notebook, scrap)
        if in_notebook == own:
            return own, scrap
        by_hand = "holds another record than the trial made (was it run again by hand?)"
        reason = sentence.removeprefix(f"{path}: ") or by_hand
        self._problem(path, f"{reason}; the trial's own files count")
        return own, samples_of(path.with_name(f"{trial_id}.samples.jsonl"), own)

    def _read_side_file(self, trial_id: str) -> Record | None:
        path = self.folder / "trials" / f"{trial_id}{RECORD_SUFFIX}"
        try:
            record = validate_record(json.loads(path.read_text(encoding="utf-8")), str(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._problem(path, f"cannot be read ({error})")
            return None
        except RecordError as error:
            self._problem(path, str(error))
            return None
        if record.identity.trial_id != trial_id:
            self._problem(path, f"is the record of another trial ({record.identity.trial_id}): not counted")
            return None
        return record

    def _faults(self, ledger: list[dict[str, Any]], records: dict[str, Record]) -> list[dict[str, Any]]:
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for path in sorted((self.folder / "faults").glob("*.ipynb")):
            trial_id, _, attempt = path.stem.rpartition(".attempt")
            number = int(attempt) if trial_id and attempt.isdigit() else 1
            trial_id = trial_id or path.stem
            row = {"trial_id": trial_id, "attempt": number, "notebook": str(path.relative_to(self.folder))}
            rows[trial_id, number] = row | self._fault_in(path)
        for entry in ledger:
            if entry["outcome"] in FAULTS:
                key = (entry["trial_id"], entry.get("attempt", 1))
                known = {name: entry[name] for name in FAULT_COLUMNS if entry.get(name) is not None}
                rows[key] = rows.get(key, {}) | known | {"notebook": rows.get(key, known).get("notebook")}
        for trial_id, record in records.items():
            if record.outcome in FAULTS:
                found = {
                    "trial_id": trial_id,
                    "attempt": record.identity.attempt,
                    "outcome": record.outcome.value,
                    "outcome_detail": record.outcome_detail,
                    "started_at": record.identity.started_at,
                    "notebook": f"trials/{trial_id}.ipynb",
                }
                key = (trial_id, record.identity.attempt)
                rows[key] = found | rows.get(key, {})
        return [rows[key] for key in sorted(rows)]

    def _fault_in(self, path: Path) -> dict[str, Any]:
        """What a faulty attempt's notebook knows by itself; the ledger may know more."""
        try:
            record = read_record(path)
        except RecordError as error:
            return {"outcome_detail": str(error).removeprefix(f"{path}: ")}
        return {
            "outcome": record.outcome.value,
            "outcome_detail": record.outcome_detail,
            "started_at": record.identity.started_at,
        }

    def _report_missing(
        self,
        plan: dict[str, Any],
        ledger: list[dict[str, Any]],
        results: dict[str, Record],
        faults: list[dict[str, Any]],
    ) -> None:
        told = {row["path"] for row in self.problems}
        said = {entry["trial_id"]: entry["outcome"] for entry in ledger}
        planned = [trial["trial_id"] for trial in plan.get("trials", [])]
        for trial_id in dict.fromkeys([*planned, *said]):
            path = self.folder / "trials" / f"{trial_id}.ipynb"
            if trial_id in results or str(path.relative_to(self.folder)) in told:
                continue
            attempts = [str(row.get("outcome")) for row in faults if row["trial_id"] == trial_id]
            if said.get(trial_id, "invalid") not in FAULTS:
                self._problem(path, f"is gone: the ledger says that this trial ended {said[trial_id]}")
            elif attempts:
                self._problem(path, f"no result: only faults of the instrument ({', '.join(attempts)})")
            else:
                self._problem(path, "no result yet: planned and not run")


def samples_of(path: Path, record: Record) -> Any:
    """Return the samples scrap made anew from a trial's side file, or None when there is none."""
    try:
        samples = read_samples(path)
    except ProbeError:
        return None
    first = record.upload.first_byte_monotonic_s if record.upload else None
    zero_s = first if first is not None else float((samples.rows[0][0] if samples.rows else 0.0) or 0.0)
    return samples_scrap(samples, record.identity.trial_id, zero_s)


def _sample_columns(scrap: Any) -> tuple[dict[str, Any], str | None]:
    """Return the columns of a samples scrap, and a sentence when there is something wrong with it."""
    if scrap is None:
        return {}, "holds no samples: memory over time cannot be shown for this trial"
    columns = scrap.get("columns") if isinstance(scrap, dict) else None
    if not isinstance(columns, dict) or not all(isinstance(values, list) for values in columns.values()):
        return {}, "its samples are damaged: there are no columns"
    if len({len(values) for values in columns.values()}) > 1 or "t_s" not in columns:
        return {}, "its samples are damaged: the columns have different lengths or no t_s"
    if not all(isinstance(value, int | float | None) for values in columns.values() for value in values):
        return {}, "its samples are damaged: a value is no number"
    return columns, None if columns["t_s"] else "holds no samples: the memory probe delivered none"
