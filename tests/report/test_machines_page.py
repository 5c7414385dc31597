"""The section of a report about several machines: it appears for them alone, and has the paired check and a chart."""

from pathlib import Path
from typing import Any

import pytest
from campaign_factory import FakeTrial, write_campaign

from picolab.analysis.overlap import overlap_ratios
from picolab.api.plots import CampaignPlots
from picolab.charts.machines import MOST_TRIALS, machines_in_time
from picolab.report.machines_page import at_the_same_time
from picolab.results.load import CampaignData, read_campaign
from picolab.results.rows import plain_rows

PAIRS = 8


def timeline(begin_s: float, others_measured_s: float, boot: str = "boot") -> dict[str, Any]:
    neighbour = {"trial_id": "x", "machine": "m-2", "doing": "upload", "measured": True, "overlap_s": others_measured_s}
    spans = [("provision", 0.0, 1.0), ("start", 1.5, 2.0), ("upload", 2.0, 4.0), ("verify", 4.0, 5.0)]
    return {
        "boot_id": boot,
        "stages": [
            {"stage": stage, "begun_monotonic_s": begin_s + begun, "ended_monotonic_s": begin_s + ended}
            for stage, begun, ended in spans
        ],
        "waited_s": 0.5,
        "measured_from_s": begin_s + 1.5,
        "measured_until_s": begin_s + 4.0,
        "others_worked_s": 0.25,
        "others_measured_s": others_measured_s,
        "others_s": 0.25 + others_measured_s,
        "neighbours": [neighbour] if others_measured_s else [],
    }


def trial(block: int, machine: int, overlap: str, speed: float, others_s: float = 0.0) -> FakeTrial:
    return FakeTrial(
        block=block,
        speed=speed,
        parameters_too={"overlap": overlap, "machine_name": f"m-{machine}"},
        facts={"timeline": timeline(100.0 * block + machine, others_s)},
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CampaignData:
    """Pairs of trials alone and next to others; these are a fifth slower, and one of them ran with nothing."""
    trials = []
    for block in range(1, PAIRS + 1):
        trials.append(trial(block, 1, "none", 1.0 + 0.01 * block))
        trials.append(trial(block, 2, "measurements", 0.8 * (1.0 + 0.01 * block), 0.0 if block == PAIRS else 2.0))
    return read_campaign(write_campaign(tmp_path_factory.mktemp("c") / "two", trials))


def test_pairs_give_the_ratio_to_alone_and_quiet_trials_do_not_count(data: CampaignData) -> None:
    rows = plain_rows(data.trials)
    quiet = frozenset(row["trial_id"] for row in rows[-1:])
    found = {one.metric.name: one for one in overlap_ratios(rows, quiet)}
    rate = found["throughput_mib_s"]
    assert (rate.level, rate.ratio.n, rate.unpaired) == ("measurements", PAIRS - 1, 1)
    assert rate.ratio.low < 0.8001 and rate.ratio.high > 0.7999
    assert not overlap_ratios([row for row in rows if row["overlap"] != "none"])


def test_the_section_shows_what_overlapped_and_what_it_changed(data: CampaignData) -> None:
    shown = at_the_same_time(data)
    assert shown is not None
    assert 'id="Machines-at-the-same-time"' in shown.markup
    assert "everything, measured steps too" in shown.markup and "0.800" in shown.markup
    assert ">90<" in shown.markup, "2.25 s of a section of 2.5 s"
    assert data.trials["case_id"].nunique() == 2, "alone and next to others are never pooled"


def test_a_campaign_of_one_machine_has_no_section(tmp_path: Path) -> None:
    alone = read_campaign(write_campaign(tmp_path / "one", [FakeTrial(), FakeTrial(block=2)]))
    assert at_the_same_time(alone) is None
    assert CampaignPlots(alone).machines() is None


def test_the_chart_has_a_bar_for_each_stage_of_the_first_trials(data: CampaignData) -> None:
    (chart,) = machines_in_time(data.records.values())
    (values,) = chart.to_dict()["datasets"].values()
    assert len(values) == 4 * min(MOST_TRIALS, 2 * PAIRS)
    assert min(value["from_s"] for value in values) == 0.0
    assert [value["what"] for value in values[:4]] == [
        *("other stages", "measured section", "measured section", "other stages")
    ]
    figure = CampaignPlots(data).machines()
    assert figure is not None and figure.caption.startswith(f"All {2 * PAIRS} trials")
