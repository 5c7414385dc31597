"""Shared fixtures: every test has state, outputs and temporary files of its own on disk, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hypothesis
import pytest

from picolab.agent.procfs import descendants
from picolab.host.facts import disk_of
from picolab.host.processes import ProcessIdentity
from picolab.servers.calibration.program import server_path
from picolab.slow_imports import decline_slow_imports

if TYPE_CHECKING:
    from browser import Visiting

    from picolab.machines.local.machine import LocalMachine

pytest_plugins = ["virtual_machines", "small_mounts"]

# Before a test module imports altair or nbformat itself.
decline_slow_imports()

# A busy host makes anything slow, which says nothing about what is tested.
hypothesis.settings.register_profile(
    "picolab",
    deadline=None,
    database=None,
    # A merge is judged by the change and not by chance: CI tries the same examples each time, a person new ones.
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("picolab")

MIB = 1 << 20
SECRET = "correct-horse-battery-staple"
GIVE_UP_S = 60.0
"""After this a poll gives up: only something broken takes so long, however busy the host is."""
END_PATIENCE_S = 15.0
"""What a process that was told to end may take until it counts as left behind."""


T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str, give_up_s: float = GIVE_UP_S) -> T:
    """Poll until `condition` is true and return its value; fail after a time that only broken code needs."""
    deadline = time.monotonic() + give_up_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.005)
    return value


class Delays:
    """How long programs of this host were kept waiting while the context was open, by the kernel's own counters.

    A program that waits for a processor or for the disk is late through no fault of its own. So a test of known truth
    allows a small relative error, which is the instrument's, and these seconds. Sources: the totals of /proc/pressure
    (Documentation/accounting/psi.rst of Linux) and the stolen time of /proc/stat. A total is an average over all
    processors, so one program may have waited that many times as long. A kernel without them allows nothing.
    """

    @staticmethod
    def counted() -> bool:
        """Return whether this kernel counts how long programs wait for a processor."""
        try:
            return "some " in Path("/proc/pressure/cpu").read_text()
        except OSError:
            return False

    def __enter__(self) -> Delays:
        self._begun_s = self._total_s()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._total_s() - self._begun_s

    @staticmethod
    def _total_s() -> float:
        waited_us = 0
        for resource in ("cpu", "io"):
            with contextlib.suppress(OSError):
                found = re.search(
                    r"^some .*\btotal=(\d+)", Path(f"/proc/pressure/{resource}").read_text(), re.MULTILINE
                )
                waited_us += int(found[1]) if found else 0
        stolen_s = int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")
        return (os.cpu_count() or 1) * waited_us / 1e6 + stolen_s

    def check(self, measured_s: float | None, truth_s: float, rel: float) -> None:
        """Fail unless a time is the truth, but for a share of it and for the delays."""
        assert measured_s is not None
        assert measured_s == pytest.approx(truth_s, abs=rel * truth_s + self.seconds), f"delays: {self.seconds:.3f} s"


def socket_in_network_of(machine: LocalMachine, address: str = "", port: int = 0) -> socket.socket:
    """Return a socket that is bound in the network of a machine's server, which may be one of its own."""
    made: list[socket.socket] = []

    def make() -> None:
        keeper = json.loads((machine.folder / "keeper.json").read_text())
        namespace = keeper["network"]["namespace"]
        if namespace is not None:
            for entry in Path(f"/proc/{keeper['process']['pid']}/fd").iterdir():
                if str(entry.readlink()) == f"net:[{namespace}]":
                    descriptor = os.open(entry, os.O_RDONLY)
                    assert ctypes.CDLL(None).setns(descriptor, 0) == 0
                    os.close(descriptor)
                    break
        made.append(socket.socket())
        made[0].bind((address or machine.listen_address, port))

    # In a thread that ends, because it stays in the namespace.
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@pytest.fixture
def gone() -> ProcessIdentity:
    """Return who a process was that is no more."""
    process = subprocess.Popen(["sleep", "600"])
    identity = ProcessIdentity.of(process.pid)
    process.kill()
    process.wait()
    assert identity is not None
    return identity


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    return ProcessIdentity.of(pid) is not None


_CACHE = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    # By the process that starts all others: they share what picolab keeps in the user's cache folder.
    if not hasattr(config, "workerinput"):
        config.stash[_CACHE] = Path(tempfile.mkdtemp(prefix="picolab-test-cache-", dir=folder_on_disk()))
        os.environ["XDG_CACHE_HOME"] = str(config.stash[_CACHE])


def pytest_unconfigure(config: pytest.Config) -> None:
    if _CACHE in config.stash:
        shutil.rmtree(config.stash[_CACHE], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Before `-m` selects: where the kernel counts no waits, nothing may keep a paced test waiting.
    if not Delays.counted():
        for item in items:
            if item.get_closest_marker("paced"):
                item.add_marker("alone")


def pytest_collection_finish() -> None:
    # Modules and tests stay until the end: Python need not look for garbage among them again and again.
    gc.collect()
    gc.freeze()


@functools.cache
def folder_on_disk() -> Path:
    """Return a folder for temporary files that does not lie in memory."""
    candidates = [Path("/var/tmp"), Path(tempfile.gettempdir()), Path(__file__).resolve().parent.parent]
    for candidate in candidates:
        if os.access(candidate, os.W_OK) and not disk_of(candidate).in_memory:
            return candidate
    pytest.exit(f"the tests need a folder on a disk; all of {', '.join(map(str, candidates))} lie in memory")


def _mentions(pid: int, text: bytes) -> bool:
    with contextlib.suppress(OSError):
        for file in ("cmdline", "environ"):
            if text in Path(f"/proc/{pid}/{file}").read_bytes():
                return True
    return False


_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
"""Audit events before a new process; all of them are of the table in Python's documentation."""


class _Before:
    """The descendants of this process before a test started its first process; None: it has started none."""

    pids: set[int] | None = None

    @classmethod
    def note(cls, event: str, _: object) -> None:
        if event in _STARTS and cls.pids is None:
            cls.pids = set(descendants(os.getpid()))


# Most tests start no process: looking for what they left would take longer than the tests.
sys.addaudithook(_Before.note)


def _ours(scratch: Path) -> list[ProcessIdentity]:
    """Return the processes of a test: its descendants, and whatever mentions its folder; no zombies.

    Children of longer-lived fixtures, and what they start, belong to no test.
    """
    if _Before.pids is None:
        return []
    elsewhere = {os.getpid(), *_Before.pids, *(pid for old in _Before.pids for pid in descendants(old))}
    mention = os.fsencode(scratch)
    pids = set(descendants(os.getpid()))
    pids |= {
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _mentions(int(entry.name), mention)
    }
    identities = (ProcessIdentity.of(pid) for pid in sorted(pids - elsewhere))
    return [identity for identity in identities if identity is not None]


def _cgroups(state: Path) -> list[Path]:
    """Return the cgroups of machines whose state is in `state`: the end of a cgroup's name says so."""
    from picolab.machines.folders import state_mark

    mark = state_mark(state / "machines")
    roots = [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]
    found: set[Path] = set()
    for root in roots:
        for folder, names, _ in os.walk(root):
            found |= {Path(folder, name) for name in names if name.startswith("picolab-") and name.endswith(mark)}
    return sorted(found)


def _interfaces(state: Path) -> list[str]:
    """Return the network devices of machines whose state is in `state`: the end of a device's alias says so."""
    from picolab.machines.folders import state_mark

    mark = state_mark(state / "machines")
    found = []
    for folder in Path("/sys/class/net").iterdir():
        with contextlib.suppress(OSError):
            if (folder / "ifalias").read_text().strip().endswith(mark):
                found.append(folder.name)
    return found


def _mounts(scratch: Path) -> list[Path]:
    places = [Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [place for place in places if scratch in place.parents]


def _folders(scratch: Path) -> list[Path]:
    return [
        folder
        for pattern in ("state/machines/*/", "state/work/*/", "tmp/picolab-kernel-*/")
        for folder in scratch.glob(pattern)
    ]


def _clean_up(scratch: Path, processes: list[ProcessIdentity], cgroups: list[Path]) -> None:
    for process in processes:
        process.signal(signal.SIGKILL)
    for cgroup in cgroups:
        deadline = time.monotonic() + GIVE_UP_S
        while cgroup.exists() and time.monotonic() < deadline:
            for pid in (cgroup / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                cgroup.rmdir()
    for mount in reversed(_mounts(scratch)):
        subprocess.run(["umount", str(mount)], check=False, timeout=GIVE_UP_S)


@pytest.fixture(autouse=True)
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a test its own state, outputs and TMPDIR in a folder on disk; fail it if it leaves anything there.

    What counts as left behind: a process that descends from the test or mentions its folder, a machine's cgroup or
    network device, a machine's folder or work folder, a kernel's folder, a mount.
    """
    _Before.pids = None
    folder = Path(tempfile.mkdtemp(prefix="picolab-test-", dir=folder_on_disk()))
    (folder / "tmp").mkdir()
    monkeypatch.setenv("PICOLAB_STATE_DIR", str(folder / "state"))
    monkeypatch.setenv("PICOLAB_OUTPUTS_DIR", str(folder / "outputs"))
    monkeypatch.setenv("TMPDIR", str(folder / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("PICOLAB_TRIAL", raising=False)
    yield folder
    deadline = time.monotonic() + END_PATIENCE_S
    while (processes := _ours(folder)) and time.monotonic() < deadline:
        time.sleep(0.005)
    # The kernel ends a namespace that nobody has any more when it finds time.
    while (interfaces := _interfaces(folder / "state")) and not processes and time.monotonic() < deadline:
        time.sleep(0.005)
    cgroups = _cgroups(folder / "state")
    left = [
        *(f"process {process.pid}: {process.command}" for process in processes),
        *(f"cgroup {path}" for path in cgroups),
        *(f"network device {name}" for name in interfaces),
        *(f"folder {path}" for path in _folders(folder)),
        *(f"mount {path}" for path in _mounts(folder)),
    ]
    _clean_up(folder, processes, cgroups)
    shutil.rmtree(folder, ignore_errors=True)
    if left:
        pytest.fail("the test left behind: " + "; ".join(left), pytrace=False)


@pytest.fixture
def tmp_path(scratch: Path) -> Path:
    """Replace pytest's own: on a disk, and gone after the test."""
    folder = scratch / "tmp_path"
    folder.mkdir()
    return folder


def loaded_server() -> str:
    """Return Python code that loads the calibration server without starting it, for builds that change it.

    Its names, of whichever module, are attributes of `server`; setting one sets it in every module that has it.
    """
    return f"""
import importlib, sys
sys.path.insert(0, {str(server_path())!r})

class Server:
    modules = [
        importlib.import_module("picolab.servers.calibration." + name)
        for name in ("server", "handler", "body", "multipart", "storage", "memory", "pacing", "knobs", "log")
    ]

    def __getattr__(self, name):
        return next(getattr(module, name) for module in self.modules if hasattr(module, name))

    def __setattr__(self, name, value):
        for module in self.modules:
            if hasattr(module, name):
                setattr(module, name, value)

server = Server()
"""


@dataclass
class RunningServer:
    """A calibration server of a test, and where it keeps things."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int = 0
    secret: str = SECRET

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def cookie(self) -> str:
        from picolab.servers.calibration.handler import derive_cookie

        return derive_cookie(self.secret).decode()


StartCalibrationServer = Callable[..., RunningServer]


@pytest.fixture
def calibration_server(scratch: Path) -> Iterator[StartCalibrationServer]:
    """Start calibration servers with knobs, each on a free port; end them by their pids.

    Call it as `calibration_server(transfer_mib_s=8)`; `tmp_dir=` is the server's TMPDIR, if not one of its own.
    """
    started: list[RunningServer] = []

    def start(*, tmp_dir: Path | None = None, **knobs: Any) -> RunningServer:
        folder = scratch / f"calibration-server-{len(started)}"
        (folder / "tmp").mkdir(parents=True)
        environment = {
            "PATH": os.environ["PATH"],
            "PORT": "0",
            "PS_SHARED_SECRET": SECRET,
            "TMPDIR": str(tmp_dir or folder / "tmp"),
            "PICOLAB_CALIBRATION": json.dumps(knobs),
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(server_path()), "-db", str(folder / "data" / "store.db")],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        server = RunningServer(process, folder)
        started.append(server)
        listening = re.compile(r"listening on \S+:(\d+)\n")
        eventually(lambda: listening.search(server.log) or process.poll() is not None, "the server listens")
        found = listening.search(server.log)
        assert found, server.log
        server.port = int(found[1])
        return server

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def visit() -> Iterator[Visiting]:
    """Return what opens a report in a browser, `visit(path)`; all tests of a module use one browser."""
    # Only few tests need it.
    from browser import browser

    with browser() as visit:
        yield visit


@pytest.fixture
def program(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write a file that may be executed, and return its path; the next one replaces it."""

    def make(content: bytes) -> Path:
        path = tmp_path / "program"
        path.write_bytes(content)
        path.chmod(0o755)
        return path

    return make
