"""A real machine as a person handles it: `machines ssh`, Vagrant's own commands, `machines halt`, and other guests."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import eventually
from virtual_machines import domains, obtain, wish

from picolab.exit_codes import ExitCode
from picolab.host.processes import ProcessIdentity
from picolab.machines import registry
from picolab.machines.base import Holder
from picolab.machines.vagrant import boxes
from picolab.machines.vagrant.machine import VagrantMachine
from picolab.servers.calibration.program import server_path
from picolab.servers.guest_program import why_unfit

pytestmark = pytest.mark.vm


@pytest.fixture
def machine(box: str) -> Iterator[VagrantMachine]:
    machine = obtain(wish(box, name="own"), keep=True)
    yield machine
    machine.release()


def picolab(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "picolab", *words], capture_output=True, text=True, timeout=300, check=False
    )


def shell(command: str) -> str:
    """Run a line in a shell that knows nothing of picolab's variables, as a person would."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("PICOLAB_")}
    known.pop("VAGRANT_HOME", None)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120, check=False, env=known)
    assert done.returncode == 0, done.stderr
    return done.stdout


def virsh(*words: str) -> None:
    subprocess.run(["virsh", "-c", "qemu:///system", *words], capture_output=True, check=True, timeout=60)


def test_a_machine_in_the_hands_of_a_person(box: str, machine: VagrantMachine) -> None:
    done = picolab("machines", "ssh", "own", "--", "printf", "%s|", "a b", "$HOME")
    assert (done.returncode, done.stdout) == (0, "a b|$HOME|"), done.stderr
    assert picolab("machines", "ssh", "own", "--", "uname -s; exit 7").returncode == 7

    listed = picolab("machines", "list").stdout
    assert "own  vagrant  256 MiB  running" in listed
    (by_hand,) = [line.partition(": ")[2] for line in listed.splitlines() if line.startswith("  by hand: ")]
    assert shell(f"{by_hand} -c 'echo in the guest'") == "in the guest\n"
    assert "running (libvirt)" in shell(by_hand.replace("vagrant ssh", "vagrant status"))

    (domain,) = domains()
    assert "own" in registry.others_running("another")
    virsh("suspend", domain)
    assert "256 MiB  suspended" in picolab("machines", "list").stdout
    assert "own" not in registry.others_running("another")
    virsh("resume", domain)

    with subprocess.Popen(["sleep", "600"]) as other:
        identity = ProcessIdentity.of(other.pid)
        assert identity is not None
        machine.hold(Holder(identity, keep=True))
        refused = picolab("machines", "halt", "own")
        other.kill()
    assert refused.returncode == ExitCode.HOST_UNFIT and f"held by process {other.pid} (sleep 600)" in refused.stderr
    assert list(domains().values()) == ["running"]


def test_halt_shuts_the_guest_down_and_a_trial_boots_it(box: str) -> None:
    """The one who holds it has ended, as after a trial with --keep-machine."""
    script = (
        "from virtual_machines import obtain, wish\n"
        f"obtain(wish({box!r}, name='own'), keep=True)._guest.connected().run('echo kept | sudo tee /etc/kept; sync')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300, env=environment)
    try:
        done = picolab("machines", "halt", "own")
        assert (done.returncode, done.stdout) == (0, "Machine 'own' is off.\n"), done.stderr
        eventually(lambda: list(domains().values()) == ["shutoff"], "the domain is off")
        off = picolab("machines", "ssh", "own")
        assert off.returncode == ExitCode.HOST_UNFIT and "machine 'own': it is off" in off.stderr
        assert "own" not in registry.others_running("another")
        again = obtain(wish(box, name="own"))
        described = again.describe().virtual_machine
        assert described is not None and described.reached_by == "booted"
        assert again._guest.connected().run("cat /etc/kept").stdout == "kept\n", "its disk stayed"
    finally:
        registry.release_by_name("own")


def test_the_box_lists_its_system(box: str) -> None:
    system = boxes.guest_system(box, "libvirt")
    assert system is not None and system.complete and system.glibc > (2, 30)
    assert system.has("/bin/sh") and system.has("/lib64/ld-linux-x86-64.so.2") and system.has_command("python3")
    assert system.has_library("libc.so.6") and not system.has("/bin/zsh")
    assert why_unfit(server_path(), system) == ""
