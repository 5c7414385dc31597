"""The command line as a user meets it: help, one sentence for a mistake, exit codes, and a whole trial."""

import inspect
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from command_line import picolab_here

from picolab import __version__
from picolab.cli.main import main
from picolab.config.project import outputs_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import MachineError
from picolab.exit_codes import ExitCode
from picolab.machines import registry
from picolab.trial.state import TrialState, claim_folder

QUICK = str(Path(__file__).parents[2] / "parameters" / "quick.yaml")


def picolab(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "picolab", *words],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def commands(group: click.Group = main, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found.append((*before, name))
        if isinstance(command, click.Group):
            found += commands(command, (*before, name))
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_help_has_an_example(words: tuple[str, ...]) -> None:
    command: click.Command = main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert command.help
    if not isinstance(command, click.Group):
        assert f"\n  picolab {' '.join(words)}" in inspect.cleandoc(command.help), "an example in the help text"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{words}: {parameter.name} has no help"


def test_version_and_exit_codes_are_in_the_help() -> None:
    assert __version__ in picolab_here("--version").stdout
    shown = picolab_here("--help").stdout
    assert all(str(int(code)) in shown for code in ExitCode)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("matrix", "nowhere.yaml"), 4, "nowhere.yaml: cannot be read (No such file or directory)"),
        (("matrix", QUICK, "--memory-limits", "512,lots"), 4, "--memory-limits 512,lots: RAM 'lots' is not a size"),
        (("matrix", QUICK, "--memory-limits", ""), 4, "ram_mb = [] should be a list of levels"),
        (("matrix", QUICK, "--file-sizes", "10MB"), 4, "write a number and K, M, G or T"),
        (("matrix", QUICK, "--file-sizes", "900T"), 4, "outside 1 byte to 1T"),
        (("matrix", QUICK, "--repeats", "0"), 4, "repeats = 0 should be greater than or equal to 1"),
        (("matrix", QUICK, "--campaign", "../up"), 4, "a name has up to 51 letters"),
        (("matrix", QUICK, "--build", "9.9"), 4, "/9.9': there is no such file"),
        (("matrix", QUICK, "--file-sizes", "1T"), 5, "needs 2.2 times its size on disk"),
        (("matrix", QUICK, "--campaign", "a b"), 4, "choose another with --campaign"),
        (("compare", "--self", "calibration", "--repeats", "9" * 5000), 4, "repeats = '999"),
        (
            ("trial", "-p", "build", "./picoshare #2"),
            4,
            "'./picoshare #2' has a comment in it, which would be left out",
        ),
        (("status", "x" * 300), 4, "there is no such campaign"),
        (("resume", "nothing"), 4, "campaign 'nothing': there is no such campaign"),
        (("status", "nothing"), 4, "campaign 'nothing': there is no such campaign"),
        (("report", "nothing"), 4, "campaign 'nothing': there is no such campaign"),
        (("export", "nothing"), 4, "campaign 'nothing': there is no such campaign"),
        (("trial", "--ram", "1"), 4, "ram_mb = 1 should be greater than or equal to 4"),
        (("trial", "-p", "file_siez", "1M"), 4, "there is no 'file_siez'; did you mean file_size?"),
        (("trial", "-p", "calibration", "{"), 4, "-p calibration: '{' is not valid YAML in line 1"),
        (("trial", "-p", "machine_name", "../../x"), 4, "machine_name"),
        (("trial", "--build", "/etc/passwd"), 4, "begins neither with the ELF header nor with #!"),
        (("trial", "--file-size", "1T"), 5, "needs 2.2 times its size on disk"),
        (("trial", "--file-size", "600G", "-p", "parallel_uploads", "16"), 5, "16 x 600G needs 2.2 times its size"),
        (("trial", "--ram", "1048576"), 5, "ram_mb = 1048576 is more than this host's"),
        (("trial", "-p", "build", "a", "--build", "b"), 4, "-p build a: build is given twice; remove one of the two"),
        (("trial", "-p", "seed", "1", "-p", "seed", "2"), 4, "seed is given twice"),
        (("trial", "-p", "work_dir", "/dev/null/x"), 5, "data folder and TMPDIR cannot be in /dev/null/x"),
        (("trial", "-p", "work_dir", "~nobody-of-this-name/x"), 4, "there is no such user's home"),
        (("trial", "-p", "label", "true"), 4, "label: True is a yes or a no"),
        (("trial", "-p", "environment", '{A: "\\ud800"}'), 4, "it holds half a letter"),
        (("trial", "--build", "a\x1b[31mb"), 4, "holds a character that cannot be printed"),
        (("status", "a\x1b[31mb"), 4, "campaign 'a\\x1b[31mb': there is no such campaign"),
        (("no-such\x1b[31mcommand",), 4, "no-such\\x1b[31mcommand"),
        (("machines", "remove", "nothing"), 4, "machine 'nothing': there is no such machine"),
        (("machines", "ssh", "nothing"), 4, "machine 'nothing': there is no such machine; existing machines: none"),
        (("machines", "halt", "../.."), 4, "machine '../..': there is no such machine; existing machines: none"),
        (("machines", "remove", "../.."), 4, "machine '../..': there is no such machine"),
        (("no-such-command",), 4, "No such command"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_sentence(words: tuple[str, ...], code: int, sentence: str) -> None:
    done = picolab_here(*words)

    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not outputs_dir().exists() or not list(outputs_dir().iterdir()), "nothing was started"


def test_the_plan_is_shown_and_nothing_is_run() -> None:
    done = picolab_here("matrix", QUICK, "--plan", "--repeats", "2", "--memory-limits", "64")

    assert done.returncode == 0
    assert "4 trials = 2 cases x 2 repeats, seed 1" in done.stdout
    assert "Expected: " in done.stdout and "No trial of these cases was timed before" in done.stdout
    assert done.stdout.count("local-64mb-") == 4
    assert picolab_here("matrix", QUICK, "--plan", "--repeats", "2", "--memory-limits", "64").stdout == done.stdout
    assert not outputs_dir().exists()


def test_a_trial_that_keeps_its_machine() -> None:
    done = picolab("trial", "--ram", "128", "--file-size", "4M", "--keep-machine", "-p", "machine_name", "mine")
    try:
        assert done.returncode == ExitCode.OK, done.stdout + done.stderr
        assert "The machine 'mine' is still up" in done.stdout
        assert "peak" in done.stdout and "MiB anonymous of 128 MiB" in done.stdout
        listed = picolab_here("machines", "list").stdout
        assert "mine  local  128 MiB  running" in listed
        assert re.search(r"^  kept by the trial \S*local-128mb\S* since \d{4}-\d\d-\d\d", listed, re.MULTILINE), listed
        assert "  server: pid" in listed
        refused = picolab_here("machines", "ssh", "mine")
        assert refused.returncode == ExitCode.BAD_PARAMETERS and "nothing to log in to" in refused.stderr
        assert "which cannot be powered off" in picolab_here("machines", "halt", "mine").stderr
    finally:
        assert "taken down" in picolab_here("machines", "remove", "mine").stdout
    assert "There are no machines." in picolab_here("machines", "list").stdout


def test_a_failing_trial_has_its_exit_code_and_leaves_files() -> None:
    knobs = json.dumps({"status": 500})
    done = picolab("trial", "--file-size", "2M", "-p", "calibration", knobs, "-p", "keep_machine", "never")

    assert done.returncode == ExitCode.TRIALS_FAILED
    assert "http_error" in done.stdout and "Traceback" not in done.stderr
    (folder,) = (outputs_dir() / "single-trials").iterdir()
    assert {"trial.ipynb", "record.json", "samples.jsonl", "server.log"} <= {path.name for path in folder.iterdir()}
    assert not registry.existing()


def test_status_report_and_export_of_a_campaign() -> None:
    fewer = ("--file-sizes", "2M", "--memory-limits", "64", "--repeats", "2", "--idle-limit", "0")
    done = picolab("matrix", QUICK, "--campaign", "c", *fewer)
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    assert "local-64mb-2M-calibration  2 ok" in done.stdout
    assert "Expected: " in done.stdout and "assumed: upload and verify at" in done.stdout
    plan = picolab_here("matrix", QUICK, "--plan", *fewer).stdout
    assert "Earlier trials of the same cases took that long." in plan
    assert "not of PicoShare" in done.stdout

    assert "2 of 2 trials have a result" in picolab_here("status", "c").stdout
    assert "c  2 of 2 trials" in picolab_here("status").stdout
    assert picolab_here("report", "c").returncode == 0
    assert "<title>" in (outputs_dir() / "c" / "report.html").read_text()
    exported = picolab_here("export", "c", "--format", "csv").stdout.split()
    assert [Path(path).name for path in exported] == ["trials.csv", "samples.csv"]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["status", "status nothing", f"matrix {QUICK} --plan"])
def test_a_closed_stream_is_no_traceback(closed: str, words: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m picolab {words} {closed}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == (4 if "nothing" in words else 0), done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert len(done.stderr.splitlines()) == (1 if "nothing" in words and "2>&-" not in closed else 0)


@pytest.mark.parametrize("words", ["status", "--help", f"matrix {QUICK} --plan --repeats 500"])
def test_a_full_disk_behind_the_output_is_one_sentence(words: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m picolab {words} > /dev/full"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == ExitCode.HOST_UNFIT
    assert done.stderr == "Error: No space left on device; free some space, then run the command again\n"


def test_no_file_of_a_campaign_replaces_a_closed_stream() -> None:
    fewer = ("--file-sizes", "1M", "--memory-limits", "64", "--repeats", "1", "--idle-limit", "0", "--campaign", "c")
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m picolab matrix {QUICK} {' '.join(fewer)} <&- >&- 2>&-"],
        timeout=120,
        check=False,
    )

    assert done.returncode == 0
    assert "1 of 1 trials have a result" in picolab_here("status", "c").stdout
    assert (outputs_dir() / "c" / "ledger.jsonl").read_text().count("\n") == 1


def test_every_character_is_written_in_any_encoding() -> None:
    (outputs_dir() / "\N{SNOWMAN}").mkdir(parents=True)
    (outputs_dir() / "\N{SNOWMAN}" / "plan.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "picolab", "status"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )

    assert done.returncode == 0 and "\\u2603" in done.stdout and done.stderr == ""


def test_a_name_in_no_encoding_is_no_traceback(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"a\xffb")
    folder.mkdir()
    (folder / "few.yaml").write_text("{matrix: {ram_mb: [64], file_size: [1M]}, repeats: 1, idle_limit_s: 0}")
    (folder / "server").write_text("#!/bin/sh\n")
    (folder / "server").chmod(0o755)
    for words, code in (
        (("matrix", str(folder / "few.yaml"), "--campaign", "c"), 0),
        (("matrix", str(folder / "few.yaml"), "--campaign", "d", "--build", str(folder / "server")), 4),
        (("trial", "--build", str(folder / "server")), 4),
        (("trial", "-p", "work_dir", str(folder)), 4),
        (("compare", "--self", str(folder / "server")), 4),
        (("status", str(folder)), 4),
    ):
        done = picolab(*words) if code == 0 else picolab_here(*words)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr and done.stderr.count("\n") == (1 if code else 0), done.stderr


def test_an_empty_folder_is_taken_and_another_is_not() -> None:
    few = ("--file-sizes", "1M", "--memory-limits", "64", "--repeats", "1", "--idle-limit", "0")
    (outputs_dir() / "empty").mkdir(parents=True)
    assert picolab("matrix", QUICK, "--campaign", "empty", *few).returncode == 0
    (outputs_dir() / "full").mkdir()
    (outputs_dir() / "full" / "mine.txt").write_text("stays")
    (outputs_dir() / "file").write_text("stays")
    for name, remedy in (("full", "it holds no campaign, remove it"), ("file", "remove it"), ("empty", "resume empty")):
        done = picolab_here("matrix", QUICK, "--campaign", name, *few)
        assert done.returncode == 4 and done.stderr.count("\n") == 1
        assert f"{outputs_dir() / name} is already there" in done.stderr and remedy in done.stderr
    assert (outputs_dir() / "full" / "mine.txt").read_text() == "stays" == (outputs_dir() / "file").read_text()


def test_a_campaign_is_named_by_the_time_in_utc(tmp_path: Path) -> None:
    path = tmp_path / "few.yaml"
    path.write_text("{matrix: {ram_mb: [64], file_size: [1M]}, repeats: 1, idle_limit_s: 0}")
    before = datetime.now(UTC).replace(microsecond=0)
    done = subprocess.run(
        [sys.executable, "-m", "picolab", "matrix", str(path)],
        env={**os.environ, "TZ": "Pacific/Kiritimati"},
        capture_output=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0
    (folder,) = outputs_dir().iterdir()
    named = datetime.strptime(folder.name, "few-%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    assert before <= named <= datetime.now(UTC)


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m picolab matrix {QUICK} --plan --repeats 500 | head -n 1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["", "..", "../..", "/", "a/b"])
def test_a_machine_is_never_a_path(name: str, scratch: Path) -> None:
    precious = scratch / "precious"
    precious.write_text("stays")

    for call in (registry.release_by_name, registry.attach, registry.check_free):
        with pytest.raises(MachineError, match="is not a path"):
            call(name)

    assert precious.read_text() == "stays"


@pytest.mark.parametrize("words", [("matrix", QUICK), ("trial", "--file-size", "1M"), ("machines", "list")])
def test_a_folder_that_cannot_be_used_is_one_sentence(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    (scratch / "a-file").write_text("in the way")
    monkeypatch.setenv("PICOLAB_STATE_DIR", str(scratch / "a-file" / "state"))
    monkeypatch.setenv("PICOLAB_OUTPUTS_DIR", str(scratch / "a-file" / "outputs"))

    done = picolab_here(*words)

    assert done.returncode == ExitCode.HOST_UNFIT, done.stderr
    assert "a-file" in done.stderr and "Traceback" not in done.stderr


def test_two_trials_of_one_second_have_folders_of_their_own() -> None:
    first = TrialState.begin(TrialParameters(), None)
    second = first.model_copy(deep=True)

    folders = [claim_folder(first), claim_folder(second)]

    assert folders[1].name == f"{folders[0].name}-2" == second.identity.trial_id


def test_one_damaged_campaign_does_not_hide_the_others() -> None:
    for name, text in (("broken", "{"), ("empty", "")):
        (outputs_dir() / name).mkdir(parents=True)
        (outputs_dir() / name / "plan.json").write_text(text)

    done = picolab_here("status")

    assert done.returncode == 0
    assert "broken" in done.stdout and "empty" in done.stdout
