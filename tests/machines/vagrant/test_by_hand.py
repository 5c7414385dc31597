"""A real machine as a person handles it: `machines ssh`, Vagrant's own commands, `machines halt`, and other guests."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import GIVE_UP_S, eventually
from virtual_machines import domains, obtain, wish

from picolab.exit_codes import ExitCode
from picolab.host.locks import try_lock
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines import registry
from picolab.machines.base import Holder
from picolab.machines.vagrant import boxes
from picolab.machines.vagrant.domain import command_of
from picolab.machines.vagrant.machine import VagrantMachine
from picolab.results.folders import find_campaign
from picolab.results.load import read_campaign
from picolab.servers.calibration.program import server_path
from picolab.servers.guest_program import why_unfit

pytestmark = pytest.mark.vm

MACHINE = "own"


@pytest.fixture
def machine(box: str, shared_state: Path) -> Iterator[VagrantMachine]:
    machine = obtain(wish(box, name=MACHINE), keep=True)
    yield machine
    machine.hand_back()


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
    wait_for_the_lock_that_each_call_of_vagrant_takes(machine)

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


def wait_for_the_lock_that_each_call_of_vagrant_takes(machine: VagrantMachine) -> None:
    """Two `vagrant status` at the same time are in each other's way."""
    (note,) = (machine.folder / "vagrant" / "machines").glob("*/libvirt/index_uuid")
    waits = []
    with (boxes.vagrant_home() / "data" / "machine-index" / f"{note.read_text()}.lock").open("w") as lock:
        assert try_lock(lock)

        def release(line: str) -> None:
            if line.startswith("waiting"):
                waits.append(line)
                lock.close()

        command = command_of(machine.folder, dict(machine._state))
        with command._settings(None, release):
            (found,) = command._vagrant.status()
    assert found.state == "running" and len(waits) == 1 and "another vagrant is reading this machine" in waits[0]


def guest_clock_s() -> int:
    return int(picolab("machines", "ssh", "own", "--", "date", "+%s").stdout)


def test_a_kept_machine_is_halted_and_started(box: str, machine: VagrantMachine, gone: ProcessIdentity) -> None:
    """The one who held it has ended, as after a trial with --keep-machine."""
    machine._guest.connected().run("echo kept | sudo tee /etc/kept; sync; sudo date -s @1000000000")
    machine.hold(Holder(gone, keep=True))
    machine.hand_back()
    running = picolab("machines", "start", "own")
    assert (running.returncode, running.stdout) == (0, "Machine 'own' was running already.\n"), running.stderr
    assert abs(guest_clock_s() - time.time()) < GIVE_UP_S

    picolab("machines", "ssh", "own", "--", "sudo date -s @1000000000")
    (domain,) = domains()
    virsh("suspend", domain)
    refused = picolab("machines", "ssh", "own")
    assert refused.returncode == ExitCode.HOST_UNFIT and "it is suspended" in refused.stderr
    resumed = picolab("machines", "start", "own")
    assert resumed.returncode == 0 and "Machine 'own' is running; get in: " in resumed.stdout, resumed.stderr
    assert domains() == {domain: "running"} and abs(guest_clock_s() - time.time()) < GIVE_UP_S

    done = picolab("machines", "halt", "own")
    assert (done.returncode, done.stdout) == (0, "Machine 'own' is off.\n"), done.stderr
    eventually(lambda: list(domains().values()) == ["shutoff"], "the domain is off")
    off = picolab("machines", "ssh", "own")
    assert off.returncode == ExitCode.HOST_UNFIT and "machine 'own': it is off" in off.stderr
    assert "own" not in registry.others_running("another")
    listed = picolab("machines", "list").stdout
    assert "own  vagrant  256 MiB  off" in listed and "  saved states: 256 MiB of RAM" in listed

    started = picolab("machines", "start", "own")
    assert started.returncode == 0 and "get in: picolab machines ssh own" in started.stdout, started.stderr
    assert started.stderr == "Booting the machine with 256 MiB of memory ...\n"
    assert picolab("machines", "ssh", "own", "--", "cat", "/etc/kept").stdout == "kept\n", "its disk stayed"
    assert "own  vagrant  256 MiB  running" in picolab("machines", "list").stdout


def test_the_box_lists_its_system(box: str) -> None:
    system = boxes.guest_system(box, "libvirt")
    assert system is not None and system.complete and system.glibc > (2, 30)
    assert system.has("/bin/sh") and system.has("/lib64/ld-linux-x86-64.so.2") and system.has_command("python3")
    assert system.has_library("libc.so.6") and not system.has("/bin/zsh")
    assert why_unfit(server_path(), system) == ""


def test_a_comparison_moves_into_virtual_machines(box: str, machine: VagrantMachine, tmp_path: Path) -> None:
    """The campaign takes over the machine of its name, which this process holds, and takes it down at its end."""
    machine.hold(Holder(this_process(), keep=False))
    machine.hand_back()
    file = tmp_path / "two.yaml"
    matrix = {"ram_mb": [256], "file_size": ["2M"], "machine": ["local"]}
    file.write_text(yaml.safe_dump({"matrix": matrix, "idle_limit_s": 0, "parameters": {"box": box}}))
    few = ("--repeats", "1", "--campaign", MACHINE)
    done = picolab("compare", "--self", "calibration", str(file), "--machine", "vagrant", *few)

    assert done.returncode in (ExitCode.OK, ExitCode.UNDECIDED), done.stdout + done.stderr
    trials = read_campaign(find_campaign(MACHINE)).trials
    assert list(trials["outcome"]) == ["ok"] * 2 and set(trials["machine"]) == {"vagrant"}
    assert (find_campaign(MACHINE) / "compare.html").exists()
    assert domains() == {} and registry.existing() == []
