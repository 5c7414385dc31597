"""Charts of a comparison: what is in their data and marks, and that the real Vega-Lite compiler takes them."""

import dataclasses
import re
from typing import Any

import altair as alt
import pytest
import vl_convert
from comparison_factory import SCENARIO, all_killed, compare_metric, make_comparison

from picolab.analysis.comparison.models import Comparison
from picolab.charts.comparison import MOST_PAIR_SERIES, forest, pair_metrics, pairs_in_time
from picolab.charts.figure import Figure
from picolab.charts.style import CONFIG
from picolab.charts.verdicts import VERDICT_STYLES, interval_words, short_scenarios, verdict_kind
from picolab.record.metrics import METRICS

MANY = [f"vagrant-{ram}mb-{size}-parallel_uploads_4" for ram in (1024, 512, 256, 128, 64) for size in "2468"]
POINTS = 3
"""Layer of the forest plot that has the marks."""


def rows_of(panel: alt.LayerChart, layer: int) -> list[dict[str, Any]]:
    # Charts that are drawn are checked against the schema too, which takes longer than making them.
    spec = panel.to_dict(validate=False)
    name = (spec["layer"][layer].get("data") or spec["data"])["name"]
    return list(spec["datasets"][name])


def drawn(panel: alt.LayerChart, width: int = 500) -> str:
    return vl_convert.vegalite_to_svg(panel.to_dict() | {"width": width, "config": CONFIG})


def titles(panels: list[alt.LayerChart]) -> list[str]:
    return [" ".join(panel.to_dict(validate=False)["title"]["text"]) for panel in panels]


def domain_of(panel: alt.LayerChart, channel: str) -> list[float]:
    encodings = [layer["encoding"] for layer in panel.to_dict(validate=False)["layer"]]
    (domain,) = [one[channel]["scale"]["domain"] for one in encodings if "scale" in one.get(channel, {})][:1]
    return list(domain)


def with_metric(comparison: Comparison, **changes: Any) -> Comparison:
    """Return the comparison with its first metric changed."""
    first, *others = comparison.metrics
    return dataclasses.replace(comparison, metrics=(dataclasses.replace(first, **changes), *others))


def test_the_verdicts_of_a_metric_have_their_kinds() -> None:
    rate = compare_metric(METRICS["throughput_mib_s"], [1.0], [1.0])
    memory = compare_metric(METRICS["peak_anon_bytes"], [1.0], [1.0])
    words = {"faster": "better", "slower": "worse", "equivalent": "equivalent", "unstable": "unstable"}
    for verdict, kind in words.items():
        assert verdict_kind(dataclasses.replace(rate, verdict=verdict)) == kind
    assert verdict_kind(dataclasses.replace(memory, verdict="more memory")) == "worse"
    assert verdict_kind(dataclasses.replace(memory, verdict=None)) == "no verdict"


def test_no_verdict_is_told_by_colour_alone() -> None:
    assert len({style.shape for style in VERDICT_STYLES.values()}) == len(VERDICT_STYLES)
    assert len({style.sign for style in VERDICT_STYLES.values()}) == len(VERDICT_STYLES)


@pytest.mark.parametrize("colour", [style.badge_colour for style in VERDICT_STYLES.values()])
def test_white_words_can_be_read_on_every_verdict(colour: str) -> None:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (luminance + 0.05) >= 4.5


def test_an_interval_names_a_coverage_other_than_95_percent() -> None:
    row = compare_metric(METRICS["throughput_mib_s"], [1.0] * 6, [1.0, 1.1, 1.0, 1.1, 1.0, 1.1])
    assert interval_words(dataclasses.replace(row, low=0.98, high=1.05, coverage=0.95)) == "−2.0 to +5.0 %"
    assert (
        interval_words(dataclasses.replace(row, low=0.98, high=1.05, coverage=0.75)) == "−2.0 to +5.0 % (covers 75 %)"
    )
    assert interval_words(dataclasses.replace(row, low=None)) == "none"


def test_short_names_leave_out_what_all_scenarios_have() -> None:
    assert short_scenarios([SCENARIO]) == ({SCENARIO: SCENARIO}, "")
    names, common = short_scenarios(["local-512mb-100M", "local-256mb-100M"])
    assert (list(names.values()), common) == (["512mb", "256mb"], "local, 100M")
    names, common = short_scenarios(["local-512mb", "local-512mb-unlimited"])
    assert (names["local-512mb"], common) == ("local-512mb", "")


def test_the_forest_has_all_ratios_intervals_and_the_margin() -> None:
    comparison = make_comparison(effects={("*", "*", "throughput_mib_s"): 1.2, ("*", "*", "peak_anon_bytes"): 1.5})
    (panel,) = forest(comparison)
    rows = {row["line"]: row for row in rows_of(panel, POINTS)}
    assert list(rows)[:2] == ["upload", "peak memory"]
    assert set(rows) == {row.metric.title for row in comparison.metrics}
    for row in comparison.metrics:
        assert rows[row.metric.title]["ratio"] == row.ratio
        assert rows[row.metric.title]["from"] == row.low
        assert rows[row.metric.title]["to"] == row.high
    assert rows["upload"]["kind"] == "better"
    assert rows["peak memory"]["kind"] == "worse"
    (band,) = rows_of(panel, 0)
    assert band == {"low": pytest.approx(1 / 1.05), "high": 1.05}
    svg = drawn(panel)
    assert "NaN" not in svg and "undefined" not in svg
    for words in ("upload", "peak memory", "better", "worse", "0 %", rows["upload"]["change"]):
        assert f">{words}<" in svg


def test_a_very_wide_interval_is_cut_and_marked() -> None:
    comparison = with_metric(make_comparison(), low=0.001, high=1.02)
    (panel,) = forest(comparison)
    low, high = domain_of(panel, "x")
    assert low > 0.5 and high < 2
    row = rows_of(panel, POINTS)[0]
    assert (row["from"], row["cut_low"], row["cut_high"]) == (low, low, None)
    assert [mark["cut_low"] for mark in rows_of(panel, len(panel.to_dict()["layer"]) - 1)] == [low]
    assert panel.to_dict()["layer"][-1]["mark"]["shape"] == "triangle-left"


def test_a_row_without_pairs_stays_and_says_so() -> None:
    comparison = with_metric(make_comparison(), pairs=(), ratio=None, low=None, high=None, verdict=None)
    (panel,) = forest(comparison)
    assert len(rows_of(panel, POINTS)) == len(comparison.metrics)
    assert ">no pairs<" in drawn(panel)


def test_without_any_pair_nothing_is_drawn() -> None:
    for comparison in (make_comparison(pairs=0), all_killed(make_comparison())):
        assert forest(comparison) == []
        assert pairs_in_time(comparison) == []


def test_many_scenarios_have_a_panel_a_metric_and_candidate() -> None:
    comparison = make_comparison(scenarios=MANY, candidates=["new", "a-much-longer-label", "third"])
    panels = forest(comparison)
    assert len(panels) == 5 * 3
    assert titles(panels)[:2] == ["upload: new", "upload: a-much-longer-label"]
    assert all(len(rows_of(panel, POINTS)) == 20 for panel in panels)
    assert {panel.to_dict()["height"] for panel in panels} == {20 * 26}
    rates = {
        tuple(domain_of(panel, "x")) for panel, title in zip(panels, titles(panels), strict=True) if "mem" not in title
    }
    assert len(rates) == 1
    words = re.findall(r"<text[^>]*>([^<]*)<", drawn(panels[0]))
    assert "1024mb-2" in words
    assert not [word for word in words if "parallel_uploads" in word]


def test_pairs_are_joined_in_order_of_time() -> None:
    comparison = make_comparison(pairs=8)
    shuffled = with_metric(comparison, pairs=tuple(reversed(comparison.metrics[0].pairs)))
    values, ratios, *_ = pairs_in_time(shuffled)
    lines = rows_of(values, 0)
    pairs = comparison.metrics[0].pairs
    by_place = {line["place"]: (line["baseline_value"], line["value"]) for line in lines}
    assert by_place == {place: (pair.baseline_value, pair.candidate_value) for place, pair in enumerate(pairs, 1)}
    dots = rows_of(values, 1)
    assert len(dots) == 16
    assert {dot["trial"] for dot in dots} == {pair.baseline_trial for pair in pairs} | {
        p.candidate_trial for p in pairs
    }
    marks = {mark["place"]: mark for mark in rows_of(ratios, 4)}
    assert [marks[place]["ratio"] for place in range(1, 9)] == [pair.ratio for pair in pairs]
    assert [marks[place]["baseline_first"] for place in range(1, 9)] == [pair.baseline_first for pair in pairs]
    assert rows_of(ratios, 3) == [{"candidate": "new", "ratio": comparison.metrics[0].ratio}]


def test_a_pause_takes_no_room_and_the_axis_tells_the_hours() -> None:
    comparison = make_comparison(pairs=6)
    late = tuple(
        dataclasses.replace(pair, hours=pair.hours + (15 if pair.block > 3 else 0))
        for pair in comparison.metrics[0].pairs
    )
    values = pairs_in_time(with_metric(comparison, pairs=late))[0]
    assert [line["place"] for line in rows_of(values, 0)] == [1, 2, 3, 4, 5, 6]
    svg = drawn(values)
    assert all(f">{hours}<" in svg for hours in ("0.0", "0.4", "15.6", "16.1"))


def test_candidates_of_a_block_share_place_and_baseline() -> None:
    values, ratios, *_ = pairs_in_time(make_comparison(candidates=["new", "newer"], pairs=6))
    assert len(rows_of(values, 1)) == 3 * 6
    assert {mark["candidate"] for mark in rows_of(ratios, 4)} == {"new", "newer"}


def test_memory_is_shown_in_mib_and_small_changes_stay_small() -> None:
    comparison = make_comparison(metrics=("peak_anon_bytes",), pairs=1)
    values = pairs_in_time(comparison)[0]
    (pair,) = comparison.metrics[0].pairs
    (line,) = rows_of(values, 0)
    assert line["value"] == pytest.approx(pair.candidate_value / 2**20, abs=0.01)
    low, high = domain_of(values, "y")
    assert high / low > 1.08


def test_a_page_has_no_more_panels_than_one_reads() -> None:
    comparison = make_comparison(scenarios=MANY, candidates=["new", "newer", "third"], pairs=6)
    taken, left = pair_metrics(comparison)
    assert [metric.title for metric in taken] == ["upload"]
    assert [metric.title for metric in left] == ["peak memory"]
    assert len(pairs_in_time(comparison)) == 2 * 20 <= 2 * MOST_PAIR_SERIES


@pytest.mark.parametrize("pairs", [1, 2, 6])
def test_the_compiler_takes_every_chart(pairs: int) -> None:
    comparison = make_comparison(scenarios=["a-1", "x" * 120], candidates=["n" * 40, "o"], pairs=pairs)
    panels = [*forest(comparison), *pairs_in_time(comparison)]
    assert len(panels) == 5 * 2 + 2 * 2 * 2
    for panel in panels:
        assert panel.to_dict(validate=False)["width"] == "container"
        svg = drawn(panel)
        assert "NaN" not in svg
        assert "undefined" not in svg
    assert repr(Figure(panels[:2], "caption")) == "caption"
