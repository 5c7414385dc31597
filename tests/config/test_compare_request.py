"""What `picolab compare` was asked for: labels, paths, builds of the file, and requests that make no sense."""

import re
from pathlib import Path
from typing import Any

import pytest

from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.compare_request import requested
from picolab.config.plan import make_plan
from picolab.config.trial_parameters import LABEL_PATTERN
from picolab.errors import ParameterError


def wanted(**content: Any) -> dict[str, Any]:
    """Return the content of a parameter file as the command reads it."""
    return CampaignParameters.model_validate({"matrix": {"ram_mb": [128], "file_size": ["8M"]}} | content).model_dump()


def builds(words: list[str], twice: str | None = None, **content: Any) -> dict[str, str]:
    """Return the builds by label; the baseline is always the first, and the whole is a campaign that can be planned."""
    found = requested(wanted(**content), words, twice, "file.yaml")
    assert found["baseline"] == next(iter(found["builds"]))
    assert all(re.fullmatch(LABEL_PATTERN, label) for label in found["builds"])
    plan = make_plan(CampaignParameters.model_validate(found), "test", "file.yaml")
    assert plan.baseline == found["baseline"]
    assert {trial.parameters.build_label for trial in plan.trials} == set(found["builds"])
    return {label: build["build"] for label, build in found["builds"].items()}


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of the test, since paths are relative to where the command is given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_releases_and_files_are_labelled_by_their_names(here: Path) -> None:
    new = executable(here / "picoshare-new")
    assert builds(["1.5.4", "./picoshare-new"]) == {"1.5.4": "1.5.4", "picoshare-new": str(new)}
    assert list(builds(["./picoshare-new", "1.5.4"])) == ["picoshare-new", "1.5.4"], "the first is the baseline"


def test_a_path_is_made_whole_since_trials_run_elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = executable(here / "home" / "server")
    monkeypatch.setenv("HOME", str(here / "home"))
    assert builds(["home/server", "1.5.4"])["server"] == str(server)
    assert builds(["a=~/server", "1.5.4"])["a"] == str(server)


def test_a_label_can_be_given(here: Path) -> None:
    server = executable(here / "server")
    assert builds(["old=1.4.4", "new=./server"]) == {"old": "1.4.4", "new": str(server)}
    assert builds(["old=1.4.4", "1.5.4", "new=./server"]) == {"old": "1.4.4", "1.5.4": "1.5.4", "new": str(server)}


def test_files_of_one_name_are_told_apart_by_their_folders(here: Path) -> None:
    old, new = executable(here / "v1" / "picoshare"), executable(here / "v2" / "picoshare")
    assert builds(["v1/picoshare", "v2/picoshare"]) == {"v1-picoshare": str(old), "v2-picoshare": str(new)}
    assert list(builds(["v1/picoshare", "1.5.4", "v2/picoshare"])) == ["v1-picoshare", "1.5.4", "v2-picoshare"]


def test_a_path_may_hold_an_equals_sign(here: Path) -> None:
    server = executable(here / "mode=fast" / "server")
    assert builds(["mode=fast/server", "1.5.4"])["server"] == str(server)
    assert builds(["fast=mode=fast/server", "1.5.4"])["fast"] == str(server)


def test_a_file_with_an_unusual_name_has_a_label(here: Path) -> None:
    executable(here / "_ my server (new)")
    executable(here / ("x" * 100))
    labels = list(builds(["./_ my server (new)", "x" * 100]))
    assert labels == ["my-server-new-", "x" * 40]


def test_labels_of_the_file_bring_their_environment() -> None:
    known = {
        "old": {"build": "1.4.4"},
        "small": {"build": "1.5.4", "environment": {"GOMEMLIMIT": "100MiB"}},
        "unused": {"build": "1.3.0"},
    }
    found = requested(wanted(builds=known, baseline="unused"), ["small", "old"], None, "file.yaml")
    assert list(found["builds"]) == ["small", "old"] and found["baseline"] == "small"
    assert found["builds"]["small"]["environment"] == {"GOMEMLIMIT": "100MiB"}
    assert builds(["small", "1.5.4"], builds=known) == {"small": "1.5.4", "1.5.4": "1.5.4"}


def test_named_builds_replace_those_of_the_matrix() -> None:
    matrix = {"ram_mb": [128], "file_size": ["8M"], "build": ["1.0.0", "1.1.0"]}
    assert list(builds(["1.4.4", "1.5.4"], matrix=matrix)) == ["1.4.4", "1.5.4"]


def test_without_words_the_file_is_left_as_it_is() -> None:
    by_label = wanted(builds={"old": {"build": "1.4.4"}, "new": {"build": "1.5.4"}}, baseline="new")
    assert requested(by_label, [], None, "file.yaml") == by_label
    by_matrix = wanted(matrix={"ram_mb": [128], "build": ["1.4.4", "1.5.4"]})
    assert requested(by_matrix, [], None, "file.yaml") == by_matrix


def test_a_build_is_compared_with_itself(here: Path) -> None:
    server = str(executable(here / "server"))
    assert builds([], "./server") == {"server": server, "server-again": server}
    assert builds([], "new=./server") == {"new": server, "new-again": server}
    long = builds([], f"{'x' * 40}=./server")
    assert list(long) == ["x" * 40, "x" * 34 + "-again"]
    small = {"small": {"build": "1.5.4", "environment": {"GOGC": "50"}}}
    found = requested(wanted(builds=small), [], "small", "file.yaml")["builds"]
    assert found["small"] == found["small-again"], "started in the same way"


@pytest.mark.parametrize(
    ("words", "twice", "content", "message"),
    [
        ([], None, {}, r"file\.yaml: names fewer than two builds; give them: picolab compare BASELINE CANDIDATE"),
        ([], None, {"builds": {"only": {"build": "1.5.4"}}}, "names fewer than two builds"),
        (["1.5.4"], None, {}, "'1.5.4' is one build; name the other too, or compare it with itself: --self"),
        (["1.5.4"], "1.5.4", {}, "--self 1.5.4 compares this build with itself; remove '1.5.4'"),
        (["x=1.4.4", "x=1.5.4"], None, {}, "two builds would be called 'x'; name them"),
        (["1.5.4", "1.5.4"], None, {}, "two builds would be called '1.5.4'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], twice: str | None, content: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        requested(wanted(**content), words, twice, "file.yaml")


def test_one_file_twice_is_refused(here: Path) -> None:
    executable(here / "v1" / "server")
    with pytest.raises(ParameterError, match="two builds would be called 'v1-server'; name them"):
        requested(wanted(), ["v1/server", "./v1/server"], None, "file.yaml")


def test_a_label_wins_over_a_file_of_the_same_name(here: Path) -> None:
    server = executable(here / "v2" / "old")
    assert builds(["old", "v2/old"], builds={"old": {"build": "1.4.4"}}) == {"old": "1.4.4", "v2-old": str(server)}
