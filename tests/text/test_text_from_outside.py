"""Text from outside, whatever is in it, stays text in every sink: HTML, SVG, charts, notebooks, CSV, Markdown, JSON."""

import csv
import functools
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mistune
import nbformat
import pandas as pd
import pytest
from browser import Visiting
from campaign_factory import FakeTrial, write_campaign
from comparison_factory import make_comparison, write_comparison
from factor_campaigns import campaign_of
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from picolab.charts import campaign
from picolab.charts import comparison as comparison_charts
from picolab.charts.figure import FIGURE_MIME, Figure
from picolab.record.outcomes import Outcome
from picolab.record.record import Caveat, Record
from picolab.report import campaign_page, comparison_page, tables
from picolab.report.comparison_json import as_json
from picolab.report.comparison_markdown import as_markdown
from picolab.report.render import render_comparison, render_report
from picolab.results.export import export_campaign
from picolab.results.load import CampaignData
from picolab.results.rows import FAULT_COLUMNS, csv_row, record_row, trial_frame
from picolab.text.foreign import visible
from picolab.text.markup import escape

NASTY = (
    "\x1b[31mred\x1b[0m",
    "\x00\x01\x08\x0b\x0c\x1f\x7f\x80\x9f",
    "\ufffe\uffff\ufeff",
    "\u202eright to left\u202c \u2066isolated\u2069 \u200f",
    "a\u2028b\u2029c\x85d\r\ne\tf",
    "</script><script>document.title = 'taken over'</script>",
    "<img src=http://192.0.2.1/x onerror=alert(1)>",
    "]]> --> <!-- <![CDATA[ */",
    "{{ 7 * 7 }} {% raw %} ${7 * 7} $x$ #{x}",
    "a|b | c\\|d `code` **bold** _it_ ~~no~~ [link](http://192.0.2.1) ![x](y) <b> &lt; @user #1 \\",
    '=HYPERLINK("http://192.0.2.1")',
    "+1",
    "-2+3",
    "@SUM(A1)",
    "'; alert(1); //",
    '"]; alert(1); //',
    "datum.value + signal",
    "[main] panic at [store.db] [/api/entry]",
    "x" * 5000,
)
SURROGATE = "\ud800 alone"
texts = st.one_of(st.sampled_from(NASTY), st.text(st.characters(codec="utf-8"), max_size=60))
"""What a record may hold; pydantic takes no lone surrogates."""
any_texts = st.one_of(texts, st.just(SURROGATE), st.text(max_size=60))
FEW = settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
MANY = settings(max_examples=300, deadline=None)


class _Reader(HTMLParser):
    """Collects the elements and the words of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def read(markup: str) -> _Reader:
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    return reader


def with_text(text: str, name: str = "plain text") -> CampaignData:
    """Return a campaign whose records say this text wherever a server, a file or a user's words get in."""
    data = campaign_of([{}, {"cache": "cold"}], repeats=2)
    for trial_id, record in data.records.items():
        made = record.model_dump(mode="json")
        made["outcome"], made["outcome_stage"], made["outcome_detail"] = "http_error", "upload", text
        made["upload"] |= {"server_message": text}
        made["server"]["oom_evidence"] = text
        made["build"]["label"] = text or "none"
        made["identity"]["repeat_command"] = text
        made["missing"]["server.stop_s"] = text
        made["machine"]["data_folder_file_system"] = text
        made["provenance"]["host"]["hostname"] = text
        made["caveats"] = [{"code": text, "value": text, "message": text, "advice": text}]
        data.records[trial_id] = Record.model_validate(made)
    data.trials = trial_frame([record_row(record) for record in data.records.values()])
    fault = dict.fromkeys(FAULT_COLUMNS, name) | {"attempt": 1}
    data.faults = pd.DataFrame([fault], dtype=object)
    data.problems = pd.DataFrame([{"path": name, "problem": name}], dtype=object)
    data.plan = {"campaign": name, "description": name, "source": name, "order": name, "created_at": name, "seed": name}
    return data


def pieces(data: CampaignData) -> list[Any]:
    page = (campaign_page.heading, campaign_page.summary, campaign_page.caveats, campaign_page.provenance)
    shown = (tables.case_table, tables.trial_table, tables.missing_table, tables.fault_table, tables.problem_table)
    return [part(data) for part in (*page, campaign_page.how_to_repeat, *shown)]


@functools.cache
def usual_pieces() -> list[_Reader]:
    return [read(piece.markup) for piece in pieces(with_text("plain text"))]


@given(any_texts)
@MANY
def test_html_holds_no_element_and_no_character_of_the_text(text: str) -> None:
    markup = f'<p title="{escape(text)}">{escape(text)}</p>'
    reader = read(markup)
    assert reader.tags == [("p", ("title",))]
    assert reader.words == visible(text)
    ET.fromstring(markup)
    markup.encode("utf-8")


@given(texts, any_texts)
@example(NASTY[1], SURROGATE)
@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_strange_words_add_no_element_to_a_report(text: str, name: str) -> None:
    text, name = text or "x", name or "x"
    for plain, piece in zip(usual_pieces(), pieces(with_text(text, name)), strict=True):
        assert read(piece.markup).tags == plain.tags
        assert visible(piece.markup) == piece.markup
        assert visible(repr(piece)) == repr(piece)
        piece.markup.encode("utf-8")


def figures_of(data: CampaignData, text: str) -> list[Figure]:
    return [
        Figure(campaign.outcome_matrix(data.trials), text),
        Figure(campaign.memory_panels(data.samples, data.trials), text),
        Figure(campaign.peak_memory(data.trials), text),
    ]


@given(texts)
@example("".join(NASTY[:3]))
@example(NASTY[5] + NASTY[7])
@FEW
def test_charts_are_drawn_with_any_text(text: str) -> None:
    for figure in figures_of(with_text(text or "x"), text):
        bundle = figure._repr_mimebundle_()
        for panel in bundle[FIGURE_MIME]["panels"]:
            drawn = ET.fromstring(panel["svg"])
            assert not [
                one for one in drawn.iter() if one.tag.rpartition("}")[2] in ("script", "image", "foreignObject", "a")
            ]
            spec = json.dumps(panel["spec"], ensure_ascii=False)
            assert visible(spec) == spec
        notebook = nbformat.v4.new_notebook(cells=[_cell_with(bundle)])
        nbformat.validate(notebook)
        nbformat.writes(notebook).encode("utf-8")


def _cell_with(bundle: dict[str, Any]) -> Any:
    return nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", data=bundle)])


@pytest.mark.parametrize("level", ['"];x(1)', "\\u0041", "</b>", "datum.x", "{{x}}", "'+1", "${x}", "<!--"])
def test_an_axis_names_its_levels_whatever_is_in_them(level: str) -> None:
    # The words of the axis come out of an expression: nothing of a level is run in it.
    data = campaign_of([{"work_dir": ""}, {"work_dir": level}], repeats=1)
    (panel,) = Figure(campaign.outcome_matrix(data.trials), "c")._repr_mimebundle_()[FIGURE_MIME]["panels"]
    assert f"512 MiB · work dir {level}" in list(ET.fromstring(panel["svg"]).itertext())


@given(texts)
@MANY
def test_no_cell_of_a_csv_file_is_a_formula(text: str) -> None:
    row = {"outcome_detail": text, "server_message": text, "ram_mb": -5}
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerow(csv_row(row))
    file.getvalue().encode("utf-8")
    (back,) = csv.DictReader(io.StringIO(file.getvalue(), newline=""))
    for name in ("outcome_detail", "server_message"):
        assert not back[name].startswith(("=", "+", "-", "@", "\t", "\r"))
        assert back[name].removeprefix("'") == visible(text).removeprefix("'")
    assert back["ram_mb"] == "-5"


def campaign_on_disk(folder: Path) -> Path:
    trials = [FakeTrial(outcome=Outcome.HTTP_ERROR, server_message=text, detail=text) for text in NASTY]
    trials += [FakeTrial(caveats=[{"code": t[:40], "value": t, "message": t, "advice": t}]) for t in NASTY]
    # Each of these is a case of its own, with panels of its own.
    few = [text for text in NASTY if text.isprintable() and len(text) < 200][:4]
    trials += [FakeTrial(environment={"A": text}, parameters_too={"work_dir": text}, build=text) for text in few]
    for number, trial in enumerate(trials, start=1):
        trial.block = number
    write_campaign(folder, trials)
    plan = json.loads((folder / "plan.json").read_text())
    # Half a letter is no text: a plan with one is refused as a whole.
    plan["description"] = plan["source"] = "".join(NASTY)
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def test_exported_files_hold_every_text_and_no_formula(tmp_path: Path) -> None:
    folder = campaign_on_disk(tmp_path / "nasty")
    export_campaign(folder, tmp_path / "export")
    trials = pd.read_csv(tmp_path / "export" / "trials.csv", dtype=str, keep_default_na=False)
    for name in trials.columns[trials.columns.isin(["outcome_detail", "server_message", "environment", "work_dir"])]:
        assert not trials[name].str.startswith(("=", "+", "-", "@", "\t", "\r")).any(), name
    back = pd.read_parquet(tmp_path / "export" / "trials.parquet")
    assert set(NASTY) <= set(back["server_message"].dropna())


def test_a_page_full_of_nasty_text_opens_and_nothing_of_it_runs(tmp_path: Path, visit: Visiting) -> None:
    page = render_report(campaign_on_disk(tmp_path / "nasty"))
    text = page.read_text(encoding="utf-8")
    assert visible(text) == text
    with visit(page) as visited:
        assert visited.page.title() != "taken over"
        shown = visited.page.locator("main").inner_text()
        for words in ("\\x1b[31mred", "<img src=http://192.0.2.1/x onerror=alert(1)>", "{{ 7 * 7 }}"):
            assert words in shown
        assert visited.page.evaluate("picolabViews.length") == visited.page.locator(".panel").count() > 5
        assert visited.page.locator("script").evaluate_all("all => all.filter(one => !one.type).length") == 2
        assert visited.page.locator("main script:not([type])").count() == 0
        assert visited.page.locator("img:not(.still)").count() == 0


def test_a_comparison_of_nasty_text_opens_too(tmp_path: Path, visit: Visiting) -> None:
    trials = [
        FakeTrial(build="1.5.4", label=label, block=block, server_message=text, detail=text, build_sha256=label[0] * 64,
                  caveats=[{"code": "odd", "value": text, "message": text, "advice": text}])
        for block, text in enumerate(NASTY[:12], start=1)
        for label in ("a-old", "b-new")
    ]  # fmt: skip
    trials[3].outcome = Outcome.HTTP_ERROR
    folder = write_comparison(tmp_path / "nasty", trials, baseline="a-old", description=SURROGATE + NASTY[1])
    page = render_comparison(folder)
    assert visible(page.read_text(encoding="utf-8")) == page.read_text(encoding="utf-8")
    with visit(page) as visited:
        assert visited.page.title() != "taken over"
        assert visited.page.locator("script").evaluate_all("all => all.filter(one => !one.type).length") == 2


def comparison_named(text: str) -> Any:
    import dataclasses

    found = make_comparison(candidates=(text,), pairs=6)
    caveat = Caveat(code=text if text != SURROGATE else "x", value=None, message="m", advice="a")
    if text != SURROGATE:
        caveat = Caveat(code=text, value=text, message=text, advice=text)
    outcomes = tuple(dataclasses.replace(one, reason=text, verdict=None) for one in found.outcomes)
    metrics = tuple(dataclasses.replace(one, reason=text, verdict=None) for one in found.metrics)
    named = {"campaign": text, "gate_reason": text, "randomised": text, "independence": text, "caveats": (caveat,)}
    return dataclasses.replace(found, outcomes=outcomes, metrics=metrics, **named)


def rendered(markdown: str) -> str:
    made = mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "url", "task_lists", "math"])(
        markdown
    )
    assert isinstance(made, str)
    return made


OURS = {"h3", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "code"}


@given(texts)
@example("1. one")
@example("- [x] done")
@example("[a]: http://192.0.2.1")
@example("http://192.0.2.1/x www.example.org a@example.org")
@example("a\\|b")
@example("@team a#1 GH-2")
@settings(max_examples=100, deadline=None)
def test_markdown_shows_the_text_as_it_is(text: str) -> None:
    text = text.strip() or "x"
    if len(text) > 500:
        return
    markdown = as_markdown(comparison_named(text))
    assert visible(markdown) == markdown
    markdown.encode("utf-8")
    for line in (line for line in markdown.splitlines() if line.startswith("| ")):
        assert len(re.findall(r"(?<!\\)\|", line)) == 10
    reader = read(rendered(markdown))
    assert {tag for tag, _ in reader.tags} <= OURS
    plain = " ".join(visible(text).split())
    # Forges make links and mentions of words that Markdown leaves as they are.
    assert not re.search(r"@\w|#\d|\bGH-\d", reader.words, re.IGNORECASE)
    if "**" not in plain:  # bold at both ends is our own mark
        assert plain.replace("\u200b", "") in " ".join(reader.words.replace("\u200b", "").split())


@given(any_texts)
@settings(max_examples=100, deadline=None)
def test_json_can_be_printed_whatever_is_in_it(text: str) -> None:
    printed = json.dumps(as_json(comparison_named(text or "x")), indent=1, allow_nan=False)
    printed.encode("ascii")
    assert json.loads(printed)["campaign"] == (text or "x")


@given(any_texts)
@example(SURROGATE)
@FEW
def test_a_comparison_is_drawn_with_any_text(text: str) -> None:
    comparison = comparison_named(text or "x")
    figure = Figure(comparison_charts.forest(comparison), comparison_page.forest_caption(comparison))
    for panel in figure._repr_mimebundle_()[FIGURE_MIME]["panels"]:
        ET.fromstring(panel["svg"])
    for piece in (comparison_page.verdicts(comparison), comparison_page.outcomes(comparison)):
        assert "script" not in {tag for tag, _ in read(piece.markup).tags}
        piece.markup.encode("utf-8")


@pytest.mark.parametrize("text", NASTY)
def test_a_trial_table_of_any_message_is_whole(text: str) -> None:
    reader = read(tables.trial_table(with_text(text)).markup)
    assert visible(text)[:900] in reader.words
