"""Charts: what is in their data and marks, and that the real Vega-Lite compiler takes them."""

import ast
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import altair as alt
import pytest
import vl_convert
from campaign_factory import FakeTrial, make_samples, quick_matrix, trial_id, virtual_matrix, write_campaign

from picolab.charts import campaign as charts
from picolab.charts.figure import FIGURE_MIME, Figure
from picolab.charts.memory import LINE_POINTS
from picolab.charts.style import CONFIG, OUTCOME_COLOURS, OUTCOME_LABELS, value_scale
from picolab.config.sizes import MIB
from picolab.record.outcomes import Outcome
from picolab.report import tables
from picolab.results.load import CampaignData, read_campaign


def campaign(tmp_path: Path, trials: list[FakeTrial], planned: list[FakeTrial] | None = None) -> CampaignData:
    return read_campaign(write_campaign(tmp_path / "c", trials, planned))


def rows_of(panel: alt.LayerChart, layer: int) -> list[dict[str, Any]]:
    # Charts that are drawn are checked against the schema too, which takes longer than making them.
    spec = panel.to_dict(validate=False)
    name = (spec["layer"][layer].get("data") or spec["data"])["name"]
    return list(spec["datasets"][name])


def all_panels(data: CampaignData) -> list[alt.LayerChart]:
    return [
        *charts.outcome_matrix(data.trials, data.plan.get("trials", [])),
        *charts.throughput(data.trials),
        *charts.phases(data.trials),
        *charts.memory_panels(data.samples, data.trials),
        *charts.peak_memory(data.trials),
    ]


def title_of(panel: alt.LayerChart) -> str:
    """Return a panel's title in one line."""
    return panel.title if isinstance(panel.title, str) else " ".join(panel.title.text)


def texts(panel: alt.LayerChart) -> str:
    """Return all words that the drawn chart shows."""
    spec = panel.to_dict() | {"width": 500, "config": CONFIG}
    return vl_convert.vegalite_to_svg(spec)


def test_every_outcome_has_a_label_and_a_colour_of_its_own() -> None:
    assert set(OUTCOME_LABELS) == set(OUTCOME_COLOURS) == set(Outcome)
    assert len(set(OUTCOME_LABELS.values())) == len(set(OUTCOME_COLOURS.values())) == 11


@pytest.mark.parametrize("colour", [*OUTCOME_COLOURS.values()])
def test_white_words_can_be_read_on_every_outcome(colour: str) -> None:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (luminance + 0.05) >= 4.5


def test_the_compiler_takes_every_chart(tmp_path: Path) -> None:
    trials = quick_matrix()
    trials[0].outcome, trials[1].outcome = Outcome.OOM_KILLED, Outcome.TIMEOUT
    panels = all_panels(campaign(tmp_path, trials[:11], planned=trials[11:]))
    assert len(panels) == 1 + 1 + 2 + 4 + 1
    for panel in panels:
        assert panel.to_dict(validate=False)["width"] == "container"
        words = texts(panel)
        assert "NaN" not in words
        assert "undefined" not in words


def test_outcome_matrix_says_what_is_in_each_cell(tmp_path: Path) -> None:
    trials = quick_matrix()
    trials[0].outcome = Outcome.OOM_KILLED
    data = campaign(tmp_path, trials[:11], planned=trials[11:])
    (panel,) = charts.outcome_matrix(data.trials, data.plan.get("trials", []))
    assert len(rows_of(panel, 0)) == 12
    assert sorted(row["words"] for row in rows_of(panel, 1)) == [
        ["2 ok", "1 OOM-killed"],
        ["2 ok", "1 no result"],
        ["3 ok"],
        ["3 ok"],
    ]
    svg = texts(panel)
    for words in ("25M", "100M", "512 MiB", "256 MiB", "1 OOM-killed", "not PicoShare"):
        assert words in svg


def test_outcome_matrix_has_a_panel_a_build(tmp_path: Path) -> None:
    trials = [FakeTrial(build=build) for build in ("calibration", "1.5.4")]
    data = campaign(tmp_path, trials, planned=[FakeTrial(build="1.5.4"), FakeTrial(build="calibration")])
    panels = charts.outcome_matrix(data.trials, data.plan.get("trials", []))
    assert [title_of(panel) for panel in panels] == ["1.5.4", "calibration server (not PicoShare)"]
    assert [row["words"] for panel in panels for row in rows_of(panel, 1)] == [["1 ok", "1 no result"]] * 2


def test_throughput_shows_every_ok_trial_its_median_and_interval(tmp_path: Path) -> None:
    trials = quick_matrix()
    trials[0].outcome = Outcome.OOM_KILLED
    data = campaign(tmp_path, trials)
    (panel,) = charts.throughput(data.trials)
    points = rows_of(panel, 2)
    assert {point["trial_id"] for point in points} == set(data.trials["trial_id"]) - {trial_id(1, trials[0])}
    medians = {(row["series"], row["file_size"]): row for row in rows_of(panel, 1)}
    values = sorted(p["value"] for p in points if (p["series"], p["file_size"]) == ("256 MiB", "100M"))
    assert len(values) == 3
    cell = medians["256 MiB", "100M"]
    assert (cell["median"], cell["low"], cell["high"]) == (values[1], values[0], values[2])
    assert cell["interval"].endswith("(coverage 75.0%)")
    assert medians["512 MiB", "25M"]["interval"].endswith("(coverage 50.0%)")


def test_one_trial_has_a_point_and_no_interval(tmp_path: Path) -> None:
    (panel,) = charts.throughput(campaign(tmp_path, [FakeTrial()]).trials)
    assert len(rows_of(panel, 2)) == 1
    assert "low" not in rows_of(panel, 1)[0]
    assert "NaN" not in texts(panel)


def test_phases_share_their_axis(tmp_path: Path) -> None:
    transfer, commit = charts.phases(campaign(tmp_path, quick_matrix()).trials)
    assert len(rows_of(transfer, 2)) == len(rows_of(commit, 2)) == 12
    domains = [
        panel.to_dict(validate=False)["layer"][2]["encoding"]["y"]["scale"]["domain"] for panel in (transfer, commit)
    ]
    assert domains[0] == domains[1]


def test_memory_has_a_panel_a_case_a_line_a_trial_and_the_limit(tmp_path: Path) -> None:
    data = campaign(tmp_path, quick_matrix())
    panels = charts.memory_panels(data.samples, data.trials)
    titles = [title_of(panel) for panel in panels]
    assert [title.split(" · c")[0] for title in titles] == [
        "512 MiB · 25M",
        "512 MiB · 100M",
        "256 MiB · 25M",
        "256 MiB · 100M",
    ]
    for panel, limit in zip(panels, (512, 512, 256, 256), strict=True):
        assert len({row["trial_id"] for row in rows_of(panel, 0)}) == 3
        assert f"limit {limit} MiB" in texts(panel)


def test_a_trial_without_a_limit_is_labelled_so_everywhere(tmp_path: Path) -> None:
    data = campaign(tmp_path, [FakeTrial(memory_limit="none"), FakeTrial()])
    panels = charts.memory_panels(data.samples, data.trials)
    titles = [title_of(panel).split(" · c")[0] for panel in panels]
    unlimited, limited = (panels[titles.index(f"512 MiB{words} · 100M")] for words in (", no limit", ""))
    assert "no limit was enforced" in texts(unlimited)
    assert "limit 512 MiB" not in texts(unlimited)
    assert "limit 512 MiB" in texts(limited)
    others = [panel for panel in all_panels(data) if " · " not in title_of(panel)]
    assert len(others) == 5
    for panel in [unlimited, *others]:
        assert "512 MiB, no limit" in texts(panel)


def test_what_was_emulated_is_labelled_so_everywhere(tmp_path: Path) -> None:
    for panel in all_panels(campaign(tmp_path, virtual_matrix())):
        assert "calibration server (not PicoShare) on vagrant (emulated)" in texts(panel)


def test_each_kind_of_machine_has_a_panel_of_its_own(tmp_path: Path) -> None:
    every = [quick_matrix(), *(virtual_matrix(how) for how in ("kvm", "emulation", "unknown"))]
    data = campaign(tmp_path, [trial for trials in every for trial in trials[:2]])
    build = "calibration server (not PicoShare)"
    titles = {
        f"{build} on local",
        f"{build} on vagrant",
        f"{build} on vagrant (emulated)",
        f"{build} on vagrant (perhaps emulated)",
    }
    for panels in (charts.outcome_matrix(data.trials), charts.throughput(data.trials), charts.peak_memory(data.trials)):
        assert {title_of(panel) for panel in panels} == titles


def test_trial_without_a_result_stands_with_its_kind_of_machine(tmp_path: Path) -> None:
    local, virtual = quick_matrix(), virtual_matrix()
    build = "calibration server (not PicoShare)"

    def titles(name: str, done: list[FakeTrial], planned: list[FakeTrial]) -> list[str]:
        data = campaign(tmp_path / name, done, planned)
        return [title_of(panel) for panel in charts.outcome_matrix(data.trials, data.plan.get("trials", []))]

    assert titles("known", virtual[:1], virtual[1:4]) == [f"{build} on vagrant (emulated)"]
    assert titles("new", virtual[:1], local[1:2]) == [f"{build} on local", f"{build} on vagrant (emulated)"]
    assert titles("none", [], virtual[:2]) == [f"{build} on vagrant"]
    assert titles("local", local[:1], local[1:2]) == [build]


def test_thinning_keeps_the_peak() -> None:
    samples = make_samples(FakeTrial(), 1)
    count = 5000
    columns = {name: [None] * count for name in samples["columns"]}
    anon = [10 * MIB] * count
    anon[4321] = 400 * MIB
    columns |= {"t_s": [index / 20 for index in range(count)], "anon_bytes": anon, "cgroup_bytes": anon}
    panel = charts.memory_over_time(samples | {"columns": columns}, 512 * MIB)
    (line,) = [row for row in rows_of(panel, 0) if row["series"] == "anonymous memory"]
    assert len(line["value"]) <= LINE_POINTS
    assert max(line["value"]) == 400
    assert max(value for row in rows_of(panel, 1) for value in row["value"]) == 400


def test_memory_of_one_trial() -> None:
    panel = charts.memory_over_time(make_samples(FakeTrial(), 1), 512 * MIB, Outcome.OOM_KILLED)
    assert "limit 512 MiB" in texts(panel)
    assert "OOM-killed" in texts(panel)
    assert "no limit was enforced" in texts(charts.memory_over_time(make_samples(FakeTrial(), 1), None))
    unfinished = charts.memory_over_time(make_samples(FakeTrial(), 1), 512 * MIB, None)
    assert "limit 512 MiB" in texts(unfinished)


def test_the_end_of_an_upload_has_the_outcome_of_the_upload(tmp_path: Path) -> None:
    both = [FakeTrial(direction="both", outcome=Outcome.OOM_KILLED, fails_in=stage) for stage in ("upload", "verify")]
    for trial, marked in zip(both, (True, False), strict=True):
        data = read_campaign(write_campaign(tmp_path / trial.fails_in, [trial]))
        (panel,) = charts.memory_panels(data.samples, data.trials)
        ends = [
            layer
            for layer in panel.to_dict(validate=False)["layer"]
            if layer["encoding"].get("text", {}).get("field") == "label"
        ]
        assert bool(ends) is marked, trial.fails_in


def test_memory_of_a_trial_that_is_not_finished() -> None:
    panel = charts.memory_over_time(make_samples(FakeTrial(), 1), 512 * MIB, None)
    assert {row["label"] for row in rows_of(panel, 0)} == {"not finished"}
    assert "limit 512 MiB" in texts(panel)


def test_memory_of_a_trial_that_delivered_no_sample() -> None:
    samples = make_samples(FakeTrial(), 1)
    empty = samples | {"columns": {name: [] for name in samples["columns"]}}
    assert "limit 512 MiB" in texts(charts.memory_over_time(empty, 512 * MIB))


def test_peak_memory_shows_both_peaks_and_the_limit(tmp_path: Path) -> None:
    data = campaign(tmp_path, quick_matrix())
    (panel,) = charts.peak_memory(data.trials)
    assert len(rows_of(panel, 0)) == 4
    kinds = [row["kind"] for row in rows_of(panel, 1)]
    assert kinds.count("peak memory") == kinds.count("VmHWM") == 12
    largest = max(row["value"] for row in rows_of(panel, 1) if row["kind"] == "peak memory")
    assert largest == pytest.approx(data.trials["peak_anon_bytes"].max() / MIB, abs=0.01)


def test_an_upload_that_nobody_measured_has_no_numbers(tmp_path: Path) -> None:
    """It may have run without the memory limit, so that its peak is none of the case."""
    data = campaign(tmp_path, [FakeTrial(ram_mb=64, direction="download"), FakeTrial(ram_mb=64, direction="both")])
    uploads, downloads = ("peak memory", "VmHWM"), "peak memory of the download"

    points = [row for panel in charts.peak_memory(data.trials) for row in rows_of(panel, 1)]
    assert Counter(row["kind"] for row in points if row["kind"] in uploads) == dict.fromkeys(uploads, 1)
    assert Counter(row["kind"] for row in points)[downloads] == 2
    shown = {
        point["trial_id"] for panel in charts.memory_panels(data.samples, data.trials) for point in rows_of(panel, 0)
    }
    assert shown == set(data.trials["trial_id"][data.trials["direction"] == "both"])
    only = campaign(tmp_path / "b", [FakeTrial(direction="download")])
    assert charts.memory_panels(only.samples, only.trials) == []
    for markup in (tables.case_table(only).markup, tables.trial_table(only).markup):
        row = dict(
            zip(re.findall(r"<th [^>]*>(.*?)</th>", markup), re.findall(r"<td[^>]*>(.*?)</td>", markup), strict=True)
        )
        unmeasured = {name for name in row if name.startswith(("upload, ", "transfer", "peak memory, MiB", "VmHWM"))}
        assert len(unmeasured) >= 3 and {row[name] for name in unmeasured} == {"–"}, row
        (download,) = (row[name] for name in row if name.startswith("peak memory of the download"))
        assert download != "–"


def test_nothing_to_show_is_an_empty_list(tmp_path: Path) -> None:
    data = campaign(tmp_path, [])
    assert all_panels(data) == []
    failed = campaign(tmp_path / "b", [FakeTrial(outcome=Outcome.STALLED)])
    assert charts.throughput(failed.trials) == []
    assert charts.phases(failed.trials) == []


def test_axes_are_logarithmic_only_when_they_must_be() -> None:
    assert value_scale([100.0, 20.0]).to_dict()["domain"][0] == 0
    logarithmic = value_scale([2048.0, 14.0]).to_dict()
    assert logarithmic["type"] == "log"
    assert 0 < logarithmic["domain"][0] <= 14
    assert logarithmic["domain"][1] > 2048


def test_the_whole_matrix_stays_small_enough_for_a_page(tmp_path: Path) -> None:
    trials = [
        FakeTrial(ram_mb=ram_mb, file_size=file_size, block=block)
        for block, ram_mb, file_size in itertools.product(
            (1, 2, 3), (2048, 1024, 512, 256), ("100M", "500M", "1G", "2G", "5G")
        )
    ]
    panels = all_panels(campaign(tmp_path, trials))
    assert len(panels) == 25
    assert sum(len(json.dumps(panel.to_dict(validate=False))) for panel in panels) < 4_000_000


@pytest.mark.parametrize("path", sorted(Path(charts.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_channels_are_encoded_by_objects(path: Path) -> None:
    # For each plain text or value altair compares all its classes, which took a quarter of the time of all charts.
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    channels = [key.value for call in calls if ast.unparse(call.func).endswith(".encode") for key in call.keywords]
    assert not [words for words in map(ast.unparse, channels) if re.match(r"f?['\"]|alt\.value\(", words)]


def test_a_figure_has_specs_and_a_picture(tmp_path: Path) -> None:
    figure = Figure(charts.phases(campaign(tmp_path, quick_matrix()).trials), "two phases")
    bundle = figure._repr_mimebundle_()
    assert bundle["text/plain"] == repr(figure) == "two phases"
    assert bundle["image/png"].startswith("iVBOR")
    panels = bundle[FIGURE_MIME]["panels"]
    assert len(panels) == 2
    assert all(panel["svg"].startswith("<svg") for panel in panels)
    json.dumps(bundle)
