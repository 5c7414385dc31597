"""Adding a campaign to a history: its new trials as one file, and what else a comparison needs of it as another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from picolab.config.plan import LARGEST_PLAN_BYTES, PLAN_FILE, Plan
from picolab.errors import PicolabError, UnreadableFile
from picolab.files.foreign import read_text
from picolab.history.checksums import parquet
from picolab.history.database import CAMPAIGN_COLUMNS, Database
from picolab.history.floors import floor_rows
from picolab.history.schema import arrow_table, columns, history_row, trial_key
from picolab.history.store import CAMPAIGNS, TRIALS, Store, file_name
from picolab.record.record import Record
from picolab.results.begun_file import BEGUN_FILE
from picolab.results.ledger import LEDGER_FILE
from picolab.results.standing import Standing, read_standing
from picolab.results.starts_file import STARTS_FILE
from picolab.results.stop_file import STOPPED_FILE

KEPT_FILES = (PLAN_FILE, BEGUN_FILE, LEDGER_FILE, STARTS_FILE, STOPPED_FILE)
"""Files of a campaign that a history keeps whole, as they came: a comparison reads them as it would in the campaign."""
_LARGEST_BYTES = 2 * LARGEST_PLAN_BYTES


@dataclass(frozen=True)
class Added:
    """A campaign after it was added: how many of its trials were new, and how many were there already."""

    campaign: str
    new: int
    known: int


def add_campaign(store: Store, folder: Path) -> Added:
    """Add the trials of a campaign that have a result and are not in the history yet.

    Safe to repeat, and next to other processes that add: a trial is itself wherever it is added from, and each call
    writes files of its own.

    Raises:
        CampaignNotFound: no such folder.
        ParameterError, UnreadableFile, HostUnfit, FileNotWritten: as `Database.rows` and `Store.write` do.
    """
    standing = read_standing(folder)
    if standing.plan is None and (folder / PLAN_FILE).exists():
        # What is added is never changed, and without its plan nobody knows what a trial was for.
        try:
            Plan.load(folder)
            why = f"{folder / PLAN_FILE}: cannot be read"
        except PicolabError as error:
            why = str(error)
        raise UnreadableFile(f"{why}; repair the plan, then add the campaign again")
    records = {trial_key(record): record for record in standing.results.values()}
    if not records:
        return Added(folder.name, 0, 0)
    group = _group(records.values())
    known = _known(Database(store, group), records)
    campaign_key = next(iter(known.values()), None) or _new_key(standing, records)
    purposes = {trial.trial_id: str(trial.purpose) for trial in standing.plan.trials} if standing.plan else {}
    rows = [
        history_row(record, campaign_key, purposes.get(record.identity.trial_id, "case"))
        for key, record in records.items()
        if key not in known
    ]
    rows.sort(key=lambda row: (row["started_utc"], row["trial_key"]))
    try:
        content = parquet(arrow_table(rows, columns())) if rows else b""
    except (ValueError, TypeError, OverflowError) as error:
        why = str(error).partition("\n")[0]
        raise UnreadableFile(f"{folder}: a record has a value that its column cannot hold ({why})") from None
    _write_campaign(store, standing, campaign_key, group)
    if content:
        store.write(TRIALS, file_name(group, _digest(sorted(row["trial_key"] for row in rows), 16)), content)
    return Added(folder.name, len(rows), len(known))


def _known(database: Database, records: Mapping[str, Record]) -> dict[str, str]:
    """Return the trials that are in the history already, each with the identity of its campaign."""
    found = database.rows("SELECT trial_key, campaign_key FROM trials")
    return {row["trial_key"]: row["campaign_key"] for row in found if row["trial_key"] in records}


def _new_key(standing: Standing, records: Mapping[str, Record]) -> str:
    """Return the identity of a campaign: it never changes while the campaign grows, whoever adds it first."""
    plan = standing.plan
    if plan is not None:
        return _digest([plan.campaign, plan.created_at, plan.seed], 16)
    first = min(records, key=lambda key: (records[key].identity.started_at, key))
    return _digest([standing.folder.name, first], 16)


def _group(records: Iterable[Record]) -> str:
    """Return the group of the files that may hold these trials: by the name of their campaign."""
    return _digest(sorted({str(record.identity.campaign) for record in records}), 12)


def _write_campaign(store: Store, standing: Standing, campaign_key: str, group: str) -> None:
    """Write the campaign's own row, unless one with the same content is there."""
    content = {
        "campaign_key": campaign_key,
        "campaign": standing.plan.campaign if standing.plan else standing.folder.name,
        "created_at": standing.plan.created_at if standing.plan else None,
        "trials": len(standing.results),
        "floors": json.dumps(floor_rows(standing)),
        "files": json.dumps(_kept_files(standing.folder)),
    }
    digest = _digest(content, 16)
    name = file_name(group, digest)
    if name in store.names(CAMPAIGNS):
        return
    # Its file may be merged into another one.
    merged = Database(store, group).rows("SELECT digest FROM campaigns WHERE campaign_key = ?", campaign_key)
    if digest not in {row["digest"] for row in merged}:
        row = content | {"added_at": datetime.now(UTC).isoformat(timespec="milliseconds"), "digest": digest}
        store.write(CAMPAIGNS, name, parquet(arrow_table([row], CAMPAIGN_COLUMNS)))


def _kept_files(folder: Path) -> dict[str, str]:
    found = {}
    for name in KEPT_FILES:
        with suppress(FileNotFoundError, UnreadableFile):
            found[name] = read_text(folder / name, _LARGEST_BYTES)
    return found


def _digest(parts: Any, length: int) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:length]
