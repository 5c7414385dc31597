"""Charts of a campaign (altair): functions from frames to charts; no file is read here.

Every function returns a list of panels, for example one a build. A list of small charts can flow to the width
of a page or a phone, which one faceted chart cannot. When there is nothing to show the list is empty.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from picolab.analysis.statistics import median, median_interval
from picolab.charts.memory import memory_caption, memory_over_time, memory_panels
from picolab.charts.style import (
    LEVEL_COLOURS,
    LEVEL_SHAPES,
    LIMIT_COLOUR,
    NO_RESULT_LABEL,
    OUTCOME_COLOURS,
    OUTCOME_LABELS,
    band_axis,
    chart,
    grouped,
    labelled,
    levels,
    mib,
    panel_title,
    placed,
    shortened,
    tip,
    value_scale,
)
from picolab.charts.thinning import BAND, THINNED_WORDS, is_thinned, thinned
from picolab.config.trial_parameters import TrialParameters
from picolab.record import factors
from picolab.record.metric import Metric, Place
from picolab.record.metrics import shown_metrics
from picolab.record.outcomes import Outcome
from picolab.results.rows import measured_outcomes, plain_rows, row_columns, step_ok

__all__ = [
    "memory_caption",
    "memory_over_time",
    "memory_panels",
    "outcome_matrix",
    "peak_memory",
    "phases",
    "throughput",
]

_LONGEST_TOOLTIP = 300
_MOST_TILES = 60
"""More tiles than this in a cell would be thinner than their edges."""
_TILE_GAP = 0.03
_LINE_HEIGHT = 15
_OUTCOME_ORDER = [*OUTCOME_LABELS, None]


def outcome_matrix(trials: pd.DataFrame, planned: Sequence[dict[str, Any]] = ()) -> list[alt.LayerChart]:
    """Show the outcome of every cell of the matrix, RAM by file size; a cell has a tile for every trial.

    A trial in which upload and download were measured has a tile in two halves: the upload above, the download below.

    Args:
        trials: rows of `CampaignData.trials`.
        planned: `trials` of the plan; those without a result get a grey tile.
    """
    rows = placed(labelled(trials, _without_result(planned, plain_rows(trials))))
    names, sizes = levels(rows, "series"), levels(rows, "file_size")
    panels = []
    for (_,), members in grouped(rows, "panel").items():
        here = [name for name in names if any(row["series"] == name for row in members)]
        tiles: list[dict[str, Any]] = []
        words: list[dict[str, Any]] = []
        for (name, size), cell in grouped(members, "series", "file_size").items():
            left, top, width = sizes.index(size), here.index(name), (1 - 2 * _TILE_GAP) / len(cell)
            cell.sort(key=lambda row: (row["label"] == NO_RESULT_LABEL, _OUTCOME_ORDER.index(row["outcome"])))
            start = left + _TILE_GAP
            for row, count in _tiled(cell):
                tiles += _tiles(row, start, start + count * width, top + _TILE_GAP, top + 1 - _TILE_GAP)
                start += count * width
            labels = [f"{len(same)} {label}" for (label,), same in grouped(cell, "label").items()]
            words.append({"x": left + 0.5, "y": top + 0.5, "words": labels})
        panels.append(_outcome_panel(members[0]["title"], tiles, words, here, sizes))
    return panels


def outcome_caption(trials: pd.DataFrame) -> str:
    """Return the caption of the outcome of every trial."""
    both = trials["upload_outcome"].notna() & trials["download_outcome"].notna()
    halves = " In a tile with two halves the upper one is the upload, the lower one the download." if both.any() else ""
    many = (
        f" Where a cell has more than {_MOST_TILES} trials, those with the same outcome share a tile."
        if len(trials) > _MOST_TILES
        else ""
    )
    return f"Outcome by RAM and file size.{halves}{many} Hover over a tile for the details of that trial."


def _tiled(cell: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """Return the tiles of a cell and how many trials each stands for: one a trial, or one an outcome when many."""
    if len(cell) <= _MOST_TILES:
        return [(row, 1) for row in cell]
    shared = grouped(cell, "label").values()
    return [(same[0] | {"trial_id": f"{len(same)}, such as {same[0]['trial_id']}"}, len(same)) for same in shared]


def _tiles(row: dict[str, Any], left: float, right: float, top: float, bottom: float) -> list[dict[str, Any]]:
    steps = measured_outcomes(row)
    colours = [OUTCOME_COLOURS[Outcome(found)] for found in steps.values()]
    if len(steps) < 2 or row["outcome"] == Outcome.CORRUPTED:
        colours = [row["colour"]]
    height = (bottom - top) / len(colours)
    place = {"x": round(left, 4), "x2": round(right, 4)}
    return [
        row | place | {"y": round(top + n * height, 4), "y2": round(top + (n + 1) * height, 4), "colour": colour}
        for n, colour in enumerate(colours)
    ]


def _without_result(planned: Sequence[dict[str, Any]], done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is known of planned trials without a result; of machine and build what others like them had."""
    ids = {row["trial_id"] for row in done}
    same = {factors.parameter_key(row): row for row in reversed(done)}
    built = {(row["build_wanted"], row["label"]): row for row in reversed(done)}
    machines = {(row["machine"], row["memory_limit"]): row for row in reversed(done)}
    rows = []
    for trial in planned:
        if trial["trial_id"] in ids:
            continue
        try:
            parameters = TrialParameters.model_validate(trial["parameters"])
        except (KeyError, ValueError):
            continue  # the plan was edited by hand: the table of problems lists it
        row = dict.fromkeys(row_columns()) | factors.levels_of(parameters)
        like = same.get(factors.parameter_key(row))
        build = like or built.get((row["build_wanted"], row["label"]))
        machine = like or machines.get((row["machine"], row["memory_limit"])) or {}
        row |= {name: machine.get(name) for name in factors.machine_facts()}
        row |= {
            "trial_id": trial["trial_id"],
            "file_size_bytes": parameters.file_size_bytes,
            "outcome_detail": "not run yet, or only faults of the instrument",
            "build": build["build"] if build else parameters.build_label,
            "build_sha256": build["build_sha256"] if build else None,
            "build_kind": "calibration" if parameters.build == "calibration" else build and build["build_kind"],
        }
        rows.append(row)
    return rows


def _outcome_panel(
    title: str, tiles: list[dict[str, Any]], words: list[dict[str, Any]], names: list[str], sizes: list[str]
) -> alt.LayerChart:
    fields = ("trial_id", "label", "outcome_detail", "colour", "x", "x2", "y", "y2")
    tiles = [tile | {"outcome_detail": shortened(tile["outcome_detail"], _LONGEST_TOOLTIP)} for tile in tiles]
    rectangles = (
        chart(tiles, *fields)
        .mark_rect(stroke="black", strokeWidth=1, strokeOpacity=0.18)
        .encode(
            x=band_axis(alt.X, "x", "file size", sizes),
            x2=alt.X2("x2"),
            y=band_axis(alt.Y, "y", "RAM", names),
            y2=alt.Y2("y2"),
            color=alt.Color("colour:N", scale=None),
            tooltip=[
                tip("trial_id:N", "trial"),
                tip("label:N", "outcome"),
                tip("outcome_detail:N", "what was seen"),
            ],
        )
    )
    text = chart(words).mark_text(color="white", fontWeight="bold", lineHeight=_LINE_HEIGHT, tooltip=None)
    layers = [rectangles, text.encode(x=alt.X("x:Q"), y=alt.Y("y:Q"), text=alt.Text("words:N"))]
    row_height = 28 + _LINE_HEIGHT * max(len(word["words"]) for word in words)
    for word in words:
        # Vega centres the first line on y, not the whole text.
        word["y"] -= (len(word["words"]) - 1) / 2 * _LINE_HEIGHT / row_height
    # The words of a tile need their room: on a narrow page the chart scrolls in its box.
    widest = max(len(line) for word in words for line in word["words"])
    room = {"minWidth": 30 + 6 * max(map(len, names)) + max(85, 7 * widest) * len(sizes)}
    height = row_height * len(names)
    return alt.LayerChart(layer=layers, title=panel_title(title), width="container", height=height, usermeta=room)


def throughput(trials: pd.DataFrame) -> list[alt.LayerChart]:
    """Show the throughput of whole uploads by file size and RAM; ok trials only."""
    return _rate_panels(trials, "throughput")


def phases(trials: pd.DataFrame) -> list[alt.LayerChart]:
    """Show the rates of the transfer and the commit phase by file size and RAM; ok trials only."""
    return _rate_panels(trials, "phases")


def _rate_panels(trials: pd.DataFrame, place: Place) -> list[alt.LayerChart]:
    """Return a panel for each metric of a place and each panel of `placed`; metrics of one unit share their scale."""
    labelled_rows = placed(labelled(trials))
    metrics = shown_metrics(place)
    points = {
        metric: [
            row | {"value": metric.in_unit(row[metric.name])}
            for row in labelled_rows
            if step_ok(row, metric.step) and row[metric.name] is not None
        ]
        for metric in metrics
    }
    panels = []
    for (panel,), _ in grouped(labelled_rows, "panel").items():
        for metric in metrics:
            here = [row for row in points[metric] if row["panel"] == panel]
            every = [row for other in metrics if other.unit == metric.unit for row in points[other]]
            if here:
                title = f"{metric.title}: {here[0]['title']}" if len(metrics) > 1 else here[0]["title"]
                panels.append(_rate_panel(here, title, metric, every))
    return panels


def _rate_panel(rows: list[dict[str, Any]], title: str, metric: Metric, every: list[dict[str, Any]]) -> alt.LayerChart:
    """Args: every: the rows of all panels, which share their scales."""
    durations = [one for one in shown_metrics("trial_table") if (one.unit, one.step) == ("s", metric.step)]
    names, sizes = levels(every, "series"), levels(every, "file_size")
    scale = value_scale([row["value"] for row in every])
    what = "RAM" if all(row["series"] == row["ram"] for row in every) else "RAM and other factors"
    shapes = _level_scale(names, LEVEL_SHAPES, shift=True)
    place: dict[str, Any] = {
        "x": alt.X("file_size:O", title="file size", axis=alt.Axis(labelAngle=0), scale=alt.Scale(domain=sizes)),
        "xOffset": alt.XOffset("series:N", scale=alt.Scale(domain=names, paddingOuter=0.3)),
        "color": alt.Color("series:N", title=what, scale=_level_scale(names, LEVEL_COLOURS), legend=_legend(names)),
    }
    case = [tip("series:N", what), tip("file_size:O", "file size")]
    cells = chart(_medians(rows)).encode(
        **place,
        tooltip=[
            *case,
            tip("median:Q", f"median {metric.heading}", f".{metric.decimals}f"),
            tip("interval:N", "interval of the median"),
            tip("trials:Q", "trials"),
        ],
    )
    spread = cells.mark_rule(strokeWidth=10, opacity=0.28, strokeCap="round").transform_filter("isValid(datum.low)")
    middle = cells.mark_tick(orient="horizontal", thickness=2.5, size=max(5, min(26, 240 // (len(names) * len(sizes)))))
    fields = ("trial_id", "series", "file_size", "value", *(one.name for one in durations), "block")
    shown, bands = thinned(rows, "series", "file_size")
    points = (
        chart(shown, *fields)
        .mark_point(filled=True, size=50, opacity=0.95)
        .encode(
            **place,
            y=alt.Y("value:Q", title=metric.heading, scale=scale),
            shape=alt.Shape("series:N", title=what, scale=shapes),
            tooltip=[
                tip("trial_id:N", "trial"),
                *case,
                tip("value:Q", metric.heading, f".{metric.decimals}f"),
                *(tip(f"{one.name}:Q", one.heading, f".{one.decimals}f") for one in durations),
                tip("block:Q", "block"),
            ],
        )
    )
    most = [
        _band_rule(bands).encode(
            **place, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), tooltip=[*case, *_band_tips(metric.heading)]
        )
    ]
    layers = [
        *(most if bands else []),
        spread.encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        middle.encode(y=alt.Y("median:Q")),
        points,
    ]
    return alt.LayerChart(layer=layers, title=panel_title(title), width="container", height=280)


def thinning_caption(trials: pd.DataFrame) -> str:
    """Return how to read points and bands where a case has more trials than can be drawn; empty where none has."""
    return THINNED_WORDS if is_thinned(labelled(trials), "group", "row") else ""


def _band_rule(bands: list[dict[str, Any]]) -> alt.Chart:
    rules: alt.Chart = chart(bands).mark_rule(strokeWidth=4, opacity=0.4)
    return rules


def _band_tips(heading: str) -> list[alt.Tooltip]:
    share = f"{BAND[1] - BAND[0]:.0%} of the trials"
    return [
        tip("low:Q", f"{share}: {heading} from", ".1f"),
        tip("high:Q", "to", ".1f"),
        tip("trials:Q", "trials"),
    ]


def _legend(names: list[str]) -> alt.Legend:
    # A phone has room for about 40 characters next to each other.
    return alt.Legend(symbolOpacity=1, columns=max(1, 40 // (4 + max(map(len, names)))))


def _level_scale(names: list[str], values: Sequence[str], shift: bool = False) -> alt.Scale:
    """Return a scale of levels; with `shift` a second round is shifted: no colour comes with its shape again."""
    rounds = [index // len(values) if shift else 0 for index in range(len(names))]
    return alt.Scale(domain=names, range=[values[(index + rounds[index]) % len(values)] for index in range(len(names))])


def _medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    medians = []
    for (name, size), cell in grouped(rows, "series", "file_size").items():
        values = [row["value"] for row in cell]
        interval = median_interval(values)
        row = {"series": name, "file_size": size, "trials": len(values), "median": median(values)}
        if interval is None:
            row["interval"] = "none: one trial says nothing about spread"
        else:
            row |= {"low": interval.low, "high": interval.high}
            row["interval"] = f"{interval.low:.1f} to {interval.high:.1f} (coverage {interval.coverage:.1%})"
        medians.append(row)
    return medians


_LIMIT = "limit"


def peak_memory(trials: pd.DataFrame) -> list[alt.LayerChart]:
    """Show the peaks of memory by case, every trial a point, next to the limit."""
    every = placed(labelled(trials))
    metrics = shown_metrics("peaks", every)
    peaks = [
        row | {"kind": metric.title, "value": metric.in_unit(row[metric.name])}
        for row in every
        for metric in metrics
        if row[metric.name] is not None
    ]
    limits = [row | {"kind": _LIMIT, "value": mib(row["memory_limit_bytes"])} for row in every]
    rows = [*peaks, *(row for row in limits if row["value"] is not None)] if peaks else []
    scale = value_scale([row["value"] for row in rows])
    return [
        _peak_panel(members, members[0]["title"], _peak_looks(rows), scale)
        for (_,), members in grouped(rows, "panel").items()
    ]


def peak_caption(trials: pd.DataFrame) -> str:
    """Return the caption of the peaks of memory."""
    thinning = thinning_caption(trials)
    return f"Every {'case' if thinning else 'trial of every case'}, next to the memory limit.{thinning}"


def _peak_looks(rows: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return colour and shape of each kind of peak that there is; a kind looks the same in every chart."""
    titles = [metric.title for metric in shown_metrics("peaks")]
    count = len(LEVEL_COLOURS)
    looks = {title: (LEVEL_COLOURS[n % count], LEVEL_SHAPES[n % count]) for n, title in enumerate(titles)}
    there = {row["kind"] for row in rows}
    return {kind: look for kind, look in (looks | {_LIMIT: (LIMIT_COLOUR, "stroke")}).items() if kind in there}


def _peak_panel(
    rows: list[dict[str, Any]], title: str, looks: dict[str, tuple[str, str]], scale: alt.Scale
) -> alt.LayerChart:
    order = list(dict.fromkeys(row["line"] for row in rows))
    kinds = list(looks)
    colours, forms = ([look[place] for look in looks.values()] for place in (0, 1))
    # A phone has room for about 20 characters next to each other.
    legend = alt.Legend(symbolOpacity=1, columns=1 if max(map(len, kinds)) > 20 else 2, labelLimit=220)
    case = [tip("line:N", "case"), tip("kind:N", "what")]
    place: dict[str, Any] = {
        "x": alt.X("value:Q", title="peak, MiB", scale=scale),
        "y": alt.Y("line:O", title=None, scale=alt.Scale(domain=order), axis=alt.Axis(grid=True, labelLimit=320)),
        "color": alt.Color("kind:N", title=None, scale=alt.Scale(domain=kinds, range=colours), legend=legend),
        "tooltip": [*case, tip("value:Q", "MiB", ".1f")],
    }
    limits = [row for row in rows if row["kind"] == _LIMIT]
    limits = [same[0] for same in grouped(limits, "line", "value").values()]
    limit_ticks = chart(limits, "line", "kind", "value").mark_tick(thickness=3, size=20).encode(**place)
    place["tooltip"] += [tip("trial_id:N", "trial"), tip("label:N", "outcome")]
    shown, bands = thinned([row for row in rows if row["kind"] != _LIMIT], "line", "kind")
    points = chart(shown, "line", "kind", "value", "trial_id", "label")
    most = _band_rule(bands).encode(
        **place | {"x": alt.X("low:Q", scale=scale), "tooltip": [*case, *_band_tips("MiB")]}, x2=alt.X2("high:Q")
    )
    circles = points.mark_point(filled=True, size=60, opacity=0.75).encode(
        **place,
        shape=alt.Shape("kind:N", title=None, scale=alt.Scale(domain=kinds, range=forms)),
    )
    height = 34 * max(2, len(order))
    room = {"minWidth": 200 + 6 * max(map(len, order))}
    return alt.LayerChart(
        layer=[*([most] if bands else []), limit_ticks, circles],
        title=panel_title(title),
        width="container",
        height=height,
        usermeta=room,
    )
