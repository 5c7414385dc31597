"""The common style of all charts: words and colours of outcomes and levels, axes, tooltips."""

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from picolab.config.sizes import MIB
from picolab.machines.kinds import DEFAULT_KIND
from picolab.record.metrics import metrics_of
from picolab.record.outcomes import Outcome
from picolab.results.labels import Labels, build_label
from picolab.results.rows import measured_outcomes, plain_rows
from picolab.text.foreign import one_line, visible

OUTCOME_LABELS = {
    Outcome.OK: "ok",
    Outcome.OOM_KILLED: "OOM-killed",
    Outcome.SERVER_DIED: "server died",
    Outcome.HTTP_ERROR: "HTTP error",
    Outcome.STALLED: "stalled",
    Outcome.TIMEOUT: "timed out",
    Outcome.CORRUPTED: "corrupted",
    Outcome.DISK_FULL: "disk full",
    Outcome.MACHINE_FAILED: "machine failed",
    Outcome.INTERRUPTED: "interrupted",
    Outcome.INVALID: "invalid",
}

# White text has a contrast of at least 4.5 on each. The hues follow Okabe and Ito and Paul Tol, whose colours
# stay apart for readers who do not see red and green apart; faults of the instrument are greys.
OUTCOME_COLOURS = {
    Outcome.OK: "#00795a",
    Outcome.OOM_KILLED: "#b84a00",
    Outcome.SERVER_DIED: "#882255",
    Outcome.HTTP_ERROR: "#a8477f",
    Outcome.STALLED: "#8a6100",
    Outcome.TIMEOUT: "#6b6b12",
    Outcome.CORRUPTED: "#332288",
    Outcome.DISK_FULL: "#0a6ca8",
    Outcome.MACHINE_FAILED: "#6e6e6e",
    Outcome.INTERRUPTED: "#5c5c5c",
    Outcome.INVALID: "#4a4a4a",
}
NO_RESULT_LABEL, NO_RESULT_COLOUR = "no result", "#767676"

# Okabe and Ito without black and yellow, shifted until each is clear on white and on near-black.
LEVEL_COLOURS = ("#0079bd", "#d06000", "#00976e", "#c2699a", "#3f9ad0", "#a68300")
LEVEL_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
ANON_COLOUR, CGROUP_COLOUR, LIMIT_COLOUR = LEVEL_COLOURS[0], "#8d9aa5", "#cf3b2c"

_TITLE_WIDTH = 58
LOG_RATIO = 30
"""An axis is logarithmic when its largest value is more than this many times its smallest."""

CONFIG: dict[str, Any] = {
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
    "background": None,
    "view": {"stroke": None},
    "title": {"anchor": "start", "fontSize": 14, "fontWeight": 600, "offset": 8},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "gridOpacity": 0.6,
        "tickCount": 5,
    },
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "orient": "top", "symbolSize": 90},
    "text": {"fontSize": 12},
}
"""Vega-Lite configuration of every chart; the report adds the colours of light and dark pages."""


def ram_label(ram_mb: float, limited: bool) -> str:
    """Return a RAM level in words; when nothing limited the memory, it says so."""
    return f"{ram_mb:.10g} MiB{'' if limited else ', no limit'}"


_ACCELERATION_WORDS = {"emulation": " (emulated)", "unknown": " (perhaps emulated)"}


def machine_label(machine: str, acceleration: str | None) -> str:
    """Return a kind of machine in words; an emulated one is never taken for a real one."""
    return machine + _ACCELERATION_WORDS.get(acceleration or "", "")


def group_label(build: str, machine: str, several: bool) -> str:
    """Return the title of a panel: the build, and the machine where it is not the default one or one of several.

    Args:
        build: from `build_label`.
        machine: from `machine_label`.
        several: true when there are panels of several machines.
    """
    return f"{build} on {machine}" if several or machine != DEFAULT_KIND else build


def outcome_words(counts: Mapping[str, int]) -> str:
    """Return counts of outcomes in words, such as `2 ok, 1 OOM-killed`."""
    return ", ".join(f"{counts[outcome]} {label}" for outcome, label in OUTCOME_LABELS.items() if counts.get(outcome))


def labelled(trials: pd.DataFrame, more: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Return rows of trials with the words that charts show, in the order of cases.

    Added are `group` (build and machine), `ram`, `others` (the levels of all other factors that differ, empty when
    none does), `row` (a case inside a group), `label` and `colour` (of the outcome). Rows of one case have all these
    words in common, and no two cases do. Numbers of an upload that was not measured are left out.

    Args:
        trials: rows of `CampaignData.trials`.
        more: rows of trials without a result: what is known of them, `outcome` None.
    """
    rows = [*plain_rows(trials), *more]
    several = len({row["machine"] for row in rows}) > 1
    words = Labels(rows, lambda row: (_group(row, several), _ram(row), row["file_size"]))
    for row in rows:
        others = words.of(row)
        outcome = Outcome(row["outcome"]) if row["outcome"] is not None else None
        row |= {
            "group": _group(row, several),
            "ram": _ram(row),
            "others": others,
            "row": _joined(_ram(row), row["file_size"], others),
            "label": _outcome_label(row, outcome),
            "colour": OUTCOME_COLOURS[outcome] if outcome else NO_RESULT_COLOUR,
        }
        if row["upload_outcome"] is None:
            row |= dict.fromkeys(metric.name for metric in metrics_of("upload"))
    return sorted(rows, key=case_order)


def _outcome_label(row: Mapping[str, Any], outcome: Outcome | None) -> str:
    """Return the outcome in words; of each measured step where they differ."""
    if outcome is None:
        return NO_RESULT_LABEL
    steps = measured_outcomes(row)
    if len(set(steps.values())) < 2 or outcome is Outcome.CORRUPTED:
        return OUTCOME_LABELS[outcome]
    return ", ".join(f"{step} {OUTCOME_LABELS[Outcome(found)]}" for step, found in steps.items())


def _group(row: Mapping[str, Any], several: bool) -> str:
    machine = machine_label(row["machine"], row["acceleration"])
    return group_label(one_line(build_label(row["build"], row["build_kind"])), machine, several)


def _ram(row: Mapping[str, Any]) -> str:
    return ram_label(row["ram_mb"], limited=row["memory_limit"] != "none")


MOST_SERIES, LONGEST_SERIES = 6, 30
"""More series, or longer names, than a legend and an axis can show make a panel for each level of the other factors."""


def placed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of `labelled` with their places in charts with RAM and file size as axes.

    Added are `panel`, `title` (of the panel), `series` (RAM, and the other levels where there is room) and `line`
    (series and file size).
    """
    names = {_joined(row["ram"], row["others"]) for row in rows}
    split = len(names) > MOST_SERIES or max(map(len, names), default=0) > LONGEST_SERIES
    return [
        row
        | {
            "panel": (row["group"], row["others"] if split else ""),
            "title": _joined(row["group"], row["others"] if split else ""),
            "series": row["ram"] if split else _joined(row["ram"], row["others"]),
            "line": _joined(row["ram"], row["file_size"], "" if split else row["others"]),
        }
        for row in rows
    ]


def _joined(*words: str) -> str:
    return " · ".join(filter(None, words))


def panel_title(text: str) -> Any:
    """Return a title, broken into lines where it is long."""
    return text if len(text) <= _TITLE_WIDTH else alt.TitleParams(text=textwrap.wrap(text, _TITLE_WIDTH))


def case_order(row: dict[str, Any]) -> tuple[Any, ...]:
    """Key that sorts rows by panel, then much RAM first, then small files first."""
    return (row["group"], -row["ram_mb"], row["ram"], row["file_size_bytes"], row["others"])


def levels(rows: list[dict[str, Any]], name: str) -> list[str]:
    """Return the levels of `series` (much RAM first) or `file_size` (small first)."""
    order = {
        "series": lambda row: (-row["ram_mb"], row["ram"], row["others"]),
        "file_size": lambda row: row["file_size_bytes"],
    }
    return list(dict.fromkeys(row[name] for row in sorted(rows, key=order[name])))


def grouped(rows: Iterable[dict[str, Any]], *names: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Return rows by the values of the named fields, in the order in which these come."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def chart(rows: list[dict[str, Any]], *names: str) -> alt.Chart:
    """Return a chart of rows, of which only the named fields go into the page (all when none is named).

    Encode its channels as `alt.X("field:Q")`: for each plain text altair compares all its classes, which takes 50 times
    as long.
    """
    values = [{name: row.get(name) for name in names} for row in rows] if names else rows
    return alt.Chart(alt.InlineData(values=values))


def tip(field: str, title: str, number: str = "") -> alt.Tooltip:
    """Return a line of a tooltip."""
    return alt.Tooltip(field, title=title, format=number) if number else alt.Tooltip(field, title=title)


def value_scale(values: Sequence[float]) -> alt.Scale:
    """Return a linear scale from zero, or a logarithmic one when the values span more than `LOG_RATIO`."""
    positive = [value for value in values if value > 0]
    if positive and max(positive) > LOG_RATIO * min(positive):
        return alt.Scale(type="log", domain=[_round_down(min(positive)), _round_up(max(positive))], nice=False)
    # Room above the largest value for what is written there.
    return alt.Scale(domain=[0, max([*positive, 1e-9]) * 1.08], nice=False)


def _round_down(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1, 2, 5) if step * power <= value)


def _round_up(value: float) -> float:
    return 1.3 * value


def expression_list(names: Sequence[str]) -> str:
    """Return names as a list in a Vega expression, where they are texts and nothing else, as the data has them."""
    return json.dumps([visible(name) for name in names])


def shortened(text: str | None, most: int) -> str | None:
    """Return a text with a mark where it was cut off."""
    return text if text is None or len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def band_axis(channel: Any, field: str, title: str, names: Sequence[str]) -> Any:
    """Return an axis with a band of width 1 a level; tiles may divide it, as they may not a band scale."""
    axis = alt.Axis(
        values=[index + 0.5 for index in range(len(names))],
        labelExpr=f"{expression_list(names)}[floor(datum.value)]",
        labelLimit=320,
        orient="top" if field == "x" else "left",
        grid=False,
        ticks=False,
        domain=False,
    )
    scale = alt.Scale(domain=[0, max(1, len(names))], nice=False, zero=False, reverse=field == "y")
    return channel(f"{field}:Q", title=title, axis=axis, scale=scale)


def mib(size_bytes: float | None) -> float | None:
    """Return bytes in MiB, rounded to what a pixel can show."""
    return None if size_bytes is None else round(size_bytes / MIB, 2)
