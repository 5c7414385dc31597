"""The gate: whether a candidate passes, for a script that has to decide, and the reason for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from picolab.analysis.comparison.models import MORE_FAILURES, NO_DIFFERENCE_SEEN
from picolab.analysis.comparison.outcomes import failed_more
from picolab.exit_codes import ExitCode
from picolab.text.wording import change_and_interval, counted, percent

if TYPE_CHECKING:
    from picolab.analysis.comparison.models import MetricComparison, OutcomeComparison
    from picolab.record.record import Caveat


def decide(
    metrics: Sequence[MetricComparison],
    outcomes: Sequence[OutcomeComparison],
    caveats: Sequence[Caveat],
    margin: float,
) -> tuple[ExitCode, str]:
    """Return the exit code of a comparison and the reason, one sentence.

    A candidate passes when every comparison that gates excludes a change for the worse beyond the margin, it failed no
    more often than the baseline, and no build differs from itself.
    """
    for caveat in caveats:
        if caveat.code == "differs_from_itself":
            return ExitCode.REGRESSION, f"the instrument fails: {caveat.message}"
    gating = [comparison for comparison in metrics if comparison.gates]
    worse = [_outcome_words(outcome) for outcome in outcomes if outcome.verdict == MORE_FAILURES]
    worse += [_metric_words(c) for c in gating if c.regressed]
    if worse:
        return ExitCode.REGRESSION, f"regression: {worse[0]}{_and_more(worse)}"
    undecided = [
        f"{_outcome_words(outcome)}, too few to tell"
        for outcome in outcomes
        if outcome.verdict == NO_DIFFERENCE_SEEN and failed_more(outcome)
    ]
    undecided += [_metric_words(c) for c in gating if not c.no_regression]
    if undecided or not gating:
        first = undecided[0] if undecided else "no metric that gates was measured"
        return (
            ExitCode.UNDECIDED,
            f"undecided: a change for the worse by {percent(margin)} or more is not excluded: {first}"
            f"{_and_more(undecided)}",
        )
    all_of_them = "the only comparison that gates excludes"
    if len(gating) > 1:
        all_of_them = f"all {len(gating)} comparisons that gate exclude"
    return (
        ExitCode.OK,
        f"no regression: {all_of_them} a change for the worse beyond {percent(margin)}; the closest is "
        f"{_metric_words(max(gating, key=_possible_loss))}",
    )


def _and_more(found: Sequence[str]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""


def _possible_loss(comparison: MetricComparison) -> float:
    """Return how much worse the candidate may be, as the logarithm of a ratio."""
    end = comparison.low if comparison.metric.higher_is_better else comparison.high
    if not end:
        return math.inf
    return -math.log(end) if comparison.metric.higher_is_better else math.log(end)


def _metric_words(comparison: MetricComparison) -> str:
    what = f"{comparison.metric.title} of {comparison.candidate} in {comparison.scenario}"
    if comparison.verdict is None:
        return f"{what}: no verdict, {comparison.reason}"
    return (
        f"{what}: {change_and_interval(comparison.ratio, comparison.low, comparison.high)} against "
        f"{comparison.baseline}, {comparison.verdict}, {counted(len(comparison.pairs), 'pair')}"
    )


def _outcome_words(outcome: OutcomeComparison) -> str:
    where = f"{outcome.scenario}{outcome.of_step}"
    return f"{outcome.candidate} in {where} fails more often than {outcome.baseline}: {outcome.reason}"
