"""Process identity from /proc, with real processes."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import eventually

from picolab.agent.procfs import boot_id, descendants
from picolab.host.processes import ProcessIdentity, is_self_or_ancestor, this_process


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def identity_of(pid: int) -> ProcessIdentity:
    identity = ProcessIdentity.of(pid)
    assert identity is not None
    return identity


def test_a_process_is_alive_until_it_ends_and_a_zombie_is_not(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identity_of(sleeper.pid)
    assert identity.alive and identity.boot_id == boot_id()
    assert identity.command == "sleep 1000"
    sleeper.kill()
    # Not waited for: it becomes a zombie, whose pid and start time are still there.
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{sleeper.pid}/stat").exists()
    assert not identity.alive and ProcessIdentity.of(sleeper.pid) is None
    sleeper.wait()
    assert not identity.alive and identity.command == "gone"


def test_a_pid_with_another_start_or_boot_is_somebody_else(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identity_of(sleeper.pid)
    for other in (
        dataclasses.replace(identity, start_ticks=identity.start_ticks - 1),
        dataclasses.replace(identity, boot_id="another boot"),
    ):
        assert not other.alive
        other.signal(signal.SIGKILL)
        assert identity.alive
    identity.signal(signal.SIGKILL)
    assert sleeper.wait(60) == -signal.SIGKILL
    identity.signal(signal.SIGKILL)


def test_json_and_back() -> None:
    identity = this_process()
    assert identity.pid == os.getpid() and identity.alive
    assert ProcessIdentity.from_json(identity.to_json()) == identity


def test_a_name_with_blanks_and_parentheses(scratch: Path) -> None:
    program = scratch / "a) Z 1 (b"
    shutil.copy("/bin/sleep", program)
    process = subprocess.Popen([program, "1000"])
    try:
        assert eventually(lambda: ") Z" in Path(f"/proc/{process.pid}/comm").read_text(), "the program runs")
        assert identity_of(process.pid).alive
        assert process.pid in descendants(os.getpid())
    finally:
        process.kill()
        process.wait()


def test_ancestors_and_descendants() -> None:
    code = (
        "import os, subprocess, sys\n"
        "from picolab.host.processes import is_self_or_ancestor\n"
        "parent, stranger = int(sys.argv[1]), int(sys.argv[2])\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "print(child.pid, [is_self_or_ancestor(p) for p in (os.getpid(), parent, stranger, child.pid)], flush=True)\n"
        "sys.stdin.read()\n"
        "child.kill()\n"
        "child.wait()\n"
    )
    with (
        subprocess.Popen(["sleep", "1000"]) as stranger,
        subprocess.Popen(
            [sys.executable, "-c", code, str(os.getpid()), str(stranger.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as child,
    ):
        assert child.stdout is not None
        grandchild, _, answers = child.stdout.readline().strip().partition(" ")
        assert answers == "[True, True, False, False]"
        found = descendants(os.getpid())
        assert {stranger.pid, child.pid, int(grandchild)} <= set(found)
        assert found.index(child.pid) < found.index(int(grandchild))
        assert descendants(child.pid) == [int(grandchild)]
        assert not is_self_or_ancestor(child.pid)
        stranger.kill()


def test_nobody() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert ProcessIdentity.of(gone.pid) is None
    assert descendants(gone.pid) == []
    assert not is_self_or_ancestor(gone.pid)
