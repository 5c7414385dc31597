"""Charts of an answer: a number against file size, with its line, its prediction band, and what is extrapolated."""

from typing import Any

import altair as alt

from picolab.analysis.answer import Answer, Quantity
from picolab.analysis.prediction import LIMIT_OF_EXTRAPOLATION
from picolab.analysis.scalability import Scalability
from picolab.charts.style import LEVEL_COLOURS, LIMIT_COLOUR, chart, tip
from picolab.config.sizes import GIB, MIB

_POINTS = 60
_LINE, _BEYOND = LEVEL_COLOURS[0], LEVEL_COLOURS[1]
_MEASURED, _EXTRAPOLATED = "measured sizes", "extrapolated"


def quantity(found: Answer, shown: Quantity, title: str) -> alt.LayerChart | None:
    """Show one number against file size; None when too few trials gave a line.

    Points are trials, the line is the chosen law and the band its prediction interval. Both change colour, and the line
    is dashed, where they are extrapolated. A chart of memory has the RAM as a line if it limited the server.
    """
    if shown.fit is None:
        return None
    largest = shown.fit.sizes[-1]
    end = max(largest, min(float(found.asked_bytes), LIMIT_OF_EXTRAPOLATION * largest))
    size_unit, size_name = (GIB, "GiB") if end >= 2 * GIB else (MIB, "MiB")
    unit, name = (MIB, "MiB") if shown.metric.unit == "bytes" else (1, "s")
    curve = []
    for part, begin, finish in ((_MEASURED, shown.fit.sizes[0], largest), (_EXTRAPOLATED, largest, end)):
        places = [begin + (finish - begin) * step / _POINTS for step in range(_POINTS + 1)] if finish > begin else []
        for place in places:
            one = shown.fit.predict(place)
            curve.append(
                {
                    "part": part,
                    "size": round(place / size_unit, 5),
                    "low": one.low / unit,
                    "middle": one.middle / unit,
                    "high": one.high / unit,
                }
            )
    points = [{"size": round(size / size_unit, 5), "value": value / unit} for size, value in shown.fit.points]
    x = alt.X("size:Q", title=f"file size, {size_name}", scale=alt.Scale(domainMin=0, nice=False))
    y = alt.Y("low:Q", title=f"{shown.metric.title}, {name}", scale=alt.Scale(zero=True))
    parts = [_MEASURED, *([_EXTRAPOLATED] if end > largest else [])]
    colour = alt.Color("part:N", title=None, scale=alt.Scale(domain=parts, range=[_LINE, _BEYOND][: len(parts)]))
    dashes = alt.Scale(domain=parts, range=[[1, 0], [6, 4]][: len(parts)])
    layers = [
        chart(curve).mark_area(opacity=0.18, tooltip=None).encode(x=x, y=y, y2=alt.Y2("high:Q"), color=colour),
        chart(curve)
        .mark_line(strokeWidth=2, tooltip=None)
        .encode(
            x=alt.X("size:Q"),
            y=alt.Y("middle:Q"),
            color=colour,
            strokeDash=alt.StrokeDash("part:N", title=None, scale=dashes),
        ),
        chart(points)
        .mark_point(filled=True, size=50, opacity=0.75, color=_LINE)
        .encode(
            x=alt.X("size:Q"),
            y=alt.Y("value:Q"),
            tooltip=[tip("size:Q", f"file size, {size_name}", ".4~g"), tip("value:Q", f"measured, {name}", ".4~g")],
        ),
    ]
    if shown.prediction is not None:
        layers += _asked(shown, size_unit, unit, name)
    if shown.kind == "memory" and found.limited:
        layers += _limit(found.ram_bytes / MIB, size_unit, end)
    return alt.LayerChart(layer=layers).properties(height=240, width="container", title=title)


def _asked(shown: Quantity, size_unit: float, unit: float, name: str) -> list[alt.Chart]:
    """Mark the prediction for the size that was asked for."""
    one = shown.prediction
    assert one is not None
    asked = [{"size": one.at / size_unit, "low": one.low / unit, "middle": one.middle / unit, "high": one.high / unit}]
    colour = _BEYOND if one.extrapolated else _LINE
    return [
        chart(asked)
        .mark_rule(strokeWidth=2, color=colour)
        .encode(x=alt.X("size:Q"), y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        chart(asked)
        .mark_point(shape="diamond", size=130, filled=True, color=colour, opacity=1)
        .encode(
            x=alt.X("size:Q"),
            y=alt.Y("middle:Q"),
            tooltip=[
                tip("middle:Q", f"predicted, {name}", ".4~g"),
                tip("low:Q", "from", ".4~g"),
                tip("high:Q", "to", ".4~g"),
            ],
        ),
    ]


def _limit(ram_mib: float, size_unit: float, end: float) -> list[alt.Chart]:
    words = [{"ram": ram_mib, "size": end / size_unit, "words": f"RAM, {ram_mib:.10g} MiB"}]
    return [
        chart(words).mark_rule(color=LIMIT_COLOUR, strokeWidth=2).encode(y=alt.Y("ram:Q")),
        chart(words)
        .mark_text(align="right", dy=-8, color=LIMIT_COLOUR, fontWeight=600)
        .encode(x=alt.X("size:Q"), y=alt.Y("ram:Q"), text=alt.Text("words:N")),
    ]


def parallel(law: Scalability) -> alt.LayerChart:
    """Show the throughput of several uploads at the same time, with the universal scalability law and its band."""
    curve: list[dict[str, Any]] = []
    for step in range(_POINTS + 1):
        one = law.predict(1 + (law.most - 1) * step / _POINTS)
        curve.append({"uploads": one.at, "low": one.low, "middle": one.middle, "high": one.high})
    points = [{"uploads": uploads, "rate": rate} for uploads, rate in law.points]
    layers = [
        chart(curve)
        .mark_area(opacity=0.18, color=_LINE, tooltip=None)
        .encode(
            x=alt.X("uploads:Q", title="uploads at the same time", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("low:Q", title="throughput of all, MiB/s", scale=alt.Scale(zero=True)),
            y2=alt.Y2("high:Q"),
        ),
        chart(curve)
        .mark_line(strokeWidth=2, color=_LINE, tooltip=None)
        .encode(x=alt.X("uploads:Q"), y=alt.Y("middle:Q")),
        chart(points)
        .mark_point(filled=True, size=50, opacity=0.75, color=_LINE)
        .encode(
            x=alt.X("uploads:Q"),
            y=alt.Y("rate:Q"),
            tooltip=[tip("uploads:Q", "uploads"), tip("rate:Q", "throughput, MiB/s", ".4~g")],
        ),
    ]
    return alt.LayerChart(layer=layers).properties(height=240, width="container")
