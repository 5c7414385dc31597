"""The steps after a campaign of a watch: they may fail or kill the watch, and the next build is still measured."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
from command_line import picolab_here
from dead_kernel import deadly_notebook
from watching import Looks, change, copy_build, die, write_watch

from picolab.config.project import outputs_dir
from picolab.config.watch_parameters import load_watch_parameters
from picolab.errors import HostUnfit, ParameterError
from picolab.history.database import Database
from picolab.history.store import open_store
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


def test_a_step_that_kills_the_watch_does_so_twice_at_most(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(write_watch(tmp_path, report=True))
    with monkeypatch.context() as patch:
        patch.setattr(afterwards, "render_report", die)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                looks.look()
            assert len(looks.begun) == 1 and looks.state.current is None
        change(build)
        with pytest.raises(KeyboardInterrupt):
            looks.look()
    first, second = (plan.campaign for plan in looks.begun)
    assert [note for note in looks.notes if "left out" in note] == [
        f"Pages, history and site of {first} are left out: the watch ended there 2 times."
    ]

    monkeypatch.setattr(afterwards, "render_report", lambda folder: folder / "report.html")
    assert [looks.look(), looks.look()] == [0, 0]
    assert [note for note in looks.notes if note.startswith("Report: ")] == [
        f"Report: {outputs_dir() / second}/report.html"
    ]


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
@pytest.mark.parametrize(("lacks", "reason"), [("in_history", "in the history"), ("on_site", "on the site")])
def test_a_campaign_stays_until_history_and_site_have_it(tmp_path: Path, lacks: str, reason: str) -> None:
    looks = Looks(write_watch(tmp_path, keep=1, history="history", publish="site"))
    looks.look()
    (made,) = looks.state.made
    both = [made.model_copy(update={"in_history": True, "on_site": True, lacks: False}), made]
    notes: list[str] = []
    wanted = load_watch_parameters(looks.file)
    retention.remove_oldest(WatchFolder(looks.file, "nightly"), WatchState(config="x", made=both), wanted, notes.append)
    assert notes == [f"Campaign {made.campaign} is not removed: it is not {reason}."]
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
