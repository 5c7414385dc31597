"""Machines that are lost in every way, and what the next start makes of what they leave."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MIB, eventually
from virtual_machines import copy_into_pool, domains, obtain, wish

from picolab.host.processes import ProcessIdentity
from picolab.machines import registry
from picolab.machines.base import Holder
from picolab.machines.folders import end_keeper, folder_of, spec_of
from picolab.machines.vagrant import libvirt
from picolab.machines.vagrant.box import add_box, remove_box
from picolab.machines.vagrant.box_file import export_box
from picolab.machines.vagrant.domain import domain_prefix
from picolab.machines.vagrant.machine import VagrantMachine

pytestmark = pytest.mark.vm

MACHINE = "own"


@contextlib.contextmanager
def held_elsewhere(machine: VagrantMachine) -> Iterator[subprocess.Popen[str]]:
    """Have another process hold a machine; it waits until it is killed."""
    with subprocess.Popen(["sleep", "86399"], text=True) as process:
        holder = ProcessIdentity.of(process.pid)
        assert holder is not None
        machine.hold(Holder(holder, keep=False))
        machine.hand_back()
        try:
            yield process
        finally:
            process.kill()


def test_a_lost_dotfile_folder_is_mended(box: str, shared_state: Path) -> None:
    """Vagrant alone says: "Name ... of domain about to create is already taken". The next test takes the machine."""
    first = obtain(wish(box, name="own"))
    first._guest.drop_connection()
    subprocess.run(["rm", "-r", str(first.folder)], check=True, timeout=60)
    assert domains()
    again = obtain(wish(box, name="own"))
    described = again.describe().virtual_machine
    assert described is not None and described.reached_by == "created" and described.mended
    again.hand_back()
    # The next test starts its own: this one would be a process that this test left behind.
    end_keeper(folder_of("own"))


def test_a_machine_whose_state_folder_was_deleted_is_swept(box: str, shared_state: Path) -> None:
    machine = obtain(wish(box, name="own"))
    machine._guest.drop_connection()
    subprocess.run(["rm", "-r", str(machine.folder)], check=True, timeout=60)
    (domain,) = domains()
    assert registry.sweep() == [domain]
    assert not domains() and not libvirt.leftovers(domain_prefix("own")) and spec_of(folder_of("own")) is None


@pytest.fixture
def own_box(box: str, tmp_path: Path) -> Iterator[str]:
    """A box that no other machine of this host uses: the same one, from a file."""
    name, file = f"{box}-truncated", tmp_path / "exported.box"
    exported = export_box(box, file)
    assert add_box(file, name, report=lambda _: None).sha256 == exported.sha256
    copy_into_pool(name)
    yield name
    remove_box(name)


def test_a_truncated_base_volume_is_mended(own_box: str, shared_state: Path) -> None:
    """What a killed first upload leaves: with Vagrant alone every later `up` hangs, waiting for an address."""
    volume = libvirt.base_volume(own_box)
    assert volume is not None
    path = subprocess.run(
        ["virsh", "-c", "qemu:///system", "vol-path", volume, "--pool", "default"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()
    with Path(path).open("r+b") as file:
        file.truncate(20 * MIB)
    machine = obtain(wish(own_box, name="own"))
    described = machine.describe().virtual_machine
    assert described is not None and "base volume" in " ".join(described.mended)
    with held_elsewhere(machine) as process:
        assert list(domains().values()) == ["running"]
        process.kill()
    # The keeper of a killed holder takes the machine down.
    eventually(lambda: not domains() and not folder_of("own").exists(), "the machine is gone", give_up_s=120)
    assert not libvirt.leftovers(domain_prefix("own"))
