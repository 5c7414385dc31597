"""Charts of a history: a metric by build over time, a panel for each case on each host, with its change points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from picolab.charts.style import LEVEL_COLOURS, LIMIT_COLOUR, chart, panel_title, tip, value_scale
from picolab.history.changes import changes
from picolab.history.series import Point, Series
from picolab.record.metric import Metric

MOST_PANELS = 24
NEWEST, OTHERS = "newest build", "other build"
OF_BUILD, NOT_OF_BUILD = "change of the build", "other change"


def over_time(series: Sequence[Series], metric: Metric) -> list[alt.LayerChart]:
    """Return a panel for each series that has values of a metric, at most `MOST_PANELS`."""
    return [_panel(one, metric) for one in series if one.of(metric)][:MOST_PANELS]


def _panel(series: Series, metric: Metric) -> alt.LayerChart:
    newest = series.line(metric)
    rows = [_row(point, metric, NEWEST if point in newest else OTHERS) for point in series.of(metric)]
    found = [
        {
            "time": f"{change.after.started:%Y-%m-%dT%H:%M:%SZ}",
            "reason": NOT_OF_BUILD if change.other_reason else OF_BUILD,
            "words": change.in_words(),
        }
        for change in changes(series, metric)
    ]
    x = alt.X("time:T", title=None, axis=alt.Axis(format="%Y-%m-%d", labelOverlap=True))
    y = alt.Y("value:Q", title=metric.heading, scale=value_scale([row["value"] for row in rows]))
    layers = [
        chart([row for row in rows if row["role"] == NEWEST])
        .mark_line(color=LEVEL_COLOURS[0], strokeWidth=1.5, tooltip=None)
        .encode(x=x, y=y),
        chart(rows)
        .mark_point(filled=True, size=55, opacity=0.9)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "role:N", title=None, scale=alt.Scale(domain=[NEWEST, OTHERS], range=[LEVEL_COLOURS[0], "#8d9aa5"])
            ),
            tooltip=[
                tip("build:N", "build"),
                tip("sha256:N", "SHA-256"),
                tip("campaign:N", "campaign"),
                tip("begun:N", "begun"),
                tip("value:Q", metric.heading, ".4~g"),
                tip("trials:Q", "trials"),
            ],
        ),
    ]
    if found:
        layers.append(
            chart(found)
            .mark_rule(strokeWidth=2, strokeDash=[5, 4])
            .encode(
                x=x,
                stroke=alt.Stroke(
                    "reason:N",
                    title=None,
                    scale=alt.Scale(domain=[OF_BUILD, NOT_OF_BUILD], range=[LIMIT_COLOUR, "#8d9aa5"]),
                ),
                tooltip=[tip("words:N", "change")],
            )
        )
    title = panel_title(f"{series.case} on {series.host_words}")
    return alt.LayerChart(layer=layers).properties(height=220, width="container", title=title)


def _row(point: Point, metric: Metric, role: str) -> dict[str, Any]:
    return {
        "time": f"{point.started:%Y-%m-%dT%H:%M:%SZ}",
        "begun": f"{point.started:%Y-%m-%d %H:%M} UTC",
        "value": metric.in_unit(point.values[metric.name]),
        "build": point.build,
        "sha256": point.sha256[:12],
        "campaign": point.campaign,
        "trials": point.counts[metric.name],
        "role": role,
    }
