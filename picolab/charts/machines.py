"""The chart of several machines at the same time: what ran when on which machine."""

from collections.abc import Iterable
from typing import Any

import altair as alt

from picolab.charts.style import LEVEL_COLOURS, chart, tip
from picolab.record.record import Record

MOST_TRIALS = 40
"""More would be narrower than a line: the first ones are shown."""
_KINDS = {"measured section": LEVEL_COLOURS[1], "other stages": LEVEL_COLOURS[4]}


def shown_first(records: Iterable[Record]) -> list[Record]:
    """Return the first trials of the boot in which the first of all ran, in order of time."""
    timed = [(record, record.timeline) for record in records if record.timeline is not None and record.timeline.stages]
    ordered = sorted(timed, key=lambda one: one[0].identity.started_at)
    return [record for record, timeline in ordered if timeline.boot_id == ordered[0][1].boot_id][:MOST_TRIALS]


def machines_in_time(records: Iterable[Record]) -> list[alt.LayerChart]:
    """Return a chart of the stages of trials by machine over time; none when trials ran one by one."""
    shown = shown_first(records)
    if len({record.parameters.machine_name for record in shown}) < 2:
        return []
    rows: list[dict[str, Any]] = []
    for record in shown:
        timeline = record.timeline
        assert timeline is not None
        from_s, until_s = timeline.measured_from_s, timeline.measured_until_s
        for span in timeline.stages:
            begun_s, ended_s = span.begun_monotonic_s, span.ended_monotonic_s
            measured = from_s is not None and until_s is not None and from_s <= begun_s and ended_s <= until_s
            rows.append(
                {
                    "machine": record.parameters.machine_name,
                    "trial": record.identity.trial_id,
                    "stage": span.stage,
                    "what": "measured section" if measured else "other stages",
                    "from_s": begun_s,
                    "until_s": ended_s,
                }
            )
    zero_s = min(row["from_s"] for row in rows)
    for row in rows:
        row |= {"from_s": round(row["from_s"] - zero_s, 3), "until_s": round(row["until_s"] - zero_s, 3)}
    bars = (
        chart(rows, *rows[0])
        .mark_bar(height=14)
        .encode(
            x=alt.X("from_s:Q", title="seconds since the first stage"),
            x2=alt.X2("until_s:Q"),
            y=alt.Y("machine:N", title=None),
            color=alt.Color(
                "what:N",
                title=None,
                scale=alt.Scale(domain=list(_KINDS), range=list(_KINDS.values())),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=[
                tip("trial:N", "trial"),
                tip("stage:N", "stage"),
                tip("from_s:Q", "from, s", ".2f"),
                tip("until_s:Q", "until, s", ".2f"),
            ],
        )
    )
    layers: alt.LayerChart = alt.LayerChart(layer=[bars])
    return [layers.properties(height=40 * len({row["machine"] for row in rows}))]
