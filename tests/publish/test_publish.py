"""A site of reports: in a browser, offline, searched, and whole whatever happens while it is written."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from browser import EVIL, Visiting
from campaign_factory import FakeTrial, quick_matrix, write_campaign
from command_line import picolab_here
from dead_kernel import deadly_notebook
from playwright.sync_api import expect

from picolab.config.project import MARKER, outputs_dir
from picolab.files.writing import write_atomically
from picolab.publish.campaigns import read_site_campaign
from picolab.publish.site import PAGES_FOLDER, publish
from picolab.publish.sparkline import MOST_POINTS, sparkline
from picolab.record.outcomes import Outcome
from picolab.report import render
from picolab.results.folders import all_campaigns, locked

PAGE = "<!DOCTYPE html><title>{}</title>"


def campaign(name: str, trials: list[FakeTrial], created: str = "2026-11-22", **plan: object) -> Path:
    folder = write_campaign(outputs_dir() / name, trials)
    path = folder / "plan.json"
    content = json.loads(path.read_text()) | {"created_at": f"{created}T10:00:00+00:00"} | plan
    path.write_text(json.dumps(content))
    return folder


def with_report(folder: Path, text: str = "") -> Path:
    (folder / "report.html").write_text(PAGE.format(text or folder.name))
    return folder


def hrefs(site: Path) -> list[str]:
    return re.findall(r'href="([^"]+)"', (site / "index.html").read_text())


def files(site: Path) -> dict[str, bytes]:
    return {str(path.relative_to(site)): path.read_bytes() for path in site.rglob("*.html")}


def test_two_hosts_of_one_name_are_two(tmp_path: Path) -> None:
    facts = [{"provenance.host.host_id": identity * 16} for identity in "ab"]
    folder = campaign("two-hosts", [FakeTrial(facts=one) for one in facts])
    assert read_site_campaign(folder).hosts == ["bench aaaaaaaa", "bench bbbbbbbb"]


def test_the_site_in_a_browser(tmp_path: Path, visit: Visiting) -> None:
    killed = FakeTrial(build="1.5.4", outcome=Outcome.OOM_KILLED, server_message=EVIL, facts={"build.label": EVIL})
    with_report(campaign("with-kills", [*quick_matrix()[:4], killed], "2026-11-20", description=EVIL))
    with_report(campaign("all-well", quick_matrix()))
    campaign("no-page", quick_matrix()[:1], "2026-11-24")
    publish(all_campaigns(), tmp_path / "site")
    with visit(tmp_path / "site" / "index.html", width=390, ready="html[data-search]", is_mobile=True) as visited:
        page = visited.page
        assert page.title() == "picolab reports"
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator("h2").all_inner_texts() == ["no-page", "all-well", "with-kills"]
        assert page.locator(".card").first.locator(".warning").inner_text() == "Without its report."
        assert page.locator("svg.spark").count() == 4 + 4 + 1
        shown = page.locator(".card:visible h2")
        page.select_option("select[name=outcome]", "oom_killed")
        assert shown.all_inner_texts() == ["with-kills"]
        assert page.locator("#count").inner_text() == "1 of 3 campaigns"
        page.select_option("select[name=outcome]", "")
        assert EVIL in page.locator("select[name=build] option").all_inner_texts()
        page.select_option("select[name=build]", label=EVIL)
        assert shown.all_inner_texts() == ["with-kills"]
        page.click("button[type=reset]")
        expect(page.locator("#count")).to_have_text("3 campaigns")
        page.fill("input[name=from]", "2026-11-21")
        page.fill("input[name=text]", "all-well")
        assert shown.all_inner_texts() == ["all-well"]
    links = hrefs(tmp_path / "site")
    assert len(links) == 4 and all((tmp_path / "site" / link).read_text().startswith("<!DOCTYPE") for link in links)


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    site = tmp_path / "site"
    folder = with_report(campaign("demo", quick_matrix()))
    publish(all_campaigns(), site)
    (site / "CNAME").write_text("bench.example")
    before = files(site)
    assert picolab_here("publish", str(site)).returncode == 0
    assert files(site) == before

    with_report(folder, "another")
    publish(all_campaigns(), site)
    assert len(files(site)) == len(before) and (site / "CNAME").exists()
    assert files(site).keys() != before.keys()


def test_a_killed_publish_leaves_the_former_site_whole(tmp_path: Path) -> None:
    site = tmp_path / "site"
    folder = with_report(campaign("demo", quick_matrix()))
    publish(all_campaigns(), site)
    before = files(site)
    with_report(folder, "another")
    code = (
        "import os, pathlib, sys, picolab.publish.site as site\n"
        "site.index_page = lambda *_: os.kill(os.getpid(), 9)\n"
        "site.publish([pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[2]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder), str(site)], timeout=60, check=False)

    assert done.returncode == -signal.SIGKILL
    assert before.items() <= files(site).items()
    assert len(files(site)) == len(before) + 1
    publish(all_campaigns(), site)
    assert len(files(site)) == len(before)


def test_render_makes_missing_and_old_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        cells=[nbformat.v4.new_code_cell('campaign = ""', metadata={"tags": ["parameters"]})],
    )
    project = tmp_path / "project"
    (project / "notebooks").mkdir(parents=True)
    (project / MARKER).touch()
    nbformat.write(notebook, project / "notebooks" / "analysis.ipynb")
    monkeypatch.chdir(project)
    folder = campaign("demo", quick_matrix()[:2])

    done = picolab_here("publish", "site")
    assert "Without a report or another page: demo; render with: picolab publish site --render" in done.stdout
    assert hrefs(project / "site") == []
    with_report(folder)
    os.utime(folder / "report.html", (1, 1))
    assert "With a page older than the newest trial: demo;" in picolab_here("publish", "site").stdout
    rendered = picolab_here("publish", "site", "--render")
    assert rendered.returncode == 0, rendered.stderr
    assert rendered.stdout.startswith("Rendering the report of demo\n")
    assert "Without" not in picolab_here("publish", "site").stdout
    assert b"picolab benchmark report" in files(project / "site")[hrefs(project / "site")[0]]


def test_a_page_that_cannot_be_rendered_fails_alone(tmp_path: Path) -> None:
    with_report(campaign("well", quick_matrix()[:1]))
    folder = campaign("unrendered", quick_matrix()[:1])
    (folder / "report.html").mkdir()  # nothing can be written there
    done = picolab_here("publish", str(tmp_path / "site"), "--render")

    assert done.returncode == 3
    assert "unrendered: " in done.stderr and "is a folder; name a file" in done.stderr
    assert len(hrefs(tmp_path / "site")) == 2


def test_a_damaged_campaign_is_listed_with_its_problem(tmp_path: Path) -> None:
    (campaign("torn", quick_matrix()[:1]) / "plan.json").write_text("{")
    with_report(campaign("well", quick_matrix()[:1]))
    publish(all_campaigns(), tmp_path)
    index = (tmp_path / "index.html").read_text()

    assert "Cannot be read as a whole: the plan is damaged" in index
    assert len(hrefs(tmp_path)) == 2


def test_only_a_folder_of_its_own_is_written(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    done = picolab_here("publish", str(tmp_path))
    assert done.returncode == 4 and "is not the index of a site of picolab" in done.stderr
    assert (tmp_path / "index.html").read_text() == "mine"

    (tmp_path / "file").touch()
    assert "is a file; name a folder" in picolab_here("publish", str(tmp_path / "file")).stderr

    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / PAGES_FOLDER).symlink_to(tmp_path)
    assert "is a link to another place" in picolab_here("publish", str(tmp_path / "linked")).stderr

    (tmp_path / "busy" / PAGES_FOLDER).mkdir(parents=True)
    with locked(tmp_path / "busy") as got:
        assert got
        assert picolab_here("publish", str(tmp_path / "busy")).returncode == 5


def test_a_page_that_is_a_link_out_is_copied_as_a_file_or_named(tmp_path: Path) -> None:
    folder = campaign("demo", quick_matrix()[:1])
    os.mkfifo(tmp_path / "pipe")
    (folder / "report.html").symlink_to(tmp_path / "pipe")
    published = publish(all_campaigns(), tmp_path / "site")
    assert published.campaigns[0].missing == ["report"]
    write_atomically(folder / "report.html", PAGE.format("x"))
    assert publish(all_campaigns(), tmp_path / "site").pages == 1


def test_a_sparkline_keeps_every_extreme() -> None:
    values = [1.0] * 5000
    values[1234], values[4321] = 9.0, 0.0
    points = re.findall(r"([\d.]+),([\d.]+)", sparkline(values, "x"))
    heights = {float(y) for _, y in points}

    assert len(points) <= MOST_POINTS + 1
    assert {3.0, 25.0} <= heights
    assert sparkline([], "x") == "" and "<circle" in sparkline([5.0], "x")


def test_a_kernel_that_is_killed_costs_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = deadly_notebook(tmp_path, "campaign.endswith('large')")
    monkeypatch.setattr(render, "analysis_notebook", lambda: notebook)
    large = campaign("large", quick_matrix()[:1])
    small = campaign("small", quick_matrix()[:1], "2026-11-23")
    done = picolab_here("publish", str(tmp_path / "site"), "--render")

    assert done.returncode == 3
    assert done.stderr == (
        "large: analysis.ipynb: the Jupyter kernel that makes the page was killed by SIGKILL, probably since the host "
        "ran out of memory; end other programs or use a host with more memory, then make the page again\n"
    )
    assert (small / "report.html").is_file() and not list(large.glob("*.html"))
    assert len(hrefs(tmp_path / "site")) == 2


def test_a_campaign_that_is_removed_meanwhile_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_report(campaign("stays", quick_matrix()[:1]))
    removed = campaign("removed", quick_matrix()[:1])
    shutil.move(removed, tmp_path / "aside")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", found_before(Path.glob, removed / "plan.json"))
        listed = all_campaigns()
    assert [folder.name for folder in listed] == ["stays"]
    assert [found.name for found in publish([*listed, removed], tmp_path / "site").campaigns] == ["stays"]


def found_before(glob: Callable[..., Iterator[Path]], path: Path) -> Callable[..., Iterator[Path]]:
    """Return a `glob` that also finds a file that is gone by now."""
    return lambda *words: iter([*glob(*words), path])
