"""The tables of a report: cases, trials, what is missing, faults, problems."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from picolab.analysis.statistics import median, median_interval
from picolab.charts.style import (
    OUTCOME_LABELS,
    grouped,
    labelled,
    machine_label,
    measured_outcomes,
    mib,
    outcome_words,
    plain_rows,
    shortened,
)
from picolab.machines.kinds import kind_of
from picolab.record.models import NOT_ASKED_FOR, Outcome
from picolab.report.markup import Column, Html, boxed, code, folding, paragraph, table
from picolab.results.load import CampaignData
from picolab.results.rows import step_ok


def case_table(data: CampaignData) -> Html:
    """Show each case in one row: medians and intervals of its ok trials."""
    rows = []
    cases = grouped(labelled(data.trials), "group", "ram", "file_size", "others")
    for (build, ram, size, others), cell in cases.items():
        good = [row for row in cell if step_ok(row, "upload")]
        downloaded = [row for row in cell if step_ok(row, "download")]
        rates = [row["throughput_mib_s"] for row in good if row["throughput_mib_s"] is not None]
        interval = median_interval(rates)
        rows.append(
            {"build": build, "ram": ram, "file_size": size, "others": others or None}
            | {"trials": folding(_outcomes(cell))}
            | {name: _median(good, name) for name in _MEDIANS}
            | {"download_mib_s": _median(downloaded, "download_mib_s")}
            | {"interval": f"{interval.low:.1f} to {interval.high:.1f}" if interval else None}
            | {"coverage": f"{interval.coverage:.0%}" if interval else None}
            | {"peak": _highest(cell, "peak_anon_bytes"), "download_peak": _highest(cell, "download_peak_anon_bytes")}
        )
    if not rows:
        return paragraph("No trial has a result, so there is no table.", "empty")
    columns = [column for column in _CASE_COLUMNS if column.field not in _ONLY_IF_ANY or _any(rows, column.field)]
    virtual = any(kind_of(machine).is_virtual for machine in data.trials["machine"].unique())
    if virtual or len({row["build"] for row in rows}) > 1:
        columns.insert(0, Column("build and machine" if virtual else "build", "build"))
    return table(rows, columns)


def _any(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return any(row[name] is not None for row in rows)


def _outcomes(rows: Sequence[dict[str, Any]]) -> str:
    """Return the outcomes of trials with their counts; those of measured steps where they differ."""
    words = [outcome_words(Counter(row["outcome"] for row in rows))]
    for step in ("upload", "download"):
        found = Counter(measured_outcomes(row).get(step) for row in rows)
        if any(row["label"] != OUTCOME_LABELS[Outcome(row["outcome"])] for row in rows):
            words.append(f"{step}: {outcome_words({name: n for name, n in found.items() if name})}")
    return "; ".join(words)


def _highest(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    return mib(max((row[name] for row in rows if row[name] is not None), default=None))


_MEDIANS = ("throughput_mib_s", "transfer_mib_s", "commit_mib_s", "ready_s")
_ONLY_IF_ANY = ("others", "download_peak")
_CASE_COLUMNS = (
    Column("RAM", "ram"),
    Column("file", "file_size"),
    Column("other factors", "others"),
    Column("trials", "trials"),
    Column("throughput, MiB/s", "throughput_mib_s", 1),
    Column("interval", "interval", 0),
    Column("coverage", "coverage", 0),
    Column("transfer, MiB/s", "transfer_mib_s", 1),
    Column("commit, MiB/s", "commit_mib_s", 1),
    Column("download, MiB/s", "download_mib_s", 1),
    Column("highest anonymous memory, MiB", "peak", 1),
    Column("highest in the download, MiB", "download_peak", 1),
    Column("ready after, s", "ready_s", 3),
)


def _median(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return median(values) if values else None


_LONGEST_DETAIL = 1000
_TRIAL_COLUMNS = (
    Column("trial", "trial_id"),
    Column("other factors", "others"),
    Column("block", "block", 0),
    Column("outcome", "outcome"),
    Column("of each step", "steps"),
    Column("throughput, MiB/s", "throughput_mib_s", 1),
    Column("upload, s", "duration_s", 3),
    Column("transfer, s", "transfer_s", 3),
    Column("commit, s", "commit_s", 3),
    Column("download, MiB/s", "download_mib_s", 1),
    Column("anonymous memory, MiB", "peak_anon_mib", 1),
    Column("in the download, MiB", "download_peak_mib", 1),
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
        | {"download_peak_mib": mib(row["download_peak_anon_bytes"]), "others": row["others"] or None}
        | {"machine_words": machine_label(row["machine"], row["acceleration"])}
        | {"outcome_detail": shortened(row["outcome_detail"], _LONGEST_DETAIL)}
        | {"steps": row["label"] if row["label"] != OUTCOME_LABELS[Outcome(row["outcome"])] else None}
        for row in sorted(labelled(data.trials), key=lambda row: (row["position"] or 0, row["trial_id"]))
    ]
    if not rows:
        return paragraph("No trial has a result, so there is no table.", "empty")
    only_if_any = ("others", "steps", "download_peak_mib")
    columns = [column for column in _TRIAL_COLUMNS if column.field not in only_if_any or _any(rows, column.field)]
    if any(kind_of(row["machine"]).is_virtual for row in rows):
        columns = [columns[0], Column("machine", "machine_words"), *columns[1:], *_READY_COLUMNS]
    return boxed(table(rows, [*columns, Column("what was seen", "outcome_detail")]), len(rows))


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
    return boxed(table(plain_rows(data.faults), columns), len(data.faults))


def problem_table(data: CampaignData) -> Html:
    """Show everything that could not be read, is not valid or is not there."""
    if not len(data.problems):
        return paragraph("Every planned trial has a result, and every notebook, record and ledger line could be read.")
    columns = (Column("file", "path"), Column("what is the matter", "problem"))
    return boxed(table(plain_rows(data.problems), columns), len(data.problems))
