"""docs/adding-a-server.md, followed to the letter in a copy of picolab: its toy server is measured."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from picolab.config.sizes import MIB
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.record.validation import validate_record

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adding-a-server.md").read_text()
TRIAL_S = 300
"""Much longer than a trial of the page takes on a busy host."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture
def checkout(scratch: Path) -> Path:
    """A copy of picolab to which the page has been applied, with `toy.py` in it."""
    folder = scratch / "checkout"
    # With the byte code, but not with what others are writing.
    shutil.copytree(ROOT / "picolab", folder / "picolab", ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in (".picolab-project", "notebooks", "parameters", "Vagrantfile"):
        (folder / name).symlink_to(ROOT / name)
    for block in blocks("python"):
        name = re.search(r"^# (\S+\.py)$", block, re.M)
        assert name is not None, "each file of the page is named in a comment"
        path = folder / name[1]
        path.parent.mkdir(exist_ok=True)
        path.write_text(block)
    (folder / "toy.py").chmod(0o755)
    (folder / "picolab/servers/toy/__init__.py").touch()
    (change,) = blocks("diff")
    new_import, old, new = (line[1:] for line in change.splitlines())
    registry = folder / "picolab/servers/registry.py"
    text = registry.read_text()
    assert text.count(old + "\n") == 1, "the page shows the registry unchanged"
    registry.write_text(text.replace(old, new).replace("\n\nSERVERS", f"\n{new_import}\n\nSERVERS", 1))
    return folder


def run_page(checkout: Path, command: str) -> Record:
    """Run a command of the page and return the record of its trial."""
    program, words = command.strip().split(maxsplit=1)
    assert program == "picolab"
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    line = f'{sys.executable} -c "from picolab.cli.main import main; main()" {words} -p keep_machine never'
    done = subprocess.run(
        ["sh", "-c", line], cwd=checkout, env=environment, capture_output=True, text=True, timeout=TRIAL_S
    )
    (path,) = Path(os.environ["PICOLAB_OUTPUTS_DIR"]).glob("single-trials/*/record.json")
    assert path.exists(), done.stderr
    data = json.loads(path.read_text())
    # This process knows no toy server: its record is read by the copy.
    assert data["parameters"].pop("server") == "toy"
    return validate_record(data, str(path))


def test_the_page_makes_a_measured_server(checkout: Path) -> None:
    record = run_page(checkout, blocks("sh")[0])

    assert record.outcome is Outcome.OK, record.outcome_detail
    assert record.upload and record.verify and record.download and record.memory
    assert record.upload.http_status == 201 and record.upload.delivered_bytes == 8 * MIB
    assert record.verify.matched and record.verify.received_bytes == 8 * MIB
    assert record.memory.samples > 0 and record.memory.peak_anon_bytes
    assert record.build and record.build.label == "toy.py" and record.build.kind == "file"


def test_the_page_oom_kills_its_server(checkout: Path) -> None:
    record = run_page(checkout, blocks("sh")[1])

    assert record.outcome is Outcome.OOM_KILLED and record.outcome_stage == "upload", record.outcome_detail
    assert record.memory and record.memory.peak_anon_bytes


@pytest.mark.timeout(900)
def test_picolab_and_the_pages_adapter_have_right_types(checkout: Path) -> None:
    """The types of all of picolab are checked here, with the adapter: its part alone would take half as long again."""
    adapter = checkout / "picolab/servers/toy/adapter.py"
    for command in (
        ["ruff", "check", str(adapter)],
        ["ruff", "format", "--check", str(adapter)],
        ["mypy", "--no-incremental", str(checkout / "picolab")],
    ):
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
