"""The answer of a search for the floor in words: what it says of an estimate below everything that was tried."""

import pytest

from picolab.analysis.floor_search import look
from picolab.analysis.floor_trials import FloorTrial
from picolab.campaign.floor import make_floor_plan, make_search
from picolab.config.trial_parameters import TrialParameters
from picolab.report.floor_lines import as_lines, headline


@pytest.mark.parametrize(
    ("low_mb", "machine", "outcomes", "words"),
    [
        (128, "vagrant", "++", "It is estimated below 128 MiB, the least that was tried. Lower --from to measure it."),
        (96, "vagrant", "++", "It is estimated below 96 MiB, the least that was tried."),
        (128, "local", "+-", "The interval reaches below 128 MiB, the least that was tried. Lower --from to measure"),
    ],
)
def test_an_estimate_below_the_least_ram_that_was_tried_is_called_one(
    low_mb: float, machine: str, outcomes: str, words: str
) -> None:
    search = make_search({"low_mb": low_mb, "high_mb": 512}, machine, "test")
    trials = [FloorTrial(str(n), low_mb, "search", one == "+", "", None) for n, one in enumerate(outcomes)]
    parameters = TrialParameters(machine=machine, ram_mb=512, file_size="1M")
    plan = make_floor_plan([parameters], search, "search", "picolab floor test", 1, 0)

    line = headline(plan, {"build": look(search, trials)})
    assert line.startswith("So far: at ") and words in line and line.count("--from") == (low_mb > 96)


def test_an_estimate_between_trials_is_left_alone() -> None:
    search = make_search({"low_mb": 64, "high_mb": 512}, "local", "test")
    trials = [FloorTrial(str(ram), ram, "search", ram > 200, "", None) for ram in (64, 64, 64, 150, 250, 512)]
    plan = make_floor_plan([TrialParameters(ram_mb=512, file_size="1M")], search, "search", "test", 1, 0)
    assert "least that was tried" not in headline(plan, {"build": look(search, trials)})


def test_a_search_that_ends_at_its_limit_says_why_no_size_is_recommended() -> None:
    search = make_search({"low_mb": 128, "high_mb": 192, "limit": 4}, "vagrant", "test")
    trials = [FloorTrial(str(n), ram, "search", True, "ok", None) for n, ram in enumerate((138, 128, 128, 128))]
    parameters = TrialParameters(machine="vagrant", ram_mb=192, file_size="1M")
    plan = make_floor_plan([parameters], search, "search", "picolab floor test", 1, 0)

    lines = as_lines(plan, {"build": look(search, trials)})
    assert "No size is recommended: the interval reaches the end of the range, 192 MiB. Raise --to." in lines
    assert any(line.startswith("The limit of 4 search trials came before") for line in lines)
