"""Saved states of virtual machines: what they depend on, how many there are, and how they go; libvirt is a stand-in."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import virsh_stub
from command_line import picolab_here

import picolab
from picolab.errors import MachineError
from picolab.host.processes import this_process
from picolab.machines.folders import exclusive, folder_of, write_spec
from picolab.machines.vagrant import saved_state
from picolab.machines.vagrant.domain import domain_prefix
from picolab.machines.vagrant.saved_state import NOTES, SavedStates, image_of, name_of, removed_for
from picolab.machines.vagrant.state import State

BOX = "a-box"


@pytest.fixture
def image(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The image of an installed box."""
    monkeypatch.setenv("VAGRANT_HOME", str(scratch / "vagrant"))
    return virsh_stub.add_box(scratch / "vagrant", BOX)


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> virsh_stub.VirshStub:
    stub = virsh_stub.install(tmp_path, monkeypatch)
    stub.set(domains={f"{domain_prefix('vm')}default": {"state": "running", "uuid": "1", "kib": 1}})
    return stub


@pytest.fixture
def state(image: Path, virsh: virsh_stub.VirshStub) -> Iterator[State]:
    """The state of a machine that this process holds."""
    folder = folder_of("vm")
    folder.mkdir(parents=True)
    spec: dict[str, Any] = {"kind": "vagrant", "name": "vm", "ram_mb": 256, "cpus": 1, "state": "up", "keep": False}
    spec |= {"provider": "libvirt", "prefix": domain_prefix("vm"), "box": BOX, "acceleration": "emulation"}
    spec |= {"agent": "1", "made_from": image_of(BOX, "libvirt"), "holder": this_process().to_json()}
    write_spec(folder, spec)
    yield State(folder)
    shutil.rmtree(folder)


def in_libvirt(virsh: virsh_stub.VirshStub) -> list[str]:
    (domain,) = virsh.state["domains"].values()
    return list(domain.get("snapshots", []))


def test_a_saved_state_is_usable_as_long_as_nothing_changes(state: State, virsh: virsh_stub.VirshStub) -> None:
    states = SavedStates(state)
    states.save(256, 1)

    assert states.names == in_libvirt(virsh) == ["fresh-256mb-1cpu"]
    assert states.useless() == {}
    states.load("fresh-256mb-1cpu", 1)
    assert virsh.commands[-1].endswith("default --hmp loadvm fresh-256mb-1cpu"), "into the running process"


@pytest.mark.parametrize("change", ["another memory", "off"])
def test_another_memory_or_no_process_takes_libvirt(state: State, virsh: virsh_stub.VirshStub, change: str) -> None:
    states = SavedStates(state)
    states.save(256, 1)
    off = {name: {**domain, "state": "shut off"} for name, domain in virsh.state["domains"].items()}
    virsh.set(**({"domains": off} if change == "off" else {"other_memory": True}))

    states.load("fresh-256mb-1cpu", 1)
    assert virsh.commands[-1].endswith("default fresh-256mb-1cpu --running --force")
    before = len(virsh.commands)
    states.load("fresh-256mb-1cpu", 1, in_place=False)
    assert not any("loadvm" in command for command in virsh.commands[before:]), "what cannot work is not tried"


def test_another_version_of_qemu_makes_it_useless(state: State, virsh: virsh_stub.VirshStub) -> None:
    SavedStates(state).save(256, 1)
    virsh.set(qemu="8.0.1")

    assert SavedStates(state).useless() == {"fresh-256mb-1cpu": "QEMU was 7.2.22 when it was saved and is 8.0.1"}


def test_a_box_built_anew_makes_it_useless(state: State, image: Path) -> None:
    SavedStates(state).save(256, 1)
    os.utime(image, (1.7e9, 1.7e9))

    (why,) = SavedStates(state).useless().values()
    assert why.startswith("box was a-box_vagrant_box_image_0_") and why.endswith(
        "is a-box_vagrant_box_image_0_1700000000_box.img"
    )


def test_a_version_that_cannot_be_read_makes_none_useless(state: State, virsh: virsh_stub.VirshStub) -> None:
    SavedStates(state).save(256, 1)
    virsh.set(fails="version")

    with pytest.raises(MachineError, match="virsh version: End of file"):
        SavedStates(state).useless()
    assert saved_state.all_useless() == {}


@pytest.mark.parametrize("what", ["acceleration", "agent"])
def test_another_description_makes_it_useless(state: State, what: str) -> None:
    SavedStates(state).save(256, 1)
    state.write(**{what: "another"})

    (why,) = SavedStates(state).useless().values()
    assert why.endswith("is another")


def test_another_picolab_makes_it_useless(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    SavedStates(state).save(256, 1)
    monkeypatch.setattr(picolab, "__version__", "99")

    (why,) = SavedStates(state).useless().values()
    assert why.endswith("is 99")


def test_a_note_without_conditions_is_no_state_to_trust(state: State) -> None:
    state.write(**{NOTES: [{"name": "fresh-256mb-1cpu", "ram_mb": 256, "cpus": 1, "conditions": {}}]})

    assert list(SavedStates(state).useless()) == ["fresh-256mb-1cpu"]


def test_one_that_libvirt_has_lost_is_an_error_and_can_be_removed(state: State, virsh: virsh_stub.VirshStub) -> None:
    states = SavedStates(state)
    states.save(256, 1)
    virsh.set(domains={f"{domain_prefix('vm')}default": {"state": "running", "uuid": "1", "kib": 1}})

    with pytest.raises(MachineError, match="snapshot"):
        states.load("fresh-256mb-1cpu", 1)
    states.remove("fresh-256mb-1cpu")
    assert states.names == []


def test_the_oldest_ones_make_room(state: State, virsh: virsh_stub.VirshStub) -> None:
    states = SavedStates(state)
    for ram_mb in (256, 4096, 3072, 2048):
        states.save(ram_mb, 1)
    assert states.names == in_libvirt(virsh) == [name_of(3072, 1), name_of(2048, 1)]

    states.save(3072, 1)
    assert states.names == in_libvirt(virsh) == [name_of(2048, 1), name_of(3072, 1)], "saved again: the newest"


@pytest.mark.parametrize(
    ("saved", "ram_mb", "removed"),
    [
        ([], 100_000, []),
        ([("a", 4096)], 4096, []),
        ([("a", 4096), ("b", 1)], 4096, ["a"]),
        ([("a", 1), ("b", 8191)], 1, ["a"]),
        ([("a", 1), ("b", 8191)], 8192, ["a", "b"]),
    ],
)
def test_no_more_is_removed_than_necessary(saved: list[tuple[str, int]], ram_mb: int, removed: list[str]) -> None:
    assert removed_for(saved, ram_mb) == removed


def test_clean_removes_useless_ones_alone(state: State, virsh: virsh_stub.VirshStub) -> None:
    SavedStates(state).save(256, 1)
    assert "saved state" not in picolab_here("clean", "--dry-run").stdout

    virsh.set(qemu="8.0.1")
    SavedStates(State(state.folder)).save(512, 1)
    listed = picolab_here("clean", "--dry-run").stdout
    assert "saved state fresh-256mb-1cpu of vm: QEMU was 7.2.22 when it was saved and is 8.0.1" in listed
    assert "fresh-512mb" not in listed
    picolab_here("clean")
    assert in_libvirt(virsh) == SavedStates(State(state.folder)).names == ["fresh-512mb-1cpu"]


def test_one_of_a_machine_in_work_is_not_removed(state: State, virsh: virsh_stub.VirshStub) -> None:
    SavedStates(state).save(256, 1)
    virsh.set(qemu="8.0.1")
    with exclusive("vm"):
        assert not saved_state.remove_useless(state.folder, "fresh-256mb-1cpu")
    assert in_libvirt(virsh) == ["fresh-256mb-1cpu"]


def test_the_list_shows_saved_states(state: State) -> None:
    for ram_mb in (256, 512):
        SavedStates(state).save(ram_mb, 1)

    assert "  saved states: 256 + 512 MiB of RAM; removed with the machine" in picolab_here("machines", "list").stdout
