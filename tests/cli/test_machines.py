"""`picolab machines`: the state of each machine, logging in, shutting down; libvirt is a stand-in here."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
import virsh_stub
from click.testing import CliRunner
from command_line import picolab_here
from conftest import GIVE_UP_S

from picolab.cli.main import main
from picolab.errors import MachineSilent
from picolab.exit_codes import ExitCode
from picolab.host import locks
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines import folders, registry
from picolab.machines.folders import folder_of, write_spec
from picolab.machines.vagrant import by_hand, libvirt
from picolab.machines.vagrant.domain import domain_prefix


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> virsh_stub.VirshStub:
    return virsh_stub.install(tmp_path, monkeypatch)


@pytest.fixture
def machine(scratch: Path) -> Iterator[Path]:
    """The folder of a virtual machine that this process holds."""
    folder = folder_of("vm")
    folder.mkdir(parents=True)
    hold(folder, this_process(), keep=False)
    (folder / by_hand.SSH_CONFIG).write_text("Host guest\n")
    yield folder
    shutil.rmtree(folder)


class FakeGuest:
    """As much of a guest as `machines start` asks for; it does not answer at first, if so told.

    Attributes:
        limits_s: for how long it was waited for, each time.
        asked: of its agent.
    """

    limits_s: ClassVar[list[float]]
    asked: ClassVar[list[dict[str, Any]]]
    silent: ClassVar[int]

    def __init__(self, _spec: object) -> None:
        pass

    def connected(self, limit_s: float) -> None:
        self.limits_s.append(limit_s)
        if len(self.limits_s) <= self.silent:
            raise MachineSilent("no answer")

    def ask(self, request: dict[str, Any]) -> None:
        self.asked.append(request)

    def drop_connection(self) -> None:
        pass


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> type[FakeGuest]:
    FakeGuest.limits_s, FakeGuest.asked, FakeGuest.silent = [], [], 0
    monkeypatch.setattr(by_hand, "Guest", FakeGuest)
    monkeypatch.setattr(by_hand, "ensure_keeper", lambda _: None)
    return FakeGuest


def hold(folder: Path, holder: ProcessIdentity, keep: bool) -> None:
    spec = {"kind": "vagrant", "name": "vm", "ram_mb": 256, "state": "up", "provider": "libvirt"}
    spec |= {"prefix": domain_prefix("vm"), "server": "http://10.0.0.2:4001"}
    write_spec(folder, {**spec, "holder": holder.to_json(), "keep": keep})


def be(virsh: virsh_stub.VirshStub, state: str) -> None:
    virsh.set(domains={f"{domain_prefix('vm')}default": {"state": state, "uuid": "1", "kib": 1}})


@pytest.mark.parametrize(
    ("state", "shown"), [("running", "running"), ("paused", "suspended"), ("shut off", "off"), ("crashed", "off")]
)
def test_the_list_shows_state_and_holder(virsh: virsh_stub.VirshStub, machine: Path, state: str, shown: str) -> None:
    be(virsh, state)
    lines = picolab_here("machines", "list").stdout.splitlines()

    assert lines[0] == f"vm  vagrant  256 MiB  {shown}"
    me = this_process()
    assert lines[1] == f"  held by pid {me.pid} ({me.command}) since {me.started_at:%Y-%m-%d %H:%M} UTC"
    assert lines[2] == "  server: http://10.0.0.2:4001"
    assert "picolab machines ssh vm, or ssh -F" in lines[3]
    assert f"VAGRANT_DOTFILE_PATH={machine / 'vagrant'} VAGRANT_CWD=" in lines[4] and lines[4].endswith("vagrant ssh")


def test_the_list_shows_the_trial_that_kept_it(
    virsh: virsh_stub.VirshStub, machine: Path, gone: ProcessIdentity
) -> None:
    hold(machine, gone, keep=True)
    (machine / folders.TRIAL_FILE).write_text(json.dumps({"folder": "/outputs/a-trial"}))
    os.utime(machine / folders.SPEC, (1.8e9, 1.8e9))
    done = picolab_here("machines", "list").stdout
    assert "vm  vagrant  256 MiB  not created" in done
    assert "kept by the trial a-trial since 2027-01-15 08:00 UTC" in done


def test_a_daemon_that_does_not_answer_is_named(virsh: virsh_stub.VirshStub, machine: Path) -> None:
    virsh.set(error="failed to connect to the hypervisor")
    done = picolab_here("machines", "list")
    assert done.returncode == ExitCode.OK
    assert "256 MiB  unknown\n" in done.stdout
    (sentence,) = done.stderr.splitlines()
    assert (
        "machines of the kind vagrant were not asked for their state: the daemon libvirtd does not answer" in sentence
    )
    assert "failed to connect to the hypervisor" in sentence and "; run: " in sentence


def test_a_daemon_that_hangs_does_not_hold_the_answer_up(virsh: virsh_stub.VirshStub, machine: Path) -> None:
    virsh.set(hang=True)
    with pytest.raises(libvirt.LibvirtError, match="gave no answer within 0 s"):
        by_hand.state(machine, 0.1)


def test_the_list_does_not_wait_for_a_daemon_that_hangs(
    virsh: virsh_stub.VirshStub, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the stand-in needs to note its command on a busy host.
    monkeypatch.setattr(registry, "SILENT_AFTER_S", 2)
    virsh.set(hang=True)
    done = picolab_here("machines", "list")

    assert done.returncode == ExitCode.OK and "256 MiB  unknown\n" in done.stdout
    (sentence,) = done.stderr.splitlines()
    assert "machines of the kind vagrant were not asked for their state: the daemon libvirtd does not" in sentence
    assert virsh.commands == ["list --name"], "asked once"


def test_the_list_of_no_machines_names_no_daemon(virsh: virsh_stub.VirshStub) -> None:
    virsh.set(error="failed to connect to the hypervisor")
    done = picolab_here("machines", "list")
    assert (done.stdout, done.stderr) == ("There are no machines.\n", "")


def test_start_leaves_a_running_machine_alone(
    virsh: virsh_stub.VirshStub, machine: Path, guest: type[FakeGuest]
) -> None:
    be(virsh, "running")
    assert picolab_here("machines", "start", "vm").stdout == "Machine 'vm' was running already.\n"
    write_spec(machine, {**(folders.spec_of(machine) or {}), "state": "making"})
    assert picolab_here("machines", "start", "vm").stdout == "Machine 'vm' was running already.\n"
    assert [request["do"] for request in guest.asked] == ["set_clock"], "but for its clock, if it was made to its end"


def test_a_suspended_guest_gets_its_clock_however_late_it_answers(
    virsh: virsh_stub.VirshStub, machine: Path, guest: type[FakeGuest]
) -> None:
    be(virsh, "paused")
    guest.silent = 1
    silent = picolab_here("machines", "start", "vm")
    assert silent.returncode == ExitCode.INSTRUMENT_FAULT
    assert "'vm': it runs, but has not answered within 300 s, so that its clock is not set (no answer" in silent.stderr
    assert guest.asked == [] and min(guest.limits_s) > GIVE_UP_S, "as long as a boot may take"
    assert picolab_here("machines", "start", "vm").stdout == "Machine 'vm' was running already.\n"
    be(virsh, "paused")
    assert "Machine 'vm' is running; get in: " in picolab_here("machines", "start", "vm").stdout
    assert [request["do"] for request in guest.asked] == ["set_clock"] * 2


@pytest.mark.parametrize(
    ("state", "shown"), [("no state", "is nostate"), ("gone", "is not created"), ("pmsuspended", "is asleep")]
)
def test_only_what_is_off_is_started(virsh: virsh_stub.VirshStub, machine: Path, state: str, shown: str) -> None:
    if state != "gone":
        be(virsh, state)
    done = picolab_here("machines", "start", "vm")
    assert done.returncode == ExitCode.INSTRUMENT_FAULT
    assert f"machine 'vm': it {shown}, and only one that is off or suspended can be started" in done.stderr
    assert "picolab machines remove vm" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), []),
        (("--", "free", "-m"), ["--", "free -m"]),
        (("--", "ls", "a b"), ["--", "ls 'a b'"]),
        (("--", "dmesg | tail"), ["--", "dmesg | tail"]),
    ],
)
def test_ssh_becomes_ssh(
    virsh: virsh_stub.VirshStub,
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    expected: list[str],
) -> None:
    be(virsh, "running")
    programs: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda program, given: programs.append(given))
    assert picolab_here("machines", "ssh", "vm", *words).returncode == ExitCode.OK
    assert programs == [["ssh", "-F", str(machine / "ssh_config"), "guest", *expected]]


@pytest.mark.parametrize(("state", "shown"), [("shut off", "off"), ("paused", "suspended")])
def test_ssh_to_a_machine_that_does_not_run_names_the_way_to_start_it(
    virsh: virsh_stub.VirshStub, machine: Path, state: str, shown: str
) -> None:
    be(virsh, state)
    done = picolab_here("machines", "ssh", "vm")
    assert done.returncode == ExitCode.HOST_UNFIT and f"machine 'vm': it is {shown}, so nobody" in done.stderr
    assert "start it with: picolab machines start vm\n" in done.stderr and "remove" not in done.stderr


@pytest.mark.parametrize(("command", "state"), [("halt", "running"), ("start", "shut off")])
def test_what_a_process_holds_is_refused(virsh: virsh_stub.VirshStub, machine: Path, command: str, state: str) -> None:
    be(virsh, state)
    child = os.posix_spawn("/bin/sleep", ["sleep", "600"], os.environ)
    try:
        other = ProcessIdentity.of(child)
        assert other is not None
        hold(machine, other, keep=False)
        done = picolab_here("machines", command, "vm")
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert done.returncode == ExitCode.HOST_UNFIT and f"held by process {child} (sleep 600)" in done.stderr
    assert virsh.state["domains"][f"{domain_prefix('vm')}default"]["state"] == state


def test_a_machine_of_the_process_that_asks_is_refused(virsh: virsh_stub.VirshStub, machine: Path) -> None:
    """Of a JupyterLab's kernel, for example, from whose notebook somebody runs the command."""
    be(virsh, "running")
    command = [sys.executable, "-m", "picolab", "machines", "halt", "vm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.HOST_UNFIT and f"held by process {os.getpid()} (" in done.stderr


def test_halt_says_when_there_is_nothing_to_do(virsh: virsh_stub.VirshStub, machine: Path) -> None:
    be(virsh, "shut off")
    assert picolab_here("machines", "halt", "vm").stdout == "Machine 'vm' was off already.\n"
    be(virsh, "paused")
    refused = picolab_here("machines", "halt", "vm").stderr
    assert (
        "it is suspended, and only a running guest can shut down; resume it with: picolab machines start vm; or take "
        "it away with: picolab machines remove vm" in refused
    )
    be(virsh, "pmsuspended")
    refused = picolab_here("machines", "halt", "vm").stderr
    assert "it is asleep, and only a running guest can shut down; take it away with: picolab" in refused


@pytest.mark.parametrize("command", ["halt", "start", "remove"])
def test_a_wait_for_another_process_is_told_once(
    virsh: virsh_stub.VirshStub,
    machine: Path,
    guest: type[FakeGuest],
    gone: ProcessIdentity,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one that boots the machine, for example, which may take minutes."""
    hold(machine, gone, keep=True)
    spec = folders.spec_of(machine) or {}
    write_spec(machine, {**spec, "box": "b", "cpus": 1, "acceleration": "kvm"})
    # Kept by a trial, and not for too long.
    (machine / folders.TRIAL_FILE).write_text("{}")
    be(virsh, "shut off" if command == "halt" else "running")
    program = virsh.path.parent / "virsh-bin" / "vagrant"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    waits: list[str] = []
    show = locks.Wait.show
    told = threading.Event()

    def show_and_note(wait: locks.Wait, who: Callable[[], str], what: str) -> None:
        # As if a second had passed each time.
        wait._reported_s = None
        show(wait, who, what)
        waits.append(what)
        if len(waits) == 3:
            told.set()

    monkeypatch.setattr(locks.Wait, "show", show_and_note)
    with ThreadPoolExecutor(1) as threads:
        with folders.exclusive("vm"):
            running = threads.submit(in_process, command)
            assert told.wait(GIVE_UP_S)
        done = running.result(GIVE_UP_S)

    assert done.returncode == ExitCode.OK, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line != "Waiting for the guest to answer ..."]
    assert line.startswith(f"waiting for pid {os.getpid()} (") and "it makes or takes down the machine 'vm'" in line
    machine.mkdir(exist_ok=True)


def in_process(command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of `machines` in a thread, where no handler of a signal can be set."""
    result = CliRunner().invoke(main, ("machines", command, "vm"), prog_name="picolab")
    return subprocess.CompletedProcess((), result.exit_code, result.stdout, result.stderr)
