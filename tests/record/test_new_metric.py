"""A metric needs one entry in the registry: everything that shows, compares or exports numbers then has it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import altair as alt
import pandas as pd
import pytest
from comparison_campaigns import around, paired_trials, read
from factor_campaigns import layer_rows, table_of

from picolab.analysis.comparison.compare import compare
from picolab.campaign.runner import Campaign
from picolab.charts import campaign as charts
from picolab.cli.outcome_table import outcome_table
from picolab.record import metrics
from picolab.record.fields import pandas_type_at
from picolab.record.metric import Metric
from picolab.record.metrics import METRICS, documentation_table
from picolab.report import tables
from picolab.results.export import export_campaign
from picolab.results.load import CampaignData
from picolab.results.rows import plain_rows

ROOT = Path(__file__).resolve().parents[2]
PER_BLOCK = 1000.0
"""The new metric has this value in the first block, twice this in the second, and so on."""


@pytest.fixture
def metric(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """A number that every record holds and nothing shows."""
    new = Metric(
        "first_byte_clock_s",
        "upload.first_byte_monotonic_s",
        "clock",
        "s",
        "the host's clock when the first byte was sent",
        "nothing was sent",
        "upload",
        verdicts=("earlier", "later"),
        gates=frozenset({"upload"}),
        shown=frozenset({"case_table", "trial_table", "console", "throughput", "phases", "peaks"}),
    )
    monkeypatch.setitem(METRICS, new.name, new)
    return new


@pytest.fixture
def data(metric: Metric, tmp_path: Path) -> CampaignData:
    """Two builds in ten blocks; the new metric is a third larger for the candidate."""
    trials = paired_trials(around(1.0))
    for trial in trials:
        more = 1.0 if trial.label == "old" else 1.3
        trial.facts["upload.first_byte_monotonic_s"] = PER_BLOCK * trial.block * more
    return read(tmp_path / "c", trials)


def documented_rows() -> Iterator[list[str]]:
    section = (ROOT / "docs" / "record.md").read_text().split("\n## Metrics\n")[1].split("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            yield line.strip("|").strip().split(" | ")


def test_all_metrics_are_documented() -> None:
    assert list(documented_rows()) == documentation_table()[1:], "run: python -m picolab.record.metrics"


def test_the_check_of_the_documents_finds_a_new_metric(metric: Metric) -> None:
    (missing,) = [row for row in documentation_table()[1:] if row not in list(documented_rows())]
    assert missing[0] == "`first_byte_clock_s`" and missing[5] == "lower is better; gates upload"


def test_the_table_of_metrics_is_printed(metric: Metric, capsys: pytest.CaptureFixture[str]) -> None:
    metrics.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(METRICS) + 2 and lines[-1].startswith("| `first_byte_clock_s` | s | the host's clock")


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_a_metric_has_the_type_of_its_field(metric: Metric) -> None:
    assert pandas_type_at(metric.source) == metric.pandas_type
    assert not metric.gates or metric.verdicts, "a metric that gates must be compared"


def test_a_new_metric_is_in_rows_and_exports(data: CampaignData, metric: Metric, tmp_path: Path) -> None:
    values = [PER_BLOCK * block * more for block in range(1, 11) for more in (1.0, 1.3)]
    export_campaign(data.folder, tmp_path / "export")
    frames = {
        "rows": data.trials,
        "results.csv": pd.read_csv(data.folder / "results.csv"),
        "csv": pd.read_csv(tmp_path / "export" / "trials.csv"),
        "parquet": pd.read_parquet(tmp_path / "export" / "trials.parquet"),
    }
    for name, frame in frames.items():
        assert sorted(frame[metric.name]) == pytest.approx(sorted(values)), name
        assert list(frame.columns)[:4] == ["trial_id", "campaign", "block", "position"], name
        assert list(frame.columns)[-1] == metric.name, f"{name}: the other columns keep their places"


def test_a_new_metric_is_in_both_tables(data: CampaignData) -> None:
    cases = table_of(tables.case_table(data).markup)
    assert dict(zip(cases["build"], cases["clock, s"], strict=True)) == {"old": "5,500.000", "new": "7,150.000"}
    trials = table_of(tables.trial_table(data).markup)
    assert set(trials["clock, s"]) >= {"1,000.000", "1,300.000", "10,000.000"}


def test_a_new_metric_is_on_the_console(data: CampaignData) -> None:
    table = outcome_table(Campaign.load(data.folder), plain_rows(data.trials))
    shown = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert shown["clock\ns\nmedian"] == ["7,150.000", "5,500.000"], shown["case"]


@pytest.mark.parametrize("draw", [charts.throughput, charts.phases])
def test_a_new_metric_has_panels(draw: Callable[..., list[alt.LayerChart]], data: CampaignData) -> None:
    panels = [panel for panel in draw(data.trials) if str(panel.title).startswith("clock: ")]
    assert len(panels) == 2
    values = {row["value"] for panel in panels for row in layer_rows(panel, 2)}
    assert values >= {PER_BLOCK, 1.3 * PER_BLOCK}
    assert {_axis_title(panel) for panel in panels} == {"clock, s"}


def _axis_title(panel: alt.LayerChart) -> str:
    return str(panel.to_dict()["layer"][2]["encoding"]["y"]["title"])


def test_a_new_metric_is_among_the_peaks(data: CampaignData) -> None:
    points = [row for panel in charts.peak_memory(data.trials) for row in layer_rows(panel, -1)]
    assert len([row for row in points if row["kind"] == "clock"]) == len(data.trials)


def test_builds_are_compared_in_a_new_metric(data: CampaignData, metric: Metric) -> None:
    comparison = compare(data, baseline="old")
    (found,) = [row for row in comparison.metrics if row.metric is metric]
    assert found.ratio == pytest.approx(1.3) and found.verdict == "later" and found.gates
    assert "clock of new" in comparison.gate_reason
