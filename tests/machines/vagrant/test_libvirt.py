"""libvirt: what is there, what is ours, what is mended. With a stand-in for virsh, and the same with the real one."""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import eventually
from virsh_stub import VirshStub, add_box, install

from picolab.errors import MachineError
from picolab.host.finding import as_root
from picolab.machines.vagrant import boxes, libvirt
from picolab.machines.vagrant.domain import boot

PREFIX = "picolab_0123abcd_m_"


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VirshStub:
    return install(tmp_path, monkeypatch)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "vagrant"))
    return tmp_path / "vagrant"


def domain(state: str = "running", uuid: str = "u-1") -> dict[str, object]:
    return {"state": state, "uuid": uuid, "kib": 262144}


# What is there


def test_state_of_the_host(virsh: VirshStub) -> None:
    assert libvirt.problem() is None
    assert (libvirt.network(), libvirt.pool_state(), libvirt.pool_free_bytes()) == ("active", "active", 100 << 30)
    assert libvirt.versions() == {"libvirt": "9.0.0", "qemu": "7.2.22"}

    virsh.set(network="missing", pool="missing", volumes={"x.img": {"physical": 1}})
    assert (libvirt.network(), libvirt.pool_state(), libvirt.pool_free_bytes()) == ("missing", "missing", None)
    assert libvirt.volumes() == [] and libvirt.problem() is None, "vagrant makes both"

    virsh.set(network="active", pool="inactive")
    assert libvirt.problem() == libvirt.POOL_DOWN and libvirt.pool_free_bytes() is None
    virsh.set(network="inactive")
    assert libvirt.problem() == libvirt.NETWORK_DOWN


@pytest.mark.parametrize("stopped", [{"network": "inactive"}, {"network_stops": True}], ids=["before", "meanwhile"])
def test_a_boot_starts_a_network_that_stopped(stopped: dict[str, object], virsh: VirshStub) -> None:
    name = f"{PREFIX}default"
    virsh.set(domains={name: domain()}, **stopped)
    boot({"prefix": PREFIX, "ram_mb": 256, "cpus": 1})

    assert libvirt.domains(PREFIX) == {name: "running"} and libvirt.network() == "active"


def test_what_the_file_system_keeps_for_others_is_not_free(virsh: VirshStub, tmp_path: Path) -> None:
    virsh.set(pool_path=str(tmp_path), free=1 << 60)
    assert 0 < (libvirt.pool_free_bytes() or 0) <= shutil.disk_usage(tmp_path).total


@pytest.mark.parametrize(
    ("said", "words", "remedy"),
    [
        (
            "failed to connect to the hypervisor\nerror: Failed to connect socket to '/var/run/libvirt/libvirt-sock': "
            "No such file or directory",
            "the daemon libvirtd does not answer",
            "libvirtd",
        ),
        (
            "failed to connect to the hypervisor\nerror: authentication unavailable: no polkit agent available",
            "this user may not use libvirt",
            "usermod -aG libvirt",
        ),
    ],
)
def test_libvirt_that_cannot_be_used(virsh: VirshStub, said: str, words: str, remedy: str) -> None:
    virsh.set(error=said)
    problem = libvirt.diagnose()

    assert problem is not None and words in problem.text and remedy in problem.remedy
    assert "\n" not in problem.text
    assert libvirt.problem() == libvirt.Problem(problem.text, as_root(problem.remedy))


def test_libvirt_that_hangs_is_not_waited_for(virsh: VirshStub) -> None:
    virsh.set(hang=True)
    problem = libvirt.diagnose(limit_s=0.3)

    assert problem is not None and "no answer within 0 s" in problem.text


def test_host_without_virsh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    found = libvirt.problem()
    assert found is not None and found.text == "the program virsh is not there"
    with pytest.raises(MachineError, match="virsh is not there; see: picolab doctor"):
        libvirt.volumes()


# What is ours


def test_names_of_a_machine_are_not_those_of_another(virsh: VirshStub) -> None:
    others = ["picolab_0123abcd_m_2_default", "picolab_0123abcd_mm_default", "picolab_9999abcd_m_default", "db"]
    virsh.set(
        domains={name: domain() for name in [*others, f"{PREFIX}default"]},
        volumes={f"{name}.img": {"physical": 1} for name in others} | {f"{PREFIX}default_1.img": {"physical": 1}},
    )
    assert libvirt.domains(PREFIX) == {f"{PREFIX}default": "running"}
    assert libvirt.leftovers(PREFIX) == [], "a disk of a domain that is there"

    virsh.set(domains={name: domain() for name in others})
    assert libvirt.leftovers(PREFIX) == [f"{PREFIX}default_1.img"]


@pytest.mark.parametrize("prefix", ["", "_", "no_underscore_at_its_end", "a b_", "x*_"])
def test_prefix_that_would_match_what_is_not_ours_is_refused(virsh: VirshStub, prefix: str) -> None:
    with pytest.raises(MachineError, match="is no prefix"):
        libvirt.domains(prefix)


def test_domain_is_removed_whether_it_runs_or_not(virsh: VirshStub) -> None:
    name = f"{PREFIX}default"
    for state in ("running", "shut off", "paused"):
        virsh.set(domains={name: domain(state), "other": domain()}, volumes={f"{name}.img": {"physical": 1}})
        assert libvirt.domain_memory(name) == 256 << 20
        libvirt.remove_domain(name)
        assert virsh.state["domains"].keys() == {"other"} and not virsh.state["volumes"]
    libvirt.remove_domain(name)
    libvirt.remove_volume(f"{name}.img")


def test_power_is_cut_once(virsh: VirshStub) -> None:
    virsh.set(domains={"one": domain()})
    libvirt.power_off("one")
    assert libvirt.all_domains() == {"one": "shutoff"}
    libvirt.power_off("one")
    libvirt.power_off("none")
    assert [line for line in virsh.commands if line.startswith("destroy")] == ["destroy one"]


@pytest.mark.parametrize("state", ["running", "shut off"])
def test_a_boot_has_the_memory_of_the_description(virsh: VirshStub, state: str) -> None:
    name = f"{PREFIX}default"
    virsh.set(domains={name: domain(state), "other": domain()})
    boot({"prefix": PREFIX, "ram_mb": 512, "cpus": 2})

    found = virsh.state["domains"]
    assert found["other"] == domain() and found[name]["state"] == "running"
    assert [found[name][what] for what in ("setmaxmem", "setmem", "setvcpus")] == ["512MiB", "512MiB", "2"]
    assert virsh.commands[-1] == f"start {name}", "once all of it is set"


# What is mended


def test_a_domain_without_notes_is_removed_a_known_one_stays(virsh: VirshStub, tmp_path: Path) -> None:
    name = f"{PREFIX}default"
    virsh.set(domains={name: domain(uuid="u-1")}, volumes={f"{name}.img": {"physical": 1}})
    notes = tmp_path / "vagrant" / "machines" / "default" / "libvirt"
    notes.mkdir(parents=True)
    (notes / "id").write_text("u-1")
    assert libvirt.fix_stale(PREFIX, "picolab", None, tmp_path / "vagrant") == []

    (notes / "id").unlink()
    (mended,) = libvirt.fix_stale(PREFIX, "picolab", None, tmp_path / "vagrant")
    assert mended == f"removed the domain {name} (running): vagrant's notes of it were lost"
    assert not virsh.state["domains"] and not virsh.state["volumes"]


def test_volume_without_a_domain_is_removed(virsh: VirshStub, tmp_path: Path) -> None:
    virsh.set(volumes={f"{PREFIX}default.img": {"physical": 1}, "other_default.img": {"physical": 1}})
    (mended,) = libvirt.fix_stale(PREFIX, "picolab", None, tmp_path)

    assert mended == f"removed the volume {PREFIX}default.img: its domain was gone"
    assert virsh.state["volumes"].keys() == {"other_default.img"}


def base_volume() -> str:
    name = boxes.base_volume("picolab")
    assert name is not None
    return name


def test_truncated_base_volume_is_removed(
    virsh: VirshStub, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt, "_STANDSTILL_S", 0.1)
    image = add_box(home, image_bytes=1000)
    assert not libvirt.base_volume_is_truncated("picolab", image), "there is none yet"

    virsh.set(volumes={base_volume(): {"physical": 1000}})
    assert libvirt.base_volume("picolab") == base_volume()
    assert libvirt.fix_stale(PREFIX, "picolab", image, tmp_path) == []

    virsh.set(volumes={base_volume(): {"physical": 999}})
    assert libvirt.base_volume_is_truncated("picolab", image)
    (mended,) = libvirt.fix_stale(PREFIX, "picolab", image, tmp_path)
    assert f"{base_volume()}, which was truncated (999 of 1000 bytes)" in mended
    assert not virsh.state["volumes"]


def test_truncated_base_volume_that_somebody_uses_stays(
    virsh: VirshStub, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt, "_STANDSTILL_S", 0.1)
    image = add_box(home, image_bytes=1000)
    virsh.set(volumes={base_volume(): {"physical": 9}, "other_default.img": {"physical": 1, "base": base_volume()}})

    with pytest.raises(MachineError, match=r"9 of 1000 bytes.* still used by other_default.img: .*vol-delete"):
        libvirt.fix_stale(PREFIX, "picolab", image, tmp_path)
    assert len(virsh.state["volumes"]) == 2


def test_base_volume_that_somebody_is_copying_is_waited_for(
    virsh: VirshStub, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt, "_POLL_S", 0.01)
    image = add_box(home, image_bytes=1000)
    virsh.set(volumes={base_volume(): {"physical": 994, "grows": True}})

    assert libvirt.fix_stale(PREFIX, "picolab", image, tmp_path) == []
    assert base_volume() in virsh.state["volumes"]


# Two first machines of a box


class Other(threading.Thread):
    """Somebody else who makes a machine of the same box."""

    def __init__(self) -> None:
        super().__init__()
        self.has_it, self.done = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.reported: list[str] = []

    def run(self) -> None:
        try:
            with libvirt.first_up_lock("picolab", self.reported.append):
                self.has_it.set()
                self.done.wait(60)
        except MachineError as error:
            self.error = error
            self.has_it.set()

    def end(self) -> None:
        self.done.set()
        self.join()


@pytest.fixture
def other() -> Iterator[Other]:
    thread = Other()
    yield thread
    thread.end()


def test_second_waits_until_the_copy_is_whole_and_no_longer(
    virsh: VirshStub, home: Path, monkeypatch: pytest.MonkeyPatch, other: Other
) -> None:
    monkeypatch.setattr(libvirt, "_POLL_S", 0.01)
    add_box(home, image_bytes=1000)
    with libvirt.first_up_lock("picolab"):
        other.start()
        for physical in (1, 999):
            virsh.set(volumes={base_volume(): {"physical": physical}})
            asked = len(virsh.commands)
            eventually(lambda asked=asked: len(virsh.commands) > asked + 6, "the other one looks")  # type: ignore[misc]
            assert not other.has_it.is_set(), physical
        virsh.set(volumes={base_volume(): {"physical": 1000}})
        eventually(other.has_it.is_set, "the other one goes on beside us")
    assert other.error is None


def test_second_gets_the_lock_of_one_that_has_ended(virsh: VirshStub, home: Path, other: Other) -> None:
    add_box(home, image_bytes=1000)
    with pytest.raises(KeyboardInterrupt), libvirt.first_up_lock("picolab"):
        raise KeyboardInterrupt
    other.start()
    eventually(other.has_it.is_set, "the lock is free")


def test_second_does_not_wait_for_ever(
    virsh: VirshStub, home: Path, monkeypatch: pytest.MonkeyPatch, other: Other
) -> None:
    add_box(home, image_bytes=1000)
    with libvirt.first_up_lock("picolab"):
        monkeypatch.setattr(libvirt, "_FIRST_UP_LIMIT_S", 0.1)
        other.start()
        eventually(other.has_it.is_set, "the other one gives up")
    assert "end it, then try again" in str(other.error)
    # The kernel names the process that holds a lock: here it is this one.
    assert str(other.error).startswith(f"pid {os.getpid()} (")


def test_second_says_for_whom_it_waits(virsh: VirshStub, home: Path, other: Other) -> None:
    add_box(home, image_bytes=1000)
    with libvirt.first_up_lock("picolab"):
        other.start()
        eventually(lambda: bool(other.reported), "it reports that it waits")
    assert re.fullmatch(
        rf"waiting for pid {os.getpid()} \(.+\): it makes the first machine of the box 'picolab'; "
        r"at most (900|899) s more",
        other.reported[0],
    )
    eventually(other.has_it.is_set, "the lock is free")


def test_one_that_need_not_wait_reports_nothing(virsh: VirshStub, home: Path) -> None:
    add_box(home, image_bytes=1000)
    reported: list[str] = []
    with libvirt.first_up_lock("picolab", reported.append):
        assert reported == [] and libvirt.first_up_lock_file("picolab").exists()
    assert not libvirt.first_up_lock_file("picolab").exists(), "no lock is left"
    virsh.set(volumes={base_volume(): {"physical": 1000}})
    with libvirt.first_up_lock("picolab", reported.append):
        assert reported == [] and not libvirt.first_up_lock_file("picolab").exists()


def test_copy_that_is_not_whole_after_the_first_up_is_told(virsh: VirshStub, home: Path) -> None:
    add_box(home, image_bytes=1000)
    with pytest.raises(MachineError, match="is not whole"), libvirt.first_up_lock("picolab"):
        virsh.set(volumes={base_volume(): {"physical": 5}})


def test_lock_leaves_the_copy_to_whoever_downloads_the_box(virsh: VirshStub, home: Path) -> None:
    with libvirt.first_up_lock("debian/bookworm64"):
        assert libvirt.base_volume("debian/bookworm64") is None


# The real libvirt

_DOMAIN = """
<domain type="qemu"><name>{name}</name><memory unit="MiB">64</memory><vcpu>1</vcpu>
<os><type arch="{arch}">hvm</type></os>
<devices><disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="{disk}"/>
<target dev="vda" bus="virtio"/></disk></devices></domain>
"""


def _real(*words: str) -> str:
    command = ["virsh", "--connect", "qemu:///system", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.fixture
def real_pool(tmp_path: Path) -> Iterator[None]:
    """Lend libvirt a pool if it has none, as before the first machine of a host."""
    if libvirt.pool_state() == "active":
        yield
        return
    place = tmp_path / "pool"
    place.mkdir()
    _real("pool-create-as", libvirt.POOL, "dir", "--target", str(place))
    try:
        yield
    finally:
        _real("pool-destroy", libvirt.POOL)


@pytest.mark.vm
def test_stale_state_of_the_real_libvirt_is_seen_and_mended(
    real_pool: None, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt, "_STANDSTILL_S", 0.3)
    box, prefix = f"picolab-test-stale-{os.getpid()}", f"picolab_test_stale_{os.getpid()}_"
    name, image = f"{prefix}default", add_box(home, box, image_bytes=1 << 20)
    base = boxes.base_volume(box)
    assert base is not None
    try:
        _real("vol-create-as", libvirt.POOL, base, "512K", "--format", "raw")
        assert libvirt.base_volume(box) == base and libvirt.base_volume_is_truncated(box, image)
        _real(
            *("vol-create-as", libvirt.POOL, f"{name}.img", "1M", "--format", "qcow2"),
            *("--backing-vol", base, "--backing-vol-format", "raw"),
        )
        assert libvirt.leftovers(prefix) == [f"{name}.img"]
        disk = _real("vol-path", "--pool", libvirt.POOL, f"{name}.img")
        (tmp_path / "domain.xml").write_text(_DOMAIN.format(name=name, arch=os.uname().machine, disk=disk))
        _real("define", str(tmp_path / "domain.xml"))
        _real("start", name)
        assert libvirt.domains(prefix) == {name: "running"} and libvirt.leftovers(prefix) == []
        assert libvirt.domain_memory(name) == 64 << 20
        _real("snapshot-create-as", name, "fresh")

        domain, volume = libvirt.fix_stale(prefix, box, image, tmp_path / "vagrant")
        assert domain == f"removed the domain {name} (running): vagrant's notes of it were lost"
        assert f"{base}, which was truncated (524288 of 1048576 bytes)" in volume
        assert libvirt.domains(prefix) == {} and libvirt.leftovers(prefix) == []
        assert libvirt.base_volume(box) is None
        libvirt.remove_domain(name)
        libvirt.remove_volume(f"{name}.img")

        _real("vol-create-as", libvirt.POOL, base, "1M", "--format", "raw")
        assert not libvirt.base_volume_is_truncated(box, image)
        assert libvirt.volume_bytes(base) == 1 << 20
        assert libvirt.versions().keys() == {"libvirt", "qemu"}
    finally:
        libvirt.remove_domain(name)
        for left in (f"{name}.img", base):
            libvirt.remove_volume(left)


def test_a_volume_that_is_removed_meanwhile_is_left_out(virsh: VirshStub) -> None:
    virsh.set(volumes={"a.img": {}, "b.img": {"is_removed_now": True}, "c.img": {}})
    assert list(libvirt.described_volumes()) == ["a.img", "c.img"]
