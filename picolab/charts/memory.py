"""Memory over time: one panel a case, one line a trial, the limit drawn in; of many trials a few lines and a band."""

import itertools
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from picolab.charts.style import (
    ANON_COLOUR,
    CGROUP_COLOUR,
    LIMIT_COLOUR,
    OUTCOME_COLOURS,
    OUTCOME_LABELS,
    chart,
    grouped,
    labelled,
    mib,
    panel_title,
    tip,
    value_scale,
)
from picolab.charts.thinning import BAND
from picolab.config.sizes import MIB
from picolab.record.outcomes import Outcome

MOST_LINES = 12
"""Up to so many trials of a case have a line each; of more only `SHOWN_RANKS` have one."""
SHOWN_RANKS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Which trials have a line where all would be too many: lowest, quartiles, median and highest by their peak."""
LINE_POINTS, TOOLTIP_POINTS = 160, 40
"""Points to which a line is thinned; of each stretch the sample with most memory stays: no peak is lost."""
_ALL_POINTS, _FEWEST_POINTS = 16_000, 40
"""Points of all lines of a page, if that leaves each line enough to be seen."""
_BAND_POINTS = 60
_MOST_WORDS = 3
"""More words than this at the ends of lines would cover each other."""

_SERIES = {"cgroup_bytes": "with page cache", "anon_bytes": "anonymous memory"}
_MAIN = _SERIES["anon_bytes"]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class _Line:
    """One series of one trial, in seconds and MiB; nowhere without memory."""

    trial_id: str
    outcome: Outcome
    """Of the upload."""
    label: str
    series: str
    t_s: Numbers
    value: Numbers

    @property
    def peak(self) -> float:
        return float(self.value.max())

    def datum(self, most: int) -> dict[str, Any]:
        """Return at most so many points, of each stretch the highest, as one datum to be flattened."""
        size = len(self.value)
        kept = np.arange(size)
        if size > most:
            edges = [place * size // most for place in range(most + 1)]
            kept = np.array([a + int(self.value[a:b].argmax()) for a, b in itertools.pairwise(edges)])
        return {
            "trial_id": self.trial_id,
            "label": self.label,
            "series": self.series,
            "t_s": self.t_s[kept].round(3).tolist(),
            "value": self.value[kept].round(2).tolist(),
        }


def memory_panels(samples: pd.DataFrame, trials: pd.DataFrame) -> list[alt.LayerChart]:
    """Show memory over time, a panel a case and a line a trial; of many trials a few lines, and a band of all.

    Uploads that were not measured, and may have run without the memory limit, are left out.

    Args:
        samples: rows of `CampaignData.samples`.
        trials: rows of `CampaignData.trials`.
    """
    columns = {name: _numbers(samples[name]) for name in ("t_s", *_SERIES)}
    places = samples.groupby("trial_id", sort=False).indices
    rows = _measured(trials, places)
    lines = {
        row["trial_id"]: _lines_of(
            {name: values[places[row["trial_id"]]] for name, values in columns.items()},
            *(row["trial_id"], _end_of_upload(row), row["label"]),
        )
        for row in rows
    }
    scale = _scale([line for both in lines.values() for line in both], [row["memory_limit_bytes"] for row in rows])
    cases = {}
    for place, members in grouped(rows, "group", "row").items():
        every = [line for row in members for line in lines[row["trial_id"]]]
        if every:
            cases[place] = (members[0]["memory_limit_bytes"], every, _shown(every))
    points = _points(sum(len(shown) for _, _, shown in cases.values()))
    return [
        _panel(shown, every, limit_bytes, f"{case} · {group}", scale, points)
        for (group, case), (limit_bytes, every, shown) in cases.items()
    ]


def _measured(trials: pd.DataFrame, sampled: Container[Any]) -> list[dict[str, Any]]:
    """Return the rows of trials with a measured upload that was sampled."""
    return [row for row in labelled(trials) if row["trial_id"] in sampled and row["upload_outcome"] is not None]


def memory_caption(samples: pd.DataFrame, trials: pd.DataFrame) -> str:
    """Say how to read `memory_panels`, and what was thinned to draw them."""
    words = "One panel a case, one line a trial; zero is the moment when the first byte was sent."
    rows = _measured(trials, set(samples["trial_id"]))
    sizes = [len(cell) for cell in grouped(rows, "group", "row").values()]
    if max(sizes, default=0) > MOST_LINES:
        words += (
            f" Of a case with more than {MOST_LINES} trials, {len(SHOWN_RANKS)} have a line: those with the highest, "
            f"the lowest and the median peak of anonymous memory, and its quartiles. The band then holds the middle "
            f"{BAND[1] - BAND[0]:.0%} of all its trials at each moment, and each upload that was not ok has a cross."
        )
    points = _points(2 * sum(size if size <= MOST_LINES else len(SHOWN_RANKS) for size in sizes))
    longest = samples.groupby("trial_id").size().max() if len(samples) else 0
    if longest > points:
        words += f" A line has at most {points} points, each the highest sample of its stretch."
    return words


def _end_of_upload(row: dict[str, Any]) -> Outcome:
    """Return the outcome that the last sample stands for: samples are of the upload, whatever the download was."""
    return Outcome(row["outcome"] if row["outcome"] == Outcome.CORRUPTED else row["upload_outcome"])


def memory_over_time(
    samples: dict[str, Any], limit_bytes: int | None, outcome: Outcome | None = Outcome.OK
) -> alt.LayerChart:
    """Show the memory of one trial over time.

    Args:
        samples: the scrap `samples` of the trial.
        limit_bytes: the memory limit; None when nothing limited the memory.
        outcome: of the upload; None when it is not known yet.
    """
    found = samples["columns"]
    t_s = _numbers(found.get("t_s", []))
    columns = {name: _numbers(found[name]) if name in found else np.full(len(t_s), np.nan) for name in _SERIES}
    label = OUTCOME_LABELS[outcome] if outcome else "not finished"
    lines = _lines_of({"t_s": t_s, **columns}, samples["trial_id"], outcome or Outcome.OK, label)
    title = "Memory of the server over time"
    return _panel(lines, lines, limit_bytes, title, _scale(lines, [limit_bytes]), LINE_POINTS)


def _numbers(values: Any) -> Numbers:
    numbers: Numbers = pd.array(values, dtype="Float64").to_numpy(dtype="float64", na_value=np.nan)
    return numbers


def _lines_of(columns: dict[str, Numbers], trial_id: str, outcome: Outcome, label: str) -> list[_Line]:
    """Return the series of a trial that have a point."""
    lines = []
    for column, series in _SERIES.items():
        # A process that is not there yet or gone has no memory; a logarithmic axis has no zero.
        there = ~np.isnan(columns["t_s"]) & (columns[column] > 0)
        if there.any():
            lines.append(_Line(trial_id, outcome, label, series, columns["t_s"][there], columns[column][there] / MIB))
    return lines


def _shown(lines: Sequence[_Line]) -> list[_Line]:
    """Return the lines of a case to draw: all, or those of a few trials."""
    by_trial: dict[str, list[_Line]] = {}
    for line in lines:
        by_trial.setdefault(line.trial_id, []).append(line)
    if len(by_trial) <= MOST_LINES:
        return list(lines)
    # Trials without this series come first, as the lowest.
    ranked = sorted(
        by_trial.values(), key=lambda both: max((one.peak for one in both if one.series == _MAIN), default=0)
    )
    places = {round(rank * (len(ranked) - 1)) for rank in SHOWN_RANKS}
    return [line for place in sorted(places) for line in ranked[place]]


def _points(lines: int) -> int:
    return max(_FEWEST_POINTS, min(LINE_POINTS, _ALL_POINTS // max(1, lines)))


def _scale(lines: Sequence[_Line], limits: list[int | None]) -> alt.Scale:
    main = [end for line in lines if line.series == _MAIN for end in (float(line.value.min()), line.peak)]
    return value_scale([*main, *(mib(limit) or 0.0 for limit in limits if limit)])


def _panel(
    lines: Sequence[_Line],
    every: Sequence[_Line],
    limit_bytes: int | None,
    title: str,
    scale: alt.Scale,
    points: int,
) -> alt.LayerChart:
    """Args: lines: those to draw; every: of all trials of the case."""
    names, colours = list(_SERIES.values()), [CGROUP_COLOUR, ANON_COLOUR]
    is_main = f"datum.series === '{_MAIN}'"
    drawn = (
        chart([line.datum(points) for line in lines])
        .transform_flatten(["t_s", "value"])
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
            detail=alt.Detail("trial_id:N"),
            strokeWidth=alt.condition(is_main, alt.value(1.8), alt.value(1.1)),
        )
    )
    # A line shows a tooltip only on its own pixels; invisible, wide points are easy to hit, also by a finger.
    handles = (
        chart([line.datum(min(points, TOOLTIP_POINTS)) for line in lines])
        .transform_flatten(["t_s", "value"])
        .mark_point(size=200, opacity=0, clip=True)
    )
    handles = handles.encode(
        x=alt.X("t_s:Q"),
        y=alt.Y("value:Q"),
        tooltip=[
            tip("trial_id:N", "trial"),
            tip("series:N", "memory"),
            tip("value:Q", "MiB", ".1f"),
            tip("t_s:Q", "seconds since the first byte", ".2f"),
            tip("label:N", "outcome"),
        ],
    )
    band = [_band([line for line in every if line.series == _MAIN])] if len(lines) < len(every) else []
    layers = [*band, drawn, handles, *_ends(every), *_limit(limit_bytes)]
    return alt.LayerChart(layer=layers, title=panel_title(title), width="container", height=230)


def _band(lines: Sequence[_Line]) -> alt.Chart:
    """Show where most of the trials are at each moment; where fewer than three are left it ends."""
    begin, end = min(line.t_s[0] for line in lines), max(line.t_s[-1] for line in lines)
    moments = np.linspace(begin, end, _BAND_POINTS)
    values = np.array([np.interp(moments, line.t_s, line.value, left=np.nan, right=np.nan) for line in lines])
    enough = (~np.isnan(values)).sum(axis=0) >= 3
    low, high = np.nanquantile(values[:, enough], BAND, axis=0)
    rows = [
        {"t_s": round(t, 3), "low": round(a, 2), "high": round(b, 2)}
        for t, a, b in zip(moments[enough].tolist(), low.tolist(), high.tolist(), strict=True)
    ]
    area = chart(rows).mark_area(color=ANON_COLOUR, opacity=0.22, clip=True, tooltip=None)
    return area.encode(x=alt.X("t_s:Q"), y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))  # type: ignore[no-any-return]


def _ends(lines: Sequence[_Line]) -> list[alt.Chart]:
    """Mark where an upload ended that was not ok; with many, of each kind of end only the last has its word."""
    rows: list[dict[str, Any]] = [
        {
            "t_s": round(float(line.t_s[-1]), 3),
            "value": round(float(line.value[-1]), 2),
            "label": OUTCOME_LABELS[line.outcome],
            "colour": OUTCOME_COLOURS[line.outcome],
        }
        for line in lines
        if line.series == _MAIN and line.outcome is not Outcome.OK
    ]
    if not rows:
        return []
    rows.sort(key=lambda row: row["t_s"])
    named = rows if len(rows) <= _MOST_WORDS else list({row["label"]: row for row in rows}.values())
    place: dict[str, Any] = {"x": alt.X("t_s:Q"), "y": alt.Y("value:Q"), "color": alt.Color("colour:N", scale=None)}
    cross = chart(rows).mark_point(shape="cross", angle=45, filled=True, size=90).encode(**place)
    words = chart(named).mark_text(align="right", baseline="bottom", dy=-9, fontWeight="bold")
    return [cross, words.encode(**place, text=alt.Text("label:N"))]


def _limit(limit_bytes: int | None) -> list[alt.Chart]:
    style: dict[str, Any] = {"color": LIMIT_COLOUR, "fontWeight": "bold", "align": "left", "dx": 4}
    left, top = alt.XValue(0), alt.YValue(0)  # type: ignore[no-untyped-call]
    if limit_bytes is None:
        note = chart([{"words": "no limit was enforced"}]).mark_text(baseline="top", dy=4, **style)
        return [note.encode(x=left, y=top, text=alt.Text("words:N"))]
    limit = chart([{"value": mib(limit_bytes), "words": f"limit {mib(limit_bytes):g} MiB"}]).encode(y=alt.Y("value:Q"))
    rule = limit.mark_rule(color=LIMIT_COLOUR, strokeDash=[6, 3], strokeWidth=1.5)
    words = limit.mark_text(baseline="top", dy=4, **style)
    return [rule, words.encode(x=left, text=alt.Text("words:N"))]
