"""Change points: found where a build changed, not in noise, and never blamed on a build when the host changed."""

import random
import statistics
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_line import picolab_here
from history_campaigns import night

from picolab.cli.main import main
from picolab.history import changes as changes_module
from picolab.history.add import add_campaign
from picolab.history.changes import Change, change_points, changes
from picolab.history.database import Database
from picolab.history.series import Point, Series, read_series
from picolab.history.store import FolderStore, open_store
from picolab.record.metrics import METRICS

UPLOAD = METRICS["throughput_mib_s"]


def history(folder: Path, *campaigns: Path) -> list[Series]:
    store = FolderStore(folder / "history")
    for campaign in campaigns:
        add_campaign(store, campaign)
    return read_series(Database(store), [UPLOAD])


def found(series: list[Series]) -> list[Change]:
    return [change for one in series for change in changes(one, UPLOAD)]


def test_a_slower_build_is_found_and_named(tmp_path: Path) -> None:
    nights = [night(n, {"build-a": 1.0}) for n in range(4)] + [night(n, {"build-b": 0.9}) for n in range(4, 8)]
    (one,) = history(tmp_path, *nights)
    (change,) = changes(one, UPLOAD)

    assert (change.before.build, change.after.build) == ("build-a", "build-b")
    assert change.ratio == pytest.approx(0.9, rel=0.01) and change.verdict == "slower"
    assert change.other_reason == ""
    assert change.in_words() == "upload −10.0 % (slower) from build-a to build-b, 2026-11-26"


def test_another_host_or_kernel_is_no_regression(tmp_path: Path) -> None:
    nights = [night(n, {"build-a": 1.0}) for n in range(6)]
    nights += [night(n, {"build-b": 0.7}, host="slow") for n in range(6, 9)]
    nights += [night(n, {"build-b": 0.8}, kernel="6.2.0") for n in range(9, 12)]
    series = history(tmp_path, *nights)

    assert len({one.host for one in series}) == len(series) == 3
    assert found(series) == []


def test_the_same_build_that_changed_by_itself_is_not_blamed(tmp_path: Path) -> None:
    nights = [night(n, {"build-a": 1.0 if n < 4 else 0.8}) for n in range(8)]
    (change,) = found(history(tmp_path, *nights))
    assert change.other_reason.startswith("build-a is the same executable before and after")
    assert "not from the build" in change.in_words()


def test_a_host_that_slowed_down_when_the_build_changed_is_not_blamed_on_the_build(tmp_path: Path) -> None:
    nights = [night(n, {"build-a": 1.0, "build-b": 1.0}) for n in range(4)]
    nights += [night(n, {"build-a": 0.8, "build-c": 0.8}) for n in range(4, 8)]
    (change,) = found(history(tmp_path, *nights))
    assert (change.before.build, change.after.build) == ("build-b", "build-c")
    assert change.other_reason.startswith("build-a, measured before and after it, moved by −20")


def test_a_candidate_that_is_slower_than_an_unchanged_baseline_is_found(tmp_path: Path) -> None:
    nights = [night(n, {"build-a": 1.0, "build-b": 1.0}) for n in range(4)]
    nights += [night(n, {"build-a": 1.0, "build-c": 0.8}) for n in range(4, 8)]
    (change,) = found(history(tmp_path, *nights))
    assert (change.before.build, change.after.build, change.other_reason) == ("build-b", "build-c", "")


def test_other_builds_are_controls_where_they_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(8):
        builds = {"build-a": 1.0, "build-b": 1.0} if n < 4 else {"build-a": 0.8, "build-c": 0.8}
        add_campaign(open_store(None), night(n, builds))
    with pytest.raises(SystemExit):
        main(["history", "show", "--build", "build-c", "--metric", UPLOAD.name])
    said = capsys.readouterr().out
    assert "build-a, measured before and after it, moved by" in said and "build-b" not in said


def point(order: int, build: str, value: float) -> Point:
    started = datetime(2026, 11, 1 + order, tzinfo=UTC)
    return Point(started, order, f"c{order}", build, build, 3, 3, "1", {UPLOAD.name: value})


def test_a_level_that_stays_and_a_control_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "change_points", lambda _: [2])

    def series(old: float, new: float) -> list[Point]:
        return [point(n, "old" if n < 2 else "new", old if n < 2 else new) for n in range(4)]

    assert changes(Series("k", "h", "host", "case", tuple(series(1.0, 1.0))), UPLOAD) == []
    for before, after, reason in ((1.0, 0.0, True), (0.0, 0.0, False), (0.0, 1.0, False)):
        own = series(2.0, 1.0)
        control = [point(n, "control", before if n < 2 else after) for n in range(4)]
        found = changes_module._other_reason(own[1], own[2], [*own, *control], 0.5, UPLOAD)
        assert (found == "control, measured before and after it, moved as well") is reason


def test_noise_has_no_change_point() -> None:
    chance = random.Random(1)
    alarms = [
        bool(change_points([100 * (1 + 0.02 * chance.gauss(0, 1)) for _ in range(n)]))
        for n in (6, 12, 30)
        for _ in range(40)
    ]
    assert statistics.mean(alarms) <= 0.05


def test_few_values_zeros_and_constants_have_none() -> None:
    assert change_points([1.0, 1.0, 2.0, 2.0, 2.0]) == []
    assert change_points([0.0, 1.0] * 5) == []
    assert change_points([5.0] * 20) == []
    assert change_points([100.0] * 5 + [100.1] * 5) == []
    assert change_points([100.0] * 5 + [110.0] * 5) == [5]


def test_changes_are_printed() -> None:
    for number in range(8):
        night(number, {"build-a" if number < 4 else "build-b": 1.0 if number < 4 else 1.2})
    assert picolab_here("history", "add").returncode == 0
    shown = picolab_here("history", "show", "--last", "2").stdout
    assert "Change: upload +20.0 % (faster) from build-a to build-b, 2026-11-26" in shown
    assert "6 earlier rows are not shown" in shown
