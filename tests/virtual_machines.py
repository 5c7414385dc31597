"""What tests with real virtual machines share (marker `vm`): a real box, real `vagrant up`, real guests.

They run where Vagrant, libvirt and QEMU are, and nowhere else: then a summary says plainly what was not run and why.
With PICOLAB_REQUIRE_VM=1 (as in CI) not to run them is a failure.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from picolab.errors import HostUnfit, MachineError
from picolab.host.processes import this_process
from picolab.machines import registry
from picolab.machines.base import Holder, MachineWish
from picolab.machines.folders import end_keeper, machines_dir, state_mark
from picolab.machines.vagrant import box as box_module
from picolab.machines.vagrant import box_disk, boxes, libvirt, network
from picolab.machines.vagrant import machine as vagrant
from picolab.machines.vagrant.acceleration import acceleration
from picolab.machines.vagrant.machine import VagrantMachine

REQUIRE = "PICOLAB_REQUIRE_VM"
VM_TEST_LIMIT_S = 900
_BOX_HOME = "PICOLAB_TEST_BOX_HOME"
_LONGEST_FIRST = (
    "test_vagrant_machine",
    # These need no box, which the process above builds meanwhile.
    "test_stopped_libvirt",
    "test_stale_state_of_the_real_libvirt_is_seen_and_mended",
    "test_shared_network",
    "test_vagrant_faults",
    "test_a_matrix_of_two_blocks_boots_each_ram_size_once",
    "test_measure_virtual",
    "test_by_hand",
    "test_vagrant_left_over",
    "test_a_killed_campaign_is_swept_and_resumed",
    "test_examination_in_guest",
    "test_a_new_kernel_resumes_with_the_kept_machine",
    "test_a_boot_that_takes_too_long_names_the_limit",
)
"""Modules and tests in the order in which they begin, so that at the end no process waits long for another."""
_SHARING = ("test_vagrant_machine", "test_vagrant_faults", "test_vagrant_left_over", "test_by_hand")
"""The modules whose tests share a machine."""
_BEFORE = pytest.StashKey[dict[str, set[str]]]()
_RAN = pytest.StashKey[bool]()


def _why_not() -> str | None:
    try:
        vagrant.check_host("libvirt")
        box_module.check_tools()
    except HostUnfit as error:
        return str(error)
    return None


def pytest_configure(config: pytest.Config) -> None:
    # By the process that starts all others: several may use libvirt at the same time.
    if hasattr(config, "workerinput"):
        return
    from conftest import folder_on_disk

    os.environ[_BOX_HOME] = str(folder_on_disk() / f"picolab-test-vm-{os.getpid()}")
    if shutil.which("virsh"):
        with contextlib.suppress(subprocess.SubprocessError, MachineError):
            config.stash[_BEFORE] = _of_libvirt()
            config.pluginmanager.register(_Noticed(config))
            if config.getoption("markexpr") == "vm":
                # Before any test, whose state folder would note that its machine has made it.
                network.make()


class _Noticed:
    """Notes that a test with real virtual machines ran: a session without one takes nothing down, which is others'."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "vm" in report.keywords and not report.skipped:
            self._config.stash[_RAN] = True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput") and _box_home().exists():
        # Also when the session was interrupted in its first test.
        session.config.stash[_RAN] = True
        if left := _remove_box():
            print(f"\nleft in libvirt: {left}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    before = config.stash.get(_BEFORE, None)
    if before is not None and config.stash.get(_RAN, False):
        _as_before(before)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("vm"):
            item.add_marker(pytest.mark.timeout(VM_TEST_LIMIT_S))
            item.add_marker(pytest.mark.alone)
    items.sort(key=_turn)


class _ByMachine(LoadScopeScheduling):
    """Runs the tests of a module that shares a machine in one process; each other test goes to whoever is free."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if Path(file).stem in _SHARING else nodeid

    def _reschedule(self, node: Any) -> None:
        # A process needs to know the test after the running one, and no more: xdist would give it a third, which waits
        # there while others have nothing to do.
        if not self.workqueue or self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    return _ByMachine(config, log) if config.getoption("dist") == "loadscope" else None


def _turn(item: pytest.Item) -> int:
    """Return when a test begins among those with real virtual machines; 0 for all others."""
    if not item.get_closest_marker("vm"):
        return 0
    names = [item.path.stem, getattr(item, "originalname", item.name)]
    return min(
        (_LONGEST_FIRST.index(name) + 1 for name in names if name in _LONGEST_FIRST), default=len(_LONGEST_FIRST)
    )


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


def _box_home() -> Path:
    """Return the folder of the box that all processes of this session share; the first that needs it makes it."""
    return Path(os.environ[_BOX_HOME])


def _box_name() -> str:
    return _box_home().name.replace("vm", "box")


@contextlib.contextmanager
def as_box_owner() -> Iterator[None]:
    """Use the folders of the process that has built the box, and its answer whether KVM is usable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAGRANT_HOME", str(_box_home() / "vagrant"))
        patch.setenv("PICOLAB_STATE_DIR", str(_box_home() / "state"))
        yield


def _make_box() -> str:
    """Build the box of this session unless another process has done so; return the driver that works here."""
    _box_home().mkdir(mode=0o700, exist_ok=True)
    known = _box_home() / "driver"
    with (_box_home() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not known.exists():
            with as_box_owner():
                network.make()
                box_module.build_box(name=_box_name(), report=print)
                copy_into_pool(_box_name())
                # Asked once: each test has a state folder of its own, and would try KVM anew.
                known.write_text("kvm" if acceleration().kind == "kvm" else "qemu")
        return known.read_text()


def copy_into_pool(name: str) -> None:
    """Copy a box into libvirt's pool, as the first `vagrant up` does: of two at the same time, both are broken."""
    volume, image = boxes.base_volume(name), boxes.box_image(name)
    assert volume is not None and image is not None
    if libvirt.pool_state() == "missing":
        _virsh("pool-define-as", libvirt.POOL, "dir", "--target", str(libvirt.IMAGES))
        _virsh("pool-build", libvirt.POOL)
    if libvirt.pool_state() == "inactive":
        _virsh("pool-start", libvirt.POOL)
    _virsh("vol-create-as", libvirt.POOL, volume, f"{box_disk.DISK_GIB}G", "--allocation", "0", "--format", "qcow2")
    _virsh("vol-upload", "--pool", libvirt.POOL, volume, str(image))
    assert not libvirt.base_volume_is_truncated(name, image)


def _take_down_machines() -> None:
    """Take down the machines that processes of an interrupted session have left, and end their keepers."""
    for folder in _box_home().glob("*/machines/*/"):
        end_keeper(folder)
    base = boxes.base_volume(_box_name())
    for disk in libvirt._users_of(base) if base is not None else ():
        libvirt.remove_domain(disk.removesuffix(".img"))


def _remove_box() -> list[str]:
    """Remove every trace of the box, and return what is left of it in libvirt."""
    try:
        with as_box_owner():
            _take_down_machines()
            box_module.remove_box(_box_name())
        return [volume for volume in libvirt.volumes() if volume.startswith(f"{_box_name()}_")]
    finally:
        shutil.rmtree(_box_home(), ignore_errors=True)


@pytest.fixture(scope="session")
def box() -> Iterator[str]:
    """The box of this session, in a VAGRANT_HOME of this process: Vagrant's locks and index are one for each."""
    driver = _make_box()
    home = Path(tempfile.mkdtemp(prefix="vagrant-", dir=_box_home()))
    (home / "boxes").symlink_to(_box_home() / "vagrant" / "boxes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAGRANT_HOME", str(home))
        patch.setenv("PICOLAB_DRIVER", driver)
        yield _box_name()
    shutil.rmtree(home, ignore_errors=True)


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
    for name in _of_libvirt()["net that runs"] - before["net that runs"]:
        _virsh("net-destroy", name)
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
def shared_folder(box: str, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A state folder that the tests of a module share, with the machine in it: a boot takes long.

    The machine has a saved state, and the name that the module's `MACHINE` says.
    """
    folder = Path(tempfile.mkdtemp(prefix="state-", dir=_box_home()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PICOLAB_STATE_DIR", str(folder))
        try:
            # Here, so that its keeper is a process of the module and not one that the first test leaves behind.
            obtain(wish(box, name=getattr(request.module, "MACHINE", "vm"), fresh_for="the module")).hand_back()
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
