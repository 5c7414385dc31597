"""The rows of a history: one a trial, with every column of `results.csv`, its host, and the record itself.

A new metric or factor is a new column and needs no edit here; files without it have null there. `SCHEMA_VERSION` rises
only when a column of an older file would be misread.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from picolab.config.trial_parameters import TrialParameters, short
from picolab.record.factors import FACTORS
from picolab.record.outcomes import STEPS, Step
from picolab.record.record import Record
from picolab.results.rows import record_row, row_columns, step_ok

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
MERGED_VERSION = 2
"""Of a file that was merged from those of several groups: a picolab that takes it for a file of one would add trials
again, and refuses it."""
_OWN = {
    "trial_key": "string",
    "campaign_key": "string",
    "series": "string",
    "series_words": "string",
    "host": "string",
    "hostname": "string",
    "cpu_model": "string",
    "cpu_count": "Int64",
    "kernel": "string",
    "host_ram_bytes": "Int64",
    "picolab_version": "string",
    "purpose": "string",
    "started_utc": "timestamp",
    "record": "string",
}
"""Columns that `results.csv` has not, and their types."""
_RAM_STEPS = 4
"""Of a doubling of RAM: what a kernel keeps for itself differs a little, and makes no other host."""


def counts_column(step: Step | None) -> str:
    """Return the column that says whether the numbers of a step count, or those of the whole trial."""
    return f"counts_{step or 'trial'}"


def columns() -> dict[str, str]:
    """Return the columns of a row and their types: pandas types, and `timestamp` (UTC)."""
    counting = {counts_column(step): "boolean" for step in (None, *STEPS)}
    return row_columns() | _OWN | counting


def host_key(host: Mapping[str, Any]) -> str:
    """Return a text that is equal for trials of one host with one kernel, and for no others: see `host_changes`."""
    ram = host.get("ram_bytes")
    rounded = round(math.log2(ram) * _RAM_STEPS) if isinstance(ram, int | float) and ram > 0 else None
    names = ("hostname", "cpu_model", "cpu_count", "architecture", "kernel")
    return _digest([*(host.get(name) for name in names), rounded], 12)


def trial_key(record: Record) -> str:
    """Return the identity of a trial: the same whenever and from wherever it is added."""
    identity = record.identity
    facts = [identity.campaign, identity.trial_id, identity.attempt, identity.started_at]
    return _digest([*facts, record.parameters.seed, record.provenance.host.get("hostname")], 32)


def series_key(row: Mapping[str, Any], without: Iterable[str] = ()) -> str:
    """Return a text that is equal for trials of one case with whatever build, and for no others.

    Every factor is in it whose level is not its default, but for those that a build is known by: rows of older files,
    which lack a later factor, keep their series.

    Args:
        without: further factors to leave out.
    """
    levels = [
        [name, row.get(name)]
        for name, factor in FACTORS.items()
        if factor.shown != "build" and name not in without and row.get(name) != factor.default
    ]
    return _digest(levels, 12)


def series_words(parameters: TrialParameters) -> str:
    """Return a case without its build in words, with the way in which its server is started."""
    ways = [short(part) for part in (parameters.environment, parameters.calibration) if part]
    return " ".join([parameters.scenario, *ways])


def _digest(parts: Any, length: int) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:length]


def history_row(record: Record, campaign_key: str, purpose: str) -> dict[str, Any]:
    """Return a record as a row with the keys of `columns`.

    Args:
        campaign_key: identity of its campaign.
        purpose: of the trial in the plan, such as `case`; trials of a search belong to no series of a case.
    """
    row, host = record_row(record), record.provenance.host
    started = datetime.fromisoformat(record.identity.started_at).astimezone(UTC).replace(tzinfo=None)
    return (
        row
        | {counts_column(step): step_ok(row, step) for step in (None, *STEPS)}
        | {
            "trial_key": trial_key(record),
            "campaign_key": campaign_key,
            "series": series_key(row),
            "series_words": series_words(record.parameters),
            "host": host_key(host),
            "host_ram_bytes": host.get("ram_bytes"),
            "picolab_version": record.provenance.picolab_version,
            "purpose": purpose,
            "started_utc": started,
            "record": record.model_dump_json(),
        }
        | {name: host.get(name) for name in ("hostname", "cpu_model", "cpu_count", "kernel")}
    )


def arrow_table(rows: list[dict[str, Any]], kinds: Mapping[str, str]) -> pa.Table:
    """Return rows as an Arrow table with those columns that have a value.

    A column of whole numbers with a fraction in it has fractions.

    Args:
        kinds: column -> type, as `columns` has them.
    """
    import pyarrow as pa

    types = {"string": pa.string(), "boolean": pa.bool_(), "Float64": pa.float64(), "timestamp": pa.timestamp("us")}
    fields = {}
    for name, kind in kinds.items():
        values = [row.get(name) for row in rows]
        if all(value is None for value in values):
            continue
        if kind == "Int64":
            fractions = any(isinstance(value, float) for value in values)
            fields[name] = pa.array(values, type=pa.float64() if fractions else pa.int64())
        elif kind == "string":
            fields[name] = pa.array([value if value is None else str(value) for value in values], type=pa.string())
        else:
            fields[name] = pa.array(values, type=types[kind])
    return pa.table(fields)
