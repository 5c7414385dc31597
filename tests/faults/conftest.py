"""What tests of faults share: a trial in this process, a server that misbehaves as wanted, picolab as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually, loaded_server

from picolab.agent.procfs import descendants
from picolab.campaign.runner import Campaign
from picolab.config.project import outputs_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import PicolabError
from picolab.host.processes import ProcessIdentity
from picolab.machines import registry
from picolab.machines.base import Machine
from picolab.record.record import Record
from picolab.record.validation import validate_record
from picolab.results.ledger import LedgerEntry
from picolab.trial.state import RECORD_FILE
from picolab.trial.trial import Trial

from .catalogue import Fault

RunTrial = Callable[..., Record]
MisbehavingServer = Callable[..., str]

STAGES = ("provision", "start", "authenticate", "upload", "verify", "collect", "release")


GRACE_S = 0.3
"""How long a server that ignores SIGTERM is waited for here."""


@pytest.fixture
def run_trial(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunTrial]:
    """Run all stages of a trial in this process and return its record, whether it is a result or a fault.

    `run_trial(build=..., file_size="2M")` takes parameters; `before={"upload": function of the trial}` is called
    just before that stage. A refusal (nothing was measured, so there is no record) is raised. The machine is taken down
    in any case.
    """
    monkeypatch.setattr("picolab.trial.run.STOP_GRACE_S", GRACE_S)

    def run(before: Mapping[str, Callable[[Trial], object]] | None = None, **parameters: Any) -> Record:
        defaults = {"ram_mb": 128, "file_size": "4M", "keep_machine": "never"}
        trial = Trial.open(TrialParameters.model_validate(defaults | parameters))
        try:
            for stage in STAGES:
                if before and stage in before:
                    before[stage](trial)
                getattr(trial, stage)()
        except PicolabError:
            if not (trial.folder / RECORD_FILE).exists():
                raise
        finally:
            registry.release_by_name("local")
        return validate_record(json.loads((trial.folder / RECORD_FILE).read_text()), "the trial's folder")

    yield run
    registry.release_by_name("local")


def machine() -> Machine:
    """Return the machine of the trial that runs."""
    found = registry.attach("local")
    assert found is not None
    return found


def server_pid() -> int:
    """Return the server's pid."""
    pid = machine().process_status().pid
    assert pid is not None
    return pid


def kill_server(*_: object, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal the server and wait until its keeper knows that it has ended."""
    os.kill(server_pid(), number)
    eventually(lambda: not machine().process_status().running, "the keeper knows that the server has ended")


@pytest.fixture
def server_that(tmp_path: Path) -> MisbehavingServer:
    """Make a build that is the calibration server with a change: `server_that(code, transfer_mib_s=4)`.

    The code runs after the server was loaded as `server` and before its main(); further arguments are knobs.
    What the code can use beside the module is in _SERVER below. Returns the path, for the parameter `build`.
    """

    def make(code: str = "", **knobs: Any) -> str:
        path = tmp_path / f"server-{len(list(tmp_path.glob('server-*')))}"
        filled = {"python": sys.executable, "loaded": loaded_server(), "knobs": json.dumps(knobs), "code": code}
        path.write_text(_SERVER.format(**filled))
        path.chmod(0o755)
        return str(path)

    return make


_SERVER = """#!{python} -IS
import os, signal, socket, struct, sys, threading, time
{loaded}
os.environ["PICOLAB_CALIBRATION"] = {knobs!r}
# In a network of the machine's own nobody else can reach it, and nobody at all by its loopback.
private = any(name == "picolab" for _, name in socket.if_nameindex())
os.environ["PICOLAB_CALIBRATION_HOST"] = "0.0.0.0" if private else "127.0.0.1"
replaced, latest = {{}}, []

def instead(method, path, answer):
    "Answer requests whose path begins so by a function of the handler."
    replaced[method, path] = answer

def reply(handler, status, content=b"", kind="text/plain", length=None):
    "Write an answer, with the length that is given or the true one."
    length = len(content) if length is None else length
    handler.wfile.write(b"HTTP/1.1 %d Whatever\\r\\nContent-Type: %s\\r\\nContent-Length: %d\\r\\n\\r\\n"
                        % (status, kind.encode(), length) + content)

def swallow(handler):
    "Read the body to its end."
    left = int(handler.headers["Content-Length"])
    while left:
        left -= len(handler.rfile.read(min(left, 1 << 20)))

def close():
    "Close the connection of the latest request."
    latest[0].connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionError("closed")

def reset():
    "Send a TCP reset on it."
    latest[0].connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(latest[0].connection.detach())
    raise ConnectionError("reset")

def kill(number=signal.SIGKILL):
    os.kill(os.getpid(), number)
    time.sleep(1)

def hang():
    threading.Event().wait()

def take_all_memory():
    taken = []
    while True:
        taken.append(bytearray(os.urandom(1 << 20)) * 8)

def in_the_transfer(action):
    read_some = server.UploadBody._read_some
    def act(body, view):
        if body.received_bytes >= 1 << 20:
            action()
        return read_some(body, view)
    server.UploadBody._read_some = act

def in_the_commit(action):
    add_chunk = server.Store.add_chunk
    def act(store, db, entry_id, index, chunk):
        if index == 2:
            action()
        add_chunk(store, db, entry_id, index, chunk)
    server.Store.add_chunk = act

def in_the_download(action):
    read = server.Store.read
    def act(store, entry_id, start, end):
        for index, chunk in enumerate(read(store, entry_id, start, end)):
            if index == 2:
                action()
            yield chunk
    server.Store.read = act

def routed(route):
    def do(handler):
        latest[:] = [handler]
        for (method, path), answer in replaced.items():
            if handler.command == method and handler.path.startswith(path):
                return answer(handler)
        return route(handler)
    return do

for name in ("do_GET", "do_POST", "do_DELETE"):
    setattr(server.Handler, name, routed(getattr(server.Handler, name)))
{code}
sys.exit(server.main())
"""


@dataclass
class Proof:
    """Compares what a trial or a command said with what the catalogue says of the fault."""

    fault: Fault

    def record(self, record: Record, stage: str | None) -> None:
        """Check outcome, stage and sentence of a record."""
        assert (record.outcome, record.outcome_stage) == (self.fault.outcome, stage), record.outcome_detail
        self.text(record.outcome_detail)

    def text(self, text: str) -> None:
        """Check that the quoted words of `see` are in a text, in their order; `...` in them stands for anything."""
        for quoted in re.findall(r"`([^`]+)`", self.fault.see):
            at = 0
            for words in quoted.split("..."):
                at = text.find(words.strip(), at)
                assert at >= 0, f"{words.strip()!r} is not in {text!r}"


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Proof:
    """Give a test the catalogue's entry of its own fault."""
    return Proof(request.function.fault)


@dataclass
class RunningPicolab:
    """`picolab` as a process of its own, and the campaign it runs."""

    process: subprocess.Popen[str]
    campaign: str

    @property
    def folder(self) -> Path:
        return outputs_dir() / self.campaign

    @property
    def load(self) -> Campaign:
        return Campaign.load(self.folder)

    @property
    def entries(self) -> list[LedgerEntry]:
        return self.load.ledger.entries()

    def wait_for(self, pattern: str) -> Path:
        """Wait until a file of the running trial is there, such as `progress.json`, and return it."""

        def there() -> Path | None:
            found = next(iter(self.folder.glob(f"running/*/{pattern}")), None)
            assert found or self.process.poll() is None, f"picolab ended before {pattern}: {self.process.stdout.read()}"  # type: ignore[union-attr]
            return found

        found = eventually(there, f"the trial has {pattern}")
        assert found is not None
        return found

    def find(self, word: str) -> ProcessIdentity:
        """Wait for a process below picolab whose command has a word in it, and return it."""

        def there() -> ProcessIdentity | None:
            assert self.process.poll() is None, f"picolab ended before there was a process {word}"
            identities = (ProcessIdentity.of(pid) for pid in descendants(self.process.pid))
            return next((one for one in identities if one is not None and word in one.command), None)

        found = eventually(there, f"a process {word}")
        assert found is not None
        return found

    def end(self) -> tuple[int, str]:
        """Wait for the end; return exit code and output."""
        output, _ = self.process.communicate(timeout=120)
        return self.process.returncode, output


StartPicolab = Callable[..., RunningPicolab]


def obey_signals() -> None:
    """Undo what nohup or a shell's `&` has silenced for the tests themselves."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def picolab(tmp_path: Path) -> Iterator[StartPicolab]:
    """Start `picolab matrix` with a small plan: `picolab(repeats=2, name="c", transfer_mib_s=4 and other knobs)`.

    `parameters=` are of each trial, `environment=` of the process; words, if given, are another command's.
    """
    started: list[subprocess.Popen[str]] = []

    def start(
        *words: str,
        name: str = "chaos",
        repeats: int = 1,
        retries: int = 1,
        environment: Mapping[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        **knobs: Any,
    ) -> RunningPicolab:
        if not words:
            file = tmp_path / f"{name}.yaml"
            content = {
                "matrix": {"ram_mb": [128], "file_size": ["4M"]},
                "repeats": repeats,
                "idle_limit_s": 0,
                "fault_retries": retries,
                "parameters": {"calibration": knobs, **(parameters or {})},
            }
            file.write_text(json.dumps(content))
            words = ("matrix", str(file), "--campaign", name)
        process = subprocess.Popen(
            [sys.executable, "-m", "picolab", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
            preexec_fn=obey_signals,
        )
        started.append(process)
        return RunningPicolab(process, name)

    yield start
    for process in started:
        process.kill()
        process.communicate()
