"""Series of a history: one case on one host, a point for each build of each campaign. Nothing else is ever pooled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from picolab.config.invalid_input import unknown_name
from picolab.errors import ParameterError
from picolab.history.database import Database
from picolab.history.floors import FLOOR
from picolab.history.schema import counts_column
from picolab.record.metric import Metric
from picolab.record.metrics import METRICS, shown_metrics
from picolab.record.outcomes import Outcome
from picolab.results.labels import build_label

_SHORT_HOST = 6
_CONSTANT = (
    *("campaign", "hostname", "cpu_model", "cpu_count", "kernel", "picolab_version"),
    *("build_kind", "series_words"),
)
"""Columns that have one value in all trials of a point."""


@dataclass(frozen=True)
class Point:
    """A build in one campaign of a series.

    Attributes:
        started: when its first trial began, UTC.
        order: of its campaign among those of the series, by time.
        build: as it is shown.
        sha256: of its executable; empty when no trial has it.
        trials: that have a result, and how many of them ended ok.
        values: by metric, the median or maximum in the stored unit; a metric without a value that counts is missing.
        counts: by metric, of how many trials the value is.
    """

    started: datetime
    order: int
    campaign: str
    build: str
    sha256: str
    trials: int
    ok: int
    picolab_version: str
    values: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The executable, or the name of a build whose executable is not known."""
        return self.sha256 or self.build


@dataclass(frozen=True)
class Series:
    """The points of one case on one host.

    Attributes:
        host: identity of the host; a host with another kernel, processor or RAM is another one.
        points: in the order of time; of one campaign those first whose builds were measured earlier.
    """

    key: str
    host: str
    host_words: str
    case: str
    points: tuple[Point, ...]

    def of(self, metric: Metric) -> list[Point]:
        """Return the points that have a value of a metric."""
        return [point for point in self.points if metric.name in point.values]

    def line(self, metric: Metric) -> list[Point]:
        """Return the points of a metric that follow the newest build: one of each campaign, in the order of time.

        The newest build of a campaign is the one that was first measured last. Of several new ones it is that with the
        name of the campaign before, else the last name.
        """
        first: dict[str, int] = {}
        for point in self.points:
            first.setdefault(point.identity, point.order)
        found: list[Point] = []
        for order in sorted({point.order for point in self.of(metric)}):
            name = found[-1].build if found else ""
            here = [point for point in self.of(metric) if point.order == order]
            found.append(max(here, key=lambda point: (first[point.identity], point.build == name, point.build)))
        return found


@dataclass(frozen=True)
class Wanted:
    """Which part of a history: builds by name or begin of their SHA-256, hosts by name or identity."""

    builds: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def takes(self, row: dict[str, Any]) -> bool:
        """Return whether a point belongs to it."""
        sha256 = str(row["build_sha256"] or "")
        names = {row["build"], sha256} | {sha256[:length] for length in range(6, len(sha256))}
        host = {row["hostname"], row["host"], str(row["host"])[:_SHORT_HOST]}
        return (not self.builds or bool(names & set(self.builds))) and (not self.hosts or bool(host & set(self.hosts)))


def chosen_metrics(names: Sequence[str]) -> list[Metric]:
    """Return metrics by name; for no name those of the table of `picolab status`, and the memory floor.

    Raises:
        ParameterError: there is no such metric.
    """
    if not names:
        return [*shown_metrics("console"), FLOOR]
    every = METRICS | {FLOOR.name: FLOOR}
    for name in names:
        if name not in every:
            raise ParameterError(f"--metric: {unknown_name(name, list(every))}")
    return [every[name] for name in dict.fromkeys(names)]


def read_series(database: Database, metrics: Sequence[Metric], wanted: Wanted | None = None) -> list[Series]:
    """Return the series that have a value of one of the metrics, those of one host next to each other.

    Args:
        metrics: of `METRICS`, or `FLOOR`, which has series of its own.
    """
    rows = _trial_rows(database, [metric for metric in metrics if metric is not FLOOR])
    if FLOOR in metrics:
        rows += _floor_rows(database)
    wanted = wanted or Wanted()
    together: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if wanted.takes(row) and any(row.get(metric.name) is not None for metric in metrics):
            together.setdefault((row["host"], row["series"]), []).append(row)
    found = [_series(host, key, same, metrics) for (host, key), same in together.items()]
    return _named(sorted(found, key=lambda series: (series.host_words, series.case, series.key)))


def _trial_rows(database: Database, metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    """Return a row for each build of each campaign in each series, with the metrics' values and counts."""
    shown = []
    for metric in metrics:
        having = f'"{metric.name}" IS NOT NULL'
        if metric.summary == "maximum":
            shown.append(f'max("{metric.name}") AS "{metric.name}"')
        else:
            having += f" AND {counts_column(metric.step)}"
            shown.append(f'median("{metric.name}") FILTER ({having}) AS "{metric.name}"')
        shown.append(f'count(*) FILTER ({having}) AS "n {metric.name}"')
    if not shown:
        return []
    some = ", ".join(f"any_value({name}) AS {name}" for name in _CONSTANT)
    return database.rows(
        f"SELECT host, series, campaign_key, build, build_sha256, min(started_utc) AS started_utc, {some}, "
        f"count(*) AS trials, count(*) FILTER (outcome = ?) AS ok, {', '.join(shown)} "
        f"FROM trials WHERE purpose = 'case' GROUP BY host, series, campaign_key, build, build_sha256",
        Outcome.OK.value,
    )


def _floor_rows(database: Database) -> list[dict[str, Any]]:
    rows = []
    for campaign in database.rows("SELECT campaign_key, campaign, floors FROM campaigns WHERE floors != '[]'"):
        for row in database.parsed(str(campaign["campaign"]), "memory floors", campaign["floors"], list):
            started = datetime.fromisoformat(row["started_utc"]).astimezone(UTC).replace(tzinfo=None)
            more = {name: campaign[name] for name in ("campaign", "campaign_key")}
            more |= {"started_utc": started, "ok": None}
            rows.append(row | more | {f"n {FLOOR.name}": row["trials"]})
    return rows


def _series(host: str, key: str, rows: Sequence[dict[str, Any]], metrics: Sequence[Metric]) -> Series:
    begun: dict[str, datetime] = {}
    for row in rows:
        begun[row["campaign_key"]] = min(row["started_utc"], begun.get(row["campaign_key"], row["started_utc"]))
    orders = {name: number for number, name in enumerate(sorted(begun, key=lambda name: (begun[name], name)))}
    points = [_point(row, orders[row["campaign_key"]], metrics) for row in rows]
    first: dict[str, int] = {}
    for point in sorted(points, key=lambda point: point.order):
        first.setdefault(point.identity, point.order)
    last = max(rows, key=lambda row: row["started_utc"])
    cpus = f"{last['cpu_count']} x {last['cpu_model']}"
    return Series(
        key=key,
        host=host,
        host_words=f"{last['hostname']} ({cpus}, kernel {last['kernel']}, host {host[:_SHORT_HOST]})",
        case=str(last["series_words"]),
        points=tuple(sorted(points, key=lambda point: (point.order, first[point.identity], point.build, point.sha256))),
    )


def _point(row: dict[str, Any], order: int, metrics: Sequence[Metric]) -> Point:
    having = [metric.name for metric in metrics if row.get(metric.name) is not None]
    return Point(
        started=row["started_utc"].replace(tzinfo=UTC),
        order=order,
        campaign=str(row["campaign"] or "by hand"),
        build=build_label(str(row["build"]), row["build_kind"]),
        sha256=str(row["build_sha256"] or ""),
        trials=row["trials"],
        ok=row["trials"] if row["ok"] is None else row["ok"],
        picolab_version=str(row["picolab_version"]),
        values={name: float(row[name]) for name in having},
        counts={name: int(row[f"n {name}"]) for name in having},
    )


def _named(series: list[Series]) -> list[Series]:
    """Give the begin of its key to each case whose words stand for several on one host."""
    seen: dict[tuple[str, str], int] = {}
    for one in series:
        seen[one.host, one.case] = seen.get((one.host, one.case), 0) + 1
    return [
        one
        if seen[one.host, one.case] == 1
        else Series(one.key, one.host, one.host_words, f"{one.case} · case {one.key[:6]}", one.points)
        for one in series
    ]
