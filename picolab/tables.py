"""The tables of a report: cases, trials, what is missing, faults, problems."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from picolab.chart_style import grouped, labelled, machine_label, mib, outcome_words, plain_rows
from picolab.markup import Column, Html, code, paragraph, table
from picolab.record import NOT_ASKED_FOR
from picolab.scraps import CampaignData
from picolab.statistics import median, median_interval


def case_table(data: CampaignData) -> Html:
    """Show each case in one row: medians and intervals of its ok trials."""
    rows = []
    for (build, ram, size), cell in grouped(labelled(data.trials), "group", "ram", "file_size").items():
        peaks = [row["peak_anon_bytes"] for row in cell if row["peak_anon_bytes"] is not None]
        good = [row for row in cell if row["outcome"] == "ok"]
        rates = [row["throughput_mib_s"] for row in good if row["throughput_mib_s"] is not None]
        interval = median_interval(rates)
        rows.append(
            {"build": build, "ram": ram, "file_size": size}
            | {"trials": outcome_words(Counter(row["outcome"] for row in cell))}
            | {name: _median(good, name) for name in _MEDIANS}
            | {"interval": f"{interval.low:.1f} to {interval.high:.1f}" if interval else None}
            | {"coverage": f"{interval.coverage:.0%}" if interval else None}
            | {"peak": mib(max(peaks)) if peaks else None}
        )
    if not rows:
        return paragraph("No trial has a result, so there is no table.", "empty")
    if (data.trials["machine"] != "local").any():
        return table(rows, (Column("build and machine", "build"), *_CASE_COLUMNS))
    several = len({row["build"] for row in rows}) > 1
    return table(rows, (Column("build", "build"), *_CASE_COLUMNS) if several else _CASE_COLUMNS)


_MEDIANS = ("throughput_mib_s", "transfer_mib_s", "commit_mib_s", "download_mib_s", "ready_s")
_CASE_COLUMNS = (
    Column("RAM", "ram"),
    Column("file", "file_size"),
    Column("trials", "trials"),
    Column("throughput, MiB/s", "throughput_mib_s", 1),
    Column("interval", "interval", 0),
    Column("coverage", "coverage", 0),
    Column("transfer, MiB/s", "transfer_mib_s", 1),
    Column("commit, MiB/s", "commit_mib_s", 1),
    Column("download, MiB/s", "download_mib_s", 1),
    Column("highest anonymous memory, MiB", "peak", 1),
    Column("ready after, s", "ready_s", 3),
)


def _median(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return median(values) if values else None


_TRIAL_COLUMNS = (
    Column("block", "block", 0),
    Column("outcome", "outcome"),
    Column("throughput, MiB/s", "throughput_mib_s", 1),
    Column("upload, s", "duration_s", 3),
    Column("transfer, s", "transfer_s", 3),
    Column("commit, s", "commit_s", 3),
    Column("download, MiB/s", "download_mib_s", 1),
    Column("anonymous memory, MiB", "peak_anon_mib", 1),
    Column("VmHWM, MiB", "vm_hwm_mib", 1),
    Column("samples a second", "samples_per_s", 1),
)
_READY_COLUMNS = (
    Column("made ready by", "reached_by"),
    Column("made ready in, s", "reached_s", 1),
)


def trial_table(data: CampaignData) -> Html:
    """Show each trial in one row, in the order in which they ran."""
    rows = [
        row
        | {"peak_anon_mib": mib(row["peak_anon_bytes"]), "vm_hwm_mib": mib(row["vm_hwm_bytes"])}
        | {"machine_words": machine_label(row["machine"], row["acceleration"])}
        for row in plain_rows(data.trials)
    ]
    if not rows:
        return paragraph("No trial has a result, so there is no table.", "empty")
    trial, seen = Column("trial", "trial_id"), Column("what was seen", "outcome_detail")
    if all(row["machine"] == "local" for row in rows):
        return table(rows, (trial, *_TRIAL_COLUMNS, seen))
    return table(rows, (trial, Column("machine", "machine_words"), *_TRIAL_COLUMNS, *_READY_COLUMNS, seen))


def missing_table(data: CampaignData) -> Html:
    """Show which measurements are missing, and why."""
    reasons = Counter(
        (name, why)
        for record in data.records.values()
        for name, why in record.missing.items()
        if not why.startswith(NOT_ASKED_FOR)
    )
    rows = [{"field": code(name), "reason": why, "trials": n} for (name, why), n in sorted(reasons.items())]
    if not rows:
        return paragraph("No measurement is missing.")
    return table(rows, (Column("field", "field"), Column("why it is missing", "reason"), Column("trials", "trials", 0)))


def fault_table(data: CampaignData) -> Html:
    """Show the attempts that ended in a fault of the instrument."""
    if not len(data.faults):
        return paragraph("No attempt ended in a fault of the instrument.")
    columns = (
        Column("trial", "trial_id"),
        Column("attempt", "attempt", 0),
        Column("outcome", "outcome"),
        Column("what was seen", "outcome_detail"),
        Column("notebook", "notebook"),
    )
    return table(plain_rows(data.faults), columns)


def problem_table(data: CampaignData) -> Html:
    """Show everything that could not be read, is not valid or is not there."""
    if not len(data.problems):
        return paragraph("Every planned trial has a result, and every notebook, record and ledger line could be read.")
    return table(plain_rows(data.problems), (Column("file", "path"), Column("what is the matter", "problem")))
