"""The fork server: processes that have everything imported, share nothing, and end with the campaign."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import alive, eventually

from picolab.host.processes import ProcessIdentity
from picolab.jupyter.fork_server import ForkServer, ForkServerLost

PROGRAM = """
import json, os, random, signal, sys, tempfile
from pathlib import Path

import numpy

COUNTED = []


def prepare():
    COUNTED.append(0)


def execute(request):
    words = json.loads(request.read_text())
    COUNTED.append(1)
    answer = {
        "counted": len(COUNTED),
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "parent": os.getppid(),
        "session": os.getsid(0) == os.getpid(),
        "random": [random.random(), numpy.random.random()],
        "temporary": tempfile.gettempdir(),
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
    }
    print("said", flush=True)
    Path(words["answer"]).write_text(json.dumps(answer))
    if words["then"] == "wait":
        signal.pause()
    if words["then"] == "abort":
        os.abort()
    sys.exit(words["then"])
"""

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServer]:
    (tmp_path / "program_of_a_test.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = ForkServer("program_of_a_test", ("json",))
    yield server
    server.close()


@pytest.fixture
def run(server: ForkServer, tmp_path: Path) -> Run:
    """Fork a process, wait for its answer, and return its pid and the answer."""
    count = 0

    def start(then: Any = 0, environment: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        nonlocal count
        count += 1
        request, answer = tmp_path / f"request-{count}", tmp_path / f"answer-{count}"
        request.write_text(json.dumps({"answer": str(answer), "then": then}))
        pid = server.fork(request, tmp_path / "log", tmp_path, {"A": "\udcff"} if environment is None else environment)
        eventually(lambda: answer.exists() and answer.read_text(), "it answers")
        return pid, json.loads(answer.read_text())

    return start


def test_processes_share_nothing(run: Run, server: ForkServer, tmp_path: Path) -> None:
    first, one = run(environment={"A": "1", "TMPDIR": str(tmp_path)})
    second, two = run(environment={"B": "\udcff"})

    assert server.exit_code(first) == server.exit_code(second) == 0
    assert first != second and one["counted"] == two["counted"] == 2, "once by `prepare` in the server, and once here"
    assert one["environment"] == {"A": "1", "TMPDIR": str(tmp_path)} and two["environment"] == {"B": "\udcff"}
    assert one["temporary"] == str(tmp_path) != two["temporary"]
    assert one["cwd"] == str(tmp_path) and one["session"] is two["session"] is True
    assert one["random"][0] != two["random"][0] and one["random"][1] != two["random"][1]
    assert one["parent"] == two["parent"] != os.getpid()
    assert one["descriptors"] == two["descriptors"] == [0, 1, 2]
    assert (tmp_path / "log").read_text() == "said\nsaid\n"


@pytest.mark.parametrize(("then", "code"), [(0, 0), (7, 7), ("abort", -signal.SIGABRT)])
def test_exit_codes(run: Run, server: ForkServer, then: Any, code: int) -> None:
    pid, _ = run(then)
    assert server.exit_code(pid) == code


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = ForkServer("no_module_of_this_name")
    try:
        with pytest.raises(ForkServerLost):
            server.fork(tmp_path / "request", tmp_path / "log", tmp_path, {})
        assert "No module named 'no_module_of_this_name'" in (tmp_path / "log").read_text()
    finally:
        server.close()


def test_a_killed_server_ends_its_processes_and_starts_again(run: Run, server: ForkServer) -> None:
    pid, answer = run("wait")
    other_pid, _ = run("wait")
    os.kill(answer["parent"], signal.SIGKILL)
    eventually(lambda: not alive(pid) and not alive(other_pid), "its processes end")
    assert server.exit_code(pid) is None

    next_pid, answer_of_next = run(7)
    assert answer_of_next["parent"] != answer["parent"]
    assert server.exit_code(other_pid) is None, "the next server is not its parent"
    assert server.exit_code(next_pid) == 7, "and has not died of the question"


def test_everything_ends_with_a_killed_campaign(tmp_path: Path) -> None:
    (tmp_path / "program_of_a_test.py").write_text(PROGRAM)
    (tmp_path / "request").write_text(json.dumps({"answer": str(tmp_path / "answer"), "then": "wait"}))
    code = (
        "import sys, time; from pathlib import Path; from picolab.jupyter.fork_server import ForkServer\n"
        "folder = Path(sys.argv[1])\n"
        "server = ForkServer('program_of_a_test')\n"
        "server.fork(folder / 'request', folder / 'log', folder, {})\n"
        "time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    campaign = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    try:
        answer = tmp_path / "answer"
        eventually(lambda: answer.exists() and answer.read_text(), "it answers")
        server = ProcessIdentity.of(json.loads(answer.read_text())["parent"])
        assert server is not None
    finally:
        campaign.kill()
        campaign.wait()
    eventually(lambda: not server.alive, "the server ends")
    eventually(lambda: not commands_with(os.fsencode(tmp_path)), "its process ends too")


def commands_with(word: bytes) -> list[bytes]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(file.read_bytes())
    return [command for command in found if word in command]
