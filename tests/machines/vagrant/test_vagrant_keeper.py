"""The keeper of a virtual machine: when it takes the machine down and when it must not. No guest is needed here."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import GIVE_UP_S, eventually

from picolab.errors import MachineError
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines import folders
from picolab.machines.folders import KEEPER, SPEC, TRIAL_FILE, folder_of, keeper_of, spec_of, unheld_since, write_spec
from picolab.machines.local.keeper import KEEP_LEASE_S
from picolab.machines.vagrant import by_hand, keeper, removal


@pytest.fixture
def gone() -> ProcessIdentity:
    """A process that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        identity = ProcessIdentity.of(process.pid)
        assert identity is not None
        process.kill()
    return identity


@pytest.fixture
def destroyed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been destroyed."""
    names: list[str] = []
    monkeypatch.setattr(removal, "destroy", lambda folder, spec: names.append(folder.name))
    monkeypatch.setattr(keeper, "_POLL_S", 0.01)
    return names


@pytest.fixture
def folder(scratch: Path) -> Iterator[Path]:
    """The folder of a machine whose keeper is this process."""
    folder = folder_of("vm")
    folder.mkdir(parents=True)
    (folder / KEEPER).write_text(json.dumps({"process": this_process().to_json()}))
    yield folder
    for path in folder.glob("*"):
        path.unlink()
    if folder.exists():
        folder.rmdir()


def hold(folder: Path, holder: ProcessIdentity, keep: bool) -> None:
    write_spec(folder, {"kind": "vagrant", "name": "vm", "state": "up", "holder": holder.to_json(), "keep": keep})


def test_a_dead_holder_means_that_the_machine_goes(folder: Path, gone: ProcessIdentity, destroyed: list[str]) -> None:
    hold(folder, gone, keep=False)
    assert keeper.watch(folder, threading.Event())
    assert removal.release_if_nobody_holds(folder)
    assert destroyed == ["vm"] and not folder.exists()


def test_a_machine_that_was_taken_over_meanwhile_stays(
    folder: Path, gone: ProcessIdentity, destroyed: list[str]
) -> None:
    hold(folder, gone, keep=False)
    assert keeper.watch(folder, threading.Event())
    hold(folder, this_process(), keep=False)
    assert not removal.release_if_nobody_holds(folder)
    assert not destroyed and spec_of(folder) is not None


def test_a_kept_machine_stays_until_the_keeper_is_told_to_end(
    folder: Path, gone: ProcessIdentity, destroyed: list[str]
) -> None:
    hold(folder, gone, keep=True)
    told = threading.Event()
    answers: list[bool] = []
    watcher = threading.Thread(target=lambda: answers.append(keeper.watch(folder, told)))
    watcher.start()
    watcher.join(0.2)
    assert watcher.is_alive()
    told.set()
    eventually(lambda: answers, "it ends")
    watcher.join()
    assert answers == [True]


def test_a_kept_machine_goes_when_nobody_came_back(
    folder: Path, gone: ProcessIdentity, destroyed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = datetime.now(UTC)
    monkeypatch.setattr(keeper, "KEEP_LEASE_S", 0.05)
    hold(folder, gone, keep=True)
    assert keeper.watch(folder, threading.Event())
    # Its own time, and not that of the file that names the holder.
    os.utime(folder / SPEC, (0, 0))
    assert before <= unheld_since(folder, spec_of(folder) or {}) <= datetime.now(UTC), "it notes when the holder went"


def test_a_new_keeper_grants_only_what_is_left_of_the_time(
    folder: Path, gone: ProcessIdentity, destroyed: list[str]
) -> None:
    """As after a halt of a kept machine, a start of the host, and a start of the machine."""
    hold(folder, gone, keep=True)
    since = datetime.now(UTC) - timedelta(seconds=KEEP_LEASE_S + 1)
    (folder / folders._UNHELD).write_text(json.dumps({"holder": gone.to_json(), "since": since.isoformat()}))
    told = threading.Event()
    safety = threading.Timer(GIVE_UP_S, told.set)
    safety.start()
    assert keeper.watch(folder, told) and not told.is_set()
    safety.cancel()


def test_a_machine_whose_time_is_over_is_not_started(
    folder: Path, gone: ProcessIdentity, destroyed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be taken down a moment later."""
    hold(folder, gone, keep=True)
    (folder / TRIAL_FILE).write_text("{}")
    (folder / KEEPER).unlink()
    monkeypatch.setattr(by_hand, "state", lambda _: "off")
    since = datetime.now(UTC) - timedelta(seconds=KEEP_LEASE_S + 1)
    (folder / folders._UNHELD).write_text(json.dumps({"holder": gone.to_json(), "since": since.isoformat()}))
    with pytest.raises(MachineError, match="machine 'vm': nobody keeps it any more"):
        by_hand.start(folder)
    assert keeper_of(folder) is None and not destroyed


@pytest.mark.parametrize("lost", ["machine.json", KEEPER])
def test_a_keeper_without_its_machine_ends_and_touches_nothing(
    folder: Path, gone: ProcessIdentity, destroyed: list[str], lost: str
) -> None:
    hold(folder, gone, keep=False)
    (folder / lost).unlink()
    assert not keeper.watch(folder, threading.Event())
    assert removal.release_if_nobody_holds(folder)
    assert not destroyed
