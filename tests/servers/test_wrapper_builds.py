"""Builds that are scripts which start the real server, in local machines: who listens, what is sampled, what ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import MIB, alive, eventually

from picolab.agent.procfs import descendants
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import MemoryLimitUnavailable
from picolab.host.processes import this_process
from picolab.machines import registry
from picolab.machines.base import Holder, MachineWish, ProcessSpec
from picolab.machines.local import machine as local
from picolab.machines.local import network
from picolab.machines.local.cgroup import find_method
from picolab.machines.local.machine import LocalMachine
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.servers.calibration.program import server_path
from picolab.servers.picoshare.adapter import PicoShare
from picolab.servers.picoshare.builds import find_build
from picolab.servers.start import start_server
from picolab.trial.trial import Trial

try:
    find_method()
    LIMIT = "enforced"
except MemoryLimitUnavailable:
    LIMIT = "none"

needs_a_limit = pytest.mark.skipif(LIMIT == "none", reason="this host offers no way to limit memory")

FORKING = {
    "waits": '{command} "$@" &\nwait $!\nexit $?\n',
    "runs": '{command} "$@"\n',
    "pipes": '{command} "$@" 2>&1 | cat\n',
    "nested": 'sh -c \'{command} "$@"; exit $?\' sh "$@"\nexit $?\n',
    "session": 'setsid {command} "$@" &\nwait\n',
    "replaces": 'exec {command} "$@"\n',
    "stays": '{command} "$@"\nsleep 1000\n',
}


@pytest.fixture
def wrapper(scratch: Path) -> Callable[..., str]:
    """Make a build: a script that runs the calibration server, with knobs."""

    def make(kind: str, **knobs: object) -> str:
        settings = f"PICOLAB_CALIBRATION='{json.dumps(knobs)}' PICOLAB_CALIBRATION_HOST=0.0.0.0"
        command = f"{sys.executable} -I -S {server_path()}"
        path = scratch / f"{kind}.sh"
        path.write_text(f"#!/bin/sh\nexport {settings}\n" + FORKING[kind].format(command=command))
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture(params=[LIMIT, "none"] if LIMIT != "none" else ["none"])
def machine(request: pytest.FixtureRequest) -> Iterator[LocalMachine]:
    wish = MachineWish("local", 128, request.param, "")
    yield LocalMachine.obtain(wish, Holder(this_process(), keep=False))
    registry.release_by_name("local")


def measure(build: str, **parameters: object) -> Record:
    """Run a trial and return its record."""
    wanted = {"build": build, "file_size": "4M", "ram_mb": 128, "memory_limit": LIMIT, "keep_machine": "never"}
    trial = Trial.open(TrialParameters.model_validate({**wanted, **parameters}))
    trial.provision()
    trial.start()
    trial.authenticate()
    trial.upload()
    trial.verify()
    record = trial.collect()
    trial.release()
    return record


@pytest.mark.parametrize("kind", [kind for kind in FORKING if kind != "stays"])
def test_a_trial_of_a_script_measures_the_server_that_it_starts(kind: str, wrapper: Callable[..., str]) -> None:
    record = measure(wrapper(kind, ballast_mib=40))
    assert record.outcome is Outcome.OK, record.outcome_detail
    assert record.memory is not None and record.server is not None
    # A shell has less than 1 MiB, Python alone more than 4.
    assert 40 * MIB < (record.memory.peak_anon_bytes or 0) < 80 * MIB
    assert 4 * MIB < (record.server.idle_anon_bytes or 0) < 40 * MIB


@pytest.mark.parametrize("where", ["private", "host"])
@pytest.mark.parametrize("command", ["{0} & wait", "setsid {0} & wait", "(setsid {0} &); sleep 1000; true"])
def test_the_listener_of_a_descendant_is_the_servers_own(
    machine: LocalMachine, where: str, command: str, monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    if where == "host":
        machine.release()
        monkeypatch.setattr(network, "why_not", lambda: "the test wants none")
        wish = MachineWish("local", 128, machine._spec["memory_limit"], "")
        machine = LocalMachine.obtain(wish, Holder(this_process(), keep=False))
    if "(setsid" in command and machine._spec["method"] == "none":
        pytest.skip("who has left the family is found in a cgroup alone")
    port = machine.free_port()
    code = f"import socket, time\ns = socket.create_server(('', {port}))\nprint('up', flush=True)\ntime.sleep(1000)"
    (scratch / "listen.py").write_text(code)
    start(machine, command.format(f"{sys.executable} {scratch / 'listen.py'}"))
    eventually(lambda: machine.process_log(), "it listens")
    assert machine.listener(port) == "server"
    assert machine.exposed_addresses(port) == ([f"0.0.0.0:{port}"] if where == "host" else [])
    machine.stop_process(0)
    assert machine.listener(port) == "nobody"


def start(machine: LocalMachine, script: str) -> int:
    spec = ProcessSpec(["sh", "-c", script], {"PATH": os.defpath}, local.state_dir() / "log")
    pid = machine.start_process(spec).pid
    assert pid is not None
    return pid


ESCAPING = {
    "a child": "sleep 1000 & echo $!; wait",
    "a session of its own": "setsid sleep 1000 & echo $!; wait",
    "a daemon": "(setsid sleep 1000 & echo $!); sleep 1000; true",
    "one that ignores SIGTERM": "setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.1; done' & wait",
    "a family": "setsid sh -c 'sleep 1000 & sleep 1000 & echo $$; wait' & wait",
}


@pytest.mark.parametrize("kind", ESCAPING)
@pytest.mark.parametrize("how", ["stopped", "killed", "released", "ends"])
def test_all_that_the_server_has_started_ends_with_it(machine: LocalMachine, kind: str, how: str) -> None:
    ends = "; read line < /dev/null; exit 3" if how == "ends" else ""
    script = ESCAPING[kind].replace("; wait", ends).replace("& wait", f"& sleep 0.1{ends}") if ends else ESCAPING[kind]
    script = script.replace("; sleep 1000; true", "; exit 3") if ends else script
    server = start(machine, script)
    straggler = int(eventually(lambda: machine.process_log().strip(), "the straggler's pid"))
    if how == "stopped":
        machine.stop_process(5)
    elif how == "killed":
        os.kill(server, signal.SIGKILL)
    elif how == "released":
        machine.release()
    if how in ("killed", "ends"):
        eventually(lambda: not machine.process_status().running, "the server's end is noticed")
    assert not alive(straggler) and not alive(server)


@needs_a_limit
@pytest.mark.parametrize("kind", ["waits", "runs", "nested", "session", "stays", "replaces"])
def test_a_script_whose_server_is_killed_for_want_of_memory(kind: str, wrapper: Callable[..., str]) -> None:
    record = measure(wrapper(kind, oom_after_mib=2), ram_mb=64, file_size="8M")
    assert record.outcome is Outcome.OOM_KILLED, (record.outcome, record.outcome_detail)


def test_orphans_that_end_meanwhile_are_waited_for(machine: LocalMachine) -> None:
    start(machine, "(setsid true & echo $!); sleep 1000; true")
    orphan = int(eventually(lambda: machine.process_log().strip(), "the orphan's pid"))

    def is_buried() -> bool:
        machine.process_status()
        return not Path(f"/proc/{orphan}").exists()

    eventually(is_buried, "no zombie is left")
    assert machine.process_status().running


@pytest.mark.parametrize("where", ["private", "host"])
@pytest.mark.parametrize("limit", sorted({LIMIT, "none"}))
def test_a_killed_keeper_leaves_nobody_after_the_next_sweep(
    where: str, limit: str, wrapper: Callable[..., str], monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    if where == "host":
        monkeypatch.setattr(network, "why_not", lambda: "the test wants none")
    wish = MachineWish("local", 128, limit, "")  # type: ignore[arg-type]
    machine = LocalMachine.obtain(wish, Holder(this_process(), keep=False))
    started = start_server(machine, PicoShare(), find_build(wrapper("session"), "wrapper", ""), {}, scratch / "log", 60)
    assert started.ready_s is not None
    (child,) = descendants(started.status.pid or 0)
    keeper = json.loads((machine.folder / "keeper.json").read_text())["process"]["pid"]
    # Another program of this user's, whose environment only looks like it.
    stranger = subprocess.Popen(["sleep", "1000"], env={"TMPDIR": f"{machine._work}/tmp2", "PATH": os.defpath})
    try:
        os.kill(keeper, signal.SIGKILL)
        eventually(lambda: LocalMachine.attach("local") is None, "the keeper is gone")
        assert alive(child)
        assert registry.sweep() == ["local"]
        assert not alive(child) and alive(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()
