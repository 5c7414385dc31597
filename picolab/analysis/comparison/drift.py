"""Changes over a campaign that builds do not explain: drift of values, drift of ratios, a slow first trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from picolab.analysis import statistics
from picolab.record.metrics import compared_metrics
from picolab.record.record import Caveat
from picolab.text.wording import change, listed_few

if TYPE_CHECKING:
    from picolab.analysis.comparison.models import MetricComparison
    from picolab.analysis.comparison.paired import PairedCampaign
    from picolab.analysis.comparison.trials import ComparedTrial
    from picolab.record.metric import Metric

SIGNIFICANCE = 0.01
"""Of the trend tests: strict, since a warning without cause is soon ignored."""
LEAST_DRIFT = 0.02
"""A smaller change over a whole campaign is not worth a warning, however significant."""


def caveats(paired: PairedCampaign, comparisons: Sequence[MetricComparison]) -> list[Caveat]:
    """Return what changed over the campaign.

    Args:
        comparisons: those that are comparable in time.
    """
    return [*_of_values(paired), *_of_ratios(comparisons), *_of_first_trial(paired)]


def _of_values(paired: PairedCampaign) -> list[Caveat]:
    residuals = {
        f"{metric.title} of {build}": [value for _, value in _residuals(paired, metric, [build])]
        for metric in compared_metrics()
        for build in paired.builds
    }
    trends = _significant({name: statistics.trend(values) for name, values in residuals.items()})
    if not trends:
        return []
    meaning = (
        "The verdicts compare pairs that ran back to back, so a drift that all builds share does not affect them; the "
        "medians of single builds are less reliable."
        if paired.comparable
        else "Nothing protects a comparison of builds that were measured one after the other from it."
    )
    return [
        Caveat(
            code="drift",
            value=_largest(trends),
            message=f"Values changed over the campaign: {_in_words(trends)}. {meaning}",
            advice="Look for changes on the host (heat, other programs, a disk that fills up) before you quote a "
            "median of this campaign.",
        )
    ]


def _of_ratios(comparisons: Sequence[MetricComparison]) -> list[Caveat]:
    ratios: dict[str, list[tuple[float, float]]] = {}
    for comparison in comparisons:
        if comparison.gates and comparison.pairs:
            middle = statistics.median([pair.ratio for pair in comparison.pairs])
            name = f"{comparison.metric.title} of {comparison.candidate}"
            ratios.setdefault(name, []).extend((pair.hours, pair.ratio / middle) for pair in comparison.pairs)
    trends = _significant(
        {name: statistics.trend([ratio for _, ratio in sorted(found)]) for name, found in ratios.items()}
    )
    if not trends:
        return []
    return [
        Caveat(
            code="ratio_drifts",
            value=_largest(trends),
            message=f"The ratio of the builds itself changed over the campaign: {_in_words(trends)}. A single number "
            "for the whole campaign hides that.",
            advice="Look at the pairs in order of time: something on the host slows one build down more than the "
            "other. Repeat the campaign when the host is steady.",
        )
    ]


def _of_first_trial(paired: PairedCampaign) -> list[Caveat]:
    for metric in compared_metrics():
        residuals = _residuals(paired, metric, paired.builds) if metric.higher_is_better else []
        if residuals and residuals[0][0] is paired.campaign.trials[0]:
            effect = statistics.first_effect([value for _, value in residuals])
            if effect is not None and effect < 0:
                return [_first_trial_slow(residuals[0][0].trial_id, metric, effect)]
    return []


def _first_trial_slow(trial_id: str, metric: Metric, effect: float) -> Caveat:
    return Caveat(
        code="first_trial_slow",
        value=round(effect, 3),
        message=f"The campaign's first trial ({trial_id}) was slower than all others: {metric.title} "
        f"{change(1 + effect, 0)} beyond them. It counts like every other trial.",
        advice="Something was cold: caches, the processor's clock, the machine. With more blocks a single trial "
        "matters less.",
    )


def _residuals(paired: PairedCampaign, metric: Metric, builds: Sequence[str]) -> list[tuple[ComparedTrial, float]]:
    """Return values relative to the median of their build and scenario, of all scenarios, in order of time."""
    together = [
        residual
        for scenario in paired.scenarios
        if paired.gates(scenario, metric)
        for build in builds
        for residual in paired.series(scenario, build, metric).residuals()
    ]
    return sorted(together, key=lambda residual: residual[0].started)


def _significant(trends: Mapping[str, statistics.Trend | None]) -> dict[str, statistics.Trend]:
    """Return the trends that are significant, tested together, and large enough to matter."""
    found = {name: trend for name, trend in trends.items() if trend is not None}
    adjusted = statistics.holm([trend.p_value for trend in found.values()])
    return {
        name: trend
        for (name, trend), p_value in zip(found.items(), adjusted, strict=True)
        if p_value < SIGNIFICANCE and abs(trend.change) >= LEAST_DRIFT
    }


def _largest(trends: Mapping[str, statistics.Trend]) -> float:
    largest = max((trend.change for trend in trends.values()), key=abs)
    return round(largest, 3)


def _in_words(trends: Mapping[str, statistics.Trend]) -> str:
    return listed_few(f"{name} {change(1 + trend.change, 0)}" for name, trend in trends.items())
