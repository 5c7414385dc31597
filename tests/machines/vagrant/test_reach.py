"""A boot that fails, a guest with another address, a state that cannot be saved; libvirt and ssh are stand-ins."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from virsh_stub import VirshStub, install

from picolab.errors import MachineError, MachineSilent
from picolab.host.processes import this_process
from picolab.machines.base import MachineWish
from picolab.machines.folders import folder_of, write_spec
from picolab.machines.vagrant import reach, ssh
from picolab.machines.vagrant.domain import domain_prefix
from picolab.machines.vagrant.guest import Guest
from picolab.machines.vagrant.libvirt import LibvirtError
from picolab.machines.vagrant.messages import BOOT_LIMIT
from picolab.machines.vagrant.reach import Reach, boot_again
from picolab.machines.vagrant.state import State

OLD, NEW = "192.168.121.7", "192.168.121.9"
REFUSED = OSError("connection refused")
Answers = dict[str, Callable[[], object]]


class FakeConnection:
    """As much of a connection as is needed to have one."""

    def is_closed(self) -> bool:
        return False

    def close(self) -> None:
        pass

    async def wait_closed(self) -> None:
        pass


def fail(error: Exception) -> Callable[[], object]:
    def raise_it() -> object:
        raise error

    return raise_it


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VirshStub:
    return install(tmp_path, monkeypatch)


@pytest.fixture
def guests(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What happens when somebody connects to an address."""
    answers: Answers = {OLD: fail(REFUSED), NEW: FakeConnection}

    async def connect(address: ssh.Address) -> object:
        return answers[address.host]()

    monkeypatch.setattr(ssh, "_connect", connect)
    return answers


@pytest.fixture
def state(virsh: VirshStub, scratch: Path) -> Iterator[State]:
    """The state of a machine that was reached at its old address, and runs."""
    folder = folder_of("vm")
    folder.mkdir(parents=True)
    address = {"host": OLD, "port": 22, "user": "vagrant", "key": "/no/key"}
    spec: dict[str, Any] = {"name": "vm", "ram_mb": 256, "cpus": 1, "provider": "libvirt", "box": "a-box", "agent": "1"}
    spec |= {"prefix": domain_prefix("vm"), "acceleration": "emulation", "address": address, "mended": []}
    write_spec(folder, {**spec, "made_from": "a-box", "holder": this_process().to_json(), "keep": False, "state": "up"})
    change(virsh)
    yield State(folder)
    shutil.rmtree(folder)


def change(virsh: VirshStub, **changes: object) -> None:
    """Change the machine's domain in libvirt."""
    name = f"{domain_prefix('vm')}default"
    old = virsh.state["domains"].get(name, {"state": "running", "uuid": "1", "kib": 1 << 18})
    virsh.set(domains={name: {**old, **changes}})


def test_a_guest_with_another_address_is_found_there(state: State, virsh: VirshStub, guests: Answers) -> None:
    change(virsh, leases=[NEW])
    guest = Guest(state)
    boot_again(state, guest, 60, None)
    assert State(state.folder)["address"] == {"host": NEW, "port": 22, "user": "vagrant", "key": "/no/key"}
    assert f"HostName {NEW}" in (state.folder / "ssh_config").read_text() and guest.open_connection is not None


def test_an_address_that_another_guest_has_got_is_not_waited_for(
    state: State, virsh: VirshStub, guests: Answers
) -> None:
    asked = []

    def another() -> object:
        asked.append(OLD)
        if len(asked) == 2:
            change(virsh, leases=[NEW])
        raise asyncssh.HostKeyNotVerifiable("another")

    guests[OLD] = another
    boot_again(state, Guest(state), 60, None)
    assert state["address"]["host"] == NEW and len(asked) == 2


def test_libvirt_is_not_asked_at_each_refused_connection(
    state: State, virsh: VirshStub, guests: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "_LOOK_S", 1000)
    refused = []

    def refuse_five_times() -> object:
        refused.append(OLD)
        if len(refused) <= 5:
            raise REFUSED
        return FakeConnection()

    guests[OLD] = refuse_five_times
    boot_again(state, Guest(state), 60, None)
    after_start = virsh.commands[virsh.commands.index(f"start {domain_prefix('vm')}default") + 1 :]
    assert [command.split()[0] for command in after_start] == ["list", "list", "domifaddr"]


def test_another_machine_at_the_own_address_is_refused(state: State, virsh: VirshStub, guests: Answers) -> None:
    change(virsh, leases=[OLD])
    guests[OLD] = fail(asyncssh.HostKeyNotVerifiable("another"))
    with pytest.raises(ssh.OtherHostKey, match="shows another host key") as refused:
        boot_again(state, Guest(state), 60, None, BOOT_LIMIT)
    assert "did not boot" not in str(refused.value)


def test_a_guest_that_ends_in_its_boot_is_not_late(state: State, virsh: VirshStub, guests: Answers) -> None:
    def end() -> object:
        change(virsh, state="shut off")
        raise REFUSED

    guests[OLD] = end
    with pytest.raises(MachineError, match="does not run any more: it is off") as ended:
        boot_again(state, Guest(state), 60, None, BOOT_LIMIT)
    assert "boot_limit_s" not in str(ended.value)


def test_a_guest_that_is_late_has_the_limit_of_its_boot_named(state: State, guests: Answers) -> None:
    with pytest.raises(
        MachineSilent, match=r"boot within boot_limit_s = 0\.2 s \(.*refused\); set boot_limit_s to more"
    ):
        boot_again(state, Guest(state), 0.2, None, BOOT_LIMIT)
    with pytest.raises(
        MachineSilent, match=r"did not boot within 0\.2 s .*; try again .*machines remove vm$"
    ) as by_hand:
        boot_again(state, Guest(state), 0.2, None)
    assert "boot_limit_s" not in str(by_hand.value)


@pytest.mark.parametrize("fresh_for", ["", "trial 1"])
def test_a_state_that_cannot_be_saved(state: State, virsh: VirshStub, guests: Answers, fresh_for: str) -> None:
    guests[OLD] = FakeConnection
    virsh.set(fails="snapshot-create-as")
    reach = Reach(
        state, guest := Guest(state), MachineWish("vm", 256, "enforced", "", save_state=True, fresh_for=fresh_for)
    )
    with pytest.raises(LibvirtError, match="Input/output error") if fresh_for else contextlib.nullcontext():
        assert not reach._saved_and_restored()
        (sentence,) = State(state.folder)["mended"]
        assert sentence.startswith("the state after the boot could not be saved, so the trial began without it (virsh")
        assert guest.open_connection is not None and state.get("saved_states", []) == []


def test_why_a_machine_was_paused_is_noted(state: State, virsh: VirshStub, guests: Answers, tmp_path: Path) -> None:
    guests[OLD] = FakeConnection
    note = state.folder / "vagrant" / "machines" / "default" / "libvirt" / "id"
    note.parent.mkdir(parents=True)
    note.write_text("1")
    change(virsh, state="paused", disk_error="no space", disk=str(tmp_path / "vm.img"))
    assert Reach(state, Guest(state), MachineWish("vm", 256, "enforced", ""))._bring_up("paused", (256, 1)) == "booted"
    (sentence,) = state["mended"]
    why = f"the virtual machine was paused because the file system of its disk in {tmp_path} is full ("
    assert sentence.startswith(why) and sentence.endswith("), and its power was cut")
