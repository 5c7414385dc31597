"""Whether KVM is usable is proved by a guest, not by a device that opens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from virtual_machines import as_box_owner

from picolab.errors import ParameterError
from picolab.machines.vagrant import acceleration as module
from picolab.machines.vagrant.acceleration import MARKER, PROVE, Acceleration, acceleration, guest_to_try, prove
from picolab.machines.vagrant.boxes import RECIPE_KEY

GUEST = Path(module.__file__).parent / "box_guest"
DIES = "echo 'qemu: an assertion failed' >&2; exit 6"
BOOTS = f"echo '[    0.9] something'; echo '{MARKER}'"


@pytest.fixture(autouse=True)
def host(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose /dev/kvm opens; return the device."""
    monkeypatch.delenv("PICOLAB_DRIVER", raising=False)
    monkeypatch.setenv("VAGRANT_HOME", str(scratch / "vagrant"))
    device = scratch / "kvm"
    device.touch()
    monkeypatch.setattr(module, "_DEVICE", device)
    return device


@pytest.fixture
def own_box(scratch: Path) -> Path:
    """picolab's own box; return its folder."""
    folder = scratch / "vagrant" / "boxes" / "picolab" / "0" / "libvirt"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps({"provider": "libvirt", RECIPE_KEY: "abc"}))
    (folder / "vmlinuz").write_text("kernel")
    (folder / "initrd").write_text("initrd")
    return folder


@pytest.fixture
def qemu(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Let qemu be these lines of shell; return the file with the arguments of each of its runs."""
    program, log = scratch / "qemu", scratch / "qemu.log"

    def be(lines: str) -> Path:
        program.write_text(f'#!/bin/sh\necho "$@" >> {log}\n{lines}\n')
        program.chmod(0o755)
        monkeypatch.setattr(module, "_QEMU", (str(program),))
        return log

    return be


@pytest.mark.usefixtures("own_box")
def test_guest_that_reaches_user_space_proves_kvm(qemu: Callable[[str], Path]) -> None:
    log = qemu(BOOTS)
    found = acceleration()

    assert (found.kind, found.driver) == ("kvm", "kvm") and "user space" in found.reason
    assert "-accel kvm -cpu host" in log.read_text() and PROVE in log.read_text()


@pytest.mark.usefixtures("own_box")
def test_guest_that_dies_disproves_kvm(qemu: Callable[[str], Path]) -> None:
    qemu(DIES)
    found = acceleration()

    assert (found.kind, found.driver) == ("emulation", "qemu")
    assert "ended with 6 and said: qemu: an assertion failed" in found.reason


def test_guest_that_hangs_disproves_kvm_and_is_ended(own_box: Path, qemu: Callable[[str], Path]) -> None:
    log = qemu("exec sleep 600")
    why_not = prove(own_box / "vmlinuz", own_box / "initrd", [str(log.with_name("qemu"))], limit_s=0.3)

    assert why_not is not None and "not in user space" in why_not


def test_one_boot_of_the_host_needs_one_proof(
    own_box: Path, qemu: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = qemu(DIES)

    def runs() -> int:
        return len(log.read_text().splitlines())

    first = acceleration()
    assert acceleration() == first and runs() == 1
    (own_box / "initrd").write_text("another initrd")
    assert acceleration() == first and runs() == 2
    monkeypatch.setattr(module, "boot_id", lambda: "another boot")
    qemu(BOOTS)
    assert acceleration().kind == "kvm" and runs() == 3


@pytest.mark.usefixtures("own_box")
@pytest.mark.parametrize("text", ["", "{}", '{"tried": null, "found": {}}', "\0"])
def test_damaged_memory_of_a_proof_is_made_anew(qemu: Callable[[str], Path], scratch: Path, text: str) -> None:
    qemu(BOOTS)
    (scratch / "state").mkdir()
    (scratch / "state" / "acceleration.json").write_text(text)

    assert acceleration().kind == "kvm"


def test_device_that_cannot_be_opened_means_emulation(host: Path, own_box: Path, qemu: Callable[[str], Path]) -> None:
    log = qemu(BOOTS)
    host.unlink()
    found = acceleration()

    assert found == Acceleration("emulation", f"{host} cannot be opened (No such file or directory)")
    assert not log.exists()


def test_without_picolabs_box_the_device_is_believed(scratch: Path, own_box: Path, qemu: Callable[[str], Path]) -> None:
    log = qemu(DIES)
    (own_box / "metadata.json").write_text('{"provider": "libvirt"}')
    found = acceleration()

    assert found.kind == "kvm" and "no guest was tried" in found.reason
    assert not log.exists() and not (scratch / "state" / "acceleration.json").exists()


@pytest.mark.usefixtures("own_box")
def test_without_qemu_the_device_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QEMU", ("no-such-qemu",))

    assert acceleration().kind == "kvm"


@pytest.mark.usefixtures("own_box")
@pytest.mark.parametrize(("driver", "kind"), [("kvm", "kvm"), ("qemu", "emulation")])
def test_environment_wins(qemu: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, driver: str, kind: str) -> None:
    log = qemu(DIES)
    monkeypatch.setenv("PICOLAB_DRIVER", driver)

    assert acceleration() == Acceleration(kind, f"PICOLAB_DRIVER={driver} says so")  # type: ignore[arg-type]
    assert not log.exists()


def test_unknown_driver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICOLAB_DRIVER", "xen")

    with pytest.raises(ParameterError, match=r"PICOLAB_DRIVER is 'xen'"):
        acceleration()


def test_box_of_another_name_will_do(own_box: Path, scratch: Path) -> None:
    other = scratch / "vagrant" / "boxes" / "a-mine"
    other.mkdir()
    (own_box.parent.parent / "0").rename(other / "0")
    assert guest_to_try() == (other / "0" / "libvirt" / "vmlinuz", other / "0" / "libvirt" / "initrd")


def test_guest_and_host_know_the_same_words() -> None:
    init = (GUEST / "initrd_init.sh").read_text()

    assert f'echo "{MARKER}"' in init and f"grep -q {PROVE} " in init


@pytest.mark.vm
def test_real_host_gets_an_answer_that_holds(box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DEVICE", Path("/dev/kvm"))
    # The answer that all tests of this session use: a proof takes 8 s where KVM hangs.
    with as_box_owner():
        found = acceleration()
        guest = guest_to_try()

    assert guest is not None and found.reason
    again = prove(*guest, ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host"])
    assert found.kind == ("kvm" if again is None else "emulation"), (found, again)
