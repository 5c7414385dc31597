"""The report, opened in a real browser that may reach nothing but the file itself."""

import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browser import EVIL, Visiting
from campaign_factory import (
    BUSY_CAVEAT,
    CALIBRATION_CAVEAT,
    SHA,
    UNLIMITED_CAVEAT,
    FakeTrial,
    quick_matrix,
    virtual_matrix,
    write_campaign,
)
from click.testing import CliRunner
from page_pieces import figures, markup, pieces

from picolab.charts.figure import FIGURE_MIME
from picolab.cli.main import main
from picolab.config.project import project_root
from picolab.errors import CampaignNotFound, ParameterError, PicolabError
from picolab.examine.check import Result
from picolab.examine.registry import CHECKS
from picolab.examine.run import Examination
from picolab.examine.stored import store
from picolab.record.machine import BuildUnderTest
from picolab.record.outcomes import Outcome
from picolab.report.render import check_output, render_comparison, render_report

SOURCE = project_root() / "notebooks" / "analysis.ipynb"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of an unfinished campaign in which all sorts of things went wrong, and whose build was examined."""
    trials = quick_matrix()
    for trial in trials:
        trial.caveats = [CALIBRATION_CAVEAT]
    trials[2].memory_limit = "none"
    trials[2].caveats = [BUSY_CAVEAT, UNLIMITED_CAVEAT, CALIBRATION_CAVEAT]
    trials[5].outcome, trials[5].server_message, trials[5].detail = Outcome.HTTP_ERROR, EVIL, EVIL
    trials[6].outcome = Outcome.OOM_KILLED
    trials[9].outcome = Outcome.INVALID
    folder = write_campaign(tmp_path_factory.mktemp("outputs") / "demo & more", trials[:11], planned=trials[11:])
    broken = sorted((folder / "trials").glob("*.ipynb"))[0]
    broken.write_text(broken.read_text()[:1000])
    build = BuildUnderTest(label="demo", kind="file", version=None, sha256=SHA["calibration"], size_bytes=1)
    results = [Result(CHECKS["head"], "found", EVIL, 0.1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PICOLAB_OUTPUTS_DIR", str(tmp_path_factory.mktemp("examined")))
        store(Examination("PicoShare", build, "2026-11-20T10:00:00.000+00:00", "local", results))
        return render_report(folder)


@pytest.fixture
def emulated(tmp_path: Path) -> list[Any]:
    """The pieces of a report of which all but the first trial ran in an emulated virtual machine."""
    trials = [quick_matrix()[0], *virtual_matrix()[1:]]
    trials[7].outcome = Outcome.OOM_KILLED
    return pieces(SOURCE, write_campaign(tmp_path / "emulated", trials))


def test_charts_are_interactive_without_any_request(report: Path, visit: Visiting) -> None:
    with visit(report) as visited:
        page = visited.page
        panels = page.locator(".panel").count()
        assert panels == 1 + 1 + 2 + 5 + 1
        assert page.evaluate("picolabViews.length") == panels
        assert page.evaluate("picolabViews.every(({ view }) => view.width() > 200)")
        assert page.locator(".panel.interactive .chart svg").count() == panels
        assert page.locator(".panel .still:visible").count() == 0


def test_a_trial_tells_its_numbers_on_hover(report: Path, visit: Visiting) -> None:
    with visit(report) as visited:
        page = visited.page
        tooltip = page.locator("#vg-tooltip-element.visible")
        figures = page.locator("figure")
        for index, words in (
            (0, "outcome"),
            (1, "MiB/s"),
            (2, "transfer, s"),
            (3, "anonymous memory"),
            (4, "VmHWM"),
        ):
            marks = figures.nth(index).locator(".chart .mark-symbol path, .chart .mark-rect path")
            marks.last.scroll_into_view_if_needed()
            shown = []
            for mark in marks.all():
                mark.hover(force=True)
                tooltip.wait_for(state="visible")
                shown.append(tooltip.inner_text())
                if words in shown[-1]:
                    break
            assert words in shown[-1], shown


def test_the_page_stands_still_on_a_phone(report: Path, visit: Visiting) -> None:
    with visit(report, width=390, has_touch=True, is_mobile=True) as visited:
        page = visited.page
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.evaluate("window.scrollTo(200, 0)")
        assert page.evaluate("window.scrollX") == 0
        boxes = page.locator(".table-box")
        widest = boxes.evaluate_all("all => Math.max(...all.map(box => box.scrollWidth - box.clientWidth))")
        assert widest > 0, "no table is wide enough to prove that tables scroll in their box"
        assert page.evaluate("picolabViews.every(({ view }) => view.width() < 390)")
        assert page.locator("nav details[open]").count() == 0


def test_without_javascript_every_chart_is_a_picture(report: Path, visit: Visiting) -> None:
    with visit(report, java_script_enabled=False) as visited:
        page = visited.page
        stills = page.locator(".panel .still")
        assert stills.count() == page.locator(".panel").count() == 10
        for still in stills.all():
            assert still.is_visible()
            box = still.bounding_box()
            assert box is not None
            assert box["width"] > 300
            assert box["height"] > 100


def test_print_shows_the_pictures_on_white(report: Path, visit: Visiting) -> None:
    with visit(report, color_scheme="dark") as visited:
        page = visited.page
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)" != dark
        assert page.locator(".panel .still:visible").count() == 10
        assert page.locator(".panel .chart:visible").count() == 0


def test_what_stands_at_the_top(report: Path, visit: Visiting) -> None:
    with visit(report) as visited:
        page = visited.page
        assert page.title() == "demo & more · picolab benchmark report"
        assert page.locator("html[lang=en]").count() == 1
        assert page.locator("meta[name=viewport]").count() == 1
        assert page.locator("h1").inner_text() == "demo & more"
        assert page.locator(".headline").inner_text() == "9 of 12 trials done: 7 ok, 1 OOM-killed, 1 HTTP error."
        text = page.locator("main").inner_text()
        assert "unfinished: 3 trials without a result" in text
        assert "1 attempt ended in a fault of the instrument" in text
        loud = page.locator(".caveat.loud").all_inner_texts()
        assert len(loud) == 2
        assert "not numbers of PicoShare" in loud[0]
        assert "calibration_server · 9 of 9 trials" in loud[0]
        assert "Nothing limited the server's memory" in loud[1]
        assert "memory_limit_none · 1 of 9 trials" in loud[1]
        assert "value 1.7" in page.locator(".caveat:not(.loud)").inner_text()
        places = [page.locator(name).first.bounding_box() for name in (".headline", ".caveat.loud", "figure")]
        assert all(place is not None for place in places)
        assert [place["y"] for place in places if place] == sorted(place["y"] for place in places if place)


def test_emulation_is_named_before_and_next_to_all_numbers(emulated: list[Any]) -> None:
    page = markup(emulated)
    (warning,) = [one.get_text() for one in page.select(".warning") if "emulated" in one.get_text()]
    assert warning.startswith("11 of 12 trials ran in a virtual machine that was emulated by software")
    loud = [one.get_text(" ") for one in page.select(".caveat.loud")]
    assert "rates and times do not carry over to a real machine" in loud[1]
    assert "emulated · 11 of 12 trials" in " ".join(loud[1].split())
    assert len(figures(emulated)) == 5
    for figure in figures(emulated):
        drawn = [panel["svg"] for panel in figure._repr_mimebundle_()[FIGURE_MIME]["panels"]]
        # A long title is broken into lines.
        text = "".join("".join(ElementTree.fromstring(svg).itertext()) for svg in drawn)
        assert "onvagrant(emulated)" in "".join(text.split())
    cases, trials = (table.get_text(" ") for table in page.select("table")[:2])
    assert cases.count("on vagrant (emulated)") == 4 and cases.count("on local") == 1
    assert trials.count("vagrant (emulated)") == 11 and trials.count("reset") == 11


def test_virtual_machines_are_described(emulated: list[Any]) -> None:
    text = markup(emulated).get_text()
    for words in (
        "local: a process of the host (1 trials)",
        "vagrant (emulated): a virtual machine of libvirt, box picolab 1, 1 processor (11 trials)",
        "emulation: /dev/kvm is not there",
        "474 of 512 MiB (5 trials); 218 of 256 MiB (6 trials)",
        "vagrant 2.3.4, vagrant-libvirt 0.11.2, libvirt 9.0.0, qemu 7.2.13",
        "reset 11 x (1.2 to 2.2 s)",
    ):
        assert words in text


def test_local_campaign_says_nothing_of_virtual_machines(report: Path, visit: Visiting) -> None:
    with visit(report) as visited:
        text = visited.page.locator("main").inner_text()
    assert "local: a process of the host" in text
    assert not re.search("vagrant|virtual machine|emulat|guest", text)


def test_findings_in_the_same_build_are_a_section(report: Path, visit: Visiting) -> None:
    with visit(report) as visited:
        page = visited.page
        assert page.get_by_role("link", name="Findings in the builds").count() == 1
        assert page.locator("h2#Findings-in-the-builds").is_visible()
        row = page.locator("tr", has=page.locator("code", has_text="head"))
        assert "HEAD of a stored file is refused" in row.inner_text() and EVIL in row.inner_text()


def test_nothing_is_dropped_silently(report: Path, visit: Visiting) -> None:
    with visit(report) as visited:
        text = visited.page.locator("main").inner_text()
        assert "trials/001-local-512mb-25M-calibration.ipynb" in text
        assert "cut off or damaged" in text
        assert "no result yet: planned and not run" in text
        assert "no result: only faults of the instrument (invalid)" in text
        assert "faults/010-local-512mb-100M-calibration.attempt1.ipynb" in text


def test_no_code_and_working_contents(report: Path, visit: Visiting) -> None:
    with visit(report) as visited:
        page = visited.page
        text = page.locator("body").inner_text()
        assert "read_campaign" not in text
        assert "import " not in text
        assert page.locator(".input, .code_cell, .jp-Cell").count() == 0
        links = page.locator("a[href^='#']").evaluate_all("all => all.map(link => link.getAttribute('href'))")
        assert len(links) > 20
        missing = [link for link in links if page.locator(f"[id='{link[1:]}']").count() != 1]
        assert missing == []


def test_words_of_a_server_are_words(report: Path, visit: Visiting) -> None:
    with visit(report) as visited:
        page = visited.page
        assert page.title() != "taken over"
        assert EVIL in page.locator("main").inner_text()
        assert page.locator("script").evaluate_all("all => all.filter(one => !one.type).length") == 2


def test_provenance_and_how_to_repeat(report: Path, visit: Visiting) -> None:
    with visit(report) as visited:
        text = visited.page.locator("main").inner_text()
    for words in (
        "Some CPU, 2 cores",
        "6.1.0",
        "c" * 64,
        "0.1.0, commit 0123456789ab",
        "drawn at random",
        "picolab matrix parameters/quick.yaml --seed 42",
        "picolab trial --ram 256 --file-size 100M",
    ):
        assert words in text
    # A campaign outside of the folder of campaigns is named by its path.
    assert re.search(r"picolab resume '/.+/demo & more'", text)


def test_an_empty_campaign_says_so_in_sentences(tmp_path: Path) -> None:
    shown = pieces(SOURCE, write_campaign(tmp_path / "empty", [], planned=quick_matrix()))
    page = markup(shown)
    assert [one.get_text() for one in page.select(".headline")] == ["None of 12 trials has a result yet."]
    text = page.get_text()
    for words in (
        "No trial ended ok, so there is no throughput to show.",
        "There are no samples of a measured upload, so memory over time cannot be shown.",
        "No trial has a memory measurement",
        "No attempt ended in a fault of the instrument.",
    ):
        assert words in text
    assert "12 no result" not in text
    assert sum(len(figure.panels) for figure in figures(shown)) == 1
    assert not page.select("#Findings-in-the-builds"), "no build was examined"


def test_the_executed_notebook_is_valid_and_has_pictures(report: Path) -> None:
    notebook = nbformat.read(report.parent / "analysis.ipynb", as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    assert not [output for output in outputs if output["output_type"] in ("error", "stream")]


def test_nothing_is_left_beside_the_report(report: Path) -> None:
    assert sorted(path.name for path in report.parent.iterdir()) == [
        "analysis.ipynb",
        "faults",
        "ledger.jsonl",
        "plan.json",
        "report.html",
        "trials",
    ]


def test_the_report_names_no_other_host(report: Path) -> None:
    # What the scripts would load is for the browser to say; here: no element that could load anything.
    page = re.sub(r"<script\b.*?</script>", "", report.read_text(), flags=re.DOTALL)
    assert not re.search(r"<(link|iframe|object|embed|base)\b", page)
    sources = re.findall(r"<[^>]*\b(?:src|srcset|action)=\"([^\"]{5})", page)
    assert sources == ["data:"] * 10
    assert "url(" not in page


def test_no_such_campaign(tmp_path: Path) -> None:
    with pytest.raises(CampaignNotFound, match="no such campaign"):
        render_report(tmp_path / "none")


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("folder", "is a folder; name a file"),
        (".", "is a folder; name a file"),
        ("link-to-folder", "is a folder; name a file"),
        ("file/page.html", "cannot be written \\((Not a directory|File exists)\\)"),
        ("/proc/picolab/page.html", "cannot be written"),
        ("/dev/null", "is no ordinary file"),
        ("x" * 300 + "/page.html", "cannot be written \\(File name too long\\)"),
    ],
)
def test_an_unwritable_page_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, sentence: str
) -> None:
    folder = write_campaign(tmp_path / "c", [])
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link-to-folder").symlink_to("folder")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("picolab.report.render._execute", lambda *_: pytest.fail("the notebook was run"))
    for render in (render_report, render_comparison):
        with pytest.raises(ParameterError, match=sentence) as refused:
            render(folder, tmp_path / place)
        assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert Path("/dev/null").is_char_device()


def test_the_command_refuses_a_folder_for_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICOLAB_OUTPUTS_DIR", str(tmp_path))
    write_campaign(tmp_path / "c", [FakeTrial()])
    result = CliRunner().invoke(main, ["report", "c", "--output", "/tmp"], catch_exceptions=True)
    assert "/tmp is a folder; name a file" in f"{result.output} {result.exception}"
    assert result.exit_code != 0


def test_a_folder_for_the_page_that_is_not_there_is_made_with_it(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b" / "page.html")
    assert not (tmp_path / "a").exists()


def test_a_failed_analysis_keeps_the_report_and_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_campaign(tmp_path / "c", [])
    (folder / "report.html").write_text("old")
    broken = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell('campaign = ""', metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell("1 / 0"),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(broken, tmp_path / "analysis.ipynb")
    monkeypatch.setattr("picolab.report.render.analysis_notebook", lambda: tmp_path / "analysis.ipynb")
    with pytest.raises(PicolabError, match=r"ZeroDivisionError: division by zero.*analysis\.failed\.ipynb"):
        render_report(folder)
    assert (folder / "report.html").read_text() == "old"
    assert "ZeroDivisionError" in (folder / "analysis.failed.ipynb").read_text()
    assert not list(folder.glob(".*"))


def test_the_notebook_is_thin_and_without_outputs() -> None:
    notebook = nbformat.read(SOURCE, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) <= 19
    assert cells[0].metadata.tags == ["parameters"]
    for cell in cells:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 10
        assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE)


def test_campaigns_of_one_name_part_do_not_share_ids(report: Path) -> None:
    ids = re.findall(r'\sid="([^"]+)"', re.sub(r"<script\b.*?</script>", "", report.read_text(), flags=re.DOTALL))
    assert [name for name, same in itertools.groupby(sorted(ids)) if len(list(same)) > 1] == []


def test_specs_in_the_page_are_json(report: Path) -> None:
    specs = re.findall(r'<script type="application/json">(.*?)</script>', report.read_text(), re.DOTALL)
    assert len(specs) == 10
    assert all("layer" in json.loads(spec) for spec in specs)
