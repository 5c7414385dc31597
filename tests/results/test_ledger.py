"""The ledger: every line whole on disk, and readable after whatever a crash left."""

import json
from pathlib import Path
from typing import Any

import pytest

from picolab.errors import FileNotWritten
from picolab.files.writing import append_line
from picolab.record.outcomes import Outcome
from picolab.results.ledger import LEDGER_FILE, Ledger, LedgerEntry
from picolab.results.results_csv import append_result
from picolab.results.rows import row_columns
from picolab.results.standing import RESULTS_FILE


def entry(trial_id: str = "001-a", outcome: Outcome = Outcome.OK, **changes: Any) -> LedgerEntry:
    values = {
        "trial_id": trial_id,
        "attempt": 1,
        "outcome": outcome,
        "outcome_detail": "every byte came back",
        "started_at": "2026-01-01T10:00:00.000+00:00",
        "ended_at": "2026-01-01T10:00:05.000+00:00",
        "duration_s": 5.0,
        "notebook": f"trials/{trial_id}.ipynb",
        "record": None,
    }
    return LedgerEntry.model_validate(values | changes)


def test_new_campaign_has_no_entries(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)

    assert ledger.entries() == [] and ledger.results() == {} and ledger.attempts("001-a") == 0
    assert not (tmp_path / LEDGER_FILE).exists()


def test_entries_come_back_in_order_to_any_reader(tmp_path: Path) -> None:
    written = [entry("001-a"), entry("002-b", Outcome.OOM_KILLED), entry("001-a", attempt=2)]
    for one in written:
        Ledger(tmp_path).append(one)

    assert Ledger(tmp_path).entries() == written
    assert [json.loads(line)["outcome"] for line in (tmp_path / LEDGER_FILE).read_text().splitlines()] == [
        "ok",
        "oom_killed",
        "ok",
    ]


@pytest.mark.parametrize(
    "detail", ["Größe \N{SNOWMAN}", "two\nlines", "a\u2028b", "a\x85b", "a\x0b\x0c\x1c\x1d\x1eb", 'quote " \\', "\0"]
)
def test_words_of_a_server_cannot_tear_a_line(detail: str, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(entry(outcome_detail=detail))
    ledger.append(entry("002-b"))

    assert [one.outcome_detail for one in ledger.entries()] == [detail, "every byte came back"]
    assert set(ledger.results()) == {"001-a", "002-b"}


def test_line_torn_by_a_crash_costs_only_itself(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(entry("001-a"))
    ledger.append(entry("002-b"))
    path = tmp_path / LEDGER_FILE
    whole = path.read_bytes()
    first_line = whole.index(b"\n") + 1
    for cut in range(first_line, len(whole)):
        path.write_bytes(whole[:cut])
        ledger.append(entry("003-c"))
        # Cut just before its newline, the second line is whole.
        kept = {"001-a", "002-b", "003-c"} if cut == len(whole) - 1 else {"001-a", "003-c"}
        assert set(ledger.results()) == kept, cut


def test_rubbish_is_passed_over(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(entry("001-a"))
    with (tmp_path / LEDGER_FILE).open("ab") as file:
        file.write(b'\xff\xfe\0\n\n{}\n[]\n{"trial_id": "002-b"}\nnull\n')
    ledger.append(entry("003-c"))

    assert [one.trial_id for one in ledger.entries()] == ["001-a", "003-c"]


def test_unknown_outcome_or_field_is_not_guessed_at(tmp_path: Path) -> None:
    line = entry().model_dump(mode="json")
    (tmp_path / LEDGER_FILE).write_text(
        json.dumps(line | {"outcome": "great"}) + "\n" + json.dumps(line | {"score": 1}) + "\n"
    )

    assert Ledger(tmp_path).entries() == []


def test_fault_is_an_attempt_and_no_result(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(entry("001-a", Outcome.MACHINE_FAILED))
    ledger.append(entry("001-a", Outcome.INTERRUPTED, attempt=2))
    assert ledger.attempts("001-a") == 2 and ledger.results() == {}

    ledger.append(entry("001-a", Outcome.STALLED, attempt=3))
    assert ledger.attempts("001-a") == 3
    assert ledger.results()["001-a"].outcome is Outcome.STALLED


def test_two_writers_keep_each_others_lines(tmp_path: Path) -> None:
    one, other = Ledger(tmp_path), Ledger(tmp_path)
    for number in range(20):
        (one, other)[number % 2].append(entry(f"{number:03d}-a"))

    assert [line.trial_id for line in one.entries()] == [f"{number:03d}-a" for number in range(20)]


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    """The kernel's device that is always full stands for the disk."""
    (tmp_path / LEDGER_FILE).symlink_to("/dev/full")
    (tmp_path / RESULTS_FILE).symlink_to("/dev/full")
    row = dict.fromkeys(row_columns())
    for name, write in (
        (LEDGER_FILE, lambda: append_line(tmp_path / LEDGER_FILE, "{}")),
        (RESULTS_FILE, lambda: append_result(tmp_path, row)),
    ):
        with pytest.raises(FileNotWritten, match=rf"{name} could not be written, because the file system mounted at"):
            write()
