"""Charts of a comparison of builds: functions from a `Comparison` to panels, as in `picolab.charts.campaign`."""

import json
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from picolab.analysis.comparison.models import NO_VERDICT, Comparison, MetricComparison
from picolab.charts.ratio_axis import LINE_COLOUR, MOST_TICKS, margin_band, ratio_axis, ratio_domain, ratio_scale
from picolab.charts.style import LEVEL_COLOURS, LEVEL_SHAPES, chart, expression_list, grouped, tip, value_scale
from picolab.charts.verdicts import (
    FEW_COMBINATIONS,
    VERDICT_STYLES,
    interval_words,
    short_scenarios,
    shown_rows,
    verdict_kind,
)
from picolab.record.metric import Metric
from picolab.text.wording import NOTHING, change

BASELINE_COLOUR = LINE_COLOUR
# Those first that are not the colour of a verdict for the worse.
_CANDIDATE_COLOURS = [LEVEL_COLOURS[place] for place in (0, 5, 3, 4, 2, 1)]
MOST_PAIR_SERIES = 24
"""More pairs of panels than this are too many to read: then the last metrics are in the tables only."""
_ROW_HEIGHT = 26
_TIME_HEIGHT = 190


def forest(comparison: Comparison) -> list[alt.LayerChart]:
    """Show every ratio with its interval, and the margin as a band; colour and shape tell the verdict.

    With few scenarios and candidates each has a panel, with a row for every metric. With many there is a panel for
    every metric and candidate, with a row for every scenario; then rates share an axis, and so does memory.
    """
    names, _ = short_scenarios(comparison.scenarios)
    few = len(comparison.scenarios) * len(comparison.candidates) <= FEW_COMBINATIONS
    rows = [_forest_row(row, names[row.scenario], few) for row in shown_rows(comparison)]
    if all(row["ratio"] is None for row in rows):
        return []
    kinds = [kind for kind in VERDICT_STYLES if any(row["kind"] == kind for row in rows)]
    axes = {unit: ratio_domain(same, comparison.margin) for (unit,), same in grouped(rows, "unit").items()}
    widest = (min(low for low, _ in axes.values()), max(high for _, high in axes.values()))
    panels = []
    for (title, candidate), members in grouped(rows, "panel", "candidate").items():
        domain = widest if few else axes[members[0]["unit"]]
        placed = [row | _within(row, domain) for row in members]
        panels.append(_forest_panel(placed, f"{title}: {candidate}", domain, kinds, comparison))
    return panels


def _forest_row(row: MetricComparison, scenario: str, few: bool) -> dict[str, Any]:
    return {
        "scenario": row.scenario,
        "candidate": row.candidate,
        "metric": row.metric.title,
        "unit": row.metric.unit,
        "panel": scenario if few else row.metric.title,
        "line": row.metric.title if few else scenario,
        "ratio": row.ratio,
        "low": row.low,
        "high": row.high,
        "kind": verdict_kind(row),
        "verdict": row.verdict or NO_VERDICT,
        "change": change(row.ratio),
        "interval": interval_words(row),
        "pairs": len(row.pairs),
        "reason": row.reason,
    }


def _within(row: dict[str, Any], domain: tuple[float, float]) -> dict[str, Any]:
    """Return the ends of an interval as they can be drawn, and where they had to be cut."""
    low, high = domain
    if row["low"] is None or row["high"] is None:
        return {"from": None, "to": None, "cut_low": None, "cut_high": None}
    return {
        "from": min(max(row["low"], low), high),
        "to": max(min(row["high"], high), low),
        "cut_low": low if row["low"] < low else None,
        "cut_high": high if row["high"] > high else None,
    }


def _forest_panel(
    rows: list[dict[str, Any]], title: str, domain: tuple[float, float], kinds: list[str], comparison: Comparison
) -> alt.LayerChart:
    lines = list(dict.fromkeys(row["line"] for row in rows))
    scale = alt.Scale(domain=lines)
    plain_y = alt.Y("line:O", scale=scale, axis=None)
    legend = alt.Legend(columns=2)  # a phone has no room for more beside each other
    colour = alt.Color("kind:N", title=None, scale=_verdict_scale(kinds, "colour"), legend=legend)
    shape = alt.Shape("kind:N", title=None, scale=_verdict_scale(kinds, "shape"), legend=legend)
    title_of_x = f"change against {comparison.baseline} (logarithmic)"
    drawn = [row for row in rows if row["ratio"] is not None]
    layers = [
        margin_band(comparison.margin).encode(
            x=alt.X("low:Q", title=title_of_x, scale=ratio_scale(domain), axis=ratio_axis(domain)), x2=alt.X2("high:Q")
        ),
        chart([{"one": 1}]).mark_rule(color=LINE_COLOUR, strokeWidth=1.5, tooltip=None).encode(x=alt.X("one:Q")),
        chart(drawn, "line", "from", "to", "kind")
        .mark_rule(strokeWidth=3.5, strokeCap="round", tooltip=None)
        .encode(x=alt.X("from:Q"), x2=alt.X2("to:Q"), y=plain_y, color=colour),
        chart(rows)
        .mark_point(filled=True, size=110, opacity=1)
        .encode(
            x=alt.X("ratio:Q"),
            y=alt.Y(
                "line:O",
                title=None,
                scale=scale,
                axis=alt.Axis(grid=True, labelLimit=230, ticks=False, domain=False, labelPadding=8),
            ),
            color=colour,
            shape=shape,
            tooltip=[
                tip("metric:N", "metric"),
                tip("scenario:N", "scenario"),
                tip("candidate:N", "candidate"),
                tip("change:N", "change"),
                tip("interval:N", "interval"),
                tip("pairs:Q", "pairs"),
                tip("verdict:N", "verdict"),
                tip("reason:N", "why"),
            ],
        ),
        _changes_at_the_right(rows, lines, scale),
    ]
    for end, arrow in (("cut_low", "triangle-left"), ("cut_high", "triangle-right")):
        cut = [row for row in drawn if row[end] is not None]
        if cut:
            arrows = chart(cut, "line", end, "kind").mark_point(
                filled=True, size=90, opacity=1, shape=arrow, tooltip=None
            )
            layers.append(arrows.encode(x=alt.X(f"{end}:Q"), y=plain_y, color=colour))
    panel: alt.LayerChart = alt.LayerChart(
        layer=layers,
        title=_title(title),
        width="container",
        height=_ROW_HEIGHT * len(lines),
        # Names and changes stand beside the plot, which needs its own room too.
        usermeta={"minWidth": 250 + 7 * min(30, max(map(len, lines)))},
    ).resolve_axis(y="independent")
    return panel


def _changes_at_the_right(rows: list[dict[str, Any]], lines: list[str], scale: alt.Scale) -> alt.Chart:
    """Return an invisible layer whose axis says the change of every row."""
    changes = {row["line"]: row["change"] if row["pairs"] else "no pairs" for row in rows}
    words = expression_list([changes[line] for line in lines])
    axis = alt.Axis(
        orient="right",
        labelExpr=f"{words}[indexof({expression_list(lines)}, datum.value)]",
        ticks=False,
        domain=False,
        labelPadding=8,
    )
    y = alt.Y("line:O", title=None, scale=scale, axis=axis)
    return chart(rows, "line").mark_tick(opacity=0).encode(y=y)  # type: ignore[no-any-return]


def pairs_in_time(comparison: Comparison) -> list[alt.LayerChart]:
    """Show the values of every pair in order of time, and next to it their ratio; two panels a scenario and metric."""
    names, _ = short_scenarios(comparison.scenarios)
    panels = []
    for metric in pair_metrics(comparison)[0]:
        rows = [row for row in comparison.metrics if row.metric == metric and row.pairs]
        points = {scenario: _pair_points(rows, scenario) for scenario in dict.fromkeys(row.scenario for row in rows)}
        ratios = [{"ratio": point["ratio"], "low": None, "high": None} for same in points.values() for point in same]
        domain = ratio_domain(ratios, comparison.margin)
        for scenario, same in points.items():
            where = f", {names[scenario]}" if len(comparison.scenarios) > 1 else ""
            middles = [
                {"candidate": row.candidate, "ratio": row.ratio, "low": row.low, "high": row.high}
                for row in rows
                if row.scenario == scenario
            ]
            panels.append(_values_panel(same, f"{metric.title}{where}", metric, comparison))
            panels.append(_ratio_panel(same, middles, f"its ratio{where}", domain, comparison))
    return panels


def pair_metrics(comparison: Comparison) -> tuple[list[Metric], list[Metric]]:
    """Return the metrics that decide the gate and have pairs: those that are shown in time, and those left out."""
    rows = [row for row in comparison.metrics if row.gates and row.pairs]
    series: dict[Metric, set[str]] = {}
    for row in rows:
        series.setdefault(row.metric, set()).add(row.scenario)
    taken: list[Metric] = []
    for metric in series:
        if not taken or sum(len(series[one]) for one in [*taken, metric]) <= MOST_PAIR_SERIES:
            taken.append(metric)
    return taken, [metric for metric in series if metric not in taken]


def _pair_points(rows: Sequence[MetricComparison], scenario: str) -> list[dict[str, Any]]:
    """Return a row for every pair of a scenario; `place` numbers its blocks in order of time from 1."""
    pairs = [(row, pair) for row in rows if row.scenario == scenario for pair in row.pairs]
    hours: dict[int, float] = {}
    for _, pair in pairs:
        hours[pair.block] = min(pair.hours, hours.get(pair.block, pair.hours))
    places = {block: place for place, block in enumerate(sorted(hours, key=lambda block: (hours[block], block)), 1)}
    return [
        {
            "candidate": row.candidate,
            "place": places[pair.block],
            "block": pair.block,
            "hours": hours[pair.block],
            "baseline_value": row.metric.in_unit(pair.baseline_value),
            "value": row.metric.in_unit(pair.candidate_value),
            "ratio": pair.ratio,
            "change": change(pair.ratio),
            "baseline_trial": pair.baseline_trial,
            "candidate_trial": pair.candidate_trial,
            "first": row.baseline if pair.baseline_first else row.candidate,
            "baseline_first": pair.baseline_first,
        }
        for row, pair in pairs
    ]


def _values_panel(points: list[dict[str, Any]], title: str, metric: Metric, comparison: Comparison) -> alt.LayerChart:
    baseline = comparison.baseline
    own = [point | {"build": point["candidate"], "trial": point["candidate_trial"]} for point in points]
    theirs = {
        point["place"]: point
        | {"build": baseline, "value": point["baseline_value"], "trial": point["baseline_trial"], "change": NOTHING}
        for point in points
    }
    every = [*theirs.values(), *own]
    x = _time_axis(points)
    scale = _tight_scale([point["value"] for point in every], comparison.margin)
    lines = chart(own, "place", "baseline_value", "value").mark_rule(color=LINE_COLOUR, strokeWidth=1.5, tooltip=None)
    names = [baseline, *comparison.candidates]
    dots = (
        chart(every, "build", "place", "value", "trial", "block", "hours", "first", "change")
        .mark_point(filled=True, size=62, opacity=1)
        .encode(
            x=x,
            y=alt.Y("value:Q"),
            color=alt.Color("build:N", title=None, scale=_build_scale(names, _build_colours(names))),
            shape=alt.Shape("build:N", title=None, scale=_build_scale(names, LEVEL_SHAPES)),
            tooltip=[
                tip("build:N", "build"),
                tip("value:Q", metric.heading, ".1f"),
                tip("change:N", f"against {baseline}"),
                tip("trial:N", "trial"),
                tip("block:Q", "block"),
                tip("hours:Q", "hours since the first trial", ".2f"),
                tip("first:N", "ran first"),
            ],
        )
    )
    lines = lines.encode(x=x, y=alt.Y("baseline_value:Q", title=metric.heading, scale=scale), y2=alt.Y2("value:Q"))
    return alt.LayerChart(layer=[lines, dots], title=_title(title), width="container", height=_TIME_HEIGHT)


def _ratio_panel(
    points: list[dict[str, Any]],
    middles: list[dict[str, Any]],
    title: str,
    domain: tuple[float, float],
    comparison: Comparison,
) -> alt.LayerChart:
    names = list(comparison.candidates)
    every = [comparison.baseline, *names]
    colours = _build_scale(names, _build_colours(every)[1:])
    tooltip = [
        tip("candidate:N", "candidate"),
        tip("change:N", f"against {comparison.baseline}"),
        tip("first:N", "ran first"),
        tip("block:Q", "block"),
        tip("hours:Q", "hours since the first trial", ".2f"),
        tip("candidate_trial:N", "candidate's trial"),
        tip("baseline_trial:N", "baseline's trial"),
    ]
    fields = ("candidate", "place", "ratio", "change", "first", "baseline_first", "block", "hours")
    dots = (
        chart(points, *fields, "candidate_trial", "baseline_trial")
        .mark_point(size=62, opacity=1, strokeWidth=2)
        .encode(
            x=_time_axis(points),
            y=alt.Y("ratio:Q"),
            stroke=alt.Stroke("candidate:N", title=None, scale=colours, legend=alt.Legend(symbolOpacity=1)),
            fill=alt.Fill("candidate:N", title=None, scale=colours, legend=alt.Legend(symbolOpacity=1)),
            fillOpacity=alt.condition("datum.baseline_first", alt.value(1), alt.value(0)),
            shape=alt.Shape(
                "candidate:N",
                title=None,
                scale=_build_scale(names, LEVEL_SHAPES[1:]),
                legend=alt.Legend(symbolOpacity=1),
            ),
            tooltip=tooltip,
        )
    )
    known = [
        middle | {"low": max(middle["low"], domain[0]), "high": min(middle["high"], domain[1])}
        for middle in middles
        if middle["low"] is not None and middle["high"] is not None
    ]
    colour = alt.Color("candidate:N", title=None, scale=colours, legend=alt.Legend(symbolOpacity=1))
    layers = [
        margin_band(comparison.margin).encode(
            y=alt.Y("low:Q", title="candidate against baseline", scale=ratio_scale(domain), axis=ratio_axis(domain)),
            y2=alt.Y2("high:Q"),
        ),
        chart([{"one": 1}]).mark_rule(color=LINE_COLOUR, strokeWidth=1.5, tooltip=None).encode(y=alt.Y("one:Q")),
        chart(known).mark_rect(opacity=0.16, tooltip=None).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=colour),
        chart([middle for middle in middles if middle["ratio"] is not None], "candidate", "ratio")
        .mark_rule(strokeWidth=2, strokeDash=[6, 4], tooltip=None)
        .encode(y=alt.Y("ratio:Q"), color=colour),
        dots,
    ]
    return alt.LayerChart(layer=layers, title=_title(title), width="container", height=_TIME_HEIGHT)


def _time_axis(points: list[dict[str, Any]]) -> alt.X:
    """Return an axis with a place for every pair, so that a pause takes no room, and the time as its labels."""
    hours = {point["place"]: point["hours"] for point in points}
    last = max(hours)
    # A short campaign is told in minutes: hours would all be 0.0.
    unit, scale_h = ("hours", 1) if max(hours.values()) >= 1 else ("minutes", 60)
    step = max(1, math.ceil(last / MOST_TICKS))
    axis = alt.Axis(
        values=list(range(1, last + 1, step)),
        tickCount=last,  # else the count of the common configuration thins them out
        labelExpr=f"{json.dumps([f'{scale_h * hours[place]:.1f}' for place in range(1, last + 1)])}[datum.value - 1]",
        labelOverlap=False,
        grid=False,
    )
    scale = alt.Scale(domain=[0.4, last + 0.6], nice=False, zero=False)
    return alt.X("place:Q", title=["pairs in order of time,", f"{unit} since the first trial"], scale=scale, axis=axis)


def _tight_scale(values: Iterable[float], margin: float) -> alt.Scale:
    """Return a scale that shows small changes, yet none below the margin as a large one; it need not begin at zero."""
    known = list(values)
    wide = value_scale(known)
    if wide.to_dict().get("type") == "log":
        return wide
    low, high = min(known), max(known)
    room = max(0.08 * (high - low), margin * high - (high - low) / 2) or 1.0
    return alt.Scale(domain=[max(0.0, low - room), high + room], nice=False, zero=False)


def _build_colours(names: Sequence[str]) -> list[str]:
    return [BASELINE_COLOUR, *(_CANDIDATE_COLOURS[place % len(_CANDIDATE_COLOURS)] for place in range(len(names) - 1))]


def _build_scale(names: Sequence[str], values: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[values[place % len(values)] for place in range(len(names))])


def _verdict_scale(kinds: Sequence[str], what: str) -> alt.Scale:
    return alt.Scale(domain=list(kinds), range=[getattr(VERDICT_STYLES[kind], what) for kind in kinds])


def _title(text: str) -> alt.TitleParams:
    """Return a title that is broken into lines where it is long; scenarios have no spaces."""
    return alt.TitleParams(text=textwrap.wrap(text, 58) or [""])
