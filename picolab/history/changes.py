"""Change points of a series: where its level moves by more than its noise, and whether the build can be the reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from picolab.analysis.statistics import median
from picolab.history.series import Point, Series
from picolab.record.metric import Metric
from picolab.text.wording import change

LEAST_POINTS = 6
"""Fewer values have no noise that could be told from a change."""
_LEAST_SEGMENT = 2
_PENALTY = 8.0
"""Times the logarithm of the number of points. In 200 simulated series without a change, of 6 to 50 points each, at
most 2.5 % got a change point; a step of five standard deviations was found in 80 % of series of 8 points, and in 93 %
of 12. With 3 instead of 8, 15 % of the unchanged series of 6 points got one."""
_LEAST_NOISE = 0.002
"""Relative: values that repeat exactly must not make a change of the last digit one."""
_SHARE_OF_CONTROL = 0.5
"""A build that was measured before and after, and moved by at least this share of the change, explains it."""


@dataclass(frozen=True)
class Change:
    """A change of level in a series.

    Attributes:
        before, after: the points of the line around it.
        ratio: the median after it over the median before it, up to the next changes.
        other_reason: why the build is not the reason, or may not be, one phrase; empty when nothing else is known.
    """

    metric: Metric
    before: Point
    after: Point
    ratio: float
    other_reason: str

    @property
    def verdict(self) -> str:
        """The verdict of the metric's registry, such as `slower`; `higher` and `lower` where it has none."""
        rises = self.ratio > 1
        if self.metric.verdicts is None:
            return "higher" if rises else "lower"
        return self.metric.better if rises == self.metric.higher_is_better else self.metric.worse

    def in_words(self) -> str:
        """Return the change as one sentence."""
        words = f"{self.metric.title} {change(self.ratio)}"
        if self.other_reason:
            return f"{words} from {self.after.started:%Y-%m-%d}, not from the build: {self.other_reason}"
        return f"{words} ({self.verdict}) from {self.before.build} to {self.after.build}, {self.after.started:%Y-%m-%d}"


def change_points(values: Sequence[float]) -> list[int]:
    """Return the indices at which a new level begins.

    Values are compared by their logarithms. The noise is estimated from the differences of neighbours, which a few
    changes do not affect. Segments come from PELT with a quadratic cost: Killick, Fearnhead and Eckley, "Optimal
    detection of changepoints with a linear computational cost", JASA 107 (2012), in the package ruptures.

    Args:
        values: in order; a series with a value of zero or less, or with fewer than `LEAST_POINTS`, has none.
    """
    if len(values) < LEAST_POINTS or min(values) <= 0:
        return []
    import numpy as np
    import ruptures

    logarithms = np.log(np.asarray(values, dtype=float))
    steps = np.abs(np.diff(logarithms))
    noise = max(_LEAST_NOISE, float(np.median(steps)) / (0.6745 * math.sqrt(2)))
    search = ruptures.Pelt(model="l2", min_size=_LEAST_SEGMENT, jump=1).fit((logarithms / noise).reshape(-1, 1))
    return [int(index) for index in search.predict(pen=_PENALTY * math.log(len(values)))[:-1]]


def changes(series: Series, metric: Metric) -> list[Change]:
    """Return the changes of a metric along the line of the newest builds, in the order of time."""
    points = series.line(metric)
    values = [point.values[metric.name] for point in points]
    borders = change_points(values)
    found = []
    for begin, index, end in zip([0, *borders], borders, [*borders[1:], len(values)], strict=False):
        ratio = median(values[index:end]) / median(values[begin:index])
        if ratio == 1:
            continue
        orders = range(points[begin].order, points[end - 1].order + 1)
        near = [point for point in series.of(metric) if point.order in orders]
        reason = _other_reason(points[index - 1], points[index], near, ratio, metric)
        found.append(Change(metric, points[index - 1], points[index], ratio, reason))
    return found


def _other_reason(before: Point, after: Point, near: Sequence[Point], ratio: float, metric: Metric) -> str:
    """Return why a change is not, or may not be, one of the build; empty when nothing says so.

    Args:
        near: all points from the change before to the change after it.
    """
    if before.identity == after.identity:
        return f"{after.build} is the same executable before and after, so the host or the instrument changed"
    if before.picolab_version != after.picolab_version:
        return f"picolab changed from {before.picolab_version} to {after.picolab_version}"
    for build in dict.fromkeys(point.identity for point in near):
        own = [point for point in near if point.identity == build]
        earlier = [point.values[metric.name] for point in own if point.order < after.order]
        later = [point.values[metric.name] for point in own if point.order >= after.order]
        if not earlier or not later:
            continue
        old, new = median(earlier), median(later)
        if old <= 0 or new <= 0:
            if (new - old) * (ratio - 1) > 0:
                return f"{own[0].build}, measured before and after it, moved as well"
            continue
        moved = new / old
        if math.log(moved) / math.log(ratio) >= _SHARE_OF_CONTROL:
            return f"{own[0].build}, measured before and after it, moved by {change(moved)} as well"
    return ""
