"""Machines that are lost in every way, and what the next start makes of what they leave."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MIB, eventually
from virtual_machines import domains, obtain, wish

from picolab.machines import registry
from picolab.machines.folders import folder_of, keeper_of, spec_of
from picolab.machines.vagrant import libvirt
from picolab.machines.vagrant.domain import domain_prefix

pytestmark = pytest.mark.vm


def make_elsewhere(box: str, keep: bool) -> subprocess.Popen[str]:
    """Start a process that makes a machine, holds it, says `made` and waits."""
    script = (
        "import sys\n"
        "from picolab.machines import registry\n"
        "from picolab.machines.base import Holder, MachineWish\n"
        "from picolab.host.processes import this_process\n"
        f"wish = MachineWish('own', 256, 'enforced', '', kind='vagrant', box={box!r})\n"
        f"registry.obtain(wish, Holder(this_process(), keep={keep}))\n"
        "print('made', flush=True)\n"
        "input()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "made\n"
    return process


def test_the_keeper_takes_the_machine_of_a_killed_holder_down(box: str) -> None:
    with make_elsewhere(box, keep=False) as process:
        assert list(domains().values()) == ["running"]
        process.kill()
    eventually(lambda: not domains() and not folder_of("own").exists(), "the machine is gone", give_up_s=120)
    assert not libvirt.leftovers(domain_prefix("own"))


def test_when_holder_and_keeper_are_killed_the_next_start_sweeps(box: str) -> None:
    with make_elsewhere(box, keep=True) as process:
        keeper = keeper_of(folder_of("own"))
        assert keeper is not None
        process.kill()
    subprocess.run(["kill", "-9", str(keeper.pid)], check=True, timeout=60)
    eventually(lambda: not keeper.alive, "the keeper is dead")
    assert list(domains().values()) == ["running"] and registry.existing()[0]["holder"] == "nobody"
    assert registry.sweep() == ["own"]
    assert not domains() and not libvirt.leftovers(domain_prefix("own"))


def test_a_lost_dotfile_folder_is_mended(box: str) -> None:
    """Vagrant alone says: "Name ... of domain about to create is already taken"."""
    first = obtain(wish(box, name="own"))
    first._drop_connection()
    subprocess.run(["rm", "-r", str(first.folder)], check=True, timeout=60)
    assert domains()
    again = obtain(wish(box, name="own"))
    described = again.describe().virtual_machine
    assert described is not None and described.reached_by == "created" and described.mended
    again.release()
    assert not domains() and spec_of(folder_of("own")) is None


def test_a_machine_whose_state_folder_was_deleted_is_swept(box: str) -> None:
    machine = obtain(wish(box, name="own"))
    machine._guest.drop_connection()
    subprocess.run(["rm", "-r", str(machine.folder)], check=True, timeout=60)
    (domain,) = domains()
    assert registry.sweep() == [domain]
    assert not domains() and not libvirt.leftovers(domain_prefix("own"))


def test_a_truncated_base_volume_is_mended(box: str) -> None:
    """What a killed first upload leaves: with Vagrant alone every later `up` hangs, waiting for an address."""
    volume = libvirt.base_volume(box)
    if volume is None:
        obtain(wish(box, name="own")).release()
        volume = libvirt.base_volume(box)
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
    machine = obtain(wish(box, name="own"))
    described = machine.describe().virtual_machine
    assert described is not None and "base volume" in " ".join(described.mended)
    machine.release()
