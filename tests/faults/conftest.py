"""What tests of faults share: a trial in this process, a server that misbehaves as wanted, picolab as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually

from picolab.calibration import SERVER_PATH
from picolab.campaign import Campaign
from picolab.errors import PicolabError
from picolab.ledger import LedgerEntry
from picolab.machines import registry
from picolab.machines.base import Machine
from picolab.parameters import TrialParameters
from picolab.paths import outputs_dir
from picolab.processes import ProcessIdentity, descendants
from picolab.record import Record, validate_record
from picolab.trial import Trial
from picolab.trial_state import RECORD_FILE

RunTrial = Callable[..., Record]
MisbehavingServer = Callable[..., str]

STAGES = ("provision", "start", "authenticate", "upload", "verify", "collect", "release")


@pytest.fixture
def run_trial() -> Iterator[RunTrial]:
    """Run all stages of a trial in this process and return its record, whether it is a result or a fault.

    `run_trial(build=..., file_size="2M")` takes parameters; `before={"upload": function of the trial}` is called
    just before that stage. A refusal (nothing was measured, so there is no record) is raised. The machine is taken down
    in any case.
    """

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

    The code runs after the server's module was loaded as `server` and before its main(); `Handler` is its class of
    requests, and `after(marker, action)` calls `action` when the server's log has a line with `marker` in it. Further
    arguments are knobs. Returns the path, for the parameter `build`.
    """

    def make(code: str = "", **knobs: Any) -> str:
        number = len(list(tmp_path.glob("server-*")))
        path = tmp_path / f"server-{number}"
        path.write_text(
            _SERVER.format(python=sys.executable, server=str(SERVER_PATH), knobs=json.dumps(knobs), code=code)
        )
        path.chmod(0o755)
        return str(path)

    return make


_SERVER = """#!{python} -IS
import importlib.util, os, signal, socket, sys, threading, time
spec = importlib.util.spec_from_file_location("server", {server!r})
server = importlib.util.module_from_spec(spec)
sys.modules["server"] = server
spec.loader.exec_module(server)
Handler = server.Handler
os.environ["PICOLAB_CALIBRATION"] = {knobs!r}
waiting = []
def after(marker, action):
    waiting.append((marker, action))
written = server.log
def log(message):
    written(message)
    for marker, action in waiting:
        if marker in message:
            action()
server.log = log
{code}
sys.exit(server.main())
"""


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
        )
        started.append(process)
        return RunningPicolab(process, name)

    yield start
    for process in started:
        process.kill()
        process.communicate()
