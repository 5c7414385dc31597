"""The boots and the time that a plan is expected to need: measured where earlier campaigns ran the same case."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from campaign_factory import FakeTrial, virtual_matrix, write_campaign

from picolab.campaign.estimate import ASSUMED_MIB_S, EarlierTimes, earlier_times, estimate
from picolab.campaign.runner import Campaign
from picolab.cli.campaign_view import estimate_in_words
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.invalid_input import validate
from picolab.config.plan import Plan, make_plan
from picolab.config.project import outputs_dir
from picolab.config.yaml_text import read_yaml
from picolab.machines.kinds import KINDS
from picolab.results.results_csv import write_results

VIRTUAL = next(kind for kind in KINDS.values() if kind.is_virtual)
LOCAL = next(kind for kind in KINDS.values() if not kind.is_virtual)


def plan_of(text: str) -> Plan:
    return make_plan(validate(CampaignParameters, read_yaml(text), "file.yaml"), "a-campaign", "file.yaml")


TWO_BY_TWO = f"{{matrix: {{machine: [{VIRTUAL.name}], ram_mb: [256, 512], file_size: [25M, 100M]}}, repeats: 5}}"


@pytest.fixture
def outputs(scratch: Path) -> Iterator[Path]:
    outputs_dir().mkdir(parents=True)
    yield outputs_dir()


def test_nothing_was_measured_and_the_assumptions_are_printed(outputs: Path) -> None:
    found = estimate(plan_of(TWO_BY_TWO))
    words = estimate_in_words(found, at_most=False)

    assert (found.boots, found.restores) == (2, 4) and found.measured == found.machines_measured == 0
    assert found.boot_s == 2 * VIRTUAL.assumed_boot_s
    assert found.restore_s == 4 * VIRTUAL.assumed_change_s, "a block begins with the RAM that the one before ended with"
    transfers_s = 10 * 2 * (25 + 100) / ASSUMED_MIB_S
    machines_s = found.boot_s + found.restore_s
    assert found.total_s == pytest.approx(machines_s + transfers_s + 20 * VIRTUAL.assumed_overhead_s)
    assert words == (
        "Expected: 2 boots (40 s) and 4 restores (16 s) of virtual machines, and 4 min 26 s in all. Boots and restores "
        "take 21% of it. No trial of these cases was timed before; assumed: upload and verify at 50 MiB/s, plus 8 s. "
        "Boots and restores: with assumed times."
    )


def test_a_kind_that_boots_nothing_has_no_boots(outputs: Path) -> None:
    found = estimate(plan_of("{matrix: {ram_mb: [256, 512], file_size: [25M]}}"))

    assert found.boots is None and found.boot_s == 0
    assert estimate_in_words(found, at_most=True).startswith("Expected: at most 18 s in all. No trial")


def test_both_kinds_state_both_assumptions(outputs: Path) -> None:
    found = estimate(plan_of(f"{{matrix: {{machine: [{LOCAL.name}, {VIRTUAL.name}], ram_mb: [256]}}, repeats: 2}}"))

    assert found.boots == 1
    assert "plus 2 to 8 s" in estimate_in_words(found, at_most=False)


def test_snapshots_may_replace_boots(outputs: Path) -> None:
    text = TWO_BY_TWO.replace("repeats", "parameters: {fresh_machine: per_trial}, repeats")
    found = estimate(plan_of(text))

    assert (found.boots, found.restores) == (2, 18)
    assert found.restore_s == 4 * VIRTUAL.assumed_change_s + 14 * VIRTUAL.assumed_restore_s
    assert found.machine_share == pytest.approx((found.boot_s + found.restore_s) / found.total_s)
    words = estimate_in_words(found, at_most=False)
    assert words.startswith(
        "Expected: 2 boots (40 s) and 18 restores (37 s) of virtual machines, and 4 min 47 s in all"
    )
    assert f" Boots and restores take {found.machine_share:.0%} of it." in words
    assert words.endswith("Boots and restores: with assumed times.")


def test_earlier_restores_count(outputs: Path) -> None:
    folder = measured_campaign("earlier", virtual_matrix(), 40.0)
    path = folder / "results.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "reached_by": "restored", "reached_s": 1.5} for row in rows)
    found = estimate(plan_of(TWO_BY_TWO.replace("repeats", "parameters: {fresh_machine: per_trial}, repeats")))

    assert found.restore_s == pytest.approx(18 * 1.5) and found.machines_measured == 18
    assert not earlier_times().boots_s


def measured_campaign(name: str, of: list[FakeTrial], duration_s: float) -> Path:
    """Write a campaign whose trials took that long, and its `results.csv`."""
    folder = write_campaign(outputs_dir() / name, of)
    ledger = folder / "ledger.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    ledger.write_text("".join(json.dumps({**line, "duration_s": duration_s}) + "\n" for line in lines))
    write_results(folder, Campaign.load(folder).tally.rows.values())
    return folder


def test_earlier_trials_of_the_same_case_count(outputs: Path) -> None:
    """Of the factory's trials, the first one was booted in 31.5 s; the others were cleaned up."""
    measured_campaign("earlier", virtual_matrix(), 40.0)
    wanted = plan_of(TWO_BY_TWO)
    found = estimate(wanted)

    assert found.measured == 20
    # The boot of the first trial's RAM size is known; the other boot and the restores are assumed.
    assert found.machines_measured == 1
    assert found.boot_s == pytest.approx(31.5 + VIRTUAL.assumed_boot_s)
    machines_s = found.boot_s + 4 * VIRTUAL.assumed_change_s
    assert found.total_s == pytest.approx(20 * 40.0 + machines_s), "the boot of the first trial counts once"
    words = estimate_in_words(found, at_most=False)
    assert "take 8% of it. Earlier trials of the same cases took that long. Boots and restores: 1 like earlier" in words
    assert words.endswith("1 like earlier ones, the others with assumed times.")


def test_a_plan_of_thousands_of_trials_counts(outputs: Path) -> None:
    plan = measured_campaign("earlier", virtual_matrix(), 40.0) / "plan.json"
    plan.write_text(plan.read_text() + " " * (16 << 20))
    assert estimate(plan_of(TWO_BY_TWO)).measured == 20


def test_other_cases_do_not_count(outputs: Path) -> None:
    measured_campaign("earlier", virtual_matrix(), 40.0)
    more = TWO_BY_TWO.replace("[25M, 100M]", "[25M, 50M]")
    found = estimate(plan_of(more))

    assert found.measured == 10
    assert "10 of 20 trials like earlier ones of their case, the others: upload and verify" in estimate_in_words(
        found, at_most=False
    )
    assert estimate(plan_of(TWO_BY_TWO.replace("repeats", "parameters: {sync: measure}, repeats"))).measured == 0


def test_a_wait_for_the_turn_is_no_time_of_a_trial(outputs: Path) -> None:
    of = virtual_matrix()
    for trial in of:
        trial.facts = {"timeline": {"boot_id": "boot", "waited_s": 15.0}}
    measured_campaign("earlier", of, 40.0)
    found = estimate(plan_of(TWO_BY_TWO))
    assert found.total_s - found.boot_s - found.restore_s == pytest.approx(20 * 25.0)


@pytest.mark.parametrize("file", ["plan.json", "ledger.jsonl", "results.csv"])
@pytest.mark.parametrize("content", ["", "{", "a,b\n\0,1\n", "[1]"])
def test_damaged_campaigns_are_left_out(outputs: Path, file: str, content: str) -> None:
    folder = measured_campaign("earlier", virtual_matrix(), 40.0)
    (folder / file).write_text(content)

    found = estimate(plan_of(TWO_BY_TWO))
    assert found.boots == 2
    assert found.measured == (20 if file == "results.csv" else 0)


def test_faults_are_no_times(outputs: Path) -> None:
    folder = measured_campaign("earlier", virtual_matrix(), 40.0)
    ledger = folder / "ledger.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    fault: dict[str, Any] = {"outcome": "machine_failed", "notebook": None, "record": None}
    ledger.write_text("".join(json.dumps({**line, **fault}) + "\n" for line in lines))

    assert earlier_times() == EarlierTimes()


@pytest.mark.parametrize("boot_s", ["soon", "nan", "inf", "-1", ""])
def test_a_damaged_boot_time_is_no_boot(boot_s: str, outputs: Path) -> None:
    folder = measured_campaign("earlier", virtual_matrix(), 40.0)
    path = folder / "results.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "reached_s": boot_s} for row in rows)

    assert not earlier_times().boots_s
