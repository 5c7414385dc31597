"""The tables of a report: cases, trials, what is missing, faults, problems."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from picolab.analysis.statistics import Interval, median_interval
from picolab.charts.style import OUTCOME_LABELS, grouped, labelled, machine_label, outcome_words, shortened
from picolab.machines.kinds import kind_of
from picolab.record.metric import Metric
from picolab.record.metrics import shown_metrics
from picolab.record.outcomes import Outcome
from picolab.record.record import NOT_ASKED_FOR
from picolab.report.markup import Column, boxed, code, folding, joined, paragraph, table
from picolab.results.load import CampaignData
from picolab.results.rows import case_value, counting_values, measured_outcomes, plain_rows
from picolab.text.markup import Html


def case_table(data: CampaignData) -> Html:
    """Show each case in one row: the metrics of a case, with the interval of the first one."""
    trials = labelled(data.trials)
    metrics = shown_metrics("case_table", trials)
    rows = []
    for (build, ram, size, others), cell in grouped(trials, "group", "ram", "file_size", "others").items():
        interval = _interval(cell, metrics[:1])
        rows.append(
            {"build": build, "ram": ram, "file_size": size, "others": others or None}
            | {"trials": folding(_outcomes(cell))}
            | {metric.name: metric.in_unit(case_value(metric, cell)) for metric in metrics}
            | {"interval": f"{interval.low:.1f} to {interval.high:.1f}" if interval else None}
            | {"coverage": f"{interval.coverage:.0%}" if interval else None}
        )
    if not rows:
        return paragraph("No trial has a result, so there is no table.", "empty")
    headings = [(f"{m.heading} (maximum)" if m.summary == "maximum" else m.heading, m) for m in metrics]
    numbers = [Column(heading, metric.name, metric.decimals) for heading, metric in headings]
    columns = [
        *(Column("RAM", "ram"), Column("file", "file_size")),
        *([Column("other factors", "others")] if _any(rows, "others") else []),
        *(Column("trials", "trials"), *numbers[:1]),
        *(Column("interval", "interval", 0), Column("coverage", "coverage", 0), *numbers[1:]),
    ]
    virtual = any(kind_of(row["machine"]).is_virtual for row in trials)
    if virtual or len({row["build"] for row in rows}) > 1:
        columns.insert(0, Column("build and machine" if virtual else "build", "build"))
    return table(rows, columns)


def _interval(rows: Sequence[dict[str, Any]], metrics: Sequence[Metric]) -> Interval | None:
    """Return the interval of the median of a metric, if there is one, in the trials that count."""
    return median_interval([value for metric in metrics for value in counting_values(metric, rows)])


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


_LONGEST_DETAIL = 1000
MOST_ROWS = 1000
"""A longer table is cut: no reader scrolls through ten thousand rows, and a page of them takes minutes to open."""
_OF_EACH_CASE = (0.0, 0.5, 1.0)
"""Which trials of a case stay in a table that is cut, by their rank in the first metric."""


def _first_rows(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> Html:
    """Return a table in its box; of a long one only the first rows, below a sentence that says so."""
    shown = boxed(table(rows[:MOST_ROWS], columns), len(rows))
    if len(rows) <= MOST_ROWS:
        return shown
    return joined([paragraph(f"The first {MOST_ROWS:,} of {len(rows):,} rows."), shown])


def _worth_a_row(trials: list[dict[str, Any]], metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Return the trials of a table that is cut: slowest, median and fastest of each case, and those not ok."""
    kept = set()
    for cell in grouped(trials, "group", "row").values():
        for metric in metrics[:1]:
            ranked = sorted((row for row in cell if row[metric.name] is not None), key=lambda row: row[metric.name])
            places = {round(rank * (len(ranked) - 1)) for rank in _OF_EACH_CASE} if ranked else ()
            kept |= {ranked[place]["trial_id"] for place in places}
    others = [row["trial_id"] for row in trials if row["outcome"] != Outcome.OK and row["trial_id"] not in kept]
    kept |= set(others[: max(0, MOST_ROWS - len(kept))])
    return [row for row in trials if row["trial_id"] in kept][:MOST_ROWS]


def trial_table(data: CampaignData) -> Html:
    """Show each trial in one row, in the order in which they ran; of more than `MOST_ROWS` those that stand out."""
    trials = sorted(labelled(data.trials), key=lambda row: (row["position"] or 0, row["trial_id"]))
    metrics = shown_metrics("trial_table", trials)
    every = len(trials)
    if every > MOST_ROWS:
        trials = _worth_a_row(trials, metrics)
    rows = [
        row
        | {metric.name: metric.in_unit(row[metric.name]) for metric in metrics}
        | {"others": row["others"] or None}
        | {"machine_words": machine_label(row["machine"], row["acceleration"])}
        | {"outcome_detail": shortened(row["outcome_detail"], _LONGEST_DETAIL)}
        | {"steps": row["label"] if row["label"] != OUTCOME_LABELS[Outcome(row["outcome"])] else None}
        for row in trials
    ]
    if not rows:
        return paragraph("No trial has a result, so there is no table.", "empty")
    virtual = any(kind_of(row["machine"]).is_virtual for row in rows)
    columns = [
        Column("trial", "trial_id"),
        *([Column("machine", "machine_words")] if virtual else []),
        *([Column("other factors", "others")] if _any(rows, "others") else []),
        Column("block", "block", 0),
        Column("outcome", "outcome"),
        *([Column("of each step", "steps")] if _any(rows, "steps") else []),
        *(Column(metric.heading, metric.name, metric.decimals) for metric in metrics),
        *([Column("made ready by", "reached_by")] if virtual else []),
        Column("what was seen", "outcome_detail"),
    ]
    shown = boxed(table(rows, columns), len(rows))
    if every <= MOST_ROWS:
        return shown
    where = f" in the column “{metrics[0].heading}”" if metrics else ""
    words = (
        f"{len(rows):,} of {every:,} trials: of each case those with the lowest, median and highest value{where}, and "
        f"those that did not end ok. results.csv in the campaign's folder has all of them."
    )
    return joined([paragraph(words), shown])


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
    return _first_rows(plain_rows(data.faults), columns)


def problem_table(data: CampaignData) -> Html:
    """Show everything that could not be read, is not valid or is not there."""
    if not len(data.problems):
        return paragraph("Every planned trial has a result, and every notebook, record and ledger line could be read.")
    columns = (Column("file", "path"), Column("what is the matter", "problem"))
    return _first_rows(plain_rows(data.problems), columns)
