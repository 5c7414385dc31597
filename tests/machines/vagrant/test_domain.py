"""A machine's own QEMU processes, and the versions of the programs that run it; libvirt and QEMU are stand-ins."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from virsh_stub import VirshStub, install

from picolab.machines.folders import write_spec
from picolab.machines.vagrant import versions
from picolab.machines.vagrant.domain import domain_prefix, emulators, software
from picolab.machines.vagrant.state import State

VERSIONS = {"vagrant": "2.3.4", "vagrant-libvirt": "0.11.2", "libvirt": "9.0.0", "qemu": "7.2.22"}

Boot = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    """Start a process that looks like the QEMU of the machine of that name."""
    program = tmp_path / "qemu-stand-in"
    program.symlink_to(sys.executable)
    started = []

    def start(name: str) -> subprocess.Popen[bytes]:
        guest = f"guest={domain_prefix(name)}default,debug-threads=on"
        command = [program, "-IS", "-c", "input()", "-name", guest]
        started.append(process := subprocess.Popen(command, stdin=subprocess.PIPE))
        eventually(lambda: process.pid in emulators(domain_prefix(name)), "it is found")
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VirshStub:
    for gem in ("vagrant-2.3.4", "vagrant-libvirt-0.11.2"):
        (tmp_path / "installed" / "gems" / gem).mkdir(parents=True)
    monkeypatch.setattr(versions, "_GEMS", (tmp_path / "installed",))
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path))
    return install(tmp_path, monkeypatch)


@pytest.fixture
def state(tmp_path: Path) -> State:
    spec: dict[str, Any] = {"box": "a-box", "ram_mb": 256, "cpus": 1, "prefix": domain_prefix("vm")}
    (tmp_path / "vm").mkdir()
    write_spec(tmp_path / "vm", {**spec, "acceleration": "emulation", "provider": "libvirt"})
    return State(tmp_path / "vm")


def test_a_machine_whose_name_begins_as_anothers(boot: Boot) -> None:
    own, other = boot("vm"), boot("vm_2")

    assert emulators(domain_prefix("vm")) == {own.pid}
    assert emulators(domain_prefix("vm_2")) == {other.pid}


def test_versions_are_those_of_the_boot(boot: Boot, state: State, virsh: VirshStub) -> None:
    process = boot("vm")
    assert software(state) == VERSIONS
    virsh.set(qemu="8.0.0")
    assert software(State(state.folder)) == VERSIONS, "an upgrade does not change a process that runs"

    process.kill()
    process.wait()
    boot("vm")
    assert software(State(state.folder)) == {**VERSIONS, "qemu": "8.0.0"}


def test_versions_that_libvirt_did_not_say_are_not_kept(boot: Boot, state: State, virsh: VirshStub) -> None:
    boot("vm")
    virsh.set(error="failed to connect to the hypervisor")
    assert software(state) == {**VERSIONS, "libvirt": "unknown", "qemu": "unknown"}

    virsh.set(error="")
    assert software(State(state.folder)) == VERSIONS
