"""The agent in the background: connections to its unix socket, as the shipped zipapp answers them."""

import contextlib
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually

from picolab.agent import bundle
from picolab.agent.listen import LARGEST_REQUEST_BYTES
from picolab.host.processes import ProcessIdentity

ME = pwd.getpwuid(os.geteuid()).pw_name


def start(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    zipapp = folder / "agent.pyz"
    zipapp.write_bytes(bundle.zipapp())
    words = [sys.executable, "-I", "-S", str(zipapp), "--home", str(folder / "home"), "--user", ME]
    return subprocess.run(
        [*words, *(more or ("--listen", str(folder / "socket")))], capture_output=True, text=True, check=False
    )


def agents(folder: Path) -> list[ProcessIdentity]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder / "agent.pyz") in file.read_bytes():
                found.append(ProcessIdentity.of(int(file.parent.name)))
    return [identity for identity in found if identity is not None]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    done = start(tmp_path)
    try:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        yield tmp_path / "socket"
    finally:
        for agent in agents(tmp_path):
            agent.signal(signal.SIGKILL)
        eventually(lambda: not agents(tmp_path), "the agents end")


class Connected:
    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")

    def ask(self, text: bytes) -> Any:
        self.socket.sendall(text)
        return json.loads(self.lines.readline())

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


def test_the_start_returns_when_the_agent_listens(path: Path) -> None:
    connected = Connected(path)
    answer = connected.ask(b'{"do": "clock"}\n')
    connected.close()

    assert answer["ok"] is True and answer["monotonic_s"] > 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(entry.name for entry in path.parent.glob("socket*")) == ["socket"]


def test_connections_do_not_wait_for_each_other(path: Path) -> None:
    idle, first, second = Connected(path), Connected(path), Connected(path)
    first.socket.sendall(b'{"do": "cl')
    assert second.ask(b'{"do": "clock"}\n')["ok"] is True
    assert first.ask(b'ock"}\n')["ok"] is True
    assert second.ask(b'{"do": "dance"}\n')["error"].startswith("the agent knows no request 'dance'")
    idle.close()
    first.close()
    assert second.ask(b'{"do": "status"}\n')["pid"] is None
    second.close()


def test_a_second_start_leaves_the_first_agent(path: Path, tmp_path: Path) -> None:
    before = agents(tmp_path)
    assert start(tmp_path).returncode == 0
    assert [agent.pid for agent in agents(tmp_path)] == [agent.pid for agent in before] and len(before) == 1


def test_after_a_killed_agent_the_next_one_listens(path: Path, tmp_path: Path) -> None:
    (killed,) = agents(tmp_path)
    killed.signal(signal.SIGKILL)
    eventually(lambda: not killed.alive, "it ends")
    assert start(tmp_path).returncode == 0

    connected = Connected(path)
    assert connected.ask(b'{"do": "clock"}\n')["ok"] is True
    connected.close()
    assert [agent.pid for agent in agents(tmp_path)] != [killed.pid]


def test_a_request_without_end_closes_its_connection(path: Path) -> None:
    endless, other = Connected(path), Connected(path)
    with pytest.raises(OSError, match=r"Broken pipe|Connection reset"):
        while True:
            endless.socket.sendall(b"x" * LARGEST_REQUEST_BYTES)
    assert other.ask(b'{"do": "clock"}\n')["ok"] is True
    endless.close()
    other.close()


def test_a_socket_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    done = start(tmp_path, "--listen", str(tmp_path / "missing" / "socket"))
    assert done.returncode == 1 and "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
