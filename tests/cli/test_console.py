"""What a terminal shows: text from outside stands there as it is, obeys nothing, and no column gets lost."""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from campaign_factory import quick_matrix, write_campaign
from hypothesis import given
from hypothesis import strategies as st

from picolab.campaign.progress import Progress
from picolab.campaign.runner import Campaign
from picolab.campaign.single_trial import FinishedTrial
from picolab.cli import campaign_view, progress, trial_view
from picolab.cli import terminal as console
from picolab.cli.box import print_boxes
from picolab.cli.host import print_findings
from picolab.cli.machines import print_machines
from picolab.cli.main import main
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import MachineError
from picolab.exit_codes import ExitCode
from picolab.record.outcomes import Outcome
from picolab.record.record import Caveat
from picolab.results.ledger import LedgerEntry
from picolab.text.foreign import one_line, visible
from picolab.text.live_line import rewrite_line

SENTENCES = [
    "[main] panic at [store.db]",
    "[/api/entry] failed",
    "[red]red[/red] [bold] [link=http://x]x[/link]",
    "[/] [/] [[x]] \\[y] [@click=f]",
    ":warning: :smile:",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J \x9b31m",
    "a\rb\x08c\x0bd\x0ce\x7ff\x00g",
    "\u202eltr \u2066x \ufeff \u2028 \ud800 \udfff",
    "first\n[3/3] 003-case  ok  1 s",
]
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
foreign = st.one_of(st.sampled_from(SENTENCES), st.text(st.characters(), max_size=60))


class Shown:
    """A terminal that keeps what is written."""

    def __init__(self, columns: int) -> None:
        self.file = io.StringIO()
        self.console = console.Console(
            highlight=False, soft_wrap=True, width=columns, file=self.file, force_terminal=True, color_system=None
        )

    @property
    def text(self) -> str:
        return self.file.getvalue()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Shown]:
    def make(columns: int = 200) -> Shown:
        shown = Shown(columns)
        for module in (console, campaign_view, progress, trial_view):
            monkeypatch.setattr(module, "console", shown.console)
        return shown

    return make


def record(words: str) -> Any:
    """Return as much of a record as is shown, with foreign words where there can be some."""
    machine = SimpleNamespace(virtual_machine=None, memory_limit=SimpleNamespace(limit_bytes=1 << 27))
    caveat = Caveat(code="x", message=words, advice=words, value=None)
    return SimpleNamespace(
        outcome=Outcome.HTTP_ERROR,
        outcome_detail=words,
        parameters=TrialParameters(),
        outcome_stage="upload",
        upload=None,
        download=None,
        memory=None,
        verify=None,
        machine=machine,
        caveats=[caveat],
    )


def entry(words: str) -> LedgerEntry:
    return LedgerEntry(
        trial_id="001-x",
        attempt=1,
        outcome=Outcome.HTTP_ERROR,
        outcome_detail=words,
        started_at=None,
        ended_at="2026-01-01T00:00:00.000+00:00",
        duration_s=1.0,
        notebook=None,
        record=None,
    )


def ended(words: str) -> None:
    with progress.campaign_watcher(lambda: False) as watcher:
        watcher.ended(entry(words), Progress(3, 1, 2.0))
        watcher.note(words)
        watcher.waiting(words)


def waited(words: str) -> None:
    with progress.campaign_watcher(lambda: False) as watcher:
        watcher.waiting(words)


def boxes(words: str) -> None:
    volume = SimpleNamespace(name=words, allocation_bytes=1, used_by=[words])
    version = SimpleNamespace(recipe=words, version=words, provider=words, size_bytes=1)
    print_boxes([SimpleNamespace(name=words, boxes=[version], current=True, base_volumes=[volume])])  # type: ignore[list-item]


def machines(words: str) -> None:
    names = ("name", "kind", "state", "holder", "trial", "since", "server", "way_in", "by_hand")
    print_machines([{"ram_mb": 1, **dict.fromkeys(names, words)}])


def findings(words: str) -> None:
    print_findings([SimpleNamespace(state="gap", what=words, text=words, remedy=words, blocks=False)])  # type: ignore[list-item]


SHOWN: dict[str, Callable[[str], None]] = {
    "lines": lambda words: console.print_lines([words]),
    "no record": lambda words: trial_view.print_trial(FinishedTrial(Path("/f"), None, words, words, words)),
    "trial": lambda words: trial_view.print_trial(FinishedTrial(Path("/f"), record(words), "", words, words)),
    "ended": ended,
    "waited": waited,
    "boxes": boxes,
    "machines": machines,
    "findings": findings,
}


@pytest.mark.parametrize("name", SHOWN)
@given(words=foreign)
def test_foreign_text_stands_there_and_obeys_nothing(name: str, words: str, terminal: Callable[[int], Shown]) -> None:
    shown = terminal(2000)
    SHOWN[name](words)
    text = shown.text
    # The live display of a terminal moves the cursor itself.
    text = re.sub(r"\x1b\[[0-9;?]*[A-Zhl]|\r", "", text) if name in ("ended", "waited") else text
    assert not OBEYED.search(text)
    # rich writes a tab as spaces.
    shown_as = {" ".join(each.split()) for each in (visible(words), one_line(words))} if name != "waited" else {""}
    assert any(each in " ".join(text.split()) for each in shown_as), text


@pytest.mark.parametrize("words", SENTENCES)
def test_a_line_of_a_server_is_no_line_of_ours(words: str, terminal: Callable[[int], Shown]) -> None:
    shown = terminal(2000)
    ended(words)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Zhl]|\r", "", shown.text)
    lines = [line for line in text.split("\n") if re.match(r"\[\d+/\d+\]", line)]
    assert len(lines) == 1


@pytest.mark.parametrize("words", SENTENCES)
def test_tables_take_text_as_it_is(words: str, terminal: Callable[[int], Shown]) -> None:
    shown = terminal(400)
    table = console.Table(title=words)
    table.add_column(words)
    table.add_row(words)
    table.add_row(console.Text(words, style="red") + console.Text(words))
    shown.console.print(table)
    assert shown.text.count(visible(words).split("\n")[0]) >= 4 and not OBEYED.search(shown.text)


@pytest.mark.parametrize("words", SENTENCES)
@pytest.mark.parametrize("terminal_there", [True, False])
def test_a_live_line_is_one_line(words: str, terminal_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: terminal_there  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stream)
    rewrite_line(words)
    assert stream.getvalue() == (f"\r\x1b[K{one_line(words)}" if terminal_there else "")


@given(words=foreign)
def test_an_error_is_shown_as_it_is(words: str) -> None:
    out, err = io.StringIO(), io.StringIO()

    def fail() -> None:
        raise MachineError(words)

    command = main.commands["doctor"]
    before, streams = command.callback, (sys.stdout, sys.stderr)
    command.callback = fail
    sys.stdout, sys.stderr = out, err
    try:
        main.main(["doctor"])
    except SystemExit as end:
        assert end.code == int(ExitCode.INSTRUMENT_FAULT)
    finally:
        sys.stdout, sys.stderr = streams
        command.callback = before
    assert err.getvalue() == f"Error: {visible(words)}\n"


# Narrow terminals


@pytest.fixture
def campaign(scratch: Path) -> Iterator[Campaign]:
    folder = write_campaign(Path(os.environ["PICOLAB_OUTPUTS_DIR"]) / "c", quick_matrix())
    yield Campaign.load(folder)


@pytest.mark.parametrize("columns", [1, 5, 20, 40, 72, 80, 120, 300])
def test_nothing_is_lost_on_a_narrow_terminal(
    columns: int, campaign: Campaign, terminal: Callable[[int], Shown]
) -> None:
    wide = terminal(1000)
    campaign_view.print_status(campaign.folder)
    narrow = terminal(columns)
    campaign_view.print_status(campaign.folder)
    campaign_view.print_plan(campaign.plan)
    campaign_view.print_campaigns([campaign.folder])

    def letters(text: str) -> str:
        return "".join(sorted(re.sub(r"\s", "", text)))

    case = campaign.plan.cases[0]
    assert case in wide.text
    # A folded cell has its parts in the lines below: no character is missing.
    missing = set(letters(wide.text)) - set(letters(narrow.text))
    assert not missing and "…" not in narrow.text
    folded = narrow.text.replace("\n", "")
    assert all(word in folded for word in ("upload", "transfer", "MiB/s", "median", "maximum"))


@pytest.mark.parametrize("columns", [1, 20, 80])
def test_progress_on_a_narrow_terminal(columns: int, campaign: Campaign, terminal: Callable[[int], Shown]) -> None:
    shown = terminal(columns)
    with progress.campaign_watcher(lambda: False) as watcher:
        watcher.progress(Progress(3, 1, 2.0, campaign.plan.trials[0], 2, "\x1b[31m" + "x" * 200))
        watcher.ended(entry("y" * 200), Progress(3, 1, 2.0))
    assert "y" * 200 in shown.text.replace("\n", "")
