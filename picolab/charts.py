"""Charts of a campaign (altair): functions from frames to charts; no file is read here.

Every function returns a list of panels, for example one a build. A list of small charts can flow to the width
of a page or a phone, which one faceted chart cannot. When there is nothing to show the list is empty.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from picolab.chart_style import (
    ANON_COLOUR,
    HWM_COLOUR,
    LEVEL_COLOURS,
    LEVEL_SHAPES,
    LIMIT_COLOUR,
    NO_RESULT_COLOUR,
    NO_RESULT_LABEL,
    OUTCOME_LABELS,
    band_axis,
    build_label,
    case_order,
    chart,
    group_label,
    grouped,
    labelled,
    levels,
    mib,
    ram_label,
    tip,
    value_scale,
)
from picolab.memory_charts import memory_over_time, memory_panels
from picolab.parameters import TrialParameters
from picolab.record import Outcome
from picolab.statistics import median, median_interval

__all__ = ["memory_over_time", "memory_panels", "outcome_matrix", "peak_memory", "phases", "throughput"]

_TILE_GAP = 0.03
_LINE_HEIGHT = 15
_OUTCOME_ORDER = [*OUTCOME_LABELS.values(), NO_RESULT_LABEL]


def outcome_matrix(trials: pd.DataFrame, planned: Sequence[dict[str, Any]] = ()) -> list[alt.LayerChart]:
    """Show the outcome of every cell of the matrix, RAM by file size; a cell has a tile for every trial.

    Args:
        trials: rows of `CampaignData.trials`.
        planned: `trials` of the plan; those without a result get a grey tile.
    """
    rows = labelled(trials)
    done = {row["trial_id"] for row in rows}
    rows += [_without_result(trial, rows) for trial in planned if trial["trial_id"] not in done]
    rams, sizes = levels(rows, "ram"), levels(rows, "file_size")
    panels = []
    for (group,), members in grouped(sorted(rows, key=case_order), "group").items():
        tiles: list[dict[str, Any]] = []
        words: list[dict[str, Any]] = []
        for (ram, size), cell in grouped(members, "ram", "file_size").items():
            left, top, width = sizes.index(size), rams.index(ram), (1 - 2 * _TILE_GAP) / len(cell)
            cell.sort(key=lambda row: _OUTCOME_ORDER.index(row["label"]))
            for place, row in enumerate(cell):
                start = left + _TILE_GAP + place * width
                corners = {"x": start, "x2": start + width, "y": top + _TILE_GAP, "y2": top + 1 - _TILE_GAP}
                tiles.append(row | corners)
            labels = [f"{len(same)} {label}" for (label,), same in grouped(cell, "label").items()]
            words.append({"x": left + 0.5, "y": top + 0.5, "words": labels})
        panels.append(_outcome_panel(group, tiles, words, rams, sizes))
    return panels


def _without_result(trial: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    parameters = TrialParameters.model_validate(trial["parameters"])
    label = parameters.build_label
    known = (row["group"] for row in rows if row["build"] == label and row["machine"] == parameters.machine)
    kind = "calibration" if parameters.build == "calibration" else None
    several = any(row["machine"] != parameters.machine for row in rows)
    return {
        "trial_id": trial["trial_id"],
        "group": next(known, group_label(build_label(label, kind), parameters.machine, several)),
        "ram": ram_label(parameters.ram_mb, limited=parameters.memory_limit != "none"),
        "ram_mb": parameters.ram_mb,
        "file_size": parameters.file_size,
        "file_size_bytes": parameters.file_size_bytes,
        "label": NO_RESULT_LABEL,
        "outcome_detail": "not run yet, or only faults of the instrument",
        "colour": NO_RESULT_COLOUR,
    }


def _outcome_panel(
    group: str, tiles: list[dict[str, Any]], words: list[dict[str, Any]], rams: list[str], sizes: list[str]
) -> alt.LayerChart:
    fields = ("trial_id", "label", "outcome_detail", "colour", "x", "x2", "y", "y2")
    rectangles = (
        chart(tiles, *fields)
        .mark_rect(stroke="black", strokeWidth=1, strokeOpacity=0.18)
        .encode(
            x=band_axis(alt.X, "x", "file size", sizes),
            x2="x2",
            y=band_axis(alt.Y, "y", "RAM", rams),
            y2="y2",
            color=alt.Color("colour:N", scale=None),
            tooltip=[
                tip("trial_id:N", "trial"),
                tip("label:N", "outcome"),
                tip("outcome_detail:N", "what was seen"),
            ],
        )
    )
    text = chart(words).mark_text(color="white", fontWeight="bold", lineHeight=_LINE_HEIGHT, tooltip=None)
    layers = [rectangles, text.encode(x="x:Q", y="y:Q", text="words:N")]
    row_height = 28 + _LINE_HEIGHT * max(len(word["words"]) for word in words)
    for word in words:
        # Vega centres the first line on y, not the whole text.
        word["y"] -= (len(word["words"]) - 1) / 2 * _LINE_HEIGHT / row_height
    # The words of a tile need their room: on a narrow page the chart scrolls in its box.
    room = {"minWidth": 90 + 85 * len(sizes)}
    return alt.LayerChart(layer=layers, title=group, width="container", height=row_height * len(rams), usermeta=room)


def throughput(trials: pd.DataFrame) -> list[alt.LayerChart]:
    """Show the throughput of whole uploads by file size and RAM; ok trials only."""
    return _rate_panels(trials, {"throughput_mib_s": "throughput"})


def phases(trials: pd.DataFrame) -> list[alt.LayerChart]:
    """Show the rates of the transfer and the commit phase by file size and RAM; ok trials only."""
    return _rate_panels(trials, {"transfer_mib_s": "transfer", "commit_mib_s": "commit"})


def _rate_panels(trials: pd.DataFrame, columns: dict[str, str]) -> list[alt.LayerChart]:
    rows = [
        row | {"value": row[column], "quantity": quantity}
        for row in labelled(trials)
        for column, quantity in columns.items()
        if row["outcome"] == Outcome.OK and row[column] is not None
    ]
    panels = []
    for (group,), members in grouped(rows, "group").items():
        for (quantity,), points in grouped(members, "quantity").items():
            title = f"{quantity}: {group}" if len(columns) > 1 else group
            panels.append(_rate_panel(points, title, f"{quantity}, MiB/s", rows))
    return panels


def _rate_panel(rows: list[dict[str, Any]], title: str, quantity: str, every: list[dict[str, Any]]) -> alt.LayerChart:
    """Args: every: the rows of all panels, which share their scales."""
    rams, sizes = levels(every, "ram"), levels(every, "file_size")
    scale = value_scale([row["value"] for row in every])
    place: dict[str, Any] = {
        "x": alt.X("file_size:O", title="file size", axis=alt.Axis(labelAngle=0), scale=alt.Scale(domain=sizes)),
        "xOffset": alt.XOffset("ram:N", scale=alt.Scale(domain=rams, paddingOuter=0.3)),
        "color": alt.Color("ram:N", title="RAM", scale=_level_scale(rams, LEVEL_COLOURS), legend=_level_legend(rams)),
    }
    case = [tip("ram:N", "RAM"), tip("file_size:O", "file size")]
    cells = chart(_medians(rows)).encode(
        **place,
        tooltip=[
            *case,
            tip("median:Q", f"median {quantity}", ".1f"),
            tip("interval:N", "interval of the median"),
            tip("trials:Q", "trials"),
        ],
    )
    spread = cells.mark_rule(strokeWidth=10, opacity=0.28, strokeCap="round").transform_filter("isValid(datum.low)")
    middle = cells.mark_tick(orient="horizontal", thickness=2.5, size=max(9, min(26, 240 // (len(rams) * len(sizes)))))
    fields = ("trial_id", "ram", "file_size", "value", "duration_s", "transfer_s", "commit_s", "block")
    points = (
        chart(rows, *fields)
        .mark_point(filled=True, size=50, opacity=0.95)
        .encode(
            **place,
            y=alt.Y("value:Q", title=quantity, scale=scale),
            shape=alt.Shape("ram:N", title="RAM", scale=_level_scale(rams, LEVEL_SHAPES)),
            tooltip=[
                tip("trial_id:N", "trial"),
                *case,
                tip("value:Q", quantity, ".1f"),
                tip("duration_s:Q", "upload, s", ".3f"),
                tip("transfer_s:Q", "transfer, s", ".3f"),
                tip("commit_s:Q", "commit, s", ".3f"),
                tip("block:Q", "block"),
            ],
        )
    )
    layers = [spread.encode(y="low:Q", y2="high:Q"), middle.encode(y="median:Q"), points]
    return alt.LayerChart(layer=layers, title=title, width="container", height=280)


def _level_legend(names: list[str]) -> alt.Legend:
    # A phone has room for about 40 characters beside each other.
    return alt.Legend(symbolOpacity=1, columns=max(1, 40 // (4 + max(map(len, names)))))


def _level_scale(names: list[str], values: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=names, range=[values[index % len(values)] for index in range(len(names))])


def _medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    medians = []
    for (ram, size), cell in grouped(rows, "ram", "file_size").items():
        values = [row["value"] for row in cell]
        interval = median_interval(values)
        row = {"ram": ram, "file_size": size, "trials": len(values), "median": median(values)}
        if interval is None:
            row["interval"] = "none: one trial says nothing about spread"
        else:
            row |= {"low": interval.low, "high": interval.high}
            row["interval"] = f"{interval.low:.1f} to {interval.high:.1f} (coverage {interval.coverage:.1%})"
        medians.append(row)
    return medians


def peak_memory(trials: pd.DataFrame) -> list[alt.LayerChart]:
    """Show the peak of anonymous memory and VmHWM by case, every trial a point, beside the limit."""
    kinds = {"peak_anon_bytes": "anonymous memory", "vm_hwm_bytes": "VmHWM", "memory_limit_bytes": "limit"}
    rows = [
        row | {"kind": kind, "value": mib(row[column])}
        for row in labelled(trials)
        for column, kind in kinds.items()
        if row[column] is not None
    ]
    measured = [row for row in rows if row["kind"] != "limit"]
    return [
        _peak_panel(members, group, list(kinds.values()), value_scale([row["value"] for row in rows]))
        for (group,), members in grouped(rows if measured else [], "group").items()
    ]


def _peak_panel(rows: list[dict[str, Any]], title: str, kinds: list[str], scale: alt.Scale) -> alt.LayerChart:
    order = list(dict.fromkeys(row["row"] for row in rows))
    place: dict[str, Any] = {
        "x": alt.X("value:Q", title="peak, MiB", scale=scale),
        "y": alt.Y("row:O", title=None, scale=alt.Scale(domain=order), axis=alt.Axis(grid=True, labelLimit=200)),
        "color": alt.Color(
            "kind:N", title=None, scale=alt.Scale(domain=kinds, range=[ANON_COLOUR, HWM_COLOUR, LIMIT_COLOUR])
        ),
        "tooltip": [tip("row:N", "case"), tip("kind:N", "what"), tip("value:Q", "MiB", ".1f")],
    }
    limits = [cell[0] for cell in grouped((row for row in rows if row["kind"] == "limit"), "row").values()]
    limit_ticks = chart(limits, "row", "kind", "value").mark_tick(thickness=3, size=20).encode(**place)
    place["tooltip"] += [tip("trial_id:N", "trial"), tip("label:N", "outcome")]
    points = chart([row for row in rows if row["kind"] != "limit"], "row", "kind", "value", "trial_id", "label")
    circles = points.mark_point(filled=True, size=60, opacity=0.75).encode(
        **place,
        shape=alt.Shape("kind:N", title=None, scale=alt.Scale(domain=kinds, range=["circle", "diamond", "square"])),
    )
    height = 34 * max(2, len(order))
    return alt.LayerChart(layer=[limit_ticks, circles], title=title, width="container", height=height)
