"""A search for the memory floor as a campaign: from the command line, stopped and resumed, with a known floor."""

import json
import math

from command_line import picolab_here

from picolab.campaign.floor import make_floor_plan, make_search
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.plan import Plan
from picolab.config.project import outputs_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.exit_codes import ExitCode
from picolab.results.standing import read_standing

NEED = {"memory_need_mib": 200}


def plan_of(**search: object) -> Plan:
    parameters = TrialParameters.model_validate({"file_size": "64K", "calibration": NEED, "keep_machine": "never"})
    values = {"low_mb": 150, "high_mb": 300, "precision": 0.2, "confirm": 2} | search
    return make_floor_plan(parameters, make_search(values, "local", "test"), "search", "picolab floor test", 1, 0)


def test_search_is_stopped_and_resumed_without_losing_a_trial() -> None:
    ended: list[str] = []
    watcher = Watcher(ended=lambda entry, _: ended.append(entry.trial_id), stop_requested=lambda: len(ended) == 2)
    assert Campaign.create(plan_of(), watcher).run() is ExitCode.INTERRUPTED
    begun = Plan.load(outputs_dir() / "search")

    done = picolab_here("resume", "search")

    assert done.returncode == ExitCode.OK, done.stderr
    folder = outputs_dir() / "search"
    plan, standing = Plan.load(folder), read_standing(folder)
    assert plan.trials[: len(begun.trials)] == begun.trials
    assert [trial.trial_id for trial in plan.trials] == list(standing.results)
    assert not standing.problems
    assert {trial.purpose for trial in plan.trials} == {"search", "confirmation"}
    answer = json.loads((folder / "floor.json").read_text())
    assert answer["state"] == "found"
    assert abs(math.log(answer["floor_mb"] / 200)) < 0.1
    assert answer["floor_low_mb"] <= 200 * 1.05
    assert answer["confirmation_survived"] == answer["confirmation_trials"] == 2
    assert len(answer["trials"]) == len(plan.trials)
    page = (folder / "floor.html").read_text()
    assert answer["headline"] in page
    assert "Survival against RAM" in page
    assert "2 of 2 confirmation trials survived" in done.stdout
    assert picolab_here("status", "search").returncode == ExitCode.OK


def test_command_refuses_what_makes_no_sense() -> None:
    for words, sentence in (
        (("--precision", "much"), "--precision 'much' should be a share, such as 10%"),
        (("--from", "100M", "--to", "105M"), "is no range for a precision of 10%"),
        (("-p", "ram_mb", "64"), "the search sets ram_mb itself"),
        (("--to", "900G"), "is more than this host's"),
        (("--from", "12.3M"), "RAM '12.3M'"),
    ):
        done = picolab_here("floor", "calibration", *words)
        assert sentence in done.stderr, done.stderr
        assert done.returncode in (ExitCode.BAD_PARAMETERS, ExitCode.HOST_UNFIT)
    assert not outputs_dir().exists()
