"""What tests with real virtual machines share (marker `vm`): a real box, real `vagrant up`, real guests.

They run where Vagrant, libvirt and QEMU are, and nowhere else: then a summary says plainly what was not run and why.
With PICOLAB_REQUIRE_VM=1 (as in CI) not to run them is a failure.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from picolab.errors import HostUnfit
from picolab.host.processes import this_process
from picolab.machines import registry
from picolab.machines.base import Holder, MachineWish
from picolab.machines.folders import machines_dir, state_mark
from picolab.machines.vagrant import box as box_module
from picolab.machines.vagrant import libvirt
from picolab.machines.vagrant import machine as vagrant
from picolab.machines.vagrant.acceleration import acceleration
from picolab.machines.vagrant.machine import VagrantMachine

REQUIRE = "PICOLAB_REQUIRE_VM"
VM_TEST_LIMIT_S = 900
_BEFORE = pytest.StashKey[dict[str, set[str]]]()


def _why_not() -> str | None:
    try:
        vagrant.check_host("libvirt")
        box_module.check_tools()
    except HostUnfit as error:
        return str(error)
    return None


def pytest_configure(config: pytest.Config) -> None:
    # By the process that starts all others: several may use libvirt at the same time.
    if not hasattr(config, "workerinput") and shutil.which("virsh"):
        with contextlib.suppress(subprocess.SubprocessError):
            config.stash[_BEFORE] = _of_libvirt()


def pytest_unconfigure(config: pytest.Config) -> None:
    before = config.stash.get(_BEFORE, None)
    if before is not None:
        _as_before(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("vm"):
            item.add_marker(pytest.mark.timeout(VM_TEST_LIMIT_S))
            item.add_marker(pytest.mark.alone)


def pytest_runtest_setup(item: pytest.Item) -> None:
    why = _why_not() if item.get_closest_marker("vm") else None
    if why is not None:
        if os.environ.get(REQUIRE):
            pytest.fail(f"{REQUIRE} is set, and this host cannot run virtual machines: {why}", pytrace=False)
        pytest.skip(why)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    not_run = [report for report in terminalreporter.stats.get("skipped", []) if "vm" in report.keywords]
    if not_run:
        terminalreporter.section("NOT RUN: virtual machines", yellow=True)
        terminalreporter.write_line(
            f"{len(not_run)} tests with real virtual machines were NOT run on this host: {_why_not()}"
        )


@pytest.fixture(scope="session")
def box() -> Iterator[str]:
    """Build a box for this session with a VAGRANT_HOME of its own, and remove every trace of it afterwards."""
    from conftest import folder_on_disk

    home = Path(tempfile.mkdtemp(prefix="picolab-test-vm-", dir=folder_on_disk()))
    name = f"picolab-test-{os.getpid()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAGRANT_HOME", str(home / "vagrant"))
        patch.setenv("PICOLAB_STATE_DIR", str(home / "state"))
        box_module.build_box(name=name, report=print)
        # Asked once: each test has a state folder of its own, and would try KVM anew.
        patch.setenv("PICOLAB_DRIVER", "kvm" if acceleration().kind == "kvm" else "qemu")
        try:
            yield name
        finally:
            try:
                box_module.remove_box(name)
                left = [volume for volume in libvirt.volumes() if volume.startswith(f"{name}_")]
            finally:
                shutil.rmtree(home, ignore_errors=True)
    assert not left, f"left in libvirt: {left}"


def _virsh(*words: str) -> list[str]:
    done = subprocess.run(
        ["virsh", "-c", "qemu:///system", *words], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split()


def _of_libvirt() -> dict[str, set[str]]:
    """Return the networks and storage pools that libvirt knows, and which of them run."""
    return {
        "net": set(_virsh("net-list", "--all", "--name")),
        "net that runs": set(_virsh("net-list", "--name")),
        "pool": set(_virsh("pool-list", "--all", "--name")),
    }


def _as_before(before: dict[str, set[str]]) -> None:
    """Take down what Vagrant has made once for all machines, where it was not there before and nobody uses it now."""
    if libvirt.all_domains():
        return
    for network in _of_libvirt()["net that runs"] - before["net that runs"]:
        _virsh("net-destroy", network)
    for kind in ("net", "pool"):
        for name in _of_libvirt()[kind] - before[kind]:
            if kind == "pool":
                _virsh("pool-destroy", name)
            _virsh(f"{kind}-undefine", name)


def _mark() -> str:
    return f"picolab_{state_mark(machines_dir())}_"


def domains() -> dict[str, str]:
    """Return {domain: state} of the machines of this test's state folder."""
    return {name: state for name, state in libvirt.all_domains().items() if name.startswith(_mark())}


def _volumes() -> list[str]:
    return [name for name in libvirt.volumes() if name.startswith(_mark())]


def _remove(names: Iterable[str]) -> None:
    for name in names:
        libvirt.remove_domain(name)


@pytest.fixture(autouse=True)
def no_domain_is_left(scratch: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a domain or a volume of its own, and remove it."""
    yield
    if not request.node.get_closest_marker("vm") or "shared_state" in request.fixturenames:
        return
    left = [*domains(), *_volumes()]
    _remove(domains())
    for name in _volumes():
        libvirt.remove_volume(name)
    assert not left, f"the test left behind: {left}"


@pytest.fixture(scope="module")
def shared_folder(box: str) -> Iterator[Path]:
    """A state folder that the tests of a module share, with the machine in it: a boot takes long."""
    from conftest import folder_on_disk

    folder = Path(tempfile.mkdtemp(prefix="picolab-test-vm-", dir=folder_on_disk()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PICOLAB_STATE_DIR", str(folder))
        try:
            # Here, so that its keeper is a process of the module and not one that the first test leaves behind.
            obtain(wish(box)).hand_back()
            yield folder
        finally:
            for machine in registry.existing():
                registry.release_by_name(machine["name"])
            left = domains()
            _remove(left)
            shutil.rmtree(folder, ignore_errors=True)
    assert not left


@pytest.fixture
def shared_state(shared_folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a test use the machine of its module."""
    monkeypatch.setenv("PICOLAB_STATE_DIR", str(shared_folder))
    return shared_folder


def shell(machine: VagrantMachine, command: str, limit_s: float = 60) -> str:
    """Run a command in a guest, which must succeed, and return what it prints."""
    done = machine._guest.connected().run(command, limit_s)
    assert done.exit_code == 0, f"{command}: {done.stderr}"
    return done.stdout


def wish(box: str, ram_mb: int = 256, name: str = "vm", fresh_for: str = "") -> MachineWish:
    return MachineWish(name, ram_mb, "enforced", "", kind="vagrant", box=box, fresh_for=fresh_for)


def obtain(wanted: MachineWish, keep: bool = False) -> VagrantMachine:
    machine = registry.obtain(wanted, Holder(this_process(), keep))
    assert isinstance(machine, VagrantMachine)
    return machine
