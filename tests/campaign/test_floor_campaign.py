"""A search for the memory floor as a campaign: from the command line, stopped and resumed, with a known floor."""

import json

import pytest
from command_line import picolab_here

from picolab.analysis.comparison.compare import compare
from picolab.campaign.floor import make_floor_plan, make_search
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.plan import Plan
from picolab.config.project import outputs_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import ParameterError
from picolab.exit_codes import ExitCode
from picolab.results.load import read_campaign
from picolab.results.standing import read_standing

NEEDS = {"small": 130, "large": 330}


def plan_of(**search: object) -> Plan:
    shared = {"file_size": "64K", "keep_machine": "never"}
    builds = [
        TrialParameters.model_validate({**shared, "label": label, "calibration": {"memory_need_mib": need}})
        for label, need in NEEDS.items()
    ]
    values = {"low_mb": 80, "high_mb": 640, "share": 0.5, "precision": 0.4, "confirm": 1} | search
    return make_floor_plan(builds, make_search(values, "local", "test"), "search", "picolab floor test", 1, 0)


def test_search_of_two_builds_is_stopped_and_resumed() -> None:
    ended: list[str] = []
    watcher = Watcher(ended=lambda entry, _: ended.append(entry.trial_id), stop_requested=lambda: len(ended) == 3)
    assert Campaign.create(plan_of(), watcher).run() is ExitCode.INTERRUPTED
    begun = Plan.load(outputs_dir() / "search")
    stopped = picolab_here("status", "search")
    assert "The search for the memory floor of small and large is unfinished" in stopped.stdout
    at_rest = Campaign.load(outputs_dir() / "search").progress()
    assert (at_rest.done, at_rest.total > 4) == (3, True)

    notes: list[str] = []
    without_time = Campaign.load(outputs_dir() / "search", Watcher(note=notes.append))
    without_time.budget_s = 0.0
    without_time.run()
    assert len(read_standing(outputs_dir() / "search").results) == 3, "no trial begins beyond the budget of a run"
    assert notes[-1].startswith("Stopped after 0 s:") and notes[-1].endswith("and 0 s were allowed.")

    done = picolab_here("resume", "search")

    assert done.returncode == ExitCode.REGRESSION, done.stderr
    folder = outputs_dir() / "search"
    plan, standing = Plan.load(folder), read_standing(folder)
    assert plan.trials[: len(begun.trials)] == begun.trials
    assert [trial.trial_id for trial in plan.trials] == list(standing.results)
    assert not standing.problems
    assert {trial.purpose for trial in plan.trials} == {"search", "confirmation"}
    rounds = ["small", "large", "large", "small", "small", "large"]
    assert [trial.parameters.label for trial in plan.trials[:6]] == rounds
    answer = json.loads((folder / "floor.json").read_text())
    for found in answer["builds"]:
        need = NEEDS[found["build"]]
        assert found["state"] == "found"
        assert found["floor_low_mb"] <= need * 1.05 <= found["floor_high_mb"] * 1.05
        assert found["confirmation_survived"] == found["confirmation_trials"] == 1
    assert sum(len(found["trials"]) for found in answer["builds"]) == len(plan.trials)
    (ratio,) = answer["ratios"]
    assert ratio["verdict"] == "needs more"
    assert ratio["low"] < NEEDS["large"] / NEEDS["small"] < ratio["high"]
    assert answer["exit_code"] == done.returncode
    page = (folder / "floor.html").read_text().replace("\xa0", " ")
    assert answer["headline"].split("'")[0] in page
    assert "as many as the search for the memory floor needed" in page
    assert answer["headline"] in " ".join(done.stdout.split())
    assert not Campaign.load(folder).unfinished
    with pytest.raises(ParameterError, match="this campaign searched memory floors"):
        compare(read_campaign(folder))


def test_command_refuses_what_makes_no_sense() -> None:
    for words, sentence in (
        (("--precision", "much"), "--precision 'much' should be a share, such as 10%"),
        (("--from", "100M", "--to", "105M"), "is no range for a precision of 10%"),
        (("--slowdown", "10"), "--slowdown '10' should be a share, such as 10%"),
        (("--slowdown", "slow"), "--slowdown 'slow' should be a share, such as 10%"),
        (("--margin", "90%"), "--margin 90% should be above 0 and at most 50%"),
        (("calibration",), "two builds would be called 'calibration'"),
        (("-p", "ram_mb", "64"), "picolab floor sets ram_mb itself"),
        (("--to", "900G"), "is more than this host's"),
        (("--from", "12.3M"), "--from: RAM '12.3M'"),
        (("--from", "2M"), "--from = 2 should be greater than or equal to 4"),
    ):
        done = picolab_here("floor", "calibration", *words)
        assert sentence in done.stderr, done.stderr
        assert done.returncode in (ExitCode.BAD_PARAMETERS, ExitCode.HOST_UNFIT)
    assert not outputs_dir().exists()
