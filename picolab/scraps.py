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

from picolab.errors import PicolabError, ProbeError, RecordError, UnreadableFile
from picolab.foreign_files import MIB, read_json, unfit_value
from picolab.probes.samples import read_samples, samples_scrap
from picolab.record import RECORD_SCRAP, Record, validate_record
from picolab.rows import FAULT_COLUMNS, record_row, sample_frame, trial_frame

if TYPE_CHECKING:  # pandas takes half a second, and a trial that only reads a record does not need it.
    import pandas as pd

__all__ = [
    "CampaignData",
    "checked_record",
    "read_campaign",
    "read_record",
    "read_scraps",
    "record_of",
    "record_row",
    "sample_columns",
    "samples_of",
]

LARGEST_NOTEBOOK_BYTES = 32 * MIB
LARGEST_SAMPLES_BYTES = 32 * MIB
"""More than two hours of samples, for reading what lies about; a trial reads its own file whole."""
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
    lost: dict[str, str] = field(default_factory=dict)
    """By trial_id, the results that the ledger names and that are not there any more."""
    accepted: list[str] = field(default_factory=list)
    """Changes of plan, build or host since the campaign began with which somebody chose to go on, a sentence each."""


def read_scraps(path: Path) -> dict[str, Any]:
    """Return the scraps of an executed notebook by name; of two with one name the last wins.

    Raises:
        RecordError: the file cannot be read or is no notebook.
    """
    try:
        notebook = read_json(path, LARGEST_NOTEBOOK_BYTES)
    except FileNotFoundError:
        raise RecordError(f"{path}: is not there") from None
    except UnreadableFile as error:
        what = str(error).removeprefix(f"{path}: ")
        raise RecordError(
            f"{path}: {what if what.startswith('cannot') else f'is not a notebook: the file {what}'}"
        ) from None
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
    return record_of(read_scraps(path), path)


def record_of(scraps: dict[str, Any], path: Path) -> Record:
    """Return the valid record among the scraps of a notebook.

    Raises:
        RecordError: there is none, or it is not valid.
    """
    if RECORD_SCRAP not in scraps:
        raise RecordError(f"{path}: holds no record: the trial ended before its collect stage")
    return checked_record(scraps[RECORD_SCRAP], path)


def checked_record(data: Any, path: Path) -> Record:
    """Return parsed JSON as a valid record whose values every column and file can hold.

    Raises:
        RecordError: it is none.
    """
    unfit = unfit_value(data)
    if unfit is not None:
        raise RecordError(f"{path}: the record is not valid: {unfit}")
    try:
        record = validate_record(data, str(path))
        unfit = unfit_value(record_row(record))
    except RecordError:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, PicolabError) as error:
        raise RecordError(f"{path}: the record is not valid: {error}") from None
    if unfit is not None:
        raise RecordError(f"{path}: the record is not valid: {unfit}")
    return record


def read_campaign(folder: Path) -> CampaignData:
    """Read everything that a campaign left, as `picolab.standing` finds it, as frames.

    Raises:
        CampaignNotFound: no such folder, or one without a campaign in it.
    """
    import pandas as pd

    from picolab.standing import read_standing

    found = read_standing(folder, with_samples=True)
    plan: dict[str, Any] = {}
    if found.plan is not None:
        plan = found.plan.model_copy(update={"trials": found.needed}).model_dump(mode="json")
    trials = trial_frame([record_row(record) for record in found.results.values()])
    return CampaignData(
        folder=folder,
        plan=plan,
        trials=trials,
        faults=pd.DataFrame(found.faults, columns=list(FAULT_COLUMNS)),
        samples=sample_frame({name: found.samples.get(name, {}) for name in found.results}, trials),
        problems=pd.DataFrame(found.problems, columns=["path", "problem"]),
        records=found.results,
        lost={trial_id: outcome.value for trial_id, outcome in found.lost.items()},
        accepted=found.accepted,
    )


def samples_of(path: Path, record: Record, most_bytes: int = LARGEST_SAMPLES_BYTES) -> Any:
    """Return the samples scrap made anew from a trial's side file, or None when there is none that can be used."""
    first = record.upload.first_byte_monotonic_s if record.upload else None
    try:
        samples = read_samples(path, most_bytes)
        zero_s = first if first is not None else float((samples.rows[0][0] if samples.rows else 0.0) or 0.0)
        return samples_scrap(samples, record.identity.trial_id, zero_s)
    except (ProbeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        # Whatever a file may hold that is not what the probe writes.
        return None


def sample_columns(scrap: Any) -> tuple[dict[str, Any], str | None]:
    """Return the columns of a samples scrap, and a sentence when there is something wrong with it."""
    if scrap is None:
        return {}, "holds no samples: memory over time cannot be shown for this trial"
    columns = scrap.get("columns") if isinstance(scrap, dict) else None
    if not isinstance(columns, dict) or not all(isinstance(values, list) for values in columns.values()):
        return {}, "its samples are damaged: there are no columns"
    unfit = unfit_value(columns)
    if unfit is not None:
        return {}, f"its samples are damaged: {unfit}"
    if len({len(values) for values in columns.values()}) > 1 or "t_s" not in columns:
        return {}, "its samples are damaged: the columns have different lengths or no t_s"
    if not all(value is None or type(value) in (int, float) for values in columns.values() for value in values):
        return {}, "its samples are damaged: a value is no number"
    return columns, None if columns["t_s"] else "holds no samples: the memory probe delivered none"
