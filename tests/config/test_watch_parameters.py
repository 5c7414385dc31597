"""The file of a watch: its times, its sentences, and the builds that it follows and replaces."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.schedule import Schedule
from picolab.config.watch_parameters import build_files, check_release, load_watch_parameters, with_builds
from picolab.errors import ParameterError

NOW = datetime(2026, 11, 27, 13, 20, tzinfo=UTC)
"""A Friday."""


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("30min", "2026-11-27T13:00"),
        ("6h", "2026-11-27T12:00"),
        ("1 d", "2026-11-27T00:00"),
        ("day at 03:00", "2026-11-27T03:00"),
        ("Day at 13:20", "2026-11-27T13:20"),
        ("day at 13:21", "2026-11-26T13:21"),
        ("monday at 03:00", "2026-11-23T03:00"),
        ("friday at 23:59", "2026-11-20T23:59"),
    ],
)
def test_the_last_time_of_a_schedule(text: str, last: str) -> None:
    assert Schedule.parse(text).last(NOW) == datetime.fromisoformat(last).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["0h", "6", "6 weeks", "day at 3", "day at 24:00", "someday at 03:00", "٣h", "999999h"]
)
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match="day at 03:00"):
        Schedule.parse(text)


def watch_file(folder: Path, text: str) -> Path:
    path = folder / "nightly.yaml"
    path.write_text(text)
    return path


def test_a_file_with_its_name_alone(tmp_path: Path) -> None:
    wanted = load_watch_parameters(watch_file(tmp_path, "parameters: a.yaml"))

    assert (wanted.parameters, wanted.name) == (str(tmp_path / "a.yaml"), "nightly")
    assert (wanted.build_changes, wanted.release, wanted.schedule, wanted.keep) == (True, "", None, None)
    assert (wanted.report, wanted.compare) == (True, True)
    assert (wanted.history, wanted.publish) == ("", "")


def test_history_and_site_are_next_to_the_file_unless_the_history_is_elsewhere(tmp_path: Path) -> None:
    text = "parameters: a.yaml\npublish: public\nhistory: "
    wanted = load_watch_parameters(watch_file(tmp_path, text + "outputs/_history"))
    assert (wanted.history, wanted.publish) == (str(tmp_path / "outputs" / "_history"), str(tmp_path / "public"))
    assert load_watch_parameters(watch_file(tmp_path, text + "s3://bench/history")).history == "s3://bench/history"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"nightly.yaml: holds no mapping; it should begin with `parameters: FILE`"),
        ("name: a", r"nightly.yaml: parameters is missing and has no default"),
        ("parameters: a\nkep: 3", r"nightly.yaml: there is no 'kep'; did you mean keep\?"),
        ("parameters: a\nkeep: 0", r"keep = 0 should be greater than or equal to 1 \(finished campaigns"),
        ("parameters: a\nkeep: true", r"keep: True is a yes or a no"),
        ("parameters: a\nreport: perhaps", r"report = 'perhaps' should be true or false \(write the report"),
        ("parameters: a\nevery: daily", r"every: 'daily' is no time; write 30min, 6h, 2d, day at 03:00 or monday"),
        ("parameters: a\nname: a/b", r"name: 'a/b' cannot begin the name of a campaign: use up to 32 letters"),
        ("parameters: a\npoll_s: 0.1", r"poll_s = 0.1 should be greater than or equal to 1"),
        (
            "parameters: a\nbuild_changes: false",
            r"it would wait for nothing: set build_changes: true",
        ),
        ("parameters: [a", r"nightly.yaml: is not valid YAML in line 1"),
    ],
)
def test_each_mistake_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence) as caught:
        load_watch_parameters(watch_file(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_name_that_names_no_campaign(tmp_path: Path) -> None:
    path = tmp_path / "on every night.yaml"
    path.write_text("parameters: a.yaml")
    with pytest.raises(ParameterError, match="name is missing, and 'on every night' cannot begin the name"):
        load_watch_parameters(path)


def parameters(**content: object) -> CampaignParameters:
    data = {"matrix": {"ram_mb": [128], "file_size": ["1M"]}, **content}
    return CampaignParameters.model_validate(json.loads(json.dumps(data)))


def test_builds_are_found_and_replaced_wherever_they_are() -> None:
    wanted = parameters(
        matrix={"build": ["old", "/b/two", "1.5.4", "calibration"], "include": [{"build": "/b/three", "ram_mb": 64}]},
        builds={"old": {"build": "/b/one", "environment": {"A": "1"}}, "new": {"build": "1.5.3"}},
        parameters={"build": "/b/four"},
    )
    copies = {f"/b/{name}": f"/copies/{name}" for name in ("one", "two", "three", "four")}
    replaced = with_builds(wanted, copies, "new", "1.5.5")

    assert sorted(build_files(wanted)) == sorted(copies)
    assert sorted(build_files(replaced)) == sorted(copies.values())
    assert replaced.builds["new"].build == "1.5.5" and with_builds(wanted, {}, "new").builds == wanted.builds
    assert replaced.builds["old"].environment == {"A": "1"}
    assert replaced.matrix.factors["build"] == ["old", "/copies/two", "1.5.4", "calibration"]
    assert replaced.matrix.include == [{"build": "/copies/three", "ram_mb": 64}]


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("nwe", "w: release: there is no 'nwe'; did you mean new? (the labels under builds in p)"),
        ("old", "w: release: the build old in p is '/b/one'; give it a release there, such as 1.5.4"),
    ],
)
def test_a_release_without_its_label(label: str, sentence: str) -> None:
    wanted = parameters(builds={"old": {"build": "/b/one"}, "new": {"build": "1.5.3"}})
    with pytest.raises(ParameterError, match=re.escape(sentence)):
        check_release(wanted, label, "w", "p")
