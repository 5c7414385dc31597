"""Network and pool: removed when this project's machines have made them and nothing uses them, and left otherwise."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from virsh_stub import VirshStub, install

from picolab.config.project import state_dir
from picolab.doctor import leftovers
from picolab.machines.folders import folder_of
from picolab.machines.vagrant import domain, libvirt, network, network_and_pool
from picolab.machines.vagrant.command import VagrantCommand

NETWORK, POOL = f"network {libvirt.NETWORK}", f"pool {libvirt.POOL}"


@pytest.fixture
def virsh(scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VirshStub:
    stub = install(tmp_path, monkeypatch)
    stub.set(network="missing", pool="missing")
    return stub


def found() -> list[str]:
    things, unknown = leftovers.find()
    assert unknown == []
    return [thing.what for thing in things]


def make(virsh: VirshStub, **states: str) -> None:
    with network_and_pool.noted():
        virsh.set(**states)


def test_what_the_first_machine_has_made_is_removed(virsh: VirshStub) -> None:
    make(virsh, network="active", pool="active")
    assert found() == [NETWORK, POOL]
    things, _ = leftovers.find()
    assert leftovers.remove(things) == []

    assert (virsh.state["network"], virsh.state["pool"]) == ("missing", "missing")
    assert found() == [] and not list(state_dir().glob("libvirt*"))


def test_one_that_a_boot_has_made_before_it_failed_is_noted(virsh: VirshStub) -> None:
    with pytest.raises(KeyboardInterrupt), network_and_pool.noted():
        virsh.set(network="inactive")
        raise KeyboardInterrupt

    assert found() == [NETWORK]


def test_what_was_there_before_stays(virsh: VirshStub) -> None:
    virsh.set(network="active", pool="inactive")
    make(virsh, pool="active")

    assert found() == []


@pytest.mark.parametrize(
    "use",
    [
        lambda virsh: virsh.set(domains={"somebody's": {"state": "shut off"}}),
        lambda virsh: folder_of("m").mkdir(parents=True),
        lambda virsh: virsh.set(**{"net-uuid": "another", "pool-uuid": "another"}),
    ],
    ids=["a domain of anybody's", "a machine", "made anew by somebody else"],
)
def test_what_may_be_used_stays(virsh: VirshStub, use: Callable[[VirshStub], object]) -> None:
    make(virsh, network="active", pool="active")
    things, _ = leftovers.find()
    use(virsh)
    libvirt_only = [what for what in found() if what in (NETWORK, POOL)]
    assert libvirt_only == []
    assert leftovers.remove(things) == [], "also when it is used only since it was found"
    assert (virsh.state["network"], virsh.state["pool"]) == ("active", "active")
    if folder_of("m").exists():
        folder_of("m").rmdir()


def test_a_pool_with_the_copy_of_a_box_stays(virsh: VirshStub) -> None:
    make(virsh, network="active", pool="active")
    virsh.set(volumes={"picolab_vagrant_box_image_0_box.img": {"physical": 1}})

    assert found() == [NETWORK]


def test_a_damaged_note_removes_nothing(virsh: VirshStub) -> None:
    make(virsh, network="active")
    for content in ("", "[1]", "{}", "3"):
        (state_dir() / "libvirt-made.json").write_text(content)
        assert found() == []


def test_a_network_that_another_project_is_about_to_use_stays(virsh: VirshStub) -> None:
    make(virsh, network="active")
    things, _ = leftovers.find()
    with network.in_use():
        assert found() == []
        assert leftovers.remove(things) == []
        assert virsh.state["network"] == "active"
    assert found() == [NETWORK]


def test_vagrant_removes_no_network_with_a_machine(virsh: VirshStub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of("m")
    note = folder / "vagrant" / "machines" / "default" / "libvirt" / "created_networks"
    note.parent.mkdir(parents=True)
    note.write_text("the uuid of a network that it has found\n")
    seen: list[bool] = []
    monkeypatch.setattr(VagrantCommand, "destroy", lambda _: seen.append(note.exists()))
    spec = {"box": "b", "ram_mb": 256, "cpus": 1, "prefix": "picolab_x_m_", "acceleration": "kvm"}
    domain.destroy(folder, {**spec, "provider": "libvirt"})

    assert seen == [False]
    shutil.rmtree(folder)
