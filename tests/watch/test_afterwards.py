"""The steps after a campaign of a watch: they may fail or kill the watch, and the next build is still measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import pytest
from command_line import picolab_here
from dead_kernel import deadly_notebook
from watching import Looks, change, copy_build, die, write_watch

from picolab.config.project import outputs_dir
from picolab.config.watch_parameters import load_watch_parameters
from picolab.errors import HostUnfit, ParameterError
from picolab.exit_codes import ExitCode
from picolab.history.add import Added
from picolab.history.database import Database
from picolab.history.store import Store, open_store
from picolab.report import render
from picolab.watch import afterwards, retention
from picolab.watch.state import WatchFolder, WatchState

TWO = {"builds": {"old": {"build": "./picoshare"}, "new": {"build": "calibration"}}}


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return copy_build(tmp_path)


@pytest.fixture
def comparison_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(afterwards, "render_comparison", lambda folder: folder / "compare.html")


def refuse(*_: object) -> NoReturn:
    raise HostUnfit("the place is full")


@pytest.mark.usefixtures("build", "comparison_page")
def test_a_comparison_has_its_page_and_its_gate(tmp_path: Path) -> None:
    looks = Looks(write_watch(tmp_path, TWO))
    looks.look()

    (folder,) = outputs_dir().iterdir()
    page, gate = looks.notes[-2:]
    assert page == f"Comparison: {folder}/compare.html"
    assert gate.startswith(f"new against old in {folder.name}, margin 5 %: exit code 3: ")


@pytest.mark.usefixtures("build")
def test_one_build_with_a_baseline_is_no_comparison(tmp_path: Path) -> None:
    looks = Looks(write_watch(tmp_path, {"builds": {"mine": {"build": "./picoshare"}}, "baseline": "mine"}))
    assert [looks.look(), looks.look()] == [1, 0]
    assert len(looks.notes) == 1, "nothing is compared"


@pytest.mark.usefixtures("build", "comparison_page")
def test_builds_that_cannot_be_compared_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(afterwards, "compare_builds", refuse)
    looks = Looks(write_watch(tmp_path, TWO))
    assert [looks.look(), looks.look()] == [1, 0]
    assert looks.notes[-1].endswith(" were not compared: the place is full")


@pytest.mark.usefixtures("build")
def test_a_report_whose_kernel_is_killed_ends_no_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = deadly_notebook(tmp_path)
    monkeypatch.setattr(render, "analysis_notebook", lambda: notebook)
    looks = Looks(write_watch(tmp_path, report=True))
    assert [looks.look(), looks.look()] == [1, 0]
    assert "was not written: analysis.ipynb: the Jupyter kernel that makes the page was killed" in looks.notes[-1]


@pytest.mark.parametrize("step", ["render_report", "add_campaign", "publish"])
def test_a_step_that_kills_the_watch_does_so_twice_at_most(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(afterwards, "render_report", lambda folder: folder / "report.html")
    place = tmp_path / "history"
    looks = Looks(write_watch(tmp_path, report=True, history=str(place), publish="site"))
    with monkeypatch.context() as patch:
        patch.setattr(afterwards, step, die)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                looks.look()
            assert len(looks.begun) == 1 and looks.state.current is None
        change(build)
        with pytest.raises(KeyboardInterrupt):
            looks.look()
    first, second = (plan.campaign for plan in looks.begun)
    adding = "" if step == "publish" else f" and picolab history add {first} --history {place}"
    assert [note for note in looks.notes if "left out" in note] == [
        f"Pages, history and site of {first} are left out: the watch ended there 2 times; make them with "
        f"picolab report {first}{adding}"
    ]

    noted = len(looks.notes)
    assert [looks.look(), looks.look()] == [0, 0]
    assert f"Report: {outputs_dir() / second}/report.html" in looks.notes[noted:]
    change(build)
    assert looks.look() == 1
    of_first = re.compile(rf"{first}(?!-)")
    assert not any(map(of_first.search, looks.notes[noted:])), "it is left out for good"
    assert [made.in_history for made in looks.state.made[1:]] == [str(place)] * 2


def test_a_late_campaign_that_kills_the_watch_takes_no_try_of_another(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(write_watch(tmp_path, history="history"))
    with monkeypatch.context() as patch:
        patch.setattr(afterwards, "add_campaign", refuse)
        looks.look()
    first = looks.begun[0].campaign
    assert looks.notes[-1].endswith(": the place is full; it is tried again after the next campaign")
    real = afterwards.add_campaign

    def die_of_the_first(store: Store, folder: Path) -> Added:
        if folder.name == first:
            die()
        return real(store, folder)

    monkeypatch.setattr(afterwards, "add_campaign", die_of_the_first)
    change(build)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            looks.look()
    assert looks.look() == 0
    change(build)
    assert looks.look() == 1
    assert [note.split()[5] for note in looks.notes if "left out" in note] == [first]
    assert [made.in_history for made in looks.state.made] == ["", *[str(tmp_path / "history")] * 2]


def test_an_incomplete_campaign_that_the_history_refuses_is_added_by_hand(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(write_watch(tmp_path, history="my history"))
    looks.code = ExitCode.INSTRUMENT_FAULT
    monkeypatch.setattr(afterwards, "add_campaign", refuse)
    looks.look()
    name = looks.begun[0].campaign
    assert looks.notes[-1] == (
        f"Campaign {name} was not added to the history: the place is full; "
        f"try picolab history add {name} --history '{tmp_path}/my history'"
    )


def test_another_history_gets_the_earlier_campaigns_before_they_are_removed(tmp_path: Path, build: Path) -> None:
    file = write_watch(tmp_path, keep=1, history="one")
    assert picolab_here("watch", str(file), "--once").returncode == ExitCode.OK
    (first,) = outputs_dir().iterdir()
    place = WatchFolder(file, "nightly")
    state = place.read()
    assert [made.in_history for made in state.made] == [str(tmp_path / "one")]

    write_watch(tmp_path, keep=1, history="two")
    wanted = load_watch_parameters(file)
    other = state.made[0].model_copy(update={"campaign": "other"})
    notes: list[str] = []
    retention.remove_oldest(place, WatchState(config="x", made=[state.made[0], other]), wanted, notes.append)
    assert first.is_dir() and notes == []
    change(build)
    output = picolab_here("watch", str(file), "--once").stdout
    assert f"Removed campaign {first.name}: there are newer ones." in output
    rows = Database(open_store(str(tmp_path / "two"))).rows("SELECT campaign FROM trials ORDER BY campaign")
    assert [row["campaign"] for row in rows] == [first.name, *(path.name for path in outputs_dir().iterdir())]


@pytest.mark.usefixtures("build")
def test_a_state_that_names_no_history_is_read(tmp_path: Path) -> None:
    looks = Looks(write_watch(tmp_path))
    looks.look()
    path = WatchFolder(looks.file, "nightly").path / "state.json"
    path.write_text(path.read_text().replace('"in_history": ""', '"in_history": true'))
    assert "true" in path.read_text().partition("in_history")[2]
    assert [made.in_history for made in looks.state.made] == [""]


def test_a_campaign_that_history_and_site_refuse_is_added_after_the_next_one(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_watch(tmp_path, keep=1, history="history", publish="site")
    with monkeypatch.context() as patch:
        patch.setattr(afterwards, "add_campaign", refuse)
        patch.setattr(afterwards, "publish", refuse)
        output = picolab_here("watch", str(file), "--once").stdout
    (first,) = outputs_dir().iterdir()
    assert f"Campaign {first.name} was not added to the history: the place is full" in output
    assert "The site was not published: the place is full" in output
    (made,) = Looks(file).state.made
    assert made.complete and not made.in_history and not made.on_site

    change(build)
    output = picolab_here("watch", str(file), "--once").stdout
    assert f"Site: 0 pages of 2 campaigns: {tmp_path}/site/index.html" in output
    assert f"Removed campaign {first.name}: there are newer ones." in output
    (second,) = outputs_dir().iterdir()
    rows = Database(open_store(str(tmp_path / "history"))).rows("SELECT campaign FROM trials ORDER BY campaign")
    assert [row["campaign"] for row in rows] == [first.name, second.name]


@pytest.mark.usefixtures("build")
@pytest.mark.parametrize(
    ("lacks", "reason"),
    [
        ({"in_history": ""}, "in the history {place}; the watch adds it after the next campaign"),
        ({"in_history": "/elsewhere"}, "in the history {place}; the watch adds it after the next campaign"),
        (
            {"in_history": "", "tries": 3},
            "in the history {place}; add it with picolab history add {name} --history {place}, and remove its folder "
            "yourself",
        ),
        (
            {"on_site": "/elsewhere"},
            "on the site {site} with all its pages; make them with picolab report {name}, and of several builds "
            "picolab verdict {name}",
        ),
    ],
)
def test_a_campaign_stays_until_history_and_site_have_it(tmp_path: Path, lacks: dict[str, Any], reason: str) -> None:
    looks = Looks(write_watch(tmp_path, keep=1, history="history", publish="site"))
    looks.look()
    (made,) = looks.state.made
    place = str(tmp_path / "history")
    both = [made.model_copy(update={"in_history": place, "on_site": str(tmp_path / "site"), **lacks}), made]
    notes: list[str] = []
    wanted = load_watch_parameters(looks.file)
    retention.remove_oldest(WatchFolder(looks.file, "nightly"), WatchState(config="x", made=both), wanted, notes.append)
    words = reason.format(place=place, site=tmp_path / "site", name=made.campaign)
    assert notes == [f"Campaign {made.campaign} is not removed: it is not {words}."]
    assert made.folder.is_dir()


@pytest.mark.usefixtures("build")
def test_a_campaign_without_its_report_is_not_on_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(afterwards, "render_report", refuse)
    looks = Looks(write_watch(tmp_path, report=True, publish="site"))
    looks.look()
    (made,) = looks.state.made
    assert not made.on_site
    afterwards.publish_site([made], load_watch_parameters(write_watch(tmp_path, publish="site")), print)
    assert made.on_site, "no report is wanted"


@pytest.mark.usefixtures("build")
def test_places_that_cannot_be_are_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, words in (("history", "is a file; name a folder"), ("publish", "is a file; name a folder for the site")):
        with pytest.raises(ParameterError, match=words):
            Looks(write_watch(tmp_path, **{name: "file"})).look()
    assert not outputs_dir().exists()
