"""Which project is used, where its folders are, and how a new one is made."""

import errno
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from picolab.cli.main import main
from picolab.config import project
from picolab.config.new_project import FILES, MARKER_TEXT, make_project
from picolab.config.project import (
    MARKER,
    find_project,
    outputs_dir,
    project_root,
    restoring_command,
    state_dir,
    working_dir,
)
from picolab.errors import FileNotWritten, ParameterError
from picolab.files.writing import not_written

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user-state"))
    monkeypatch.delenv("PICOLAB_STATE_DIR")
    monkeypatch.delenv("PICOLAB_OUTPUTS_DIR")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Act as if picolab was installed from a wheel; return the folder of the package."""
    package = tmp_path / "site-packages" / "picolab"
    (package / "project_files").mkdir(parents=True)
    monkeypatch.setattr(project, "_PACKAGE", package)
    monkeypatch.setattr(project, "_IN_A_WHEEL", package / "project_files")
    return package


def test_the_nearest_project_above_the_current_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path / "bench")
    (tmp_path / "bench" / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "bench" / "a" / "b")

    assert find_project() == project_root() == working_dir() == tmp_path / "bench"
    assert (outputs_dir(), state_dir()) == (tmp_path / "bench" / "outputs", tmp_path / "bench" / ".picolab")


def test_a_checkout_is_used_from_anywhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert find_project() == project_root() == ROOT
    assert (outputs_dir(), state_dir()) == (ROOT / "outputs", ROOT / ".picolab")


@pytest.mark.usefixtures("installed")
def test_without_a_project_results_go_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert find_project() is None
    assert outputs_dir() == tmp_path / "outputs"
    assert state_dir() == tmp_path / "user-state" / "picolab"
    assert project_root() == tmp_path / "site-packages" / "picolab" / "project_files"


def test_the_environment_wins_over_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path / "bench")
    monkeypatch.chdir(tmp_path / "bench")
    monkeypatch.setenv("PICOLAB_STATE_DIR", str(tmp_path / "s"))
    monkeypatch.setenv("PICOLAB_OUTPUTS_DIR", str(tmp_path / "o"))

    assert (outputs_dir(), state_dir()) == (tmp_path / "o", tmp_path / "s")


@pytest.mark.usefixtures("installed")
def test_a_removed_current_folder_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert find_project() is None


def test_a_new_project_has_every_shipped_file(tmp_path: Path) -> None:
    made, kept = make_project(tmp_path / "bench")
    shipped = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "parameters").glob("*.yaml")]

    assert kept == [] and {f"{path.parent.name}/{path.name}" for path in shipped} < set(made)
    for name in (*FILES, *(str(path.relative_to(ROOT)) for path in shipped)):
        assert (tmp_path / "bench" / name).read_bytes() == (ROOT / name).read_bytes()
    assert (ROOT / MARKER).read_text() == MARKER_TEXT == (tmp_path / "bench" / MARKER).read_text()
    assert "# bench" in (tmp_path / "bench" / "README.md").read_text()


@pytest.mark.parametrize("name", ["notebooks", "outputs"])
def test_a_file_in_the_way_is_named_before_anything_is_written(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(
        ParameterError, match=re.escape(f"{tmp_path / name}: no project can be made here, because this is a file")
    ):
        make_project(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_git_ignores_results_and_state_of_a_new_project(tmp_path: Path) -> None:
    make_project(tmp_path)
    (tmp_path / "outputs" / "x").mkdir()
    (tmp_path / "outputs" / "x" / "plan.json").touch()
    (tmp_path / ".picolab").mkdir()
    (tmp_path / ".picolab" / "state").touch()
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True, timeout=60)
    listed = subprocess.run(
        ["git", "-C", str(tmp_path), "status", "--short", "--untracked-files=all"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout

    assert "outputs/README.md" in listed and MARKER in listed
    assert "plan.json" not in listed and ".picolab/" not in listed


def test_init_overwrites_nothing_and_adds_what_is_missing(tmp_path: Path) -> None:
    make_project(tmp_path)
    notebook = tmp_path / "notebooks" / "trial.ipynb"
    (tmp_path / "README.md").write_text("mine")
    notebook.unlink()
    done = CliRunner().invoke(main, ["init", str(tmp_path)])

    assert done.exit_code == 0 and "Kept README.md: it exists already" in done.output
    assert (tmp_path / "README.md").read_text() == "mine" and notebook.is_file()
    assert "nothing was changed" in CliRunner().invoke(main, ["init", str(tmp_path)]).output


def test_init_where_no_folder_can_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ParameterError, match="no project can be made here") as caught:
            make_project(folder)
        assert str(tmp_path / "file") in str(caught.value)


def test_init_leaves_no_part_of_a_file_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise FileNotWritten(f"{path} could not be written")

    monkeypatch.setattr("picolab.config.new_project.write_atomically", full)
    with pytest.raises(FileNotWritten):
        make_project(tmp_path / "bench")
    assert not [path for path in (tmp_path / "bench").rglob("*") if path.is_file()]


def test_init_without_permission_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, text: str) -> None:
        raise not_written(path, PermissionError(errno.EACCES, "Permission denied"))

    monkeypatch.setattr("picolab.config.new_project.write_atomically", refused)
    with pytest.raises(ParameterError, match=r"no project can be made here \(Permission denied\); name a folder"):
        make_project(tmp_path)


def test_init_names_the_current_folder_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert "files in this folder. Next:\n  picolab matrix" in CliRunner().invoke(main, ["init"]).output
    assert "\nThis folder has every file of a project" in CliRunner().invoke(main, ["init", "."]).output


def test_the_command_that_restores_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert restoring_command(ROOT / "notebooks" / "trial.ipynb") == f"git -C {ROOT} checkout -- notebooks/trial.ipynb"
    make_project(tmp_path / "my bench")
    monkeypatch.chdir(tmp_path / "my bench")
    notebook = tmp_path / "my bench" / "notebooks" / "trial.ipynb"
    notebook.write_text("spoilt")
    picolab = f"{Path(__import__('sys').executable).parent / 'picolab'}"
    subprocess.run(restoring_command(notebook).replace("picolab init", f"{picolab} init"), shell=True, check=True)

    assert notebook.read_bytes() == (ROOT / "notebooks" / "trial.ipynb").read_bytes()
