"""The command line as a user meets it: help, one sentence for a mistake, exit codes, and a whole trial."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from picolab import __version__
from picolab.cli import main
from picolab.errors import MachineError
from picolab.exit_codes import ExitCode
from picolab.machines import registry
from picolab.parameters import TrialParameters
from picolab.paths import outputs_dir
from picolab.trial_state import TrialState, claim_folder

QUICK = str(Path(__file__).parent.parent / "parameters" / "quick.yaml")


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
    assert __version__ in picolab("--version").stdout
    shown = picolab("--help").stdout
    assert all(str(int(code)) in shown for code in ExitCode)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("matrix", "nowhere.yaml"), 4, "nowhere.yaml: cannot be read (No such file or directory)"),
        (("matrix", QUICK, "--memory-limits", "512,lots"), 4, "'512,lots' should be numbers"),
        (("matrix", QUICK, "--memory-limits", ""), 4, "ram_mb = [] should be a list of levels"),
        (("matrix", QUICK, "--file-sizes", "10MB"), 4, "write a number and K, M, G or T"),
        (("matrix", QUICK, "--file-sizes", "900T"), 4, "outside 1 byte to 1T"),
        (("matrix", QUICK, "--repeats", "0"), 4, "repeats = 0 should be greater than or equal to 1"),
        (("matrix", QUICK, "--campaign", "../up"), 4, "a name has up to 51 letters"),
        (("matrix", QUICK, "--build", "9.9"), 4, "build '9.9': there is no such file"),
        (("matrix", QUICK, "--file-sizes", "1T"), 5, "needs 2.2 times its size on disk"),
        (("resume", "nothing"), 4, "campaign 'nothing': there is no such campaign"),
        (("status", "nothing"), 4, "campaign 'nothing': there is no such campaign"),
        (("report", "nothing"), 4, "campaign 'nothing': there is no such campaign"),
        (("export", "nothing"), 4, "campaign 'nothing': there is no such campaign"),
        (("trial", "--ram", "1"), 4, "ram_mb = 1 should be greater than or equal to 16"),
        (("trial", "-p", "file_siez", "1M"), 4, "there is no 'file_siez'; did you mean file_size?"),
        (("trial", "-p", "calibration", "{"), 4, "is not valid YAML; quote it"),
        (("trial", "-p", "machine_name", "../../x"), 4, "machine_name"),
        (("trial", "--build", "/etc/passwd"), 4, "the file may not be executed"),
        (("machines", "remove", "nothing"), 4, "machine 'nothing': there is no such machine"),
        (("machines", "remove", "../.."), 4, "machine '../..': there is no such machine"),
        (("no-such-command",), 4, "No such command"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_sentence(words: tuple[str, ...], code: int, sentence: str) -> None:
    done = picolab(*words)

    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not outputs_dir().exists() or not list(outputs_dir().iterdir()), "nothing was started"


def test_the_plan_is_shown_and_nothing_is_run() -> None:
    done = picolab("matrix", QUICK, "--plan", "--repeats", "2", "--memory-limits", "64")

    assert done.returncode == 0
    assert "4 trials = 2 cases x 2 repeats, seed 1" in done.stdout
    assert done.stdout.count("local-64mb-") == 4
    assert picolab("matrix", QUICK, "--plan", "--repeats", "2", "--memory-limits", "64").stdout == done.stdout
    assert not outputs_dir().exists()


def test_a_trial_that_keeps_its_machine() -> None:
    done = picolab("trial", "--ram", "128", "--file-size", "4M", "--keep-machine", "-p", "machine_name", "mine")
    try:
        assert done.returncode == ExitCode.OK, done.stdout + done.stderr
        assert "The machine 'mine' is still up" in done.stdout
        assert "peak" in done.stdout and "MiB anonymous of 128 MiB" in done.stdout
        listed = picolab("machines", "list").stdout
        assert "mine  local  128 MiB  held by nobody  server: pid" in listed
    finally:
        assert "taken down" in picolab("machines", "remove", "mine").stdout
    assert "There are no machines." in picolab("machines", "list").stdout


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
    assert "not of PicoShare" in done.stdout

    assert "2 of 2 trials have a result" in picolab("status", "c").stdout
    assert "c  2 of 2 trials" in picolab("status").stdout
    assert picolab("report", "c").returncode == 0
    assert "<title>" in (outputs_dir() / "c" / "report.html").read_text()
    exported = picolab("export", "c", "--format", "csv").stdout.split()
    assert [Path(path).name for path in exported] == ["trials.csv", "samples.csv"]


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

    done = picolab(*words)

    assert done.returncode == ExitCode.HOST_UNFIT, done.stderr
    assert "a-file" in done.stderr and "Traceback" not in done.stderr


def test_two_trials_of_one_case_in_one_second_have_folders_of_their_own() -> None:
    first = TrialState.begin(TrialParameters(), None)
    second = first.model_copy(deep=True)

    folders = [claim_folder(first), claim_folder(second)]

    assert folders[1].name == f"{folders[0].name}-2" == second.identity.trial_id


def test_one_damaged_campaign_does_not_hide_the_others() -> None:
    for name, text in (("broken", "{"), ("empty", "")):
        (outputs_dir() / name).mkdir(parents=True)
        (outputs_dir() / name / "plan.json").write_text(text)

    done = picolab("status")

    assert done.returncode == 0
    assert "broken" in done.stdout and "empty" in done.stdout
