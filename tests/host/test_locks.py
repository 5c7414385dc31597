"""Locks between processes: who holds one, and a wait that says so."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import eventually

from picolab.errors import MachineBusy
from picolab.host.locks import Wait, holders_of, in_words, try_lock
from picolab.machines import folders

_HOLD = """
import fcntl, sys
with open(sys.argv[1], "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


def hold(file: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    process.communicate()


def test_the_holder_of_a_lock_is_named(tmp_path: Path) -> None:
    held, free = tmp_path / "held", tmp_path / "free"
    free.touch()
    assert holders_of([held, free]) == []
    process = hold(held)
    try:
        (holder,) = holders_of([held, free, tmp_path / "missing"])
        assert holder.pid == process.pid and holder.alive
        assert in_words([holder]).startswith(f"pid {process.pid} ({sys.executable} -c")
        with held.open() as file:
            assert not try_lock(file)
    finally:
        end(process)
    assert holders_of([held]) == []
    assert in_words([]) == "another process"


def test_a_process_that_waits_is_no_holder(tmp_path: Path) -> None:
    held = tmp_path / "held"
    process = hold(held)
    waiting = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        inode = str(held.stat().st_ino)
        eventually(
            lambda: any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()),
            "the other one waits for the lock",
        )
        assert [holder.pid for holder in holders_of([held])] == [process.pid]
    finally:
        end(process)
        end(waiting)


def test_a_wait_reports_at_once_and_then_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr("picolab.host.locks.time.monotonic", lambda: now_s[0])
    lines: list[str] = []
    wait = Wait(10.0, lines.append)
    for _ in range(25):
        wait.show(lambda: "pid 7 (x)", "it works")
        now_s[0] += 0.1
    assert lines == [f"waiting for pid 7 (x): it works; at most {left} s more" for left in (10, 9, 8)]
    assert not wait.is_over
    now_s[0] += 8.0
    assert wait.is_over


def test_a_machine_that_another_process_makes_is_waited_for(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.machines_dir().mkdir(parents=True)
    process = hold(folders.lock_file("m"))
    lines: list[str] = []

    def free(line: str) -> None:
        lines.append(line)
        end(process)

    try:
        monkeypatch.setattr(folders, "_LOCK_LIMIT_S", 0.0)
        with (
            pytest.raises(MachineBusy, match=rf"pid {process.pid} \(.*\) has been making or taking down .*; end it"),
            folders.exclusive("m"),
        ):
            pass
        monkeypatch.setattr(folders, "_LOCK_LIMIT_S", 60.0)
        with folders.exclusive("m", free), folders.lock_file("m").open() as file:
            assert len(lines) == 1 and lines[0].startswith(f"waiting for pid {process.pid} (")
            assert lines[0].endswith("it makes or takes down the machine 'm'; at most 60 s more")
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        if process.poll() is None:
            end(process)
        folders.lock_file("m").unlink()
