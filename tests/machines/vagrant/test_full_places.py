"""Full disks of this host under virtual machines: each is named, and a machine can be removed from a full one."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import picolab_here
from small_mounts import Mount, fill
from virsh_stub import VirshStub, install

from picolab.errors import MachineError
from picolab.host.disk_room import free_bytes
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines import registry
from picolab.machines.folders import folder_of, write_spec
from picolab.machines.vagrant import full_disk, libvirt, removal
from picolab.machines.vagrant.domain import domain_prefix
from picolab.machines.vagrant.guest import Guest
from picolab.machines.vagrant.state import State

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VirshStub:
    stub = install(tmp_path, monkeypatch)
    vagrant = tmp_path / "virsh-bin" / "vagrant"
    vagrant.write_text(f"#!/bin/sh\necho $1 >>{tmp_path}/asked\necho No space left on device >&2\nexit 1\n")
    vagrant.chmod(0o755)
    return stub


def make_machine(virsh: VirshStub, holder: ProcessIdentity, **domain: object) -> State:
    """Make the folder and the domain of a machine."""
    folder = folder_of("vm")
    folder.mkdir(parents=True)
    name = f"{domain_prefix('vm')}default"
    virsh.set(domains={name: {"state": "running", "uuid": "1", "kib": 1, **domain}}, volumes={f"{name}.img": {}})
    spec = {"kind": "vagrant", "name": "vm", "ram_mb": 256, "cpus": 1, "provider": "libvirt", "box": "a-box"}
    spec |= {"prefix": domain_prefix("vm"), "acceleration": "emulation", "state": "up", "keep": False}
    write_spec(folder, {**spec, "holder": holder.to_json()})
    return State(folder)


def remove() -> None:
    done = picolab_here("machines", "remove", "vm")
    assert done.returncode == 0, done.stderr


def sweep() -> None:
    assert registry.sweep() == ["vm"]


@pytest.mark.parametrize("way", [remove, sweep])
def test_a_machine_is_removed_though_its_state_folder_is_full(
    mount: Mount,
    virsh: VirshStub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gone: ProcessIdentity,
    way: Callable[[], None],
) -> None:
    state = mount("tmpfs", 1)
    monkeypatch.setenv("PICOLAB_STATE_DIR", str(state))
    folder = make_machine(virsh, gone).folder
    # The lock of a machine that was made here is there already.
    with removal.exclusive("vm"):
        fill(state)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        (state / "more").write_bytes(b"x" * 4096)
    way()
    assert not folder.exists() and virsh.state["domains"] == {} == virsh.state["volumes"]
    assert (tmp_path / "asked").read_text() == "destroy\n", "Vagrant shall forget it too"


def test_a_pause_for_want_of_room_names_the_place(mount: Mount, virsh: VirshStub) -> None:
    place = mount("tmpfs", 1)
    (place / "vm.img").write_bytes(b"x")
    state = make_machine(virsh, this_process(), state="paused", disk=str(place / "vm.img"))
    guest = Guest(state)
    assert guest.why_down() == "the virtual machine does not run any more: it is suspended"
    (name,) = libvirt.domains(state["prefix"])
    virsh.set(domains={name: {**virsh.state["domains"][name], "disk_error": "no space"}})
    fill(place)
    assert guest.why_down() == (
        f"the virtual machine does not run any more: it is suspended, because the file system of its disk in {place} "
        f"is full (0.0 MiB free); free some space there, then run the trial again"
    )
    remove()


@pytest.mark.parametrize("said", ["No space left on device", "Error while writing VM state: Input/output error"])
def test_a_full_pool_is_named_by_whatever_fails(mount: Mount, virsh: VirshStub, said: str) -> None:
    place = mount("tmpfs", 8)
    virsh.set(pool_path=str(place))
    with pytest.raises(MachineError, match=r"^it failed$"), full_disk.named("libvirt"):
        raise MachineError("it failed")
    with pytest.raises(libvirt.LibvirtError) as caught, full_disk.named("libvirt"):
        raise libvirt.LibvirtError(f"virsh: {said}", said)
    assert f"; the free space is 8.0 MiB in libvirt's pool {place}, " in str(caught.value), (
        "the half file is gone again"
    )
    assert str(os.environ["PICOLAB_STATE_DIR"]) in str(caught.value)
    fill(place)
    full = rf"it failed; the cause may be that libvirt's pool {place} is full \(0\.0 MiB free\); free some space there$"
    with pytest.raises(MachineError, match=full), full_disk.named("libvirt"):
        raise MachineError("it failed")
    with pytest.raises(MachineError, match=r"^it failed$"), full_disk.named("virtualbox"):
        raise MachineError("it failed")


def test_a_place_that_cannot_be_asked_is_left_out(virsh: VirshStub, tmp_path: Path) -> None:
    """The error of the machine stays, as it does where another user's folder is above libvirt's pool."""
    unknown = tmp_path / ("x" * 300)
    virsh.set(pool_path=str(unknown))
    said = "No space left on device"
    with pytest.raises(libvirt.LibvirtError, match=said) as caught, full_disk.named("libvirt"):
        raise libvirt.LibvirtError(f"virsh: {said}", said)
    assert "MiB in the state folder" in str(caught.value) and "libvirt's pool" not in str(caught.value)

    state = make_machine(virsh, this_process(), state="paused", disk=str(unknown / "vm.img"), disk_error="no space")
    assert full_disk.why_paused(state["prefix"]) == f"the file system of its disk in {unknown} is full"
    remove()


def test_room_is_known_for_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "file" / "folder") is not None
    (tmp_path / "file").touch()
    assert free_bytes(tmp_path / "file" / "folder") is not None
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert free_bytes(tmp_path / "loop" / "folder") is None
