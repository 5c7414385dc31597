"""The exit code that a comparison prints is the one that its command ends with, wherever it is printed."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from campaign_factory import FakeTrial
from command_line import picolab_here
from comparison_campaigns import around, paired_trials
from comparison_factory import write_comparison
from conftest import eventually
from page_pieces import markup, pieces

from picolab.config.project import outputs_dir
from picolab.exit_codes import ExitCode
from picolab.record.outcomes import Outcome
from picolab.report.render import comparison_notebook

SAME, SLOWER, NOISY = around(1.0), around(0.8), around(1.0, noise=0.2)


def printed(text: str) -> list[int]:
    """Return every exit code that a text names."""
    return [int(number) for number in re.findall(r"[Ee]xit code (\d+)\b", text)]


def last_not_measured(trials: list[FakeTrial]) -> list[FakeTrial]:
    return [*trials[:-1], replace(trials[-1], outcome=Outcome.MACHINE_FAILED)]


CAMPAIGNS: dict[str, tuple[list[FakeTrial], list[FakeTrial], ExitCode, str]] = {
    "no regression": (paired_trials(SAME), [], ExitCode.OK, "ok"),
    "regression": (paired_trials(SLOWER), [], ExitCode.REGRESSION, "regression"),
    "undecided": (paired_trials(NOISY), [], ExitCode.UNDECIDED, "undecided"),
    "too few": (paired_trials(around(1.0, n=3)), [], ExitCode.UNDECIDED, "undecided"),
    "a fault is left": (last_not_measured(paired_trials(SAME)), [], ExitCode.INSTRUMENT_FAULT, "ok"),
    "a fault is left of a regression": (
        last_not_measured(paired_trials(SLOWER)),
        [],
        ExitCode.INSTRUMENT_FAULT,
        "regression",
    ),
    "not all have run": (paired_trials(SAME), paired_trials(SAME)[:2], ExitCode.INSTRUMENT_FAULT, "ok"),
}


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_verdict(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trials, planned, code, word = CAMPAIGNS[name]
    folder = write_comparison(outputs_dir() / "c", trials, planned)

    as_json = picolab_here("verdict", "c", "--json")
    gate = json.loads(as_json.stdout)["gate"]
    assert (as_json.returncode, gate["exit_code"], gate["word"]) == (code, code, word)
    as_markdown = picolab_here("verdict", "c", "--markdown")
    assert (as_markdown.returncode, printed(as_markdown.stdout)) == (code, [code])
    # `test_compare` renders whole pages.
    page = markup(pieces(comparison_notebook(), folder)).get_text()
    assert printed(page) == [code]
    monkeypatch.setattr("picolab.report.render.render_comparison", lambda folder, *_: folder / "compare.html")
    as_lines = picolab_here("verdict", "c")
    assert (as_lines.returncode, printed(as_lines.stdout)) == (code, [code]), as_lines.stderr


def test_verdict_of_several_campaigns() -> None:
    write_comparison(outputs_dir() / "a", paired_trials(SAME))
    write_comparison(outputs_dir() / "b", paired_trials(SAME))

    done = picolab_here("verdict", "a", "b")
    assert printed(done.stdout) == [done.returncode] == [ExitCode.UNDECIDED]


def test_a_page_that_cannot_be_written_prints_no_code() -> None:
    write_comparison(outputs_dir() / "c", paired_trials(SAME))

    done = picolab_here("verdict", "c", "--output", "/proc/none/compare.html")
    assert printed(done.stdout + done.stderr) == []
    assert done.returncode == ExitCode.BAD_PARAMETERS, done.stderr


@pytest.mark.parametrize("words", [("a", "b"), ("a", "--markdown"), ("a", "--json")], ids=" ".join)
def test_a_reader_that_goes_away_does_not_change_the_code(words: tuple[str, ...], tmp_path: Path) -> None:
    # No page is rendered, which takes long; the lines are printed in the same way.
    for name in ("a", "b"):
        write_comparison(outputs_dir() / name, paired_trials(NOISY))
    errors = tmp_path / "errors"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "picolab", "verdict", *words],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait() == ExitCode.UNDECIDED, errors.read_text()
    assert errors.read_text() == ""


# A command that measures


def parameters_file(folder: Path, other: dict[str, Any], **rest: Any) -> str:
    path = folder / "known.yaml"
    builds = {label: {"build": "calibration", "calibration": knobs} for label, knobs in (("a", {}), ("b", other))}
    content = {"matrix": {"ram_mb": [128], "file_size": ["4M"]}, "builds": builds, "idle_limit_s": 0}
    path.write_text(json.dumps(content | {"repeats": 1, "fault_retries": 0} | rest))
    return str(path)


@pytest.mark.parametrize(
    ("other", "code"),
    [({}, ExitCode.UNDECIDED), ({"occupy_port_without_listening": True}, ExitCode.INSTRUMENT_FAULT)],
    ids=["too few", "a fault is left"],
)
def test_compare(tmp_path: Path, other: dict[str, Any], code: ExitCode) -> None:
    done = picolab_here("compare", parameters_file(tmp_path, other), "--campaign", "c")

    assert (done.returncode, printed(done.stdout)) == (code, [code]), done.stdout + done.stderr
    assert printed((outputs_dir() / "c" / "compare.html").read_text()) == [code]


def test_compare_that_is_stopped_prints_no_code(tmp_path: Path) -> None:
    file = parameters_file(tmp_path, {"transfer_mib_s": 1}, repeats=3)
    process = subprocess.Popen(
        [sys.executable, "-m", "picolab", "compare", file, "--campaign", "c"], stdout=subprocess.PIPE, text=True
    )
    try:
        eventually(lambda: list((outputs_dir() / "c").glob("running/*/progress.json")), "an upload runs")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, printed(output)) == (ExitCode.INTERRUPTED, [])
