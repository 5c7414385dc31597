"""`picolab clean`: real leftovers of every kind go, and what only looks like one stays."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import virsh_stub
from conftest import eventually

from picolab.config.project import outputs_dir, state_dir
from picolab.doctor import leftovers
from picolab.exit_codes import ExitCode
from picolab.host.processes import ProcessIdentity, this_process
from picolab.jupyter import kernel_folders
from picolab.machines import folders
from picolab.machines.base import Holder, MachineWish
from picolab.machines.local import cgroup, network
from picolab.machines.local.machine import LocalMachine
from picolab.machines.vagrant import libvirt

MARK = "0123abcd"
"""That of another state folder."""


@pytest.fixture(autouse=True)
def no_libvirt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> virsh_stub.VirshStub:
    """Libvirt is shared by all that runs on a host: here it is a stand-in."""
    return virsh_stub.install(tmp_path, monkeypatch)


def clean(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "picolab", "clean", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    return done.stdout


def found() -> list[str]:
    things, unknown = leftovers.find()
    assert unknown == []
    return [thing.what for thing in things]


def tree() -> list[Path]:
    return sorted(path for place in (state_dir(), outputs_dir()) for path in place.rglob("*") if path.name != ".lock")


def own_place(name: str) -> str:
    return f"picolab-{name}-{folders.state_mark(folders.machines_dir())}"


def test_the_lock_of_a_killed_first_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "vagrant"))
    left, held = (libvirt.first_up_lock_file(box) for box in ("debian/bookworm64", "picolab"))
    left.parent.mkdir()
    (left.parent / "setup_version").touch()
    left.touch()
    with held.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert clean("--dry-run") == f"would remove: lock of a killed first boot: {left}\n"
        assert clean() == f"removing: lock of a killed first boot: {left}\n"
        assert sorted(path.name for path in left.parent.iterdir()) == [held.name, "setup_version"]


def test_there_is_nothing_to_remove() -> None:
    assert clean() == "There is nothing to remove.\n"


def test_a_machine_whose_keeper_was_killed() -> None:
    machine = LocalMachine.obtain(MachineWish("dead", 64, "none", ""), Holder(this_process(), keep=True))
    keeper = folders.keeper_of(machine.folder)
    assert keeper is not None
    os.kill(keeper.pid, signal.SIGKILL)
    folders.reap_own_keepers()
    eventually(lambda: not keeper.alive, "the keeper is dead")
    work = Path((folders.spec_of(machine.folder) or {})["work"])
    assert work.is_dir()

    assert f"would remove: machine without a keeper: {machine.folder}" in clean("--dry-run")
    assert machine.folder.is_dir() and work.is_dir(), "nothing was removed"
    assert f"removing: machine without a keeper: {machine.folder}" in clean()
    assert not machine.folder.exists() and not work.exists()
    assert clean() == "There is nothing to remove.\n"


@pytest.mark.parametrize("alive", [True, False])
def test_a_machine_that_is_held_or_kept_is_named_and_stays(alive: bool, gone: ProcessIdentity) -> None:
    holder = this_process() if alive else gone
    machine = LocalMachine.obtain(MachineWish("mine", 64, "none", ""), Holder(holder, keep=True))
    try:
        said = clean()
        who = f"held by process {os.getpid()}" if alive else "kept for debugging"
        assert f"left alone: machine 'mine': {who}" in said and "picolab machines remove mine" in said
        assert folders.keeper_of(machine.folder) is not None and machine.process_status().pid is None
    finally:
        machine.release()


def test_files_of_every_kind(gone: ProcessIdentity, scratch: Path) -> None:
    kernel = scratch / "tmp" / f"picolab-kernel-{gone.pid}-{gone.start_ticks}-{gone.boot_id[:8]}-0123abcd"
    kernel.mkdir()
    (kernel / "connection.json").write_text("{}")
    connection = scratch / "tmp" / "tmpabc.json"
    connection.write_text("{}")
    notes = kernel_folders._notes_dir()
    notes.mkdir(parents=True)
    note = {"connection_file": str(connection), "sha256": kernel_folders._digest(connection)}
    (notes / "kernel-1-2.json").write_text(json.dumps({**note, "processes": [gone.to_json()]}))
    download = state_dir() / "builds" / ".new-x1"
    download.mkdir(parents=True)
    (download / "half.tar.gz").write_text("half")
    work = state_dir() / "work" / own_place("gone")
    work.mkdir(parents=True)
    folders.machines_dir().mkdir(parents=True)
    lock = folders.lock_file("gone")
    lock.touch()
    new = state_dir() / f".instrument.json.{gone.pid}.new"
    new.touch()
    report = outputs_dir() / "c" / f".analysis.{gone.pid}.ipynb"
    report.parent.mkdir(parents=True)
    report.touch()
    box = scratch / "tmp" / f"picolab-box-{os.geteuid()}-abc"
    box.mkdir()
    every = [kernel, connection, notes / "kernel-1-2.json", download, work, lock, new, report, box]

    assert sorted(found()) == sorted(str(path) for path in every)
    said = clean("--dry-run")
    assert said.count("would remove: ") == len(every) and all(path.exists() for path in every)
    clean()
    assert not any(path.exists() for path in every)


LOOKALIKES: dict[str, Callable[[Path], None]] = {
    "work folder of another checkout": lambda tmp: (state_dir() / "work" / f"picolab-gone-{MARK}").mkdir(parents=True),
    "work folder of somebody's": lambda tmp: (state_dir() / "work" / "picolab-mine").mkdir(parents=True),
    "work folder with a longer name": lambda tmp: (state_dir() / "work" / f"{own_place('gone')}.bak").mkdir(
        parents=True
    ),
    "work folder of nobody": lambda tmp: (state_dir() / "work" / own_place("")).mkdir(parents=True),
    "a whole build": lambda tmp: (state_dir() / "builds" / "1.5.4-amd64-0").mkdir(parents=True),
    "file of a process that runs": lambda tmp: _touch(state_dir() / f".x.{os.getpid()}.new"),
    "file without a process": lambda tmp: _touch(state_dir() / ".x.new"),
    "notebook of somebody's": lambda tmp: _touch(outputs_dir() / "c" / ".draft.99999999.ipynb"),
    "file with a longer number": lambda tmp: _touch(state_dir() / f".x.{'9' * 200}.new"),
    "file that is not hidden": lambda tmp: _touch(state_dir() / "x.99999999.new"),
    "results": lambda tmp: _touch(outputs_dir() / "c" / "trials" / "1.ipynb"),
    "results of a name that is odd": lambda tmp: _touch(outputs_dir() / "c" / "trials" / "a" / ".b.99999999.new"),
    "a link to a folder": lambda tmp: _link(state_dir() / "builds" / ".new-link", tmp),
    "a link to a file": lambda tmp: _link(state_dir() / ".x.99999999.new", tmp / "precious"),
    "box of another user": lambda tmp: (tmp.parent / "tmp" / f"picolab-box-{os.geteuid() + 1}-x").mkdir(),
}


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalikes_stay(name: str, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    try:
        LOOKALIKES[name](tmp_path)
        before = tree()
        assert found() == []
        assert clean() == "There is nothing to remove.\n"
        assert tree() == before and (tmp_path / "precious").read_text() == "precious"
    finally:
        shutil.rmtree(state_dir(), ignore_errors=True)


def test_a_download_that_goes_on_stays() -> None:
    download = state_dir() / "builds" / ".new-x1"
    download.mkdir(parents=True)
    with (state_dir() / "builds" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert found() == []
    assert found() == [str(download)]


def test_a_lock_that_somebody_has_stays() -> None:
    with folders.exclusive("gone"):
        assert found() == []
    assert found() == [str(folders.lock_file("gone"))]


def test_a_lock_that_was_removed_is_not_had_twice() -> None:
    with folders.exclusive("gone"):
        first = folders.lock_file("gone").stat().st_ino
        leftovers._remove_lock("gone")
        assert folders.lock_file("gone").stat().st_ino == first, "it is not removed while somebody has it"
    leftovers._remove_lock("gone")
    assert not folders.lock_file("gone").exists()
    with folders.exclusive("gone"):
        assert folders.lock_file("gone").exists()


@pytest.fixture
def own_cgroup() -> Iterator[Path]:
    """The cgroup of a machine whose state somebody has deleted, with a process in it."""
    try:
        cgroup.find_method()
    except Exception as error:
        pytest.skip(str(error))
    if os.geteuid() != 0:
        pytest.skip("only root makes cgroups by hand")
    parent = cgroup.v1_parent() or cgroup.v2_parent()
    assert parent is not None
    path = parent / own_place("gone")
    path.mkdir()
    yield path
    if path.exists():
        path.rmdir()


def test_a_cgroup_of_no_machine_goes_and_others_stay(own_cgroup: Path) -> None:
    foreign = own_cgroup.with_name(f"picolab-gone-{MARK}")
    foreign.mkdir()
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        (own_cgroup / "cgroup.procs").write_text(str(sleeper.pid))
        assert found() == [str(own_cgroup)]
        clean()
        assert not own_cgroup.exists() and foreign.exists()
        assert sleeper.wait() == -signal.SIGKILL
    finally:
        sleeper.kill()
        sleeper.wait()
        foreign.rmdir()


def test_the_cgroup_of_a_machine_stays(own_cgroup: Path) -> None:
    folders.folder_of("gone").mkdir(parents=True)
    try:
        assert str(own_cgroup) not in found()
    finally:
        folders.folder_of("gone").rmdir()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="only root makes network devices, with ip")
def test_network_devices_of_no_machine_go_and_others_stay(tmp_path: Path) -> None:
    """In a network namespace of the test's own."""
    own, foreign = network.interface_of(own_place("gone")), network.interface_of(f"picolab-gone-{MARK}")
    script = tmp_path / "script"
    script.write_text(
        f"set -e; mount -t sysfs none /sys; "
        f"add() {{ ip link add $1 type veth peer name $3; ip link set $1 alias $2; }}; "
        f"add {own} {own_place('gone')} a; add {foreign} picolab-gone-{MARK} b; add picolab0 {own_place('gone')} c; "
        f"{sys.executable} -m picolab clean; ls /sys/class/net"
    )
    done = subprocess.run(["unshare", "--net", "--mount", "sh", script], capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr or "not supported" in done.stderr:
        pytest.skip(done.stderr)
    assert f"removing: network device of no machine: {own} " in done.stdout, done.stderr
    assert {foreign, "picolab0"} <= set(done.stdout.split()[-6:])
    assert not {"a", own} & set(done.stdout.split()[-6:])


def test_virtual_machines_and_disks_of_no_machine(no_libvirt: virsh_stub.VirshStub) -> None:
    mark = folders.state_mark(folders.machines_dir())
    own = f"picolab_{mark}_a_b_default"
    others = ["debian", f"picolab_{MARK}_a_default", f"picolab_{mark}_default", f"x{own}", f"{own}2", "picolab_default"]
    domain = {"state": "running", "uuid": "u", "kib": 1}
    volume = {"physical": 1}
    lost = [f"picolab_{mark}_c_default.img", f"picolab_{mark}_c_default_1.img"]
    names = [f"{own}.img", f"{own}_1.img", *lost, *(f"{other}.img" for other in others)]
    names += ["picolab-VAGRANTSLASH-box_vagrant_box_image_0_box.img", f"{lost[0]}.bak"]
    no_libvirt.set(
        domains=dict.fromkeys([own, *others], domain),
        volumes=dict.fromkeys(names, volume),
    )
    assert sorted(found()) == [
        f"virtual machine {own}",
        f"volume picolab_{mark}_c_default.img",
        f"volume picolab_{mark}_c_default_1.img",
    ]
    clean()
    assert sorted(no_libvirt.state["domains"]) == sorted(others)
    left = no_libvirt.state["volumes"]
    assert {f"{other}.img" for other in others} <= left.keys()
    assert f"picolab_{mark}_c_default.img.bak" in left and f"picolab_{mark}_c_default.img" not in left


def test_a_libvirt_that_does_not_answer_is_reported(no_libvirt: virsh_stub.VirshStub, scratch: Path) -> None:
    no_libvirt.set(error="Failed to connect socket to '/var/run/libvirt/libvirt-sock'")
    download = state_dir() / "builds" / ".new-x1"
    download.mkdir(parents=True)
    command = [sys.executable, "-m", "picolab", "clean"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.OK, "this state folder has no virtual machine"
    assert "leftovers of the kind vagrant were not looked for: the daemon libvirtd does not answer" in done.stderr
    assert done.stderr.count("\n") == 1 and not download.exists()

    folders.folder_of("vm").mkdir(parents=True)
    folders.write_spec(folders.folder_of("vm"), {"kind": "vagrant", "name": "vm"})
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.INSTRUMENT_FAULT
    assert "leftovers of the kind vagrant were not looked for" in done.stderr and done.stderr.count("\n") == 1
    shutil.rmtree(folders.folder_of("vm"))


def test_names_from_elsewhere_are_shown_as_text() -> None:
    (state_dir() / "builds" / ".new-\x1b[31m\n").mkdir(parents=True)
    said = clean()
    assert "\x1b" not in said and said.count("\n") == 1
