"""Each build by itself: medians, intervals, spread and drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from picolab.analysis import statistics
from picolab.analysis.comparison.models import OneBuild

if TYPE_CHECKING:
    from picolab.analysis.comparison.paired import PairedCampaign
    from picolab.record.metric import Metric


def each_build(paired: PairedCampaign, metrics: Sequence[Metric]) -> Iterator[OneBuild]:
    """Yield every build in every scenario and metric in which it has a value."""
    for metric in metrics:
        for scenario, builds in paired.measured.items():
            for build in builds:
                values = paired.series(scenario, build, metric).values
                if values:
                    yield _one_build(scenario, build, metric, values)


def _one_build(scenario: str, build: str, metric: Metric, values: Sequence[float]) -> OneBuild:
    interval = statistics.median_interval(values)
    trend = statistics.trend(values)
    return OneBuild(
        scenario=scenario,
        build=build,
        metric=metric,
        n=len(values),
        median=statistics.median(values),
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        coverage=interval.coverage if interval else None,
        spread=statistics.spread(values),
        drift=trend.change if trend else None,
        drift_p_value=trend.p_value if trend else None,
        first_effect=statistics.first_effect(values),
    )
