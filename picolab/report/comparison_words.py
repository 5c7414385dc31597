"""The sentences and table cells that a comparison's Markdown and terminal lines share."""

from __future__ import annotations

from collections.abc import Callable

from picolab.analysis.comparison.models import (
    NO_VERDICT,
    UNDECIDED,
    UNSTABLE,
    Comparison,
    MetricComparison,
    OutcomeComparison,
)
from picolab.analysis.statistics import CONFIDENCE
from picolab.config.sizes import MIB
from picolab.record.metric import Metric
from picolab.text.wording import NOTHING, change_and_interval, listed, percent


def headline(comparison: Comparison) -> str:
    """Return what was compared, one line."""
    return (
        f"{listed(comparison.candidates)} against {comparison.baseline} in {comparison.campaign}, "
        f"margin {percent(comparison.margin)}"
    )


def gate_line(comparison: Comparison) -> str:
    """Return the exit code and its reason."""
    return f"exit code {int(comparison.exit_code)}: {comparison.exit_reason}"


def verdict_words(found: MetricComparison | OutcomeComparison) -> str:
    """Return a verdict, or that there is none."""
    return found.verdict or NO_VERDICT


def value_words(metric: Metric, value: float | None) -> str:
    """Return a value with its unit, bytes as MiB."""
    if value is None:
        return NOTHING
    return f"{value / MIB if metric.unit == 'bytes' else value:.{metric.decimals}f} {metric.shown_unit}".rstrip()


def notes(comparison: Comparison) -> list[str]:
    """Return the sentences that a reader needs before all numbers."""
    found = []
    if not comparison.comparable:
        found.append(f"Not comparable in time: {comparison.not_comparable_reason}. There is no verdict.")
    if comparison.self_comparison:
        found.append(
            "This is a self comparison (A/A): one executable, started in one way, under two labels. It should find "
            "nothing; any difference comes from the instrument, the host or chance."
        )
    return found


def in_order(comparison: Comparison) -> list[MetricComparison]:
    """Return the comparisons in the order of candidates and scenarios, those that gate first."""
    order = {name: index for index, name in enumerate((*comparison.candidates, *comparison.scenarios))}
    return sorted(comparison.metrics, key=lambda c: (order[c.candidate], order[c.scenario], not c.gates))


def medians(comparison: Comparison) -> Callable[[MetricComparison, str], str]:
    """Return a function from a comparison and a build to the build's median in words."""
    found = {(one.scenario, one.build, one.metric.name): one.median for one in comparison.builds}

    def words(compared: MetricComparison, build: str) -> str:
        return value_words(compared.metric, found.get((compared.scenario, build, compared.metric.name)))

    return words


def change_words(found: MetricComparison) -> str:
    """Return a change with its interval, and the coverage where that is lower than usual."""
    words = change_and_interval(found.ratio, found.low, found.high)
    return (
        words if found.coverage is None or found.coverage >= CONFIDENCE else f"{words} at {percent(found.coverage, 0)}"
    )


def detectable_words(found: MetricComparison) -> str:
    """Return the minimum detectable change."""
    return NOTHING if found.minimum_detectable is None else percent(found.minimum_detectable, 1)


def pairs_words(found: MetricComparison) -> str:
    """Return the number of pairs, and of how many blocks when some gave none."""
    blocks = len(found.pairs) + len(found.incomplete)
    return f"{len(found.pairs)} of {blocks}" if found.incomplete else str(blocks)


def reasons(comparison: Comparison) -> list[str]:
    """Return the reasons for verdicts that the table does not explain, each once."""
    where: dict[str, list[str]] = {}
    for found in in_order(comparison):
        # What concerns the whole comparison stands above the table.
        known = not comparison.comparable and found.reason.startswith("not comparable in time")
        if found.verdict in (None, UNDECIDED, UNSTABLE) and not known:
            where.setdefault(found.reason, []).append(f"{found.metric.title} of {found.candidate} in {found.scenario}")
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}."
        for reason, names in where.items()
    ]


def outcome_lines(comparison: Comparison) -> list[str]:
    """Return the comparisons of outcomes that have a failure, or no result."""
    return [
        f"{found.candidate} against {found.baseline} in {found.scenario}{found.of_step}: {verdict_words(found)}: "
        f"{found.reason}"
        for found in comparison.outcomes
        if found.verdict is None or found.any_failed
    ]
