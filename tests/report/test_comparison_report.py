"""The page of a comparison, opened in a real browser that may reach nothing but the file itself."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browser import EVIL, Visiting
from campaign_factory import BUSY_CAVEAT, CALIBRATION_CAVEAT
from comparison_factory import (
    DRIFT_CAVEAT,
    all_killed,
    make_comparison,
    not_comparable,
    paired_trials,
    write_comparison,
)
from page_pieces import figures, markup, pieces

from picolab.analysis.comparison.compare import compare
from picolab.config.project import project_root
from picolab.errors import CampaignNotFound, PicolabError
from picolab.record.outcomes import Outcome
from picolab.report import comparison_page
from picolab.report.render import comparison_notebook, render_comparison, render_report
from picolab.results.load import CampaignData, read_campaign

SOURCE = project_root() / "notebooks" / "compare.ipynb"
SCENARIOS = ((512, "100M"), (256, "100M"), (512, "500M"), (256, "500M"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a campaign with a slower candidate, one of which was killed, and strange words in it."""
    trials = paired_trials(candidates={"new": 0.7})
    for trial in trials:
        trial.caveats = [CALIBRATION_CAVEAT]
    trials[3].caveats = [BUSY_CAVEAT]
    trials[6].outcome, trials[6].server_message, trials[6].detail = Outcome.OOM_KILLED, EVIL, EVIL
    return render_comparison(write_comparison(tmp_path_factory.mktemp("outputs") / "demo & more", trials))


@pytest.fixture(scope="module")
def wide_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of four scenarios and two candidates, one of which is always killed in one of them; unfinished."""
    trials = paired_trials(SCENARIOS, {"new": 1.2, "a-candidate-with-a-rather-long-label": 1.0}, blocks=7)
    for trial in trials:
        if trial.label == "new" and (trial.ram_mb, trial.file_size) == (256, "500M"):
            trial.outcome = Outcome.OOM_KILLED
    folder = tmp_path_factory.mktemp("outputs") / "wide"
    return render_comparison(write_comparison(folder, trials[:-5], planned=trials[-5:]))


@pytest.fixture
def data(tmp_path: Path) -> CampaignData:
    return read_campaign(write_comparison(tmp_path / "c", paired_trials(blocks=1)))


def test_charts_are_interactive_without_any_request(page: Path, visit: Visiting) -> None:
    with visit(page) as visited:
        panels = visited.page.locator(".panel").count()
        assert panels == 1 + 2 * 2
        assert visited.page.evaluate("picolabViews.length") == panels
        assert visited.page.evaluate("picolabViews.every(({ view }) => view.width() > 150)")
        assert visited.page.locator(".panel.interactive .chart svg").count() == panels


def test_the_gate_and_the_verdicts_come_before_everything_else(page: Path, visit: Visiting) -> None:
    with visit(page) as visited:
        shown = visited.page
        assert shown.title() == "demo & more · picolab comparison of builds"
        assert shown.locator("h1").inner_text() == "demo & more"
        assert "new against the baseline old" in shown.locator(".byline").inner_text()
        assert "slower" in shown.locator(".gate.bad .headline").inner_text()
        assert "Exit code 1" in shown.locator(".gate").inner_text()
        order = [shown.locator(name).first.bounding_box() for name in (".gate", "table", ".caveat", "figure")]
        heights = [box["y"] for box in order if box]
        assert len(heights) == 4
        assert heights == sorted(heights)


def test_the_verdict_table_says_what_the_analysis_found(page: Path, visit: Visiting) -> None:
    comparison = compare(read_campaign(page.parent))
    upload = comparison.metrics[0]
    assert upload.verdict == "slower"
    assert upload.ratio is not None and upload.low is not None and upload.high is not None
    with visit(page) as visited:
        rows = visited.page.locator("table").first.locator("tbody tr")
        assert "local-512mb-100M: new against old" in rows.nth(0).inner_text()
        assert "OOM-killed 0 of 10 against 1 of 10" in rows.nth(1).inner_text()
        row = rows.nth(2).inner_text()
    change = f"−{100 * (1 - upload.ratio):.1f} %"
    interval = f"−{100 * (1 - upload.low):.1f} to −{100 * (1 - upload.high):.1f} %"
    for words in ("upload, MiB/s", "▼ slower", change, interval, f"\t{len(upload.pairs)}\t", "\tno"):
        assert words in row, row
    assert len(upload.pairs) == 9


def test_marks_tell_their_numbers_on_hover(page: Path, visit: Visiting) -> None:
    with visit(page) as visited:
        shown = visited.page
        tooltip = shown.locator("#vg-tooltip-element.visible")
        for panel, words in ((0, "interval"), (1, "hours since the first trial"), (2, "ran first")):
            mark = shown.locator(".panel").nth(panel).locator(".chart .mark-symbol.role-mark path").first
            mark.scroll_into_view_if_needed()
            mark.hover(force=True)
            tooltip.wait_for(state="visible")
            assert words in tooltip.inner_text()


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_stands_still(wide_page: Path, width: int, visit: Visiting) -> None:
    with visit(wide_page, width=width) as visited:
        shown = visited.page
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        assert shown.locator(".panel.interactive").count() == shown.locator(".panel").count() > 10


def test_the_verdicts_fit_beside_each_other_on_a_wide_page(page: Path, visit: Visiting) -> None:
    with visit(page, width=1400) as visited:
        box = visited.page.locator(".table-box").first
        assert box.evaluate("box => box.scrollWidth - box.clientWidth") <= 0


def test_many_verdicts_have_an_overview_and_long_tables_scroll(wide_page: Path, visit: Visiting) -> None:
    with visit(wide_page) as visited:
        shown = visited.page
        short, long = shown.locator("table").nth(0), shown.locator("table").nth(1)
        assert short.locator("tbody tr:not(.group)").count() == 4 * 2
        assert "▼ more failures" in short.inner_text()
        assert long.locator("tbody tr.group").count() == 4 * 2
        height = shown.locator(".tall .table-box").first.evaluate("box => box.clientHeight")
        assert height < long.evaluate("table => table.scrollHeight")
        shown.emulate_media(media="print")
        assert shown.locator(".tall .table-box").first.evaluate("box => box.clientHeight") > height
        assert "unfinished: 5 trials without a result" in shown.locator("main").inner_text()


def test_charts_are_pictures_without_javascript_and_in_print(page: Path, visit: Visiting) -> None:
    with visit(page, java_script_enabled=False, color_scheme="dark") as visited:
        stills = visited.page.locator(".panel .still")
        assert stills.count() == 5
        assert all(still.is_visible() for still in stills.all())
    with visit(page, color_scheme="dark") as visited:
        visited.page.emulate_media(media="print", color_scheme="dark")
        assert visited.page.locator(".panel .still:visible").count() == 5
        assert visited.page.locator(".panel .chart:visible").count() == 0


def test_everything_that_a_reader_may_ask_for_is_there(page: Path, visit: Visiting) -> None:
    with visit(page) as visited:
        text = visited.page.locator("main").inner_text()
    for words in (
        "this campaign can detect a change of",
        "9 ok, 1 OOM-killed",
        "Independent unit",
        "Randomised",
        "Margin that does not matter\n5 %",
        "block 4: old ended OOM-killed",
        "upload.throughput_mib_s",
        "No attempt ended in a fault of the instrument.",
        "a" * 64,
        "b" * 64,
        "0.1.0, commit 0123456789ab",
        "calibration_server · 19 of 20 trials",
        "host_busy · 1 of 20 trials",
    ):
        assert words in text, words
    # A campaign outside of the folder of campaigns is named by its path.
    assert re.search(r"picolab verdict '/.+/demo & more'", text)


def test_no_code_and_working_contents(page: Path, visit: Visiting) -> None:
    with visit(page) as visited:
        shown = visited.page
        assert "read_campaign" not in shown.locator("body").inner_text()
        links = shown.locator("a[href^='#']").evaluate_all("all => all.map(link => link.getAttribute('href'))")
        assert len(links) > 20
        assert [link for link in links if shown.locator(f"[id='{link[1:]}']").count() != 1] == []


def test_words_of_a_server_are_words(page: Path, visit: Visiting) -> None:
    with visit(page) as visited:
        assert visited.page.title() != "taken over"
        assert visited.page.locator("script").evaluate_all("all => all.filter(one => !one.type).length") == 2


def test_the_page_names_no_other_host(page: Path) -> None:
    text = re.sub(r"<script\b.*?</script>", "", page.read_text(), flags=re.DOTALL)
    assert not re.search(r"<(link|iframe|object|embed|base)\b", text)
    assert set(re.findall(r"<[^>]*\b(?:src|srcset|action)=\"([^\"]{5})", text)) == {"data:"}
    assert "url(" not in text


def test_both_pages_of_a_campaign_stand_beside_each_other(page: Path) -> None:
    folder = page.parent
    before = page.read_bytes()
    report = render_report(folder)
    assert page.read_bytes() == before
    names = {path.name for path in folder.iterdir()}
    assert {"analysis.ipynb", "report.html", "compare.ipynb", "compare.html"} <= names
    assert not [name for name in names if name.startswith(".") or "failed" in name]
    assert "picolab benchmark report</title>" in report.read_text()
    notebook = nbformat.read(folder / "compare.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.papermill.output_path == str(folder / "compare.ipynb")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert not [output for output in outputs if output["output_type"] in ("error", "stream")]


def test_margin_and_baseline_may_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_comparison(tmp_path / "c", paired_trials(candidates={"new": 1.2}))
    executed: list[tuple[Path, Path, dict[str, Any]]] = []

    def execute(*given: Any) -> nbformat.NotebookNode:
        executed.append(given)
        return nbformat.v4.new_notebook()

    monkeypatch.setattr("picolab.report.render._execute", execute)
    output = render_comparison(folder, tmp_path / "other" / "page.html", margin=0.3, baseline="new")
    assert output == tmp_path / "other" / "page.html" and output.is_file()
    given = {"margin": 0.3, "baseline": "new"}
    assert executed == [(SOURCE, folder, given)]

    page = markup(pieces(SOURCE, folder, **given))
    assert "old against the baseline new" in page.get_text()
    (margin,) = [name for name in page.select("dt") if name.get_text() == "Margin that does not matter"]
    assert margin.find_next("dd").get_text() == "30 %"
    assert "■ equivalent" in page.select("table")[0].get_text()
    assert len(page.select(".gate.good")) == 1


def test_one_build_is_no_comparison_and_the_message_says_so(tmp_path: Path) -> None:
    trials = [trial for trial in paired_trials(blocks=2) if trial.label == "old"]
    folder = write_comparison(tmp_path / "c", trials)
    with pytest.raises(PicolabError, match=r"compare\.ipynb: .*two.*compare\.failed\.ipynb"):
        render_comparison(folder)
    assert not (folder / "compare.html").exists()
    assert (folder / "compare.failed.ipynb").exists()
    with pytest.raises(CampaignNotFound, match="no such campaign"):
        render_comparison(tmp_path / "none")


def test_a_campaign_without_a_result_says_so_in_sentences(tmp_path: Path) -> None:
    shown = pieces(SOURCE, write_comparison(tmp_path / "c", [], planned=paired_trials(blocks=6)))
    assert figures(shown) == []
    text = markup(shown).get_text()
    for words in (
        "There is no pair, so there is no ratio to show.",
        "unfinished",
        "too few pairs to know which change",
    ):
        assert words in text


def test_what_is_not_comparable_in_time_says_so_loudly(data: CampaignData) -> None:
    comparison = not_comparable(make_comparison(), "old ran on Monday & new on Tuesday")
    shown = comparison_page.gate(data, comparison).markup
    assert '<div class="caveat loud"><p><strong>Not comparable in time.' in shown
    assert "Old ran on Monday &amp; new on Tuesday." in shown
    verdicts = comparison_page.verdicts(comparison).markup
    assert verdicts.count("no verdict") == len(comparison.metrics)
    assert "Monday" not in verdicts
    assert "yes" not in verdicts


def test_the_same_build_twice_must_find_nothing(data: CampaignData) -> None:
    nothing = dataclasses.replace(make_comparison(), self_comparison=True)
    shown = comparison_page.gate(data, nothing).markup
    assert "It should find no difference, and it found none in 5 comparisons." in shown
    assert "loud" not in shown
    found = make_comparison(effects={("*", "*", "throughput_mib_s"): 1.2})
    shown = comparison_page.gate(data, dataclasses.replace(found, self_comparison=True)).markup
    assert "caveat loud" in shown
    assert "It should find no difference, and it found 1 difference in 5 comparisons." in shown
    assert "upload in local-512mb-100M (faster, +" in shown
    few = dataclasses.replace(make_comparison(pairs=2), self_comparison=True)
    assert "no comparison had enough pairs" in comparison_page.gate(data, few).markup


def test_all_killed_is_a_verdict_of_outcomes(data: CampaignData) -> None:
    comparison = all_killed(make_comparison())
    assert "Outcomes: 1 more failures." in comparison_page.gate(data, comparison).markup
    assert comparison_page.verdicts(comparison).markup.index("more failures") < comparison_page.verdicts(
        comparison
    ).markup.index("upload")
    assert "10 OOM-killed" in comparison_page.outcomes(comparison).markup
    assert "too few pairs" in repr(comparison_page.power(comparison))
    assert comparison_page.incomplete_pairs(comparison).markup.count("<tr>") == 1 + 10


def test_caveats_of_the_comparison_come_first(data: CampaignData) -> None:
    shown = comparison_page.caveats(data, dataclasses.replace(make_comparison(), caveats=(DRIFT_CAVEAT,))).markup
    assert "33 % slower over the campaign" in shown
    assert "No trial has a caveat of its own." in shown


def test_power_is_said_in_a_sentence_and_a_table() -> None:
    one = comparison_page.power(make_comparison())
    assert re.search(r"Upload: this campaign can detect a change of \d\.\d % or more\.", one.text)
    two = comparison_page.power(make_comparison(scenarios=["a-1", "a-2"]))
    assert re.search(r"Upload: .* of \d\.\d % \(best scenario\) to \d\.\d % \(worst\) or more\.", two.text)
    assert two.markup.count("<tr>") == 1 + 2


def test_the_notebook_is_thin_and_without_outputs() -> None:
    assert comparison_notebook() == SOURCE
    notebook = nbformat.read(SOURCE, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) <= 18
    assert cells[0].metadata.tags == ["parameters"]
    for cell in cells:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 10
        assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE)
