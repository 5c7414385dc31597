"""Names of scenarios and cases: stable, safe in file names, and never shared by different ones."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.invalid_input import validate
from picolab.config.names import ScenarioNames, case_labels
from picolab.config.plan import make_plan
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import ParameterError

ALIKE = ("team/box", "team-box")


def trial(**values: Any) -> TrialParameters:
    return validate(TrialParameters, {"machine": "vagrant", **values}, "here")


def test_a_scenario_keeps_its_name_when_no_other_shares_it() -> None:
    trials = [trial(box="team/box"), trial(box="team/box", build="/x/other"), trial(box="third")]
    names = ScenarioNames(trials)

    assert [names.of(one) for one in trials] == [one.scenario for one in trials]
    assert names.of(trials[0]) == "vagrant-512mb-100M-box_team-box"


def test_scenarios_that_read_the_same_get_different_names() -> None:
    trials = [trial(box=box, build=build) for box in ALIKE for build in ("calibration", "/x/other")]
    names = [ScenarioNames(trials).of(one) for one in trials]

    assert len({one.scenario for one in trials}) == 1
    assert names[0] == names[1] != names[2] == names[3]
    assert all(re.fullmatch(r"vagrant-512mb-100M-box_team-box-[0-9a-f]{8}", name) for name in names)


@given(st.lists(st.text(st.sampled_from("ab/-_. :"), max_size=4), min_size=1, max_size=6))
def test_two_scenarios_never_share_a_name(boxes: list[str]) -> None:
    trials = [trial(box=box) for box in boxes]
    names = ScenarioNames(trials)
    by_name = {names.of(one): one.box for one in trials}

    assert len(by_name) == len(set(boxes))
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in by_name)


def test_builds_of_different_boxes_are_never_one_scenario() -> None:
    content = {
        "matrix": {
            "include": [
                {"build": "calibration", "box": ALIKE[0]},
                {"build": "/bin/sh", "box": ALIKE[1]},
            ]
        },
        "parameters": {"machine": "vagrant"},
        "repeats": 2,
    }
    plan = make_plan(validate(CampaignParameters, content, "here"), "c", "here")
    boxes = {one.scenario: one.parameters.box for one in plan.trials}

    assert sorted(boxes.values()) == sorted(ALIKE)


def test_cases_that_read_the_same_get_different_labels() -> None:
    labels = case_labels([trial(box=box) for box in (*ALIKE, "third")], "here")

    assert len(set(labels)) == 3 and labels[2] == "vagrant-512mb-100M-calibration-box_third"
    assert all(label.startswith("vagrant-512mb-100M-calibration-box_team-box-") for label in labels[:2])


def test_builds_whose_names_read_the_same_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"here: matrix: two cases cannot be told apart .*: build is .*; rename"):
        case_labels([trial(build="/x/a b"), trial(build="/x/a-b")], "here")
    with pytest.raises(ParameterError, match="appears twice; remove one of the two"):
        case_labels([trial(), trial()], "here")
