"""The server: installed, started, ready only when the port is its own; the calibration server as a real process."""

from __future__ import annotations

import contextlib
import stat
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually, socket_in_network_of

from picolab.config.trial_parameters import TrialParameters
from picolab.errors import MachineError, MemoryLimitUnavailable
from picolab.host.processes import this_process
from picolab.machines import registry
from picolab.machines.base import Holder, MachineWish
from picolab.machines.local import machine as local
from picolab.machines.local import network
from picolab.machines.local.cgroup import find_method
from picolab.machines.local.machine import LocalMachine
from picolab.record import caveats
from picolab.servers.build import Build
from picolab.servers.client import Client
from picolab.servers.measurements import Limits
from picolab.servers.picoshare.adapter import PicoShare
from picolab.servers.picoshare.builds import find_build
from picolab.servers.start import SECRET_FILE, StartedServer, start_server, store_private

READY_LIMIT_S = 30.0


@pytest.fixture(params=["private", "host"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalMachine]:
    """A machine with each kind of network."""
    if request.param == "host":
        monkeypatch.setattr(network, "why_not", lambda: "the test wants none")
    elif network.why_not() is not None:
        pytest.skip("only root may make a network namespace")
    try:
        find_method()
        limit = "enforced"
    except MemoryLimitUnavailable:
        limit = "none"
    wish = MachineWish("local", 128, limit, "")  # type: ignore[arg-type]
    machine = LocalMachine.obtain(wish, Holder(this_process(), keep=False))
    described = machine.describe().network
    assert described is not None and described.kind == request.param
    yield machine
    registry.release_by_name("local")


@pytest.fixture
def log(scratch: Path) -> Path:
    return scratch / "server.log"


def start(machine: LocalMachine, log: Path, limit_s: float = READY_LIMIT_S, **knobs: Any) -> StartedServer:
    return start_server(
        machine, PicoShare(), find_build("calibration", "calibration", ""), {"calibration": knobs}, log, limit_s
    )


def program(scratch: Path, text: str) -> Build:
    path = scratch / "program"
    path.write_text(text)
    path.chmod(0o755)
    return find_build(str(path), "program", "")


def secret_of(machine: LocalMachine) -> str:
    return (machine.folder / SECRET_FILE).read_text()


@pytest.fixture
def other_server(monkeypatch: pytest.MonkeyPatch, machine: LocalMachine) -> Iterator[int]:
    """Another program that answers `GET /` with 200 on the port that the machine will choose."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket_in_network_of(machine)
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    port = int(server.socket.getsockname()[1])
    monkeypatch.setattr(machine, "free_port", lambda: port)
    yield port
    server.shutdown()
    thread.join()
    server.server_close()


# ---- ready ---------------------------------------------------------------------------------------


def test_ready_and_usable(machine: LocalMachine, log: Path) -> None:
    started = start(machine, log)
    assert started.ready_s is not None and 0 < started.ready_s < READY_LIMIT_S
    assert started.status.running and started.base_url == f"http://{machine.listen_address}:{started.port}"
    assert machine.listener(started.port) == "server"
    with Client(PicoShare(), started.base_url) as client:
        assert client.authenticate(secret_of(machine)).http_status == 200
        measured = client.upload(3, 2_000_000, Limits(30, 60))
        assert measured.entry_id is not None
        assert client.download(measured.entry_id, 3, 2_000_000, Limits(30, 60)).matched is True
    assert len(list((local.state_dir() / "work").glob("*/data/store.db"))) == 1
    status_after = machine.stop_process(30)
    assert status_after.exit_code == 0 and status_after.stop_s is not None


def test_the_start_up_delay_is_seen(machine: LocalMachine, log: Path) -> None:
    started = start(machine, log, startup_delay_s=0.7)
    assert started.ready_s is not None and started.ready_s >= 0.7


def test_never_ready(machine: LocalMachine, log: Path) -> None:
    started = start(machine, log, limit_s=0.5, startup_delay_s=1000)
    assert started.ready_s is None and started.status.running


def test_a_server_that_exits_at_once(machine: LocalMachine, log: Path, scratch: Path) -> None:
    build = program(scratch, "#!/bin/sh\necho failed to read shared secret >&2\nexit 7\n")
    started = start_server(machine, PicoShare(), build, {}, log, READY_LIMIT_S)
    assert started.ready_s is None
    assert (started.status.running, started.status.exit_code) == (False, 7)
    assert machine.process_log() == "failed to read shared secret\n"


def test_a_file_that_is_no_program(machine: LocalMachine, log: Path, scratch: Path) -> None:
    build = program(scratch, "#!/bin/sh\n")
    build.path.write_text("\x7fELF, but not really")
    with pytest.raises(MachineError, match="program"):
        start_server(machine, PicoShare(), build, {}, log, READY_LIMIT_S)


def test_a_server_without_a_listener_is_not_ready(machine: LocalMachine, log: Path) -> None:
    with pytest.raises(MachineError, match="runs without a listener"):
        start(machine, log, occupy_port_without_listening=True)
    assert machine.process_status().running
    # The old server's words in the same log are not the new one's.
    machine.stop_process(30)
    assert start(machine, log).ready_s is not None


def test_another_program_on_the_port_is_not_the_server(machine: LocalMachine, log: Path, other_server: int) -> None:
    with Client(PicoShare(), f"http://{machine.listen_address}:{other_server}") as client:
        assert client.is_ready()
    with pytest.raises(MachineError, match=f"port {other_server} .* served by another program"):
        start(machine, log)
    # It lives on without a listener, as PicoShare does.
    eventually(lambda: "http server exit: listen tcp" in machine.process_log(), "it could not have the port")
    assert machine.process_status().running


def test_a_port_that_is_held_without_a_listener(machine: LocalMachine, log: Path, monkeypatch: Any) -> None:
    with socket_in_network_of(machine) as holder:
        port = holder.getsockname()[1]
        monkeypatch.setattr(machine, "free_port", lambda: port)
        with pytest.raises(MachineError, match=f"could not have port {port}"):
            start(machine, log)


def test_an_answer_other_than_200_is_not_ready(machine: LocalMachine, log: Path, scratch: Path) -> None:
    code = (
        f"#!{sys.executable}\n"
        "import os\n"
        "from http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "class H(BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_error(503)\n"
        "HTTPServer(('', int(os.environ['PORT'])), H).serve_forever()\n"
    )
    started = start_server(machine, PicoShare(), program(scratch, code), {}, log, 1.0)
    assert started.ready_s is None and started.status.running
    assert '"GET / HTTP/1.1" 503' in machine.process_log()


# ---- what it is given ----------------------------------------------------------------------------


def test_folders_are_fresh_at_each_start(machine: LocalMachine, log: Path) -> None:
    start(machine, log)
    (data,) = (local.state_dir() / "work").glob("*/data")
    (data.parent / "tmp" / "multipart-1").write_text("left")
    (data / "left").write_text("left")
    first = secret_of(machine)
    machine.stop_process(30)
    started = start(machine, log)
    assert started.ready_s is not None
    assert not (data / "left").exists() and list((data.parent / "tmp").iterdir()) == []
    with Client(PicoShare(), started.base_url) as client:
        assert client.authenticate(first).http_status == 401
        assert client.authenticate(secret_of(machine)).http_status == 200


def test_the_secret_is_only_in_its_file_and_the_environment(machine: LocalMachine, log: Path, scratch: Path) -> None:
    started = start(machine, log)
    with Client(PicoShare(), started.base_url) as client:
        client.authenticate(secret_of(machine))
    secret = secret_of(machine)
    assert len(secret) >= 24
    assert stat.S_IMODE((machine.folder / SECRET_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(machine.folder.stat().st_mode) == 0o700
    assert secret in Path(f"/proc/{started.status.pid}/environ").read_text()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                assert secret.encode() not in (entry / "cmdline").read_bytes()
    holding = [path for path in scratch.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert holding == [machine.folder / SECRET_FILE]
    assert log.read_text() and secret not in log.read_text()


def test_the_environment_and_arguments_of_a_build(machine: LocalMachine, log: Path, scratch: Path) -> None:
    build = program(scratch, '#!/bin/sh\necho "$@"\nenv\n')
    start_server(machine, PicoShare(), build, {}, log, READY_LIMIT_S)
    arguments, *environment = machine.process_log().splitlines()
    values = dict(line.split("=", 1) for line in environment)
    assert set(values) <= {"PATH", "HOME", "PORT", "TMPDIR", "PS_SHARED_SECRET", "PWD", "SHLVL", "_"}
    assert arguments == f"-db {values['HOME']}/store.db"
    assert Path(values["TMPDIR"]).is_dir() and values["TMPDIR"] != values["HOME"]
    assert values["PS_SHARED_SECRET"] == secret_of(machine)


def test_knobs_belong_to_the_calibration_server() -> None:
    parameters = TrialParameters.model_validate({"build": "./other", "calibration": {"status": 500}})

    assert PicoShare().why_unfit(parameters) == (
        "calibration = {'status': 500} needs build: calibration, but build is './other'; remove one of the two"
    )


def test_a_private_file_is_never_readable_for_others(scratch: Path) -> None:
    path = scratch / "secret"
    path.write_text("old")
    path.chmod(0o644)
    store_private(path, "new")
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == 0o600


LOOPBACK_ONLY = f"""#!{sys.executable}
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class H(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
class Six(HTTPServer):
    address_family = 10
print("found", os.listdir(os.environ["HOME"]), flush=True)
open(os.environ["HOME"] + "/store.db", "w").close()
SERVER((ADDRESS, int(os.environ["PORT"])), H).serve_forever()
"""


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_a_server_that_listens_on_loopback_alone_is_reached(
    machine: LocalMachine, log: Path, scratch: Path, address: str
) -> None:
    if address == "127.0.0.2" and machine.listen_address == "127.0.0.1":
        pytest.skip("the host's own network is reached at 127.0.0.1")
    code = LOOPBACK_ONLY.replace("ADDRESS", repr(address)).replace("SERVER", "HTTPServer")
    started = start_server(
        machine, PicoShare(), program(scratch, code), {}, log, 3.0 if address == "127.0.0.2" else READY_LIMIT_S
    )
    described = machine.describe().network
    assert described is not None and described.kind == "host" and described.reason
    assert machine.exposed_addresses(started.port) == []
    if address == "127.0.0.2":
        assert started.ready_s is None
        return
    assert started.ready_s is not None and started.base_url == f"http://127.0.0.1:{started.port}"
    # Its folders were fresh, also when it had to be started twice.
    assert machine.process_log().splitlines()[0] == "found []"
    # Another kernel finds it where it is, and the next server gets what it needs.
    again = LocalMachine.attach("local")
    assert again is not None and again.endpoint(started.port) == ("127.0.0.1", started.port)
    machine.stop_process(30)
    started = start(machine, log)
    assert started.base_url == f"http://{machine.listen_address}:{started.port}"


def test_who_can_reach_the_server_is_known(machine: LocalMachine, log: Path, scratch: Path) -> None:
    network_kind = (machine.describe().network or pytest.fail("no network")).kind
    for address, server, exposed in (
        ("", "HTTPServer", "0.0.0.0:{}"),
        ("::", "Six", "[::]:{}"),
        ("::ffff:127.0.0.1", "Six", ""),
    ):
        code = LOOPBACK_ONLY.replace("ADDRESS", repr(address)).replace("SERVER", server)
        started = start_server(machine, PicoShare(), program(scratch, code), {}, log, READY_LIMIT_S)
        assert started.ready_s is not None, (address, machine.process_log())
        expected = [exposed.format(started.port)] if exposed and network_kind == "host" else []
        assert machine.exposed_addresses(started.port) == expected
        (caveat,) = caveats.of_network(expected, machine.describe().network) or (None,)
        assert (caveat is None) == (not expected)
        if caveat is not None:
            assert caveat.code == "server_reachable" and caveat.value == expected[0]
            assert "the test wants none" in caveat.message
        machine.stop_process(30)
