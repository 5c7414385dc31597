"""How long a campaign has run: the same for one machine, several machines and several hosts."""

from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path

import pytest

from picolab.campaign.runner import Campaign
from picolab.campaign.running_time import RunningTime
from picolab.campaign.tally import Tally
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import Plan, make_plan
from picolab.config.project import outputs_dir
from picolab.record.outcomes import Outcome
from picolab.results.ledger import Ledger, LedgerEntry
from picolab.results.standing import read_standing
from picolab.results.stop_file import stopped_after

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def attempt(begin_s: float, duration_s: float | None, trial_id: str = "one", number: int = 1) -> LedgerEntry:
    """Return a fault that began so many seconds after noon; when it was filed says nothing."""
    return LedgerEntry(
        trial_id=trial_id,
        attempt=number,
        outcome=Outcome.MACHINE_FAILED,
        outcome_detail="it failed",
        started_at=(NOON + timedelta(seconds=begin_s)).isoformat(),
        ended_at=(NOON + timedelta(days=1)).isoformat(),
        duration_s=duration_s,
        notebook=None,
        record=None,
    )


@pytest.mark.parametrize(
    ("spans", "expected_s"),
    [
        ([], 0),
        ([(0, 60), (60, 30)], 90),
        ([(0, 60), (3600, 60)], 120),
        ([(0, 100), (50, 100)], 150),
        ([(0, 100), (20, 30)], 100),
        ([(0, 10), (50, 10), (5, 100)], 105),
        ([(0, 60), (100, None)], 60),
    ],
    ids=["none", "back to back", "a pause", "two machines", "inside", "one over two others", "nobody timed it"],
)
def test_time_in_which_something_ran_counts_once(spans: list[tuple[float, float | None]], expected_s: float) -> None:
    for order in permutations(spans):
        running = RunningTime()
        for span in order:
            running.add(attempt(*span))
        assert running.seconds == pytest.approx(expected_s)


def test_what_is_no_time_does_not_count() -> None:
    running = RunningTime()
    for text in (None, "noon", ""):
        running.add(attempt(0, 60).model_copy(update={"started_at": text}))
    assert running.seconds == 0


def plan_of(machines: int) -> Plan:
    wanted = {
        "matrix": {"ram_mb": [64], "file_size": ["1M"]},
        "builds": {label: {"build": "calibration"} for label in ("old", "new")},
        "repeats": "auto",
        "stopping": {"time_limit_h": 1},
        "machines": machines,
        "idle_limit_s": 0,
    }
    return make_plan(CampaignParameters.model_validate(wanted), f"timed-{machines}", "timed.yaml")


@pytest.mark.parametrize(("machines", "block"), [(1, 2), (2, 3)])
def test_the_limit_is_hours_on_the_clock_on_the_wall(scratch: Path, machines: int, block: int) -> None:
    """Each trial takes 25 minutes, and two machines run two at the same time."""
    plan = plan_of(machines)
    folder = outputs_dir() / plan.campaign
    folder.mkdir(parents=True)
    plan.save(folder)
    ledger = Ledger(folder)
    for number, trial in enumerate(plan.trials[:6]):
        ledger.append(attempt(number // machines * 1500, 1500, trial.trial_id))
        if trial.block < block:
            campaign = Campaign.load(folder)
            campaign._look_at(trial.block)
            assert stopped_after(folder) is None
        campaign = Campaign.load(folder)
        assert campaign.tally.running.seconds == (number // machines + 1) * 1500
    campaign._look_at(block)
    assert stopped_after(folder) == block


def test_a_running_campaign_counts_on(scratch: Path) -> None:
    plan = plan_of(2)
    folder = outputs_dir() / plan.campaign
    folder.mkdir(parents=True)
    plan.save(folder)
    tally = Tally(read_standing(folder))
    for number in (1, 2):
        tally.add(attempt(number * 50, 100, plan.trials[0].trial_id, number), None)
    assert tally.running.seconds == 150
