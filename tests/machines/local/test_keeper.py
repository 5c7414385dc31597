"""The keeper as a process of its own: its protocol, its signals, its lease."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import alive, eventually

from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines.local import keeper as keeper_module
from picolab.machines.local.keeper import Keeper


def write_spec(folder: Path, work: Path) -> None:
    """Say what machine is wanted: one without a memory limit."""
    folder.mkdir(parents=True)
    spec = {
        "name": "local",
        "place": work.name,
        "work": str(work),
        "method": "none",
        "limit_bytes": 0,
        "no_private_network": "not wanted",
        "holder": this_process().to_json(),
        "keep": False,
    }
    (folder / "machine.json").write_text(json.dumps(spec))


class RunningKeeper:
    """A keeper process without a memory limit, spoken to over its socket."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder = folder
        self.work = work
        write_spec(folder, work)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "picolab.machines.local.keeper", str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()

    def send(self, line: bytes) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.folder / "keeper.sock"))
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile() as stream:
                return stream.readline()

    def ask(self, **request: Any) -> dict[str, Any]:
        return dict(json.loads(self.send(json.dumps(request).encode() + b"\n")))

    def start(self, *argv: str) -> dict[str, Any]:
        request = {"argv": argv, "env": {"PATH": os.defpath}, "cwd": str(self.work), "log": str(self.folder / "log")}
        return self.ask(do="start", **request)

    def server_ended(self) -> dict[str, Any]:
        return eventually(lambda: (s := self.ask(do="status"))["running"] is False and s, "the server ends") or {}

    def is_gone(self) -> bool:
        return self.process.poll() is not None and not self.folder.exists() and not self.work.exists()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def keeper(scratch: Path) -> Iterator[RunningKeeper]:
    running = RunningKeeper(scratch / "keeper", scratch / "picolab-work")
    assert running.said == "ready\n"
    yield running
    running.close()


def test_it_outlives_nonsense(keeper: RunningKeeper) -> None:
    for line in (b"not json\n", b"[]\n", b"7\n", b"\n", b"", b'{"do": "dance"}\n', b'{"do": "stop"}\n'):
        answer = json.loads(keeper.send(line))
        assert answer["ok"] is False and answer["error"], line
    for line in (b'{"do": "start", "argv": 7}\n', b'{"do": "hold", "holder": null}\n', b"\xff\xfe\n"):
        assert json.loads(keeper.send(line))["ok"] is False, line
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(keeper.folder / "keeper.sock"))
        # Goes away without waiting for the answer.
        connection.sendall(b'{"do": "status"}\n')
    status = keeper.ask(do="status")
    assert status["ok"] is True and status["pid"] is None and status["running"] is False


def test_release_answers_when_everything_is_gone(keeper: RunningKeeper) -> None:
    server = keeper.start("sleep", "1000")["pid"]
    assert keeper.ask(do="release") == {"ok": True}
    assert not keeper.folder.exists() and not keeper.work.exists() and not alive(server)
    assert keeper.process.wait(60) == 0


def test_release_kills_a_server_that_ignores_sigterm_at_once(keeper: RunningKeeper) -> None:
    server = keeper.start("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done")["pid"]
    eventually(lambda: "up" in (keeper.folder / "log").read_text(), "the trap is set")
    keeper.ask(do="release")
    assert not alive(server)
    assert keeper.process.wait(60) == 0


def test_sigterm_takes_everything_down(keeper: RunningKeeper) -> None:
    server = keeper.start("sleep", "1000")["pid"]
    keeper.process.terminate()
    eventually(keeper.is_gone, "the keeper ends")
    assert keeper.process.returncode == 0 and not alive(server)


def test_ctrl_c_and_a_closed_terminal_are_not_for_it(keeper: RunningKeeper) -> None:
    server = keeper.start("sleep", "1000")["pid"]
    keeper.process.send_signal(signal.SIGINT)
    keeper.process.send_signal(signal.SIGHUP)
    assert keeper.ask(do="status")["running"] is True
    assert alive(server)


def test_sigkill_takes_the_server_with_it(keeper: RunningKeeper) -> None:
    server = keeper.start("sleep", "1000")["pid"]
    keeper.process.kill()
    eventually(lambda: not alive(server), "the kernel ends the server")


def test_how_a_server_ended(keeper: RunningKeeper) -> None:
    for code in (0, 3):
        keeper.start("sh", "-c", f"exit {code}")
        status = keeper.server_ended()
        assert (status["exit_code"], status["exit_signal"], status["stop_s"]) == (code, None, None)
        assert status["started_monotonic_s"] < status["ended_monotonic_s"]
    for number, name in ((signal.SIGSEGV, "SIGSEGV"), (signal.SIGRTMIN + 3, f"SIG{signal.SIGRTMIN + 3}")):
        pid = keeper.start("sleep", "1000")["pid"]
        os.kill(pid, number)
        status = keeper.server_ended()
        assert (status["exit_code"], status["exit_signal"]) == (None, name)


def test_a_second_server_is_refused_until_the_first_has_ended(keeper: RunningKeeper) -> None:
    first = keeper.start("sleep", "1000")
    refused = keeper.start("sleep", "1000")
    assert refused["ok"] is False and str(first["pid"]) in refused["error"]
    keeper.ask(do="stop", grace_s=30)
    assert keeper.start("sleep", "1000")["running"] is True


def test_a_server_that_cannot_be_started_is_not_said_to_run(keeper: RunningKeeper) -> None:
    keeper.start("true")
    keeper.server_ended()
    failed = keeper.start("/nowhere/picoshare")
    assert failed["ok"] is False and "/nowhere/picoshare" in failed["error"]
    assert keeper.ask(do="status")["running"] is False
    assert keeper.start("sleep", "1000")["running"] is True


def test_the_server_has_only_the_environment_it_was_given(keeper: RunningKeeper) -> None:
    keeper.start("env")
    keeper.server_ended()
    names = {line.partition("=")[0] for line in (keeper.folder / "log").read_text().splitlines()}
    assert names <= {"PATH", "PWD", "SHLVL", "_"}


def test_a_keeper_that_cannot_work_says_why_and_leaves_nothing(scratch: Path) -> None:
    (scratch / "file").write_text("x")
    running = RunningKeeper(scratch / "keeper", scratch / "file" / "picolab-work")
    assert str(scratch / "file") in running.said and "Traceback" not in running.said
    assert running.process.wait(60) == 1
    running.close()
    assert not running.folder.exists()


def test_whoever_asks_without_a_pause_keeps_no_machine_up(scratch: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as holder:
        identity = ProcessIdentity.of(holder.pid)
        assert identity is not None
        running = RunningKeeper(scratch / "keeper", scratch / "picolab-work")
        try:
            assert running.ask(do="hold", holder=identity.to_json(), keep=False)["ok"]
            holder.kill()
            holder.wait()

            def refused() -> bool:
                try:
                    # A question that is on its way when the keeper ends gets no answer.
                    running.ask(do="status")
                except (OSError, ValueError):
                    return True
                return False

            eventually(refused, "the keeper ends although it is asked all the time")
            eventually(running.is_gone, "the keeper takes everything down")
        finally:
            running.close()


def test_the_lease_of_a_kept_machine(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = ProcessIdentity(this_process().pid, this_process().start_ticks - 1, this_process().boot_id)
    spec = {"holder": dead.to_json(), "keep": True, "work": str(scratch / "work")}
    (scratch / "machine.json").write_text(json.dumps(spec))
    keeper = Keeper(scratch)
    now = 1000.0
    monkeypatch.setattr(keeper_module.time, "monotonic", lambda: now)
    keeper._look_after_holder()
    now += keeper_module.KEEP_LEASE_S - 1
    keeper._look_after_holder()
    assert not keeper.released
    # Somebody came back and went away again: the lease begins anew.
    keeper.holder = this_process()
    keeper._look_after_holder()
    keeper.holder = dead
    keeper._look_after_holder()
    now += keeper_module.KEEP_LEASE_S - 1
    keeper._look_after_holder()
    assert not keeper.released
    now += 2
    keeper._look_after_holder()
    assert keeper.released


def test_a_released_keeper_leaves_the_next_machine_alone(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its answer and its end somebody may make a new machine, of the same name and in the same places."""
    monkeypatch.chdir(scratch)
    folder, work = scratch / "keeper", scratch / "picolab-work"
    write_spec(folder, work)
    released = Keeper(folder)
    released.set_up().close()
    assert released._do({"do": "release"}) == {} and not folder.exists() and not work.exists()
    write_spec(folder, work)
    work.mkdir()

    released.take_down()
    assert (folder / "machine.json").exists() and work.exists()
