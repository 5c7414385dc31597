"""Which other machines and guests count as running beside a trial's; only the program virsh is a stand-in."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import virsh_stub

from picolab.config.trial_parameters import TrialParameters
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines import registry
from picolab.machines.base import Holder, MachineWish
from picolab.machines.folders import folder_of, write_spec
from picolab.machines.local.machine import LocalMachine
from picolab.machines.vagrant.domain import domain_prefix
from picolab.trial.trial import Trial


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> virsh_stub.VirshStub:
    return virsh_stub.install(tmp_path, monkeypatch)


@pytest.fixture
def kept(scratch: Path, gone: ProcessIdentity) -> Iterator[str]:
    """A virtual machine that a trial has kept; whether it runs, the stand-in decides."""
    folder = folder_of("kept")
    folder.mkdir(parents=True)
    spec = {"kind": "vagrant", "name": "kept", "ram_mb": 256, "state": "up", "provider": "libvirt"}
    write_spec(folder, {**spec, "prefix": domain_prefix("kept"), "holder": gone.to_json(), "keep": True})
    yield f"{domain_prefix('kept')}default"
    shutil.rmtree(folder)


def guests(virsh: virsh_stub.VirshStub, **states: str) -> None:
    virsh.set(domains={name: {"state": state, "uuid": name, "kib": 1} for name, state in states.items()})


@pytest.mark.parametrize(
    ("state", "found"), [("running", ["kept"]), ("paused", []), ("shut off", []), ("pmsuspended", [])]
)
def test_a_kept_machine_counts_while_it_runs(
    virsh: virsh_stub.VirshStub, kept: str, state: str, found: list[str]
) -> None:
    guests(virsh, **{kept: state})
    assert registry.others_running("mine") == found
    assert registry.others_running("kept") == [], "a trial's own machine is no other"


@pytest.mark.parametrize(("state", "found"), [("running", ["by-hand"]), ("paused", []), ("shut off", [])])
def test_a_guest_made_by_hand_counts_while_it_runs(
    virsh: virsh_stub.VirshStub, kept: str, state: str, found: list[str]
) -> None:
    guests(virsh, **{"by-hand": state, kept: "running"})
    assert registry.others_running("kept") == found


def test_where_libvirt_does_not_answer_a_kept_machine_counts(virsh: virsh_stub.VirshStub, kept: str) -> None:
    virsh.set(error="failed to connect to the hypervisor")
    assert registry.others_running("mine") == ["kept"]


def test_without_virsh_there_are_no_guests(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(scratch))
    assert registry.others_running("mine") == []


def test_a_trial_beside_both_has_the_caveat(virsh: virsh_stub.VirshStub, scratch: Path) -> None:
    guests(virsh, somebodys="running", asleep="paused")
    other = LocalMachine.obtain(MachineWish("left", 64, "none", ""), Holder(this_process(), keep=True))
    try:
        trial = Trial.open(TrialParameters(ram_mb=64, file_size="1M", memory_limit="none", keep_machine="never"))
        trial.provision()
        (caveat,) = [caveat for caveat in trial.state.caveats if caveat.code == "other_machines"]
        assert caveat.value == "left, somebodys" and caveat.message.endswith("slowed it down: left and somebodys.")
        guests(virsh, asleep="paused")
        other.release()
        assert registry.others_running("local") == []
    finally:
        other.release()
        registry.release_by_name("local")
