"""A relative path means the folder in which it was given, by whichever door it comes, and never another one's file."""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import papermill.cli
import pytest
from click.testing import CliRunner, Result
from command_line import picolab_here
from hypothesis import given
from hypothesis import strategies as st

from picolab.campaign.preflight import check_plan
from picolab.config.compare_request import requested
from picolab.config.given_paths import absolute_build, absolute_path, is_word
from picolab.config.invalid_input import validate
from picolab.config.parameter_file import load_campaign_parameters
from picolab.config.plan import Plan, make_plan
from picolab.config.project import outputs_dir, project_root
from picolab.config.trial_parameters import TrialParameters
from picolab.config.yaml_text import read_yaml
from picolab.errors import ParameterError
from picolab.servers.calibration.program import server_path
from picolab.trial.state import repeat_command

NAME = f"server-of-a-test-{os.getpid()}"
"""Of an executable that lies in the checkout too, where other processes run the same tests."""


def make_server(path: Path, mark: str) -> str:
    """Make an executable that is the calibration server, different by its mark; return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'#!/bin/sh\n# {mark}\nexec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(server_path()))} "$@"\n'
    )
    path.chmod(0o755)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def picolab(folder: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder, with another environment, in the test's own process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in environment.items():
            patch.setenv(name, value)
        done = picolab_here(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def records(folder: Path) -> list[dict[str, dict[str, str]]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("*record.json"))]


@pytest.fixture
def in_the_checkout() -> Iterator[Path]:
    """Put an executable of the same name where trials run; another one would be measured instead of the user's."""
    path = project_root() / NAME
    make_server(path, "of the checkout")
    yield path
    path.unlink()


@pytest.fixture
def folders(tmp_path: Path, in_the_checkout: Path) -> dict[str, str]:
    """Make executables of one name in three folders; return each folder's SHA-256."""
    return {name: make_server(tmp_path / name / in_the_checkout.name, name) for name in ("here", "there", "home")}


@pytest.mark.parametrize(
    ("place", "whose"),
    [
        ("", "here"),
        ("~/", "home"),
    ],
)
def test_a_trial_measures_the_file_of_the_users_folder(
    place: str, whose: str, tmp_path: Path, folders: dict[str, str]
) -> None:
    (tmp_path / "here" / "work").mkdir()
    few = ("--ram", "128", "--file-size", "1M", "-p", "work_dir", "work", "-p", "keep_machine", "never")
    picolab(tmp_path / "here", "trial", "--build", f"{place}{NAME}", *few, HOME=str(tmp_path / "home"))

    (record,) = records(outputs_dir())
    assert record["build"]["sha256"] == folders[whose]
    assert record["parameters"]["build"] == str(tmp_path / whose / NAME)
    assert record["parameters"]["work_dir"] == str(tmp_path / "here" / "work")
    if place:
        return
    # The command in the record is right from any folder.
    again = shlex.split(record["identity"]["repeat_command"])
    picolab(tmp_path / "there", *again[1:], HOME=str(tmp_path / "there"))
    assert [record["build"]["sha256"] for record in records(outputs_dir())] == [folders[whose]] * 2


def test_relative_paths_of_files_and_of_the_command_line(tmp_path: Path, folders: dict[str, str]) -> None:
    file = tmp_path / "there" / "two.yaml"
    file.write_text(
        f"builds: {{own: {{build: ./{NAME}}}, other: {{build: ../home/{NAME}}}}}\n"
        "matrix: {ram_mb: [128], file_size: [1M]}\n"
        "parameters: {work_dir: work}\n"
        "repeats: 1\nidle_limit_s: 0\n"
    )
    here = tmp_path / "here"
    picolab(here, "matrix", "../there/two.yaml", "--campaign", "file")
    found = {record["parameters"]["label"]: record for record in records(outputs_dir() / "file")}
    assert found["own"]["build"]["sha256"] == folders["there"]
    assert found["other"]["build"]["sha256"] == folders["home"]
    assert {record["parameters"]["work_dir"] for record in found.values()} == {str(tmp_path / "there" / "work")}
    plan = Plan.load(outputs_dir() / "file")
    assert {trial.parameters.build for trial in plan.trials} == {
        str(tmp_path / name / NAME) for name in ("there", "home")
    }
    file.write_text("{matrix: {ram_mb: [128], file_size: [1M]}, repeats: 1, idle_limit_s: 0}")
    picolab(here, "matrix", "../there/two.yaml", "--campaign", "line", "--build", f"./{NAME}")
    (record,) = records(outputs_dir() / "line")
    assert record["build"]["sha256"] == folders["here"]
    # Another folder of outputs, named from the user's folder, is the same for the trials.
    picolab(
        here, "matrix", "../there/two.yaml", "--campaign", "own", PICOLAB_OUTPUTS_DIR="out", PICOLAB_STATE_DIR="state"
    )
    assert len(records(here / "out" / "own" / "trials")) == 1
    shutil.rmtree(here / "state")


def papermill_here(*words: str) -> Result:
    """Run a trial as `python -m papermill` would in the current folder, without importing papermill anew."""
    notebook = str(project_root() / "notebooks" / "trial.ipynb")
    return CliRunner().invoke(papermill.cli.papermill, [notebook, "out.ipynb", "--no-progress-bar", *words])


def test_papermill_means_its_current_folder(
    tmp_path: Path, folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "here")
    few = ("-p", "ram_mb", "128", "-p", "file_size", "1M", "-p", "keep_machine", "never")
    done = papermill_here(*few, "-p", "build", f"./{NAME}")

    assert done.exit_code == 0, done.output
    (record,) = records(outputs_dir())
    assert record["build"]["sha256"] == folders["here"]
    assert record["parameters"]["build"] == str(tmp_path / "here" / NAME)


def test_papermill_makes_a_number_of_a_text_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = papermill_here("-p", "build", "1.10")

    assert done.exit_code != 0
    said = str(done.exception)
    assert "the parameters cell: build = " in said and "-r build TEXT instead of -p" in said
    assert not outputs_dir().exists()


@pytest.mark.parametrize("text", ["1.10", "1_000", "True"])
def test_whatever_papermill_makes_of_a_text_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match=r"the parameters cell: build = .* -r build TEXT instead of -p"):
        TrialParameters.from_namespace({"build": papermill.cli._resolve_type(text)})


def test_papermill_leaves_a_text_as_it_stands_when_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make_server(tmp_path / "1.10", "a number")
    monkeypatch.chdir(tmp_path)
    few = ("-p", "ram_mb", "128", "-p", "file_size", "1M", "-p", "keep_machine", "never", "-r", "label", "1.10")
    done = papermill_here(*few, "-r", "build", "1.10")

    assert done.exit_code == 0, done.output
    (record,) = records(outputs_dir())
    assert record["build"]["sha256"] == expected
    assert (record["parameters"]["build"], record["parameters"]["label"]) == (str(tmp_path / "1.10"), "1.10")


# A word or a path


@pytest.mark.parametrize("word", ["calibration", "1.5.4", "v1.5.4"])
def test_a_word_that_is_a_file_too_is_refused(word: str, tmp_path: Path) -> None:
    assert absolute_build(word, tmp_path, "here") == word
    (tmp_path / word).mkdir()
    assert absolute_build(word, tmp_path, "here") == word, "a folder is no build"
    (tmp_path / word).rmdir()
    (tmp_path / word).touch()
    with pytest.raises(ParameterError, match=f"there is a file of that name in .*; write ./{word} for the file, or"):
        absolute_build(word, tmp_path, "here")
    assert absolute_build(f"./{word}", tmp_path, "here") == str(tmp_path / word)
    file = tmp_path / "a.yaml"
    for text in (
        f"matrix: {{build: [{word}]}}",
        f"matrix: {{ram_mb: [64], include: [{{build: {word}}}]}}",
        f"{{builds: {{x: {{build: {word}}}}}, matrix: {{ram_mb: [64]}}}}",
        f"{{parameters: {{build: {word}}}, matrix: {{ram_mb: [64]}}}}",
    ):
        file.write_text(text)
        with pytest.raises(ParameterError, match="there is a file of that name"):
            load_campaign_parameters(file)


def test_a_label_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    file = tmp_path / "a.yaml"
    file.write_text("{builds: {old: {build: ./old}}, matrix: {ram_mb: [64], build: [old]}}")
    (trial,) = make_plan(load_campaign_parameters(file), "c", "file").trials[:1]

    assert (trial.parameters.label, trial.parameters.build) == ("old", str(tmp_path / "old"))


def test_builds_of_a_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "x=b", "1.5.4"):
        (tmp_path / name).touch()
    wanted = {"builds": {"known": {"build": "/k"}}, "matrix": {}}

    def builds(*words: str) -> dict[str, str]:
        return {label: build["build"] for label, build in requested(wanted, [*words], None, "f")["builds"].items()}

    assert builds("./a", "new=b") == {"a": f"{tmp_path}/a", "new": f"{tmp_path}/b"}
    assert builds("known", "new=../b") == {"known": "/k", "new": f"{tmp_path.parent}/b"}
    assert builds("old=known", "new=b") == {"old": "/k", "new": f"{tmp_path}/b"}
    assert builds("./x=b", "1.5.3") == {"x-b": f"{tmp_path}/x=b", "1.5.3": "1.5.3"}
    with pytest.raises(ParameterError, match=r"'x=b' is a file, and 'b' is one too; write ./x=b for the first"):
        builds("x=b", "a")
    with pytest.raises(ParameterError, match="there is a file of that name"):
        builds("old=1.5.4", "a")
    with pytest.raises(ParameterError, match="there is a file of that name"):
        requested(wanted, [], "1.5.4", "f")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("", ""),
        ("x", "{folder}/x"),
        ("./x", "{folder}/x"),
        ("../x", "{parent}/x"),
        ("..", "{parent}"),
        (".", "{folder}"),
        ("link/x", "{folder}/real/x"),
        ("link", "{folder}/link"),
        ("link/../x", "{folder}/x"),
        ("/a/../b", "/b"),
        ("loop/x", "{folder}/loop/x"),
        ("~", "{parent}"),
        ("~/x", "{parent}/x"),
        ("a~", "{folder}/a~"),
    ],
)
def test_a_path_from_the_root(text: str, meaning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "folder"
    (folder / "real").mkdir(parents=True)
    (folder / "link").symlink_to("real")
    (folder / "loop").symlink_to("loop")

    assert absolute_path(text, folder, "here") == meaning.format(folder=folder, parent=tmp_path)
    # Once more changes nothing.
    assert absolute_path(absolute_path(text, folder, "here"), Path("/"), "here") == absolute_path(text, folder, "here")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=300))
def test_any_path_is_absolute_or_refused(text: str) -> None:
    try:
        path = absolute_path(text, Path("/nowhere/at/all"), "here")
    except ParameterError:
        assert text.startswith("~")
    else:
        assert path == "" == text or Path(path).is_absolute()


# Plans and commands


def test_an_old_plan_is_read_and_not_run(tmp_path: Path) -> None:
    plan = make_plan(load_campaign_parameters(project_root() / "parameters" / "quick.yaml"), "c", "old.yaml")
    old = json.loads(plan.model_dump_json())
    for trial in old["trials"]:
        trial["parameters"]["build"] = "./server-of-a-test"
    (outputs_dir() / "c").mkdir(parents=True)
    (outputs_dir() / "c" / "plan.json").write_text(json.dumps(old))

    assert Plan.load(outputs_dir() / "c").trials[0].parameters.build == "./server-of-a-test"
    assert "0 of" in picolab(tmp_path, "status", "c").stdout
    with pytest.raises(ParameterError, match=r"'./server-of-a-test' does not say in which folder"):
        check_plan(Plan.load(outputs_dir() / "c"))
    done = picolab_here("resume", "c")
    assert done.returncode == 4 and "does not say in which folder" in done.stderr


texts = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=20)
odd = st.sampled_from(
    ["1.10", "007", "yes", "null", "~", "true", "- a", "a: b", "{", "[x", '"', "'", "#", "a #b", "*a"]
)


@given(
    path=texts,
    label=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}", fullmatch=True),
    environment=st.dictionaries(st.from_regex(r"[A-Z_]{2,8}X", fullmatch=True), texts | odd | st.just(""), max_size=3),
    box=odd | texts,
    limit=st.floats(0.01, 3600),
)
def test_the_command_of_a_record_repeats_it(
    path: str, label: str, environment: dict[str, str], box: str, limit: float
) -> None:
    parameters = TrialParameters(
        build=f"/{path}", label=label, environment=environment, box=box, ready_limit_s=limit, work_dir=f"/x/{path}"
    )
    words = shlex.split(repeat_command(parameters))[2:]
    values = {"ram_mb": words[1], "file_size": words[3], "build": words[5]}
    assert (words[0], words[2], words[4]) == ("--ram", "--file-size", "--build")
    for at in range(6, len(words), 3):
        assert words[at] == "-p"
        values[words[at + 1]] = read_yaml(words[at + 2])
    assert validate(TrialParameters, values, "picolab trial") == parameters


def test_digits_without_end_are_no_release() -> None:
    assert is_word("1.2.3") and not is_word("1.2." + "9" * 5000), "int() takes 4,300 digits"
