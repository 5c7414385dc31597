"""The axis of ratios: logarithmic, with its ends, its ticks at round changes in percent, and the margin's band."""

import math
from collections.abc import Iterable
from typing import Any

import altair as alt

from picolab.charts.style import chart

LINE_COLOUR = "#8d9aa5"
_WIDEST = 4.0
"""An interval may widen an axis to this many times the outermost ratio; beyond that it is cut and marked."""


MOST_TICKS = 7


_LINEAR_TICKS = 2.0
"""Up to this quotient of its ends a logarithmic axis has ticks in equal steps of percent."""
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
_GAINS = (10, 25, 50, 100, 200, 400, 900, 1900, 4900, 9900)
_LOSSES = (10, 25, 50, 75, 90, 95, 98, 99)


def margin_band(margin: float) -> alt.Chart:
    """Return the band of ratios that do not matter, with the fields `low` and `high`."""
    band: alt.Chart = chart([{"low": 1 / (1 + margin), "high": 1 + margin}])
    return band.mark_rect(color=LINE_COLOUR, opacity=0.22, tooltip=None)  # type: ignore[no-any-return]


def ratio_domain(rows: Iterable[dict[str, Any]], margin: float) -> tuple[float, float]:
    """Return the ends of an axis that shows the margin, every ratio, and intervals unless they are very wide."""
    known = [row for row in rows if row["ratio"] is not None]
    logs = [math.log(row["ratio"]) for row in known]
    ends = [math.log(row[end]) for row in known for end in ("low", "high") if row[end]]
    furthest = max([math.log1p(margin), *map(abs, logs)])
    limit = _WIDEST * furthest
    values = [-math.log1p(margin), math.log1p(margin), *logs, *(min(max(end, -limit), limit) for end in ends)]
    room = 0.06 * (max(values) - min(values))
    return math.exp(min(values) - room), math.exp(max(values) + room)


def ratio_scale(domain: tuple[float, float]) -> alt.Scale:
    """Return a logarithmic scale between two ratios."""
    return alt.Scale(type="log", domain=list(domain), nice=False)


def ratio_axis(domain: tuple[float, float]) -> alt.Axis:
    """Return an axis whose labels are changes in percent."""
    words = "'0 %' : (datum.value > 1 ? '+' : '−') + format(abs(datum.value - 1) * 100, ',.3~r') + ' %'"
    ticks = _ratio_ticks(*domain)
    return alt.Axis(
        values=ticks, tickCount=len(ticks), labelExpr=f"abs(datum.value - 1) < 1e-9 ? {words}", labelOverlap=True
    )


def _ratio_ticks(low: float, high: float) -> list[float]:
    """Return ratios that are round changes in percent, at most `MOST_TICKS`, 0 % among them."""
    if high / low > _LINEAR_TICKS:
        round_ratios = [1.0, *(1 + p / 100 for p in _GAINS), *(1 - p / 100 for p in _LOSSES)]
        inside = sorted(ratio for ratio in round_ratios if low <= ratio <= high)
        every = math.ceil(len(inside) / MOST_TICKS)
        middle = inside.index(1.0)
        return [ratio for place, ratio in enumerate(inside) if (place - middle) % every == 0]
    percents = [100 * (low - 1), 100 * (high - 1)]
    step = next(step for step in _STEPS if (percents[1] - percents[0]) / step <= MOST_TICKS)
    places = range(math.ceil(percents[0] / step), math.floor(percents[1] / step) + 1)
    return [1 + place * step / 100 for place in places]
