"""Exit codes: one catalogue, distinct, and each error of ours has the one that it deserves."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_line import picolab_here

from picolab import errors, exit_codes
from picolab.cli.main import main
from picolab.errors import PicolabError
from picolab.exit_codes import ExitCode

PICOLAB = Path(sys.executable).with_name("picolab")


def every_error() -> list[type[PicolabError]]:
    return [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, PicolabError)]


def test_numbers_are_what_scripts_rely_on() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "TRIALS_FAILED": 1,
        "UNDECIDED": 2,
        "INSTRUMENT_FAULT": 3,
        "BAD_PARAMETERS": 4,
        "HOST_UNFIT": 5,
        "INTERRUPTED": 130,
    }


def test_a_regression_has_the_number_of_trials_that_failed() -> None:
    assert ExitCode.REGRESSION is ExitCode.TRIALS_FAILED


def test_each_code_says_what_it_means() -> None:
    (body,) = [node for node in ast.parse(inspect.getsource(exit_codes)).body if isinstance(node, ast.ClassDef)]
    names = [
        node.targets[0].id
        for node in body.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    ]
    sentences = [node for node in body.body[1:] if isinstance(node, ast.Expr)]

    assert names == list(ExitCode.__members__)
    assert len(sentences) == len(names)


def test_help_lists_every_code() -> None:
    said = CliRunner().invoke(click.Group("picolab", epilog=main.epilog), ["--help"]).output
    words = " ".join(said.split())
    for code in ExitCode:
        assert f"{int(code)} {code.name.lower().replace('_', ' ')}" in words


def test_every_error_has_a_code_that_is_no_success() -> None:
    for error in every_error():
        assert isinstance(error.exit_code, ExitCode) and error.exit_code is not ExitCode.OK


def test_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    tree = errors.__doc__ or ""
    for error in every_error():
        (line,) = [line for line in tree.splitlines() if line.lstrip(" │├└─").split(" ")[0] == error.__name__]
        depth = (len(line) - len(line.lstrip(" │├└─")) - 4) // 4
        assert depth == sum(issubclass(above, PicolabError) for above in error.__mro__) - 1, line


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["status", "nowhere"], ExitCode.BAD_PARAMETERS, "there is no such campaign"),
        (["matrix", "no.yaml"], ExitCode.BAD_PARAMETERS, "name a file such as parameters/quick.yaml"),
        (["matrix"], ExitCode.BAD_PARAMETERS, "Missing argument"),
        (["dance"], ExitCode.BAD_PARAMETERS, "No such command"),
        (["trial", "--ram", "3"], ExitCode.BAD_PARAMETERS, "picolab trial: ram_mb = 3 should be"),
        (["trial", "--build", "./none"], ExitCode.BAD_PARAMETERS, "there is no such file"),
        (["trial", "-p", "ram_mb", "["], ExitCode.BAD_PARAMETERS, "is not valid YAML"),
        (["matrix", "parameters/quick.yaml", "--memory-limits", "999999"], ExitCode.HOST_UNFIT, "smaller levels"),
        (["matrix", "parameters/quick.yaml", "--repeats", "x"], ExitCode.BAD_PARAMETERS, "Invalid value"),
        (["matrix", "parameters/quick.yaml", "--plan"], ExitCode.OK, ""),
        (["--help"], ExitCode.OK, ""),
    ],
)
def test_command_ends_with_its_code_and_one_sentence(
    arguments: list[str], code: ExitCode, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    done = picolab_here(*arguments)

    assert done.returncode == code, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [(PICOLAB,), (sys.executable, "-m", "picolab")], ids=["program", "module"])
def test_processes_end_with_the_code_of_a_mistake(command: tuple[str | Path, ...]) -> None:
    done = subprocess.run([*command, "status", "nowhere"], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == ExitCode.BAD_PARAMETERS
    assert done.stderr.startswith("Error: campaign 'nowhere': there is no such campaign")
