"""Memory floors in a history: the floor of each build that a campaign searched, as a value in a series of its own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from picolab.analysis.floor_search import Floor, floors_of
from picolab.config.sizes import MIB
from picolab.history.schema import host_key, series_key, series_words
from picolab.record.metric import Metric
from picolab.record.record import Record
from picolab.results.rows import record_row
from picolab.results.standing import Standing

FLOOR = Metric(
    "floor_bytes",
    "",
    "memory floor",
    "bytes",
    "the smallest RAM at which the share of trials that was asked for survives",
    "the search is not finished, or the floor is outside of its range",
    verdicts=("less memory", "more memory"),
)
"""The metric of a floor. It is none of `METRICS`, since it is a number of many trials and not of one."""
_WITHOUT_VALUE = ("unfinished", "above", "below")


def floor_rows(standing: Standing) -> list[dict[str, Any]]:
    """Return the floor of each build of a search, as JSON; empty for a campaign that searched none."""
    plan = standing.plan
    if plan is None or plan.floor is None:
        return []
    records = standing.results
    floors = floors_of(plan, {trial_id: record_row(record) for trial_id, record in records.items()})
    return [
        _row(floor, [records[trial.trial_id] for trial in floor.trials])
        for floor in floors.values()
        if floor.trials
        and floor.state not in _WITHOUT_VALUE
        # A floor of several hosts, or of two kernels of one, is a value of none of them.
        and len({host_key(records[trial.trial_id].provenance.host) for trial in floor.trials}) == 1
    ]


def _row(floor: Floor, records: list[Record]) -> dict[str, Any]:
    first = min(records, key=lambda record: record.identity.started_at)
    row, search, host = record_row(first), floor.search, first.provenance.host
    words = series_words(first.parameters).replace(f"-{first.parameters.ram_mb}mb", "", 1)
    return {
        "series": f"{series_key(row, without=('ram_mb',))}-{search.step}-{search.share:g}",
        "series_words": f"{words}, {search.share:.0%} of {search.step}s survive",
        "host": host_key(host),
        **{name: host.get(name) for name in ("hostname", "cpu_model", "cpu_count", "kernel")},
        "picolab_version": first.provenance.picolab_version,
        "build": row["build"],
        "build_kind": row["build_kind"],
        "build_sha256": row["build_sha256"],
        "started_utc": datetime.fromisoformat(first.identity.started_at).astimezone(UTC).isoformat(),
        "trials": len(records),
        FLOOR.name: floor.interval.middle * MIB,
    }
