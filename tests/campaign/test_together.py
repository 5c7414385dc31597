"""How long trials take together on several machines, in exact numbers: before a campaign and while it runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from campaign_factory import FakeTrial, write_campaign

from picolab.campaign.estimate import estimate
from picolab.campaign.runner import Campaign
from picolab.campaign.together import Share, together_s
from picolab.cli.campaign_view import estimate_in_words, print_machines
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.invalid_input import validate
from picolab.config.plan import Plan, make_plan
from picolab.config.project import outputs_dir
from picolab.config.yaml_text import read_yaml
from picolab.machines.kinds import KINDS
from picolab.results.results_csv import write_results

VIRTUAL = next(kind for kind in KINDS.values() if kind.is_virtual)


@pytest.mark.parametrize(
    ("shares", "machines", "longest_s", "expected_s"),
    [
        ([Share("none", 10, 4, 6)], 1, 0, 60),
        ([Share("none", 10, 4, 6)], 3, 0, 60),
        ([Share("measurements", 10, 4, 6)], 3, 10, 20),
        ([Share("preparation", 10, 4, 6)], 2, 10, 30),
        ([Share("preparation", 10, 4, 6)], 3, 10, 24),
        ([Share("preparation", 10, 4, 1)], 3, 10, 10),
        ([Share("none", 10, 4, 2), Share("preparation", 10, 4, 6)], 3, 10, 20 + 24),
        ([Share("measurements", 10, 9, 4), Share("preparation", 10, 9, 4)], 4, 10, 9 + 36),
        ([], 2, 0, 0),
    ],
    ids=["one", "alone", "overlap", "work", "turns", "the longest", "alone and turns", "both locks", "nothing"],
)
def test_the_rules_of_overlap(shares: list[Share], machines: int, longest_s: float, expected_s: float) -> None:
    assert together_s(shares, machines, longest_s) == expected_s


@pytest.fixture
def outputs(scratch: Path) -> Iterator[Path]:
    outputs_dir().mkdir(parents=True)
    yield outputs_dir()


def plan_of(text: str) -> Plan:
    return make_plan(validate(CampaignParameters, read_yaml(text), "file.yaml"), "a-campaign", "file.yaml")


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize(
    ("overlap", "machines", "expected_s"),
    [
        ("none", 2, 8 * 22),
        ("preparation", 2, 8 * 22 / 2),
        ("preparation", 4, 8 * 10),
        ("measurements", 4, 8 * 22 / 4),
        ("measurements", 8, 22),
        ("measurements", 20, 22),
    ],
)
def test_the_estimate_is_that_of_the_machines(overlap: str, machines: int, expected_s: float) -> None:
    """Each trial is assumed to take 22 s: 2 s, an upload of 10 s, which is measured, and a download of 10 s."""
    plan = plan_of(
        f"{{matrix: {{file_size: [500M]}}, repeats: 8, machines: {machines}, parameters: {{overlap: {overlap}}}}}"
    )
    found = estimate(plan)
    assert found.total_s == pytest.approx(expected_s) and found.work_s == pytest.approx(8 * 22)
    assert f" in all on {machines} machines. No trial" in estimate_in_words(found, at_most=False)


@pytest.mark.usefixtures("outputs")
def test_a_measured_download_takes_its_turn_too() -> None:
    plan = plan_of("{matrix: {file_size: [500M]}, repeats: 8, machines: 4, parameters: {direction: both}}")
    assert estimate(plan).total_s == pytest.approx(8 * 20)


@pytest.mark.usefixtures("outputs")
def test_a_block_is_not_shared() -> None:
    text = (
        "{matrix: {file_size: [500M]}, builds: {old: {build: calibration}, new: {build: calibration}}, repeats: 2, "
        "machines: MACHINES, parameters: {overlap: measurements}}"
    )
    assert estimate(plan_of(text.replace("MACHINES", "2"))).total_s == pytest.approx(2 * 22)
    assert estimate(plan_of(text.replace("MACHINES", "4"))).total_s == pytest.approx(2 * 22), (
        "two blocks, four machines"
    )


@pytest.mark.usefixtures("outputs")
def test_workers_share_what_runs_alone_on_a_host() -> None:
    plan = plan_of("{matrix: {file_size: [500M]}, repeats: 8}")
    assert estimate(plan).total_s == pytest.approx(8 * 22)
    assert estimate(plan, hosts=4).total_s == pytest.approx(2 * 22)
    assert estimate(plan, plan.trials[:3], hosts=4).total_s == pytest.approx(22)


@pytest.mark.usefixtures("outputs")
def test_each_machine_boots() -> None:
    plan = plan_of(f"{{matrix: {{machine: [{VIRTUAL.name}], file_size: [500M]}}, repeats: 4, machines: 2}}")
    found = estimate(plan)
    each_s = VIRTUAL.assumed_overhead_s + 20
    assert (found.boots, found.restores) == (2, 0)
    assert found.total_s == pytest.approx(max((4 * each_s + 2 * VIRTUAL.assumed_boot_s) / 2, 40))
    assert found.machine_share == pytest.approx(found.boot_s / (4 * each_s + found.boot_s))
    assert estimate(plan, hosts=2).boots == 4, "each task makes its machine"


def timeline(waited_s: float, measured_s: float) -> dict[str, Any]:
    return {
        "timeline": {
            "boot_id": "boot",
            "waited_s": waited_s,
            "measured_from_s": 100.0,
            "measured_until_s": 100.0 + measured_s,
        }
    }


DONE = [
    FakeTrial(64, "4M", block=block, parameters_too={"overlap": "preparation"}, facts=timeline(1.2, 2.0))
    for block in (1, 2, 3)
]
LEFT = [FakeTrial(64, "4M", block=block, parameters_too={"overlap": "preparation"}) for block in range(4, 14)]


def running(name: str, machines: int) -> Campaign:
    """Return a campaign whose three trials took 4.2 s each, 1.2 s of it waiting and 2 s measuring; ten are left."""
    folder = write_campaign(outputs_dir() / name, DONE, LEFT)
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "machines": machines}))
    return Campaign.load(folder)


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize("machines", [2, 3])
def test_the_time_left_follows_the_same_rules(machines: int) -> None:
    campaign = running("running", machines)
    left_s = campaign.progress().eta_s
    assert left_s == campaign.tally.left_s() == pytest.approx(10 * 2), "their measured sections"
    write_results(campaign.folder, campaign.tally.rows.values())
    left = [trial for trial in campaign.plan.trials if trial.trial_id not in campaign.tally.rows]
    assert estimate(campaign.plan, left).total_s == pytest.approx(left_s), "from the same data"
    assert campaign.tally.left_s(hosts=5) == estimate(campaign.plan, left, hosts=5).total_s == pytest.approx(10 * 3 / 5)


@pytest.mark.usefixtures("outputs")
def test_the_number_of_machines_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_machines(plan_of("{matrix: {file_size: [500M]}, machines: 2}"))
    assert "one machine" not in capsys.readouterr().out
