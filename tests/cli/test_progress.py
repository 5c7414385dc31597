"""Progress without a terminal: one line a step, so that a log is not silent for minutes and not full either."""

import io
from pathlib import Path

import pytest
from campaign_factory import virtual_matrix, write_campaign

from picolab.cli import progress
from picolab.cli.terminal import Console
from picolab.config.plan import Plan

BOOT = [
    "Box 'debian/bookworm64' could not be found. Attempting to find and install...",
    *(f"Progress: {percent}% (Rate: {percent * 7}k/s)" for percent in range(100)),
    "Creating domain with the following settings...",
    "Waiting for domain to get an IP address...",
    "Waiting for domain to get an IP address...",
    "Machine booted and ready!",
]


def test_a_campaign_prints_each_step_once_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, width=200))
    one, other, *_ = Plan.load(write_campaign(tmp_path / "c", virtual_matrix())).trials
    with progress.campaign_watcher(lambda: False) as watcher:
        assert watcher.step is not None and watcher.refresh_s is None
        for trial in (one, other):
            for line in BOOT:
                watcher.step(trial, line)

    lines = file.getvalue().splitlines()
    assert len(lines) == 2 * 5
    assert lines[1].startswith(f"{one.trial_id}: Progress: 0%") and lines[-1] == f"{other.trial_id}: {BOOT[-1]}"


def test_a_terminal_gets_no_lines_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO(), force_terminal=True))
    with progress.campaign_watcher(lambda: False) as watcher:
        assert watcher.step is None and watcher.refresh_s is not None


def test_rounds_and_waits_are_one_line_each(capfd: pytest.CaptureFixture[str]) -> None:
    show = progress.line_printer()
    for left in range(9, 0, -1):
        show(f"waiting for an idle host: 50% of all processors busy; {left} s left")
    for number in (1, 2):
        for what in ("upload at full speed", "the same once more"):
            show(f"round {number} of 2, ETA {number} s: {what}")
    show("")

    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "waiting for an idle host: 50% of all processors busy; 9 s left",
        "round 1 of 2, ETA 1 s: upload at full speed",
        "round 2 of 2, ETA 2 s: upload at full speed",
    ]


def test_a_step_obeys_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    progress.line_printer()("Machine\x1b[2J\nError: none")

    assert capfd.readouterr().err == "Machine\\x1b[2J\\nError: none\n"
