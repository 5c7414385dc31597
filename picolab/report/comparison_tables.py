"""The tables of a comparison's page: verdicts, outcomes, detectable changes, each build, missing pairs."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from picolab.analysis.comparison.models import (
    FEWER_FAILURES,
    MORE_FAILURES,
    NO_DIFFERENCE_SEEN,
    NO_VERDICT,
    UNDECIDED,
    Comparison,
    MetricComparison,
    OneBuild,
    OutcomeComparison,
)
from picolab.analysis.statistics import LEAST_PAIRS
from picolab.charts.style import OUTCOME_LABELS, outcome_words
from picolab.charts.verdicts import (
    FEW_COMBINATIONS,
    VERDICT_STYLES,
    interval_words,
    shown_rows,
    verdict_kind,
)
from picolab.report.markup import Column, boxed, folding, joined, paragraph, table
from picolab.text.markup import Html, escape
from picolab.text.wording import change, percent

_OUTCOME_KINDS = {MORE_FAILURES: "worse", FEWER_FAILURES: "better", NO_DIFFERENCE_SEEN: UNDECIDED}


def verdicts(comparison: Comparison) -> Html:
    """Show the verdict of every scenario and metric with its numbers; when there are many, an overview comes first."""
    rows = shown_rows(comparison)
    if not rows:
        return paragraph("There is no pair of trials yet, so there is nothing to compare.", "empty")
    if len(comparison.scenarios) * len(comparison.candidates) <= FEW_COMBINATIONS:
        return _verdict_table(comparison, rows)
    return joined([_verdict_matrix(comparison, rows), _verdict_table(comparison, rows)])


def _verdict_matrix(comparison: Comparison, rows: Sequence[MetricComparison]) -> Html:
    """Return the verdicts with a row for every scenario and candidate, and a column for every metric."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    failures: dict[tuple[str, str], list[str]] = {}
    for outcome in comparison.outcomes:
        if outcome.any_failed:
            badges = failures.setdefault((outcome.scenario, outcome.candidate), [])
            badges.append(f"{_outcome_badge(outcome)}{outcome.of_step}")
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _by_scenario(rows, comparison):
        line = lines.setdefault((row.scenario, row.candidate), _where(row))
        badges = failures.get((row.scenario, row.candidate), [])
        line["outcomes"] = Html("<br>".join(badges)) if badges else "all ok"
        line[row.metric.name] = Html(f'{verdict_badge(row)}<br><span class="small">{change(row.ratio)}</span>')
    columns = [Column(one.title, one.name) for one in metrics]
    if failures:
        columns.insert(0, Column("outcome", "outcomes"))
    return _table_of_scenarios(list(lines.values()), columns, comparison)


def _verdict_table(comparison: Comparison, rows: Sequence[MetricComparison]) -> Html:
    # A reason that concerns all verdicts stands in a box above.
    why = '<br><span class="why">{}</span>' if comparison.comparable else ""
    medians = {(one.scenario, one.build, one.metric.name): one.median for one in comparison.builds}
    lines = [
        {
            "group": _pairing(row),
            "metric": Html(f"<strong>{escape(row.metric.heading)}</strong>")
            if row.gates
            else Html(f'<span class="quiet">{escape(row.metric.heading)}</span>'),
            "verdict": Html(f"{verdict_badge(row)}{why.format(escape(as_sentence(row.reason)))}"),
            "change": _change(row),
            "baseline": row.metric.in_unit(medians.get((row.scenario, row.baseline, row.metric.name))),
            "of_candidate": row.metric.in_unit(medians.get((row.scenario, row.candidate, row.metric.name))),
            "pairs": len(row.pairs),
            "p": p_words(row.adjusted_p_value),
            "excluded": None if row.verdict is None else "yes" if row.no_regression else "no",
        }
        for row in _by_scenario(rows, comparison)
    ]
    lines = _with_outcomes(lines, comparison, why)
    columns = [
        Column("metric", "metric"),
        Column("verdict and reason", "verdict"),
        Column("change with its 95 % interval", "change", 0),
        Column("baseline median", "baseline", 1),
        Column("candidate median", "of_candidate", 1),
        Column("pairs", "pairs", 0),
        Column("adjusted p", "p", 0),
        Column(f"loss over {percent(comparison.margin)} excluded", "excluded", 0),
    ]
    return boxed(table(lines, columns, group="group"), len(lines))


def _pairing(row: MetricComparison | OutcomeComparison) -> str:
    return f"{row.scenario}: {row.candidate} against {row.baseline}"


def _with_outcomes(rows: list[dict[str, Any]], comparison: Comparison, why: str) -> list[dict[str, Any]]:
    """Return rows with one more for each scenario and candidate where any trial failed."""
    failed: dict[str, list[dict[str, Any]]] = {}
    for outcome in comparison.outcomes:
        if outcome.any_failed:
            line = {
                "group": _pairing(outcome),
                "metric": Html(f"<strong>outcome{outcome.of_step}</strong>"),
                "verdict": Html(f"{_outcome_badge(outcome)}{why.format(escape(as_sentence(outcome.reason)))}"),
                "p": p_words(outcome.adjusted_p_value),
            }
            failed.setdefault(_pairing(outcome), []).append(line)
    with_outcomes: list[dict[str, Any]] = []
    for row in rows:
        with_outcomes += failed.pop(row["group"], [])
        with_outcomes.append(row)
    return with_outcomes


def _outcome_badge(row: OutcomeComparison) -> str:
    return _badge(_OUTCOME_KINDS.get(row.verdict or "", NO_VERDICT), row.verdict or NO_VERDICT)


def _change(row: MetricComparison) -> Html | None:
    """Return the change with its interval below it; None without pairs."""
    if row.ratio is None:
        return None
    interval = interval_words(row).replace(" (", "<br>(")
    return Html(f'<strong>{change(row.ratio)}</strong><br><span class="small">{interval}</span>')


def _by_scenario(rows: Iterable[MetricComparison], comparison: Comparison) -> list[MetricComparison]:
    """Return rows with those of one scenario and candidate together; inside of that the order stays."""
    order = {scenario: place for place, scenario in enumerate(comparison.scenarios)}
    builds = {label: place for place, label in enumerate(comparison.candidates)}
    return sorted(rows, key=lambda row: (order[row.scenario], builds[row.candidate]))


def _where(row: MetricComparison | OutcomeComparison) -> dict[str, Any]:
    """Return the scenario and the candidate of a row; long names may break."""
    return {"group": row.scenario, "scenario": folding(row.scenario), "candidate": folding(row.candidate)}


def _table_of_scenarios(rows: list[dict[str, Any]], columns: Sequence[Column], comparison: Comparison) -> Html:
    """Return a table with a row for each scenario and candidate; with several of both, scenarios are headings."""
    if len(comparison.candidates) > 1:
        shown_table = table(rows, [Column("candidate", "candidate"), *columns], group="group")
    else:
        shown_table = table(rows, [Column("scenario", "scenario"), *columns])
    return boxed(shown_table, len(rows))


def verdict_badge(row: MetricComparison) -> str:
    """Return the verdict as a word with its sign, on its colour."""
    return _badge(verdict_kind(row), row.verdict or NO_VERDICT)


def _badge(kind: str, words: str) -> str:
    style = VERDICT_STYLES[kind]
    return (
        f'<span class="badge" style="background-color:{style.badge_colour};color:#ffffff">'
        f'<span aria-hidden="true">{style.sign}</span> {escape(words)}</span>'
    )


def p_words(p_value: float | None) -> str | None:
    """Return a p-value with three decimals; None for none."""
    if p_value is None:
        return None
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def words_of_verdicts(comparison: Comparison) -> Html:
    """Explain every possible verdict."""
    margin = percent(comparison.margin)
    words = [
        (_badge("better", "faster") + " " + _badge("better", "less memory"), "better, significant after adjustment"),
        (_badge("worse", "slower") + " " + _badge("worse", "more memory"), "worse, significant after adjustment"),
        (_badge("equivalent", "equivalent"), f"the whole interval lies within the margin of {margin}"),
        (_badge("undecided", "undecided"), "too few pairs for this spread: more pairs may decide it"),
        (_badge("unstable", "unstable"), "the ratios vary too much: find the cause before you measure more"),
        (_badge(NO_VERDICT, NO_VERDICT), f"fewer than {LEAST_PAIRS} pairs, or not comparable in time"),
    ]
    items = "".join(f"<li>{badge} {escape(meaning)}</li>" for badge, meaning in words)
    notes = (
        "Metrics in bold decide the gate. The p-values are adjusted by Holm's method across the scenarios and "
        "candidates of a metric; the intervals are not adjusted."
    )
    return Html(
        f'<details class="words"><summary>Meaning of the verdicts</summary><ul>{items}</ul>'
        f"<p>{escape(notes)}</p></details>",
        "meaning of the verdicts",
    )


def power(comparison: Comparison) -> Html:
    """Show the change that this campaign can detect, for every scenario and metric."""
    rows = [row for row in shown_rows(comparison) if row.minimum_detectable is not None]
    if not rows:
        return paragraph("There are too few pairs to know which change this campaign can detect.", "empty")
    sentences = []
    for metric in dict.fromkeys(row.metric for row in rows if row.gates):
        changes = sorted(
            row.minimum_detectable for row in rows if row.metric == metric and row.minimum_detectable is not None
        )
        best, worst = _percent(changes[0]), _percent(changes[-1])
        span = worst if best == worst else f"{best} (best scenario) to {worst} (worst)"
        sentences.append(f"{metric.title}: this campaign can detect a change of {span} or more.")
    metrics = list(dict.fromkeys(row.metric for row in rows))
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _by_scenario(rows, comparison):
        line = lines.setdefault((row.scenario, row.candidate), {**_where(row), "pairs": 0})
        line[row.metric.name] = _percent(row.minimum_detectable)
        line["pairs"] = max(line["pairs"], len(row.pairs))
    columns = [*(Column(metric.title, metric.name, 0) for metric in metrics), Column("pairs", "pairs", 0)]
    findings = [paragraph(as_sentence(sentence), "finding") for sentence in sentences]
    return joined([*findings, _table_of_scenarios(list(lines.values()), columns, comparison)])


def _percent(share: float | None) -> str | None:
    if share is None:
        return None
    return percent(share, 0 if abs(share) >= 0.1 else 1)


def outcomes(comparison: Comparison) -> Html:
    """Show how often each build failed in each scenario, and whether that differs."""
    rows = [
        {
            **_where(row),
            "step": row.step or "",
            "baseline": outcome_words(row.baseline_outcomes) or "no trial",
            "of_candidate": outcome_words(row.candidate_outcomes) or "no trial",
            "verdict": Html(_outcome_badge(row)),
            "p": p_words(row.adjusted_p_value),
            "reason": as_sentence(row.reason),
        }
        for row in comparison.outcomes
    ]
    if not rows:
        return paragraph("No trial has a result, so there are no outcomes to compare.", "empty")
    several = len(comparison.candidates) > 1
    columns = [
        *([Column("step", "step")] if any(row["step"] for row in rows) else []),
        Column(comparison.baseline, "baseline"),
        Column("the candidate" if several else comparison.candidates[0], "of_candidate"),
        Column("verdict", "verdict"),
        Column("adjusted p", "p", 0),
        Column("reason", "reason"),
    ]
    return _table_of_scenarios(rows, columns, comparison)


def each_build(comparison: Comparison) -> Html:
    """Show every build by itself: medians with their intervals, spread, drift, and an unusual first trial."""
    names = {row.metric.name for row in shown_rows(comparison)}
    builds = [one for one in comparison.builds if one.metric.name in names]
    if not any(one.n for one in builds):
        return paragraph("No trial ended ok, so there are no medians to show.", "empty")
    order = {scenario: place for place, scenario in enumerate(comparison.scenarios)}
    rows = [
        {
            "scenario": one.scenario,
            "build": folding(one.build),
            "metric": one.metric.heading,
            "n": one.n,
            "median": one.metric.in_unit(one.median),
            "interval": _median_interval(one),
            "coverage": percent(one.coverage, 1) if one.coverage is not None else None,
            "spread": _percent(one.spread),
            "drift": _drift(one),
            "first": change(1 + one.first_effect) if one.first_effect is not None else None,
        }
        for one in sorted(builds, key=lambda one: order.get(one.scenario, len(order)))
    ]
    columns = [
        Column("metric", "metric"),
        Column("build", "build"),
        Column("ok trials", "n", 0),
        Column("median", "median", 1),
        Column("interval", "interval", 0),
        Column("coverage", "coverage", 0),
        Column("spread", "spread", 0),
        Column("drift over the campaign", "drift", 0),
        Column("unusual first trial", "first", 0),
    ]
    return boxed(table(rows, columns, group="scenario"), len(rows))


def _median_interval(one: OneBuild) -> str | None:
    low, high = one.metric.in_unit(one.low), one.metric.in_unit(one.high)
    return None if low is None or high is None else f"{low:,.1f} to {high:,.1f}"


def _drift(one: OneBuild) -> str | None:
    if one.drift is None:
        return None
    return f"{change(1 + one.drift)} (p {p_words(one.drift_p_value) or 'unknown'})"


def incomplete_pairs(comparison: Comparison) -> Html:
    """Show every block without a pair and the reason, once for all metrics."""
    seen: dict[tuple[str, str, str], list[str]] = {}
    for row in shown_rows(comparison):
        for sentence in row.incomplete:
            seen.setdefault((row.scenario, row.candidate, sentence), []).append(row.metric.title)
    if not seen:
        return paragraph("Every block has a pair in every metric.")
    rows = [
        {
            "scenario": folding(scenario),
            "candidate": candidate,
            "metrics": ", ".join(metrics),
            "reason": _plain(sentence),
        }
        for (scenario, candidate, sentence), metrics in seen.items()
    ]
    columns = (
        Column("scenario", "scenario"),
        Column("candidate", "candidate"),
        Column("no pair in", "metrics"),
        Column("reason", "reason"),
    )
    return boxed(table(rows, columns), len(rows))


def as_sentence(text: str) -> str:
    """Return words as a sentence with a capital and a full stop; outcomes get their usual names."""
    words = _plain(text)
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('.', '!', '?')) else '.'}"


def _plain(text: str) -> str:
    for outcome, label in OUTCOME_LABELS.items():
        if "_" in outcome:
            text = re.sub(rf"\b{outcome}\b", label, text)
    return text
