"""Charts and tables of a case with more trials than can be drawn: extremes, a band, and nothing that grows."""

from typing import Any

import altair as alt
import pytest
from campaign_factory import FakeTrial, write_campaign

from picolab.charts import campaign as charts
from picolab.charts.thinning import MOST_POINTS, thinned
from picolab.record.outcomes import Outcome
from picolab.report import tables
from picolab.results.load import CampaignData, read_campaign

MANY = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CampaignData:
    """A case of many trials, of which three were killed, beside one of three trials."""
    speeds = [1 + 0.001 * place for place in range(MANY)]
    trials = [FakeTrial(speed=speed, block=block, more_anon_mib=block / 100) for block, speed in enumerate(speeds, 1)]
    for place in (5, 6, 7):
        trials[place].outcome = Outcome.OOM_KILLED
    trials += [FakeTrial(ram_mb=256, block=block) for block in (1, 2, 3)]
    return read_campaign(write_campaign(tmp_path_factory.mktemp("many") / "c", trials))


def layers_of(panel: alt.LayerChart) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return each layer of a panel with its rows."""
    spec = panel.to_dict()
    return [(layer, spec["datasets"][(layer.get("data") or spec["data"])["name"]]) for layer in spec["layer"]]


def test_up_to_so_many_trials_have_a_point_each() -> None:
    rows = [{"case": "a", "value": float(value)} for value in range(MOST_POINTS)]
    assert thinned(rows, "case") == (rows, [])
    points, bands = thinned([*rows, {"case": "a", "value": 1000.0}, {"case": "b", "value": 3.0}], "case")
    assert [row["value"] for row in points] == [0.0, 1000.0, 3.0]
    assert bands == [{"case": "a", "low": 2.0, "high": 38.0, "trials": MOST_POINTS + 1}]


def test_rates_of_many_trials_are_two_points_and_a_band(data: CampaignData) -> None:
    (panel,) = charts.throughput(data.trials)
    (_, bands), (_, medians), _, (_, points) = layers_of(panel)

    rates = data.trials.loc[(data.trials["ram_mb"] == 512) & (data.trials["outcome"] == "ok"), "throughput_mib_s"]
    of_case = sorted(row["value"] for row in points if row["series"] == "512 MiB")
    assert of_case == [rates.min(), rates.max()] and len(points) == 2 + 3
    (band,) = bands
    assert (band["low"], band["high"]) == pytest.approx(tuple(rates.quantile([0.05, 0.95])), abs=0.001)
    assert band["trials"] == MANY - 3 and len(medians) == 2
    assert "the pale band holds the middle 90%" in charts.thinning_caption(data.trials)
    assert charts.thinning_caption(data.trials[data.trials["ram_mb"] == 256]) == ""


def test_peaks_of_many_trials_are_two_points_and_a_band_each(data: CampaignData) -> None:
    (panel,) = charts.peak_memory(data.trials)
    (_, bands), _, (_, points) = layers_of(panel)
    kinds = {row["kind"] for row in points}
    assert {row["kind"] for row in bands} == kinds and len(bands) == len(kinds)
    assert len(points) == len(kinds) * (2 + 3)


def test_trials_with_the_same_outcome_share_a_tile(data: CampaignData) -> None:
    (panel,) = charts.outcome_matrix(data.trials)
    (_, tiles), (_, words) = layers_of(panel)
    assert sorted(row["label"] for row in tiles) == ["OOM-killed", "ok", "ok", "ok", "ok"]
    killed = next(row for row in tiles if row["label"] == "OOM-killed")
    ok = max((row for row in tiles if row["label"] == "ok"), key=lambda row: row["x2"] - row["x"])
    assert (killed["x2"] - killed["x"]) / (ok["x2"] - ok["x"]) == pytest.approx(3 / (MANY - 3), rel=0.01)
    assert killed["trial_id"].startswith("3, such as 006-")
    assert ["61 ok", "3 OOM-killed"] in [row["words"] for row in words]
    assert "share a tile" in charts.outcome_caption(data.trials)


def test_a_long_table_shows_what_stands_out(data: CampaignData, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tables.trial_table(data).markup.count("<tr>") == 1 + MANY + 3
    monkeypatch.setattr(tables, "MOST_ROWS", 20)
    shown = tables.trial_table(data).markup
    assert shown.count("<tr>") == 1 + 3 + 3 + 3
    assert (
        "9 of 67 trials: of each case those with the lowest, median and highest value in the column “upload, MiB/s”"
        in shown
    )
    for position in (1, 6, 7, 8, MANY, MANY + 1):
        assert f"<td>{position:03d}-local" in shown
