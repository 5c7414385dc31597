"""The chart of a memory floor: survival against RAM with every trial, the fitted curve, its band and the floor."""

import math
from collections.abc import Mapping
from typing import Any

import altair as alt

from picolab.analysis.floor import FloorInterval
from picolab.analysis.floor_search import Floor
from picolab.analysis.floor_speed import SpeedFloor
from picolab.charts.style import LEVEL_COLOURS, LIMIT_COLOUR, chart, panel_title, tip, value_scale
from picolab.text.foreign import visible

_POINTS = 80
_SPREAD = 0.03
"""Trials of the same RAM are drawn this far below or above each other, in shares."""
_WIDE = 16
_DIGITS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
_MOST_TICKS = 7
_ONE_COLUMN, _TWO_COLUMNS = alt.Legend(columns=1), alt.Legend(columns=2)
"""Both legends are in one row, on a phone too."""
_CURVE, _SURVIVED, _DIED = LEVEL_COLOURS[0], LEVEL_COLOURS[2], LEVEL_COLOURS[1]


def survival(floors: Mapping[str, Floor]) -> list[alt.LayerChart]:
    """Show survival against RAM, one above the other for each build, all with the same axis of RAM.

    Each trial is a point; the curve has its band, and there are the floor, its interval and the recommendation.

    Args:
        floors: by label of the build.
    """
    low, high = _ends(floors)
    return [
        _panel(floor, low, high, visible(label) if len(floors) > 1 else "")
        for label, floor in floors.items()
        if floor.trials
    ]


def _panel(floor: Floor, low: float, high: float, title: str) -> alt.LayerChart:
    # Most points where the curve rises.
    near = max(low, floor.interval.low / 1.2), min(high, floor.interval.high * 1.2)
    levels = sorted({*_spaced(low, high), *(_spaced(*near) if near[0] < near[1] else ())})
    curve = [
        {"ram": round(level, 4), "low": round(one, 4), "mean": round(mean, 4), "high": round(other, 4)}
        for level, (one, mean, other) in zip(levels, floor.posterior.curve(levels), strict=True)
    ]
    x = _ram_axis(low, high)
    y = alt.Scale(domain=[-0.2, 1.2], nice=False)
    share = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format="%")
    layers = [
        chart(curve)
        .mark_area(opacity=0.18, color=_CURVE, tooltip=None)
        .encode(x=x, y=alt.Y("low:Q", title="trials that survive", scale=y, axis=share), y2=alt.Y2("high:Q")),
        chart(curve).mark_line(color=_CURVE, strokeWidth=2, tooltip=None).encode(x=alt.X("ram:Q"), y=alt.Y("mean:Q")),
    ]
    if floor.state not in ("above", "below"):
        layers += _interval_layers(floor.interval, low, high, x, "floor")
    if floor.recommended_mb is not None:
        layers.append(
            chart([{"ram": floor.recommended_mb, "words": "recommended"}])
            .mark_rule(color=_SURVIVED, strokeWidth=2, strokeDash=[5, 4])
            .encode(x=alt.X("ram:Q"), tooltip=[tip("words:N", "line"), tip("ram:Q", "RAM, MiB", ".4~g")])
        )
    layers.append(
        chart(_points(floor))
        .mark_point(filled=True, size=60, opacity=0.9)
        .encode(
            x=alt.X("ram:Q"),
            y=alt.Y("y:Q"),
            color=_colour(["survived", "failed"]),
            shape=alt.Shape("purpose:N", title=None, legend=_TWO_COLUMNS),
            tooltip=[
                tip("trial:N", "trial"),
                tip("ram:Q", "RAM, MiB", ".6~g"),
                tip("purpose:N", "for the"),
                tip("outcome:N", "outcome"),
            ],
        )
    )
    return _titled(layers, title)


def speed(floors: Mapping[str, Floor]) -> list[alt.LayerChart]:
    """Show the time of each trial that survived against RAM, one above the other for each build.

    Args:
        floors: by label of the build; those without a reference of full speed are left out.
    """
    low, high = _ends(floors)
    return [
        _speed_panel(floor, floor.speed, low, high, visible(label) if len(floors) > 1 else "")
        for label, floor in floors.items()
        if floor.speed is not None and floor.speed.limit_s is not None
    ]


def _spaced(low: float, high: float) -> list[float]:
    return [low * (high / low) ** (place / (_POINTS - 1)) for place in range(_POINTS)]


def _ends(floors: Mapping[str, Floor]) -> tuple[float, float]:
    """Return the RAM at which the axis begins and ends: the same for all panels of a page."""
    tried = [trial.ram_mb for floor in floors.values() for trial in floor.trials] or [1.0]
    return min(tried) / 1.1, max(tried) * 1.1


def _speed_panel(floor: Floor, speed: SpeedFloor, low: float, high: float, title: str) -> alt.LayerChart:
    timed = [(trial, trial.duration_s) for trial in floor.trials if trial.duration_s is not None]
    points = [
        {
            "trial": trial.trial_id,
            "ram": trial.ram_mb,
            "seconds": round(seconds, 4),
            "fate": "fast" if speed.is_fast(trial) else "too slow",
            "purpose": trial.purpose,
        }
        for trial, seconds in timed
    ]
    limit_s = speed.limit_s or 0.0
    x = _ram_axis(low, high)
    y = alt.Y("seconds:Q", title="time, s", scale=value_scale([limit_s, *(seconds for _, seconds in timed)]))
    layers = [
        chart([{"seconds": limit_s, "words": "longest time"}])
        .mark_rule(color=LIMIT_COLOUR, strokeWidth=2, strokeDash=[5, 4])
        .encode(y=y, tooltip=[tip("words:N", "line"), tip("seconds:Q", "time, s", ".3~g")])
    ]
    if speed.interval is not None and speed.state not in ("above", "below"):
        layers += _interval_layers(speed.interval, low, high, x, "full speed")
    layers.append(
        chart(points)
        .mark_point(filled=True, size=60, opacity=0.9)
        .encode(
            x=x,
            y=y,
            color=_colour(["fast", "too slow"]),
            shape=alt.Shape("purpose:N", title=None, legend=_TWO_COLUMNS),
            tooltip=[
                tip("trial:N", "trial"),
                tip("ram:Q", "RAM, MiB", ".6~g"),
                tip("seconds:Q", "time, s", ".3~g"),
                tip("purpose:N", "for the"),
            ],
        )
    )
    return _titled(layers, title)


def _colour(fates: list[str]) -> alt.Color:
    return alt.Color("fate:N", title=None, scale=alt.Scale(domain=fates, range=[_SURVIVED, _DIED]), legend=_ONE_COLUMN)


def _interval_layers(interval: FloorInterval, low: float, high: float, x: alt.X, words: str) -> list[alt.Chart]:
    """Return a floor and its interval, as far as the axis shows it."""
    ends = [{"ram": max(low, interval.low), "to": min(high, interval.high)}]
    return [
        chart(ends).mark_rect(opacity=0.12, color=LIMIT_COLOUR, tooltip=None).encode(x=x, x2=alt.X2("to:Q")),
        chart([{"ram": interval.middle, "words": words}])
        .mark_rule(color=LIMIT_COLOUR, strokeWidth=2)
        .encode(x=x, tooltip=[tip("words:N", "line"), tip("ram:Q", "RAM, MiB", ".4~g")]),
    ]


def _titled(layers: list[alt.Chart], title: str) -> alt.LayerChart:
    panel = alt.LayerChart(layer=layers).properties(height=200 if title else 260, width="container")
    return panel.properties(title=panel_title(title)) if title else panel


def _ram_axis(low: float, high: float) -> alt.X:
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return alt.X(
        "ram:Q", title="RAM, MiB (logarithmic)", scale=scale, axis=alt.Axis(values=_ticks(low, high), format="~g")
    )


def _points(floor: Floor) -> list[dict[str, Any]]:
    seen: dict[tuple[float, bool], int] = {}
    rows = []
    for trial in floor.trials:
        place = seen[trial.ram_mb, trial.survived] = seen.get((trial.ram_mb, trial.survived), -1) + 1
        shift = _SPREAD * (place % 6)
        rows.append(
            {
                "trial": trial.trial_id,
                "ram": trial.ram_mb,
                "y": 1 + shift if trial.survived else -shift,
                "fate": "survived" if trial.survived else "failed",
                "purpose": trial.purpose,
                "outcome": trial.outcome,
            }
        )
    return rows


def _ticks(low: float, high: float) -> list[float]:
    """Return readable amounts of RAM inside a range, a few of them: powers of two, or in a narrow range others."""
    if high / low >= _WIDE:
        return [2.0**power for power in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    every = [digit * 10.0**power for power in range(-1, 7) for digit in _DIGITS]
    inside = [mib for mib in every if low <= mib <= high]
    step = max(1, math.ceil(len(inside) / _MOST_TICKS))
    return inside[::step] if len(inside) > 1 else [float(f"{math.sqrt(low * high):.2g}")]
