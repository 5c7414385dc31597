"""The calibration server as one file: deterministic, complete, made where it is missing."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from picolab.config.project import state_dir
from picolab.errors import FileNotWritten
from picolab.servers.calibration import program
from picolab.servers.calibration.program import server_path

PACKAGE = Path(program.__file__).parent


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    code = "from picolab.servers.calibration.program import server_path; print(server_path())"
    environment = {**os.environ, "PICOLAB_STATE_DIR": str(tmp_path), "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    other = Path(done.stdout.strip())

    assert other != server_path() and other.read_bytes() == server_path().read_bytes()
    assert hashlib.sha256(other.read_bytes()).hexdigest().startswith(other.name.rpartition("-")[2])


def test_the_file_holds_every_module_as_it_is() -> None:
    with zipfile.ZipFile(server_path()) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    folder = "picolab/servers/calibration"
    modules = {path.name: path.read_bytes() for path in PACKAGE.glob("*.py")}
    del modules["program.py"], modules["sink.py"]

    assert {name: content[f"{folder}/{name}"] for name in modules if name != "__init__.py"} == {
        name: text for name, text in modules.items() if name != "__init__.py"
    }
    assert set(content) == {f"{folder}/{name}" for name in modules} | {
        "__main__.py",
        "picolab/__init__.py",
        "picolab/servers/__init__.py",
    }


def test_a_damaged_or_missing_file_is_made_again() -> None:
    path = server_path()
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert server_path() == path and path.read_bytes() == whole
    path.unlink()
    assert server_path().read_bytes() == whole
    assert path.stat().st_mode & 0o111 == 0o111
    assert list(path.parent.iterdir()) == [path], "nothing else is left"


def test_an_existing_file_is_not_written_again() -> None:
    before = server_path().stat()
    assert server_path().stat().st_mtime_ns == before.st_mtime_ns


def test_a_state_folder_that_cannot_be_written_is_named(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICOLAB_STATE_DIR", "/proc/picolab")
    with pytest.raises(FileNotWritten, match=r"/proc/picolab.*PICOLAB_STATE_DIR"):
        server_path()
    assert str(state_dir()) == "/proc/picolab"
