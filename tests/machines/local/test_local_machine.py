"""The local machine for real: memory cgroups of this kernel, keepers and servers as processes, a mounted tmpfs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import MIB, alive, eventually, socket_in_network_of

from picolab.errors import MachineBusy, MachineError, MemoryLimitUnavailable
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines import folders, registry
from picolab.machines.base import Holder, MachineWish, ProcessSpec, ProcessStatus
from picolab.machines.local import cgroup as cgroup_module
from picolab.machines.local import checks as local_checks
from picolab.machines.local import machine as local
from picolab.machines.local import network, request
from picolab.machines.local.cgroup import MemoryCgroup, find_method, plan_cgroup, systemd_user_available, v2_parent
from picolab.machines.local.machine import LocalMachine
from picolab.record.samples import read_samples
from picolab.servers.calibration.program import server_path
from picolab.servers.client import Client
from picolab.servers.measurements import Limits
from picolab.servers.picoshare.adapter import PicoShare
from picolab.servers.picoshare.builds import find_build
from picolab.servers.start import SECRET_FILE, start_server

try:
    METHOD: str | None = find_method()
except MemoryLimitUnavailable:
    METHOD = None

needs_a_limit = pytest.mark.skipif(METHOD is None, reason="this host offers no way to limit memory")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")

ALLOCATE = "import sys; x = bytearray(int(sys.argv[1]) << 20); print('allocated', flush=True); sys.stdin.read()"
LIMIT_FILE = {"cgroup_v1": "memory.limit_in_bytes"}.get(METHOD or "", "memory.max")

Obtain = Callable[..., LocalMachine]


@pytest.fixture
def obtain() -> Iterator[Obtain]:
    """Obtain machines, held by this process unless `holder` says otherwise, and take all down at the end."""

    def make(
        name: str = "local",
        ram_mb: int = 64,
        memory_limit: str = "none" if METHOD is None else "enforced",
        work_dir: Path | str = "",
        holder: ProcessIdentity | None = None,
        keep: bool = False,
    ) -> LocalMachine:
        wish = MachineWish(name, ram_mb, memory_limit, str(work_dir))  # type: ignore[arg-type]
        return LocalMachine.obtain(wish, Holder(holder or this_process(), keep))

    yield make
    for machine in registry.existing():
        registry.release_by_name(machine["name"])


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is alive and no ancestor of this one."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def run(machine: LocalMachine, *argv: str, log: str = "log") -> ProcessStatus:
    """Start a process in the machine."""
    spec = ProcessSpec([*argv], {"PATH": os.defpath}, local.state_dir() / log)
    return machine.start_process(spec)


def identity_of(process: subprocess.Popen[bytes]) -> ProcessIdentity:
    identity = ProcessIdentity.of(process.pid)
    assert identity is not None
    return identity


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def pid_of(machine: LocalMachine) -> int:
    pid = machine.process_status().pid
    assert pid is not None
    return pid


def keeper_of(machine: LocalMachine) -> ProcessIdentity:
    return ProcessIdentity.from_json(json.loads((machine.folder / "keeper.json").read_text())["process"])


def cgroup_of(machine: LocalMachine) -> Path:
    return Path(json.loads((machine.folder / "keeper.json").read_text())["cgroup"])


def work_of(machine: LocalMachine) -> Path:
    return Path(json.loads((machine.folder / "machine.json").read_text())["work"])


# ---- the limit -----------------------------------------------------------------------------------


@needs_a_limit
def test_a_server_over_its_limit_is_oom_killed_and_counted(obtain: Obtain) -> None:
    machine = obtain(ram_mb=64)
    run(machine, sys.executable, "-c", ALLOCATE, "256")
    eventually(lambda: not machine.process_status().running, "the kernel ends it")
    status = machine.process_status()
    assert (status.exit_signal, status.exit_code, status.oom_kills) == ("SIGKILL", None, 1)
    assert "allocated" not in machine.process_log()
    assert status.started_monotonic_s is not None and status.ended_monotonic_s is not None
    assert status.started_monotonic_s < status.ended_monotonic_s <= time.monotonic()
    # The next process in the same machine is not blamed for that.
    run(machine, sys.executable, "-c", ALLOCATE, "16")
    eventually(lambda: not machine.process_status().running, "it ends by itself")
    status = machine.process_status()
    assert (status.exit_signal, status.exit_code, status.oom_kills) == (None, 0, 0)
    assert machine.process_log() == "allocated\n"


@needs_a_limit
def test_the_limit_is_read_back_from_the_kernel_and_swap_is_off(obtain: Obtain) -> None:
    machine = obtain(ram_mb=48)
    record = machine.describe()
    assert record.memory_limit.method == METHOD
    assert record.memory_limit.limit_bytes == 48 * MIB == int((cgroup_of(machine) / LIMIT_FILE).read_text())
    assert record.memory_limit.swap == "off"
    assert record.reused is False and record.name == "local"
    assert record.data_folder_file_system not in ("tmpfs", "unknown")
    run(machine, "sleep", "1000")
    assert cgroup_of(machine).name in Path(f"/proc/{pid_of(machine)}/cgroup").read_text()
    assert str(pid_of(machine)) in (cgroup_of(machine) / "cgroup.procs").read_text().split()


def test_without_a_limit_the_record_says_so(obtain: Obtain) -> None:
    machine = obtain(memory_limit="none")
    record = machine.describe()
    assert (record.memory_limit.method, record.memory_limit.limit_bytes) == ("none", None)
    assert run(machine, "sleep", "1000").oom_kills is None
    assert machine.process_status().running
    machine.release()


def test_a_host_without_any_method_is_refused_with_the_remedies(
    obtain: Obtain, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("v1_parent", "v2_parent"):
        monkeypatch.setattr(cgroup_module, name, lambda: None)
    monkeypatch.setattr(cgroup_module, "systemd_user_available", lambda: False)
    with pytest.raises(MemoryLimitUnavailable) as caught:
        find_method()
    for remedy in ("root", "systemd", "memory_limit: none"):
        assert remedy in str(caught.value)
    with pytest.raises(MemoryLimitUnavailable):
        obtain(memory_limit="enforced")
    assert registry.existing() == []
    assert obtain(memory_limit="none").describe().memory_limit.method == "none"


# ---- fakes of hosts that this one is not ---------------------------------------------------------


def test_v2_file_handling_on_a_fake_cgroup_folder(scratch: Path) -> None:
    """A FAKE at the boundary: a plain folder in place of cgroup v2, because hosts have v1 or v2, not both."""
    group = MemoryCgroup("cgroup_v2", scratch / "picolab-fake")
    group.create(64 * MIB)
    assert (group.path / "memory.max").read_text() == f"{64 * MIB}\n"
    assert group.limit_bytes == 64 * MIB
    (group.path / "memory.max").write_text("max\n")
    assert group.limit_bytes is None
    (group.path / "memory.swap.max").write_text("0\n")
    assert group.swap_is_off
    assert group.oom_kills is None
    (group.path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert group.oom_kills == 2
    group.add(4711)
    assert (group.path / "cgroup.procs").read_text() == "4711\n"


def test_v2_as_root_on_a_fake_hierarchy(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FAKE at the boundary: a plain folder in place of the mounted cgroup v2."""
    monkeypatch.setattr(cgroup_module, "_mount_of", lambda kind, option=None: scratch if kind == "cgroup2" else None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (scratch / "cgroup.controllers").write_text("cpu io\n")
    (scratch / "cgroup.subtree_control").write_text("cpu\n")
    assert v2_parent() is None
    (scratch / "cgroup.controllers").write_text("cpu io memory\n")
    assert find_method() == "cgroup_v2"
    assert (scratch / "cgroup.subtree_control").read_text() == "cpu\n", "asking changes nothing"
    assert plan_cgroup("cgroup_v2", "picolab-x") == MemoryCgroup("cgroup_v2", scratch / "picolab-x")
    assert (scratch / "cgroup.subtree_control").read_text() == "+memory\n"


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ({"cgroup.controllers": "memory", "cgroup.subtree_control": "memory"}, True),
        ({"cgroup.controllers": "cpu memory", "cgroup.subtree_control": ""}, True),
        ({"cgroup.controllers": "cpu", "cgroup.subtree_control": "cpu"}, False),
        ({"cgroup.controllers": "memory"}, False),
        ({}, False),
        # In a container it is not the root of all: with processes in it, no controller can be switched on.
        ({"cgroup.controllers": "memory", "cgroup.subtree_control": "", "cgroup.type": "domain"}, False),
        (
            {
                "cgroup.controllers": "memory",
                "cgroup.subtree_control": "",
                "cgroup.type": "domain",
                "cgroup.procs": "1\n7\n",
            },
            False,
        ),
        (
            {
                "cgroup.controllers": "memory",
                "cgroup.subtree_control": "",
                "cgroup.type": "domain",
                "cgroup.procs": "",
            },
            True,
        ),
        (
            {
                "cgroup.controllers": "memory",
                "cgroup.subtree_control": "memory",
                "cgroup.type": "domain",
                "cgroup.procs": "1\n",
            },
            True,
        ),
    ],
)
def test_asking_for_a_v2_hierarchy_only_looks(
    files: dict[str, str], usable: bool, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FAKE at the boundary: a plain folder in place of the mounted cgroup v2."""
    place = scratch / "unified"
    place.mkdir()
    for name, text in files.items():
        (place / name).write_text(text)
    monkeypatch.setattr(cgroup_module, "_mount_of", lambda kind, option=None: place if kind == "cgroup2" else None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    before = {path.name: (path.read_text(), path.stat().st_mtime_ns) for path in place.iterdir()}
    assert v2_parent() == (place if usable else None)
    assert not systemd_user_available()
    finding = local_checks.memory_limit()[0]
    if not usable or "memory" not in files["cgroup.subtree_control"]:
        assert finding.state == ("good" if usable else "bad"), finding
        assert {path.name: (path.read_text(), path.stat().st_mtime_ns) for path in place.iterdir()} == before


WATCHED = """
import os, sys
events = []
def watch(event, arguments):
    if event in ("os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.truncate", "os.chmod", "subprocess.Popen"):
        events.append((event, str(arguments[:1])))
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        events.append((event, str(arguments[:2])))
import picolab.machines.local.cgroup as cgroup
from picolab.machines.local import network
from picolab.host.facts import disk_of
import pathlib
sys.addaudithook(watch)
if sys.argv[1] != "root":
    os.setuid(65534)
for ask in (cgroup.v1_parent, cgroup.v2_parent, cgroup.systemd_user_available, cgroup.find_method, network.why_not,
            lambda: disk_of(pathlib.Path("/var/tmp"))):
    try:
        ask()
    except Exception as error:
        assert "offers no way" in str(error), error
print(events)
"""


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_asking_what_this_host_can_do_writes_nothing(user: str) -> None:
    if user == "nobody" and os.geteuid() != 0:
        pytest.skip("only root may become another user")
    done = subprocess.run([sys.executable, "-B", "-c", WATCHED, user], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_a_delegated_systemd_scope_on_a_fake_hierarchy(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FAKE at the boundary: a plain folder in place of the scope that systemd delegates to a user."""
    monkeypatch.setattr(cgroup_module, "_mount_of", lambda kind, option=None: scratch if kind == "cgroup2" else None)
    monkeypatch.setattr(cgroup_module, "_own_group", lambda controller: "user.slice/picolab.scope")
    with pytest.raises(MemoryLimitUnavailable, match="did not delegate"):
        plan_cgroup("cgroup_v2_systemd_user", "picolab-x")
    scope = scratch / "user.slice" / "picolab.scope"
    scope.mkdir(parents=True)
    planned = plan_cgroup("cgroup_v2_systemd_user", "picolab-x")
    assert planned is not None and planned.path == scope / "picolab-x"
    assert (scope / "keeper" / "cgroup.procs").read_text() == f"{os.getpid()}\n"
    assert (scope / "cgroup.subtree_control").read_text() == "+memory\n"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert not systemd_user_available()


# ---- who has the machine -------------------------------------------------------------------------


def test_a_fitting_machine_is_reused_another_size_is_made_anew(obtain: Obtain) -> None:
    first = obtain(ram_mb=64)
    server = run(first, "sleep", "1000").pid
    second = obtain(ram_mb=64)
    assert second.reused and keeper_of(second) == keeper_of(first)
    assert pid_of(second) == server and second.describe().reused
    keeper = keeper_of(first)
    third = obtain(ram_mb=96)
    assert not third.reused and keeper_of(third) != keeper
    assert server is not None and not alive(server) and not keeper.alive
    assert third.process_status().pid is None
    if METHOD is not None:
        assert third.describe().memory_limit.limit_bytes == 96 * MIB


def test_a_machine_held_by_somebody_alive_is_refused(obtain: Obtain, other_process: subprocess.Popen[bytes]) -> None:
    machine = obtain(holder=identity_of(other_process), keep=True)
    server = run(machine, "sleep", "1000").pid
    with pytest.raises(MachineBusy) as caught:
        obtain()
    for words in ("'local'", str(other_process.pid), "sleep 1000", "picolab machines remove local"):
        assert words in str(caught.value)
    with pytest.raises(MachineBusy):
        registry.check_free("local")
    with pytest.raises(MachineBusy):
        obtain(ram_mb=128)
    assert machine.process_status().running
    (held,) = registry.existing()
    assert (held["name"], held["ram_mb"], held["held"], held["server"]) == ("local", 64, True, f"pid {server}")
    end(other_process)
    registry.check_free("local")
    assert registry.existing()[0]["holder"] == "nobody"
    assert obtain().reused
    assert pid_of(machine) == server


def test_another_process_reattaches(obtain: Obtain) -> None:
    machine = obtain()
    server = run(machine, "sleep", "1000").pid
    code = (
        "import sys\n"
        "from picolab.machines.base import Holder, MachineWish\n"
        "from picolab.machines.local.machine import LocalMachine\n"
        "from picolab.host.processes import this_process\n"
        "machine = LocalMachine.attach('local')\n"
        "print(machine.process_status().pid, machine.reused, LocalMachine.attach('nobody'))\n"
        "wish = MachineWish('local', 64, sys.argv[1], '')\n"
        "print(LocalMachine.obtain(wish, Holder(this_process(), keep=True)).reused)\n"
    )
    limit = "none" if METHOD is None else "enforced"
    done = subprocess.run([sys.executable, "-c", code, limit], capture_output=True, text=True, timeout=60, check=True)
    # A child may take the machine that its ancestor holds: a kernel from its campaign.
    assert done.stdout == f"{server} True None\nTrue\n"
    assert machine.process_status().running


def test_when_the_holder_is_gone_everything_is_taken_down(
    obtain: Obtain, other_process: subprocess.Popen[bytes]
) -> None:
    machine = obtain(holder=identity_of(other_process), keep=False)
    server = run(machine, "sleep", "1000").pid
    assert server is not None
    keeper, work = keeper_of(machine), work_of(machine)
    group = cgroup_of(machine) if METHOD else None
    end(other_process)
    eventually(lambda: not keeper.alive, "the keeper ends")
    assert not alive(server)
    assert not machine.folder.exists() and not work.exists()
    assert group is None or not group.exists()
    assert LocalMachine.attach("local") is None
    with pytest.raises(MachineError, match="does not exist"):
        machine.process_status()


def test_a_kept_machine_outlives_its_holder(obtain: Obtain, other_process: subprocess.Popen[bytes]) -> None:
    machine = obtain(holder=identity_of(other_process), keep=True)
    server = run(machine, "sleep", "1000").pid
    assert machine.kept
    keeper = keeper_of(machine)

    def rounds() -> int:
        found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{keeper.pid}/status").read_text(), re.M)
        assert found
        return int(found[1])

    end(other_process)
    before = rounds()
    eventually(lambda: rounds() >= before + 3, "the keeper has looked after its holder more than once")
    assert keeper.alive and machine.process_status().running
    assert registry.sweep() == []
    assert obtain().reused and pid_of(machine) == server


def test_holding_anew_decides_what_happens_at_the_end(obtain: Obtain, other_process: subprocess.Popen[bytes]) -> None:
    machine = obtain(keep=False)
    machine.hold(Holder(identity_of(other_process), keep=False))
    keeper = keeper_of(machine)
    end(other_process)
    eventually(lambda: not keeper.alive and not machine.folder.exists(), "the keeper ends with its new holder")


def test_two_processes_at_once_and_exactly_one_wins(obtain: Obtain) -> None:
    code = (
        "import sys\n"
        "from picolab.errors import MachineBusy\n"
        "from picolab.machines.base import Holder, MachineWish\n"
        "from picolab.machines.local.machine import LocalMachine\n"
        "from picolab.host.processes import this_process\n"
        "print('ready', flush=True)\n"
        "machine = None\n"
        "for line in sys.stdin:\n"
        "    if line == 'go\\n':\n"
        "        try:\n"
        "            wish = MachineWish('local', 64, sys.argv[1], '')\n"
        "            machine = LocalMachine.obtain(wish, Holder(this_process(), False))\n"
        "            print('won' if not machine.reused else 'reused', flush=True)\n"
        "        except MachineBusy:\n"
        "            print('busy', flush=True)\n"
        "    elif machine is not None:\n"
        "        machine.release()\n"
        "        machine = None\n"
        "        print('released', flush=True)\n"
        "    else:\n"
        "        print('had none', flush=True)\n"
    )
    limit = "none" if METHOD is None else "enforced"
    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code, limit],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                )
            )
            for _ in range(2)
        ]

        def say(word: str) -> list[str]:
            for process in both:
                assert process.stdin is not None
                process.stdin.write(f"{word}\n")
            return hear()

        def hear() -> list[str]:
            heard = []
            for process in both:
                assert process.stdout is not None
                heard.append(process.stdout.readline().strip())
            return heard

        assert hear() == ["ready", "ready"]
        for _ in range(10):
            assert sorted(say("go")) == ["busy", "won"]
            assert sorted(say("done")) == ["had none", "released"]
        for process in both:
            assert process.stdin is not None
            process.stdin.close()


def test_machines_of_two_state_folders_do_not_disturb_each_other(obtain: Obtain, scratch: Path) -> None:
    """Two checkouts on one host: the same name, the same work_dir."""
    shared = scratch / "shared"
    first = obtain(work_dir=shared)
    run(first, "sleep", "1000")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PICOLAB_STATE_DIR", str(scratch / "other-state"))
        second = obtain(work_dir=shared)
        assert not second.reused
        (scratch / "other-state").mkdir(exist_ok=True)
        run(second, "sleep", "1000")
        second.release()
    assert first.process_status().running and work_of(first).is_dir()
    first.release()
    assert list(shared.iterdir()) == []


# ---- taking down ---------------------------------------------------------------------------------


def test_a_killed_keeper_ends_its_server_and_a_sweep_cleans_up(obtain: Obtain) -> None:
    machine = obtain()
    server = run(machine, "sleep", "1000").pid
    assert server is not None
    work = work_of(machine)
    group = cgroup_of(machine) if METHOD else None
    Path(machine.fresh_folders()[0], "file").write_text("data")
    keeper_of(machine).signal(signal.SIGKILL)
    eventually(lambda: not alive(server), "the kernel ends the server")
    assert LocalMachine.attach("local") is None and registry.existing() == []
    with pytest.raises(MachineError, match="does not answer"):
        machine.process_status()
    assert work.exists()
    # systemd removes a scope in which nothing runs any more, and our cgroup with it.
    if METHOD != "cgroup_v2_systemd_user":
        assert group is None or group.exists()
    assert registry.sweep() == ["local"]
    assert not work.exists() and not machine.folder.exists()
    assert group is None or not group.exists()
    assert registry.sweep() == []


def test_a_new_machine_replaces_what_a_killed_keeper_has_left(obtain: Obtain) -> None:
    machine = obtain()
    run(machine, "sleep", "1000")
    keeper_of(machine).signal(signal.SIGKILL)
    again = obtain()
    assert not again.reused and again.process_status().pid is None


def test_a_keeper_that_hangs_is_ended(obtain: Obtain, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = obtain()
    server = run(machine, "sleep", "1000").pid
    keeper = keeper_of(machine)
    keeper.signal(signal.SIGSTOP)
    monkeypatch.setattr(request, "_REQUEST_TIMEOUT_S", 0.5)
    machine.release()
    assert not keeper.alive and not machine.folder.exists()
    assert server is not None
    eventually(lambda: not alive(server), "the kernel ends the server")


def test_release_twice(obtain: Obtain) -> None:
    machine = obtain()
    run(machine, "sleep", "1000")
    machine.release()
    assert not machine.folder.exists()
    machine.release()
    assert registry.release_by_name("local") is False
    assert registry.release_by_name("never was") is False


def test_deleting_the_state_folder_takes_the_machine_down(obtain: Obtain, scratch: Path) -> None:
    machine = obtain()
    server = run(machine, "sleep", "1000").pid
    keeper = keeper_of(machine)
    group = cgroup_of(machine) if METHOD else None
    (machine.folder / "machine.json").unlink()
    eventually(lambda: not keeper.alive, "the keeper ends")
    assert server is not None and not alive(server)
    assert group is None or not group.exists()


def test_stopping(obtain: Obtain) -> None:
    machine = obtain()
    assert machine.stop_process(1).pid is None
    run(machine, "sleep", "1000")
    status = machine.stop_process(30)
    assert (status.running, status.exit_signal, status.exit_code) == (False, "SIGTERM", None)
    assert status.stop_s is not None and 0 < status.stop_s < 30
    assert machine.stop_process(30).stop_s == status.stop_s
    run(machine, "sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done")
    eventually(lambda: "up" in machine.process_log(), "the trap is set")
    status = machine.stop_process(30)
    assert (status.exit_signal, status.exit_code) == (None, 7)


def test_who_ignores_sigterm_is_killed_after_the_grace(obtain: Obtain) -> None:
    machine = obtain()
    run(machine, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done")
    eventually(lambda: "up" in machine.process_log(), "the trap is set")
    status = machine.stop_process(0.3)
    assert (status.running, status.exit_signal) == (False, "SIGKILL")
    assert status.stop_s is not None and status.stop_s >= 0.3


def test_what_the_server_has_started_ends_with_it(obtain: Obtain) -> None:
    machine = obtain(memory_limit="none")
    run(machine, "sh", "-c", "sleep 1000 & echo $!; wait")
    child = int(eventually(machine.process_log, "the child's pid"))
    assert alive(child)
    machine.stop_process(5)
    eventually(lambda: not alive(child), "the child ends")


# ---- folders, files, ports -----------------------------------------------------------------------


def test_folders_are_fresh_and_private(obtain: Obtain) -> None:
    machine = obtain()
    data, tmp = map(Path, machine.fresh_folders())
    (data / "deep").mkdir()
    (data / "deep" / "file").write_text("x")
    (tmp / "file").write_text("x")
    assert list(map(Path, machine.fresh_folders())) == [data, tmp]
    assert list(data.iterdir()) == list(tmp.iterdir()) == []
    for folder in (machine.folder, work_of(machine), data, tmp):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_very_long_path(obtain: Obtain, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = scratch / "state" / ("long" * 20) / ("longer" * 20)
    monkeypatch.setenv("PICOLAB_STATE_DIR", str(state))
    machine = obtain()
    assert len(os.fsencode(machine.folder)) > 107
    run(machine, "sleep", "1000")
    assert machine.process_status().running
    machine.release()
    assert not machine.folder.exists()


def test_work_dir_is_used_and_only_what_is_ours_is_removed(obtain: Obtain, scratch: Path) -> None:
    mine = scratch / "mine"
    mine.mkdir()
    (mine / "precious").write_text("x")
    machine = obtain(work_dir=mine)
    data, tmp = machine.fresh_folders()
    assert Path(data).is_relative_to(mine) and Path(tmp).is_relative_to(mine)
    machine.release()
    assert [path.name for path in mine.iterdir()] == ["precious"]


def test_an_unusable_work_dir_is_refused_in_one_sentence(obtain: Obtain, scratch: Path) -> None:
    (scratch / "file").write_text("x")
    with pytest.raises(MachineError) as caught:
        obtain(work_dir=scratch / "file")
    assert "Traceback" not in str(caught.value) and str(scratch / "file") in str(caught.value)
    assert not (folders.machines_dir() / "local").exists()
    assert obtain().process_status().pid is None


@pytest.fixture
def tmpfs(scratch: Path) -> Iterator[Path]:
    """A file system in memory with room for 12 MiB, mounted for real."""
    place = scratch / "tmpfs"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "picolab-test", str(place)], check=True, timeout=60)
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=60)


@needs_root
def test_a_full_file_system_gives_the_contracts_sentence(tmpfs: Path, obtain: Obtain, scratch: Path) -> None:
    machine = obtain(work_dir=tmpfs, ram_mb=256)
    record = machine.describe()
    assert (record.data_folder_file_system, record.data_folder_disk) == ("tmpfs", None)
    assert record.free_disk_bytes <= 12 * MIB
    build = find_build("calibration", "calibration", "")
    started = start_server(machine, PicoShare(), build, {}, scratch / "server.log", 30)
    assert started.ready_s is not None
    with Client(PicoShare(), started.base_url) as client:
        client.authenticate((machine.folder / SECRET_FILE).read_text())
        for size_mib, where in ((32, "in the transfer"), (8, "in the commit")):
            full = client.upload(1, size_mib * MIB, Limits(30, 60))
            assert (full.ending, full.http_status) == ("response", 400), where
            assert full.server_message == "invalid request: database error: database or disk is full", where
    probe = machine.probe(0.05, scratch / "samples")
    assert probe.finish() == 0
    missing = read_samples(scratch / "samples").missing
    assert missing["disk_read_bytes"] == missing["disk_written_bytes"] == "no block device"
    # Before the fixture unmounts.
    machine.release()


@pytest.mark.parametrize("kind", ["private", "host"])
def test_ports_and_who_listens_on_them(obtain: Obtain, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "host":
        monkeypatch.setattr(network, "why_not", lambda: "the test wants none")
    elif network.why_not() is not None:
        pytest.skip("only root may make a network namespace")
    machine = obtain()
    port = machine.free_port()
    assert machine.listener(port) == "nobody"
    with socket_in_network_of(machine, port=port) as other:
        other.listen()
        run(machine, "sleep", "1000")
        assert machine.listener(port) == "other"
        machine.stop_process(5)
    code = f"import socket, time; s = socket.create_server(('', {port})); print('up', flush=True); time.sleep(1000)"
    run(machine, sys.executable, "-c", code, log="listener")
    eventually(lambda: machine.process_log(), "it listens")
    assert machine.listener(port) == "server"


def test_install_leaves_an_executable_where_it_is(obtain: Obtain) -> None:
    assert obtain().install(server_path()) == str(server_path().resolve())


def test_the_log_is_the_present_servers_and_its_end(obtain: Obtain) -> None:
    machine = obtain()
    assert machine.process_log() == ""
    for number in (1, 2):
        run(machine, "echo", f"server {number}")
        eventually(lambda: not machine.process_status().running, "it ends")
        assert machine.process_log() == f"server {number}\n"
    attached = LocalMachine.attach("local")
    assert attached is not None and attached.process_log() == "server 2\n"
    run(machine, "sh", "-c", "head -c 200000 /dev/zero | tr '\\0' x; echo end")
    eventually(lambda: not machine.process_status().running, "it ends")
    assert len(machine.process_log()) == 1 << 16 and machine.process_log().endswith("xend\n")


def test_a_failed_start_leaves_the_machine_usable(obtain: Obtain, scratch: Path) -> None:
    machine = obtain()
    run(machine, "true")
    eventually(lambda: not machine.process_status().running, "it ends")
    (scratch / "no-program").write_text("\x7fELF but not really")
    (scratch / "no-program").chmod(0o755)
    for argv in ("/nowhere/picoshare", str(scratch / "no-program")):
        with pytest.raises(MachineError, match=re.escape(argv)):
            run(machine, argv)
        assert not machine.process_status().running
    run(machine, "sleep", "1000")
    with pytest.raises(MachineError, match="already running"):
        run(machine, "sleep", "1000")


def test_anonymous_memory_and_the_probe(obtain: Obtain, scratch: Path) -> None:
    machine = obtain(ram_mb=128)
    assert machine.process_anon_bytes() is None
    run(machine, sys.executable, "-c", ALLOCATE.replace("sys.stdin.read()", "__import__('time').sleep(1000)"), "32")
    eventually(lambda: "allocated" in machine.process_log(), "it has its memory")
    anon = machine.process_anon_bytes()
    assert anon is not None and 32 * MIB <= anon < 64 * MIB
    output = scratch / "samples.jsonl"
    probe = machine.probe(0.02, output)
    assert read_samples(output).rows, "the first sample is there when the probe is"
    assert probe.finish() == 0
    samples = read_samples(output)
    assert samples.peak("anon_bytes") == anon
    if METHOD is not None:
        cgroup_anon = samples.peak("cgroup_anon_bytes")
        assert cgroup_anon is not None and 32 * MIB <= cgroup_anon < 64 * MIB
    assert samples.end is not None and samples.end["samples"] == len(samples.rows)
