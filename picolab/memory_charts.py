"""Memory over time: one panel a case, one line a trial, the limit drawn in."""

from typing import Any

import altair as alt
import pandas as pd

from picolab.chart_style import (
    ANON_COLOUR,
    CGROUP_COLOUR,
    LIMIT_COLOUR,
    OUTCOME_COLOURS,
    OUTCOME_LABELS,
    chart,
    grouped,
    labelled,
    mib,
    plain_rows,
    tip,
    value_scale,
)
from picolab.record import Outcome

LINE_POINTS, TOOLTIP_POINTS = 160, 40
"""Points to which a line is thinned; of each stretch the sample with most memory stays: no peak is lost."""

_SERIES = {"cgroup_bytes": "with page cache", "anon_bytes": "anonymous memory"}


def memory_panels(samples: pd.DataFrame, trials: pd.DataFrame) -> list[alt.LayerChart]:
    """Show memory over time, a panel a case and a line a trial.

    Args:
        samples: rows of `CampaignData.samples`.
        trials: rows of `CampaignData.trials`.
    """
    by_trial = grouped(plain_rows(samples[["trial_id", "t_s", *_SERIES]]), "trial_id")
    panels = []
    rows = [row for row in labelled(trials) if (row["trial_id"],) in by_trial]
    lines = {row["trial_id"]: _line(by_trial[row["trial_id"],], row["trial_id"], row["outcome"]) for row in rows}
    scale = _scale([point for line in lines.values() for point in line], [row["memory_limit_bytes"] for row in rows])
    for (group, case), members in grouped(rows, "group", "row").items():
        points = [point for row in members for point in lines[row["trial_id"]]]
        if points:
            panels.append(_panel(points, members[0]["memory_limit_bytes"], f"{case} · {group}", scale))
    return panels


def memory_over_time(samples: dict[str, Any], limit_bytes: int | None, outcome: str = "ok") -> alt.LayerChart:
    """Show the memory of one trial over time.

    Args:
        samples: the scrap `samples` of the trial.
        limit_bytes: the memory limit; None when nothing limited the memory.
        outcome: of the trial.
    """
    columns = samples["columns"]
    rows = [
        {"t_s": t_s} | {name: columns[name][index] if name in columns else None for name in _SERIES}
        for index, t_s in enumerate(columns.get("t_s", []))
    ]
    points = _line(rows, samples["trial_id"], outcome)
    return _panel(points, limit_bytes, "Memory of the server over time", _scale(points, [limit_bytes]))


def _line(rows: list[dict[str, Any]], trial_id: str, outcome: str) -> list[dict[str, Any]]:
    """Return points of both series in MiB, at most `LINE_POINTS` of each."""
    rows = [row for row in rows if row["t_s"] is not None]
    return [
        {
            "trial_id": trial_id,
            "label": OUTCOME_LABELS[Outcome(outcome)],
            "series": series,
            "t_s": round(row["t_s"], 3),
            "value": mib(row[column]),
        }
        for column, series in _SERIES.items()
        for row in _thinned(rows, column, LINE_POINTS)
        # A process that is not there yet or gone has no memory; a logarithmic axis has no zero.
        if row[column]
    ]


def _thinned(rows: list[dict[str, Any]], field: str, most: int) -> list[dict[str, Any]]:
    stretch = max(1, -(-len(rows) // most))
    stretches = [rows[start : start + stretch] for start in range(0, len(rows), stretch)]
    return [max(part, key=lambda row: row[field] or 0) for part in stretches]


def _scale(points: list[dict[str, Any]], limits: list[int | None]) -> alt.Scale:
    main = [point["value"] for point in points if point["series"] == _SERIES["anon_bytes"]]
    return value_scale([*main, *(mib(limit) or 0.0 for limit in limits if limit)])


def _panel(points: list[dict[str, Any]], limit_bytes: int | None, title: str, scale: alt.Scale) -> alt.LayerChart:
    names, colours = list(_SERIES.values()), [CGROUP_COLOUR, ANON_COLOUR]
    is_main = f"datum.series === '{_SERIES['anon_bytes']}'"
    lines = (
        chart(points)
        .mark_line(clip=True)
        .encode(
            x=alt.X("t_s:Q", title="seconds since the first byte", scale=alt.Scale(nice=False)),
            y=alt.Y("value:Q", title="MiB", scale=scale),
            color=alt.Color(
                "series:N",
                title=None,
                scale=alt.Scale(domain=names, range=colours),
                legend=alt.Legend(symbolType="stroke", symbolStrokeWidth=2.5),
            ),
            detail="trial_id:N",
            strokeWidth=alt.condition(is_main, alt.value(1.8), alt.value(1.1)),
        )
    )
    # A line shows a tooltip only on its own pixels; invisible, wide points are easy to hit, also by a finger.
    handles = chart(_tooltip_points(points)).mark_point(size=200, opacity=0, clip=True)
    handles = handles.encode(
        x="t_s:Q",
        y="value:Q",
        tooltip=[
            tip("trial_id:N", "trial"),
            tip("series:N", "memory"),
            tip("value:Q", "MiB", ".1f"),
            tip("t_s:Q", "seconds since the first byte", ".2f"),
            tip("label:N", "outcome"),
        ],
    )
    layers = [lines, handles, *_ends(points), *_limit(limit_bytes)]
    return alt.LayerChart(layer=layers, title=title, width="container", height=230)


def _tooltip_points(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = grouped(points, "trial_id", "series").values()
    return [point for line in lines for point in _thinned(line, "value", TOOLTIP_POINTS)]


def _ends(points: list[dict[str, Any]]) -> list[alt.Chart]:
    """Mark where a trial ended that was not ok."""
    main = [point for point in points if point["series"] == _SERIES["anon_bytes"] and point["label"] != "ok"]
    colours = {OUTCOME_LABELS[outcome]: colour for outcome, colour in OUTCOME_COLOURS.items()}
    rows = [line[-1] | {"colour": colours[line[-1]["label"]]} for line in grouped(main, "trial_id").values()]
    if not rows:
        return []
    ends = chart(rows).encode(x="t_s:Q", y="value:Q", color=alt.Color("colour:N", scale=None))
    cross = ends.mark_point(shape="cross", angle=45, filled=True, size=90)
    words = ends.mark_text(align="right", baseline="bottom", dy=-9, fontWeight="bold").encode(text="label:N")
    return [cross, words]


def _limit(limit_bytes: int | None) -> list[alt.Chart]:
    style: dict[str, Any] = {"color": LIMIT_COLOUR, "fontWeight": "bold", "align": "left", "dx": 4}
    if limit_bytes is None:
        note = chart([{"words": "no limit was enforced"}]).mark_text(baseline="top", dy=4, **style)
        return [note.encode(x=alt.value(0), y=alt.value(0), text="words:N")]
    limit = chart([{"value": mib(limit_bytes), "words": f"limit {mib(limit_bytes):g} MiB"}]).encode(y="value:Q")
    rule = limit.mark_rule(color=LIMIT_COLOUR, strokeDash=[6, 3], strokeWidth=1.5)
    words = limit.mark_text(baseline="top", dy=4, **style)
    return [rule, words.encode(x=alt.value(0), text="words:N")]
