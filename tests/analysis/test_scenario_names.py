"""A comparison pairs builds of one scenario only, also when the names of two scenarios read the same."""

from dataclasses import replace
from pathlib import Path

from comparison_campaigns import around, paired_trials, read

from picolab.analysis.comparison.compare import compare, compare_campaigns

BOXES = {"old": "team/box", "new": "team-box"}


def test_builds_in_boxes_with_similar_names_are_no_pairs(tmp_path: Path) -> None:
    trials = [
        replace(trial, parameters_too={"box": BOXES[trial.label]}, machine="vagrant")
        for trial in paired_trials(around(0.5))
    ]
    found = compare(read(tmp_path / "c", trials))

    assert len(found.scenarios) == 2 and found.metrics == ()


def test_campaigns_with_similar_scenarios_are_listed_apart(tmp_path: Path) -> None:
    campaigns = [
        read(
            tmp_path / label,
            [replace(trial, parameters_too={"box": box}, machine="vagrant") for trial in paired_trials(around(1.0, 6))],
        )
        for label, box in BOXES.items()
    ]

    alone = [compare(campaign).scenarios for campaign in campaigns]
    assert alone[0] == alone[1] == ("vagrant-512mb-100M-box_team-box",)
    assert len(compare_campaigns(campaigns).scenarios) == 2
