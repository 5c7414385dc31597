"""What the doctor says about virtual machines: run for real, and with programs and devices that are faked."""

import ast
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from virsh_stub import VirshStub, add_box, install

from picolab.host.finding import Finding
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines.folders import KEEPER, SPEC, TRIAL_FILE, machines_dir, state_mark
from picolab.machines.vagrant import acceleration, box, box_tools, boxes, checks, libvirt, without_systemd
from picolab.machines.vagrant.domain import domain_prefix


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VirshStub:
    # The fake daemon has no settings.
    monkeypatch.setattr(without_systemd, "ROOT", tmp_path / "root")
    return install(tmp_path, monkeypatch)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "vagrant"))
    return tmp_path / "vagrant"


def the(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.what for finding in findings}) == len(findings)
    return {finding.what: finding for finding in findings}


def test_nothing_here_stops_a_local_campaign() -> None:
    findings = [
        *checks.tools(),
        *checks.kvm(),
        *checks.host_of_machines(),
        *checks.box(),
    ]

    assert {finding.state for finding in findings} <= {"good", "gap"}
    assert not any(finding.blocks for finding in findings)
    assert not any("\n" in finding.text for finding in findings)


# Programs


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """A host with no program at all."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(box_tools, "_SYSTEM_PATH", str(folder))
    monkeypatch.setattr(box_tools, "_MBR_PLACES", (str(tmp_path / "mbr.bin"),))
    monkeypatch.setattr(checks, "_DEBIAN_GEMS", tmp_path / "no-gems")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="x86_64"))
    monkeypatch.setattr(box_tools.platform, "machine", lambda: "x86_64")
    return folder


def install_programs(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch(mode=0o755)


BUILDERS = ("mmdebstrap", "mke2fs", "mformat", "mcopy", "syslinux")


def test_missing_programs_are_named_with_their_packages(programs: Path, home: Path, tmp_path: Path) -> None:
    install_programs(programs, "apt-get", "vagrant", "virsh", "libvirtd", "dnsmasq", "iptables", *BUILDERS)
    (tmp_path / "mbr.bin").touch()
    finding = the(checks.tools())
    assert (
        finding.state == "gap" and "not there: vagrant-libvirt, qemu; needed only for machine: vagrant" in finding.text
    )
    packages = finding.remedy.split("--no-install-recommends ")[1].split()
    assert packages[0] == "vagrant-libvirt" and packages[-1] == "qemu-utils"

    install_programs(programs, "qemu-img", "qemu-system-x86_64")
    home.mkdir()
    (home / "plugins.json").write_text('{"installed": {"vagrant-libvirt": {}}}')
    assert the(checks.tools()).state == "good"

    (programs / "dnsmasq").unlink()
    assert the(checks.tools()).remedy.endswith("apt-get install --no-install-recommends dnsmasq-base")


def test_one_command_installs_all_packages(programs: Path, home: Path) -> None:
    install_programs(programs, "apt-get")
    findings = [*checks.tools(), *checks.host_of_machines(), *checks.box()]

    commands = [finding.remedy for finding in findings if "apt-get" in finding.remedy + finding.text]
    assert len(commands) == 1
    packages = commands[0].removeprefix("apt-get install --no-install-recommends ").split()
    assert len(packages) == len(set(packages))
    assert {"vagrant", "libvirt-daemon-system", "qemu-utils", "mmdebstrap", "mtools", "syslinux-common"} < set(packages)
    assert by_name(findings)["box"].text.endswith("syslinux-common: the command is above")
    assert by_name(findings)["libvirt"].remedy == ""


def test_packages_of_the_box_are_not_needed_once_it_is_built(programs: Path, home: Path) -> None:
    install_programs(programs, "apt-get", "vagrant", "virsh", "libvirtd", "dnsmasq", "iptables", "qemu-img")
    install_programs(programs, "qemu-system-x86_64")
    home.mkdir()
    (home / "plugins.json").write_text('{"installed": {"vagrant-libvirt": {}}}')
    assert "mmdebstrap" in the(checks.tools()).remedy

    add_box(home, picolab_recipe=box.recipe_version())
    assert the(checks.tools()).state == "good"


# The user of QEMU


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a host without systemd, on which libvirt is installed."""
    folder = tmp_path / "root"
    (folder / "etc" / "libvirt").mkdir(parents=True)
    monkeypatch.setattr(without_systemd, "ROOT", folder)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return folder


COMMENTED = '# user = "100"\n#user = "libvirt-qemu"\n\n#group = "libvirt-qemu"\nsave_image_format = "raw"\n'


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (COMMENTED, "sets no user and no group, and no systemd runs here"),
        (f'{COMMENTED}user = "root"\n', 'sets user = "root" and no group'),
        (f'user = "libvirt-qemu"\n{COMMENTED}group = "root" # ours\n', 'sets user = "libvirt-qemu" and group = "root"'),
        ('user="qemu"\nuser = "root"\ngroup="root"', 'user = "qemu"'),
        ("", "sets no user and no group"),
    ],
)
def test_qemu_that_does_not_run_as_root(root: Path, settings: str, words: str) -> None:
    """The remedy is run for real, and is all that it takes."""
    path = root / "etc" / "libvirt" / "qemu.conf"
    path.write_text(settings + ("" if not settings or settings.endswith("\n") else "\n"))
    finding = the(without_systemd.qemu_user())

    assert finding.state == "gap" and not finding.blocks
    assert words in finding.text and "a boot takes minutes" in finding.text
    subprocess.run(finding.remedy, shell=True, check=True)
    assert the(without_systemd.qemu_user()).state == "good"
    assert [line for line in path.read_text().splitlines() if "raw" in line or "100" in line] == [
        line for line in settings.splitlines() if "raw" in line or "100" in line
    ]


def test_a_daemon_that_runs_is_started_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "etc" / "libvirt" / "qemu.conf").write_text(COMMENTED)
    assert "libvirtd" not in the(without_systemd.qemu_user()).remedy
    for pid, name in ((1, "tini"), (77, "libvirtd")):
        (root / "proc" / str(pid)).mkdir(parents=True)
        (root / "proc" / str(pid) / "comm").write_text(f"{name}\n")

    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert the(without_systemd.qemu_user()).remedy.endswith("sleep 0.2; done; libvirtd -d'")
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/tini")
    assert the(without_systemd.qemu_user()).remedy.endswith("setsid -f tini -s -- libvirtd >/dev/null 2>&1'")


def test_qemu_is_not_looked_at_where_systemd_runs(root: Path) -> None:
    (root / "etc" / "libvirt" / "qemu.conf").write_text(COMMENTED)
    (root / "run" / "systemd" / "system").mkdir(parents=True)

    assert without_systemd.qemu_user() == []


def test_qemu_is_not_looked_at_without_libvirt(root: Path) -> None:
    assert without_systemd.qemu_user() == []


def test_settings_that_cannot_be_read_are_not_called_good(root: Path) -> None:
    (root / "etc" / "libvirt" / "qemu.conf").mkdir()
    finding = the(without_systemd.qemu_user())

    assert finding.state == "gap" and "it is not known whether QEMU runs as root" in finding.text


def test_the_setting_comes_before_the_start_of_the_daemon(root: Path, virsh: VirshStub) -> None:
    """The commands are run in the order in which they are printed."""
    (root / "etc" / "libvirt" / "qemu.conf").write_text(COMMENTED)
    virsh.set(error="failed to connect to the hypervisor\nerror: Failed to connect socket: No such file or directory")
    settings, daemon = checks.host_of_machines()

    assert "qemu.conf" in settings.remedy and "libvirtd -d" not in settings.remedy
    assert daemon.what == "libvirt" and "libvirtd" in daemon.remedy


# The reaper of the machines' processes

FIRST = """
import ctypes, os, subprocess, sys
PR_SET_CHILD_SUBREAPER = 36
does, code, root = sys.argv[1:]
assert os.getpid() == 1 or ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
child = subprocess.Popen([sys.executable, "-c", code, root])
if does == "reaps all":
    while os.wait()[0] != child.pid:
        pass
else:
    child.wait()
"""
PID_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")
PRINT_REAPER = """
import sys
from pathlib import Path
from picolab.machines.vagrant import without_systemd
without_systemd.ROOT = Path(sys.argv[1])
print([(finding.state, finding.remedy) for finding in without_systemd.reaper()])
"""


def reaper_below(
    first: str, root: Path, parent: int = 1, within: tuple[str, ...] = PID_NAMESPACE
) -> list[tuple[str, str]]:
    """Return state and remedy of the check in a process below one that reaps everything, or its own children alone.

    Args:
        within: makes it the first process of a container; without, it is a subreaper.
    """
    if within and os.geteuid() != 0:
        pytest.skip("only root may make a namespace of processes")
    (root / "proc" / "77").mkdir(parents=True)
    (root / "proc" / "77" / "comm").write_text("libvirtd\n")
    fields = " ".join(["0"] * 48)
    (root / "proc" / "77" / "stat").write_text(f"77 (libvirtd) S {parent} {fields}\n")
    words = [*within, sys.executable, "-c", FIRST, first, PRINT_REAPER, str(root)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: list[tuple[str, str]] = ast.literal_eval(done.stdout)
    return found


def test_a_first_process_that_does_not_reap_is_named(root: Path) -> None:
    ((state, remedy),) = reaper_below("reaps its own", root)

    assert state == "gap" and "setsid -f tini -s -- libvirtd" in remedy
    subprocess.run(["sh", "-n", "-c", remedy], check=True)


def test_a_first_process_that_reaps_is_good(root: Path) -> None:
    assert reaper_below("reaps all", root) == [("good", "")]


@pytest.mark.parametrize("above", ["reaps all", "reaps its own"])
def test_a_subreaper_above_tells_nothing_of_the_first_process(root: Path, above: str) -> None:
    assert reaper_below(above, root, within=()) == []


def test_a_daemon_below_a_reaper_is_good(root: Path) -> None:
    assert reaper_below("reaps its own", root, parent=50, within=()) == [("good", "")]


def test_the_reaper_is_not_looked_at_without_a_daemon_or_with_systemd(root: Path) -> None:
    assert without_systemd.reaper() == []
    (root / "run" / "systemd" / "system").mkdir(parents=True)
    assert reaper_below("reaps its own", root, within=()) == []


# KVM


def dev_kvm(monkeypatch: pytest.MonkeyPatch, error: OSError | None) -> None:
    """Let /dev/kvm be one that opens, or fails with an error."""
    real = os.open

    def fake(path: Any, flags: int, *rest: Any, **names: Any) -> int:
        if str(path) != "/dev/kvm":
            return real(path, flags, *rest, **names)
        if error is not None:
            raise error
        return real(os.devnull, flags)

    monkeypatch.setattr(os, "open", fake)


@pytest.mark.parametrize(
    ("error", "words", "state"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "there is no /dev/kvm", "gap"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be opened (Permission denied)", "gap"),
        (None, "whether a guest runs with it, the first machine tells", "good"),
    ],
)
def test_kvm_that_nobody_has_tried(
    monkeypatch: pytest.MonkeyPatch, error: OSError | None, words: str, state: str
) -> None:
    dev_kvm(monkeypatch, error)
    finding = the(checks.kvm())

    assert words in finding.text and finding.state == state


@pytest.mark.parametrize(("why_not", "state"), [(None, "good"), ("it was not in user space after 8 s", "gap")])
def test_kvm_that_a_machine_has_tried(
    monkeypatch: pytest.MonkeyPatch, home: Path, why_not: str | None, state: str
) -> None:
    dev_kvm(monkeypatch, None)
    monkeypatch.delenv("PICOLAB_DRIVER", raising=False)
    folder = add_box(home, picolab_recipe="r1").parent
    for name in ("vmlinuz", "initrd"):
        (folder / name).touch()
    monkeypatch.setattr(acceleration, "_QEMU", (sys.executable,))
    monkeypatch.setattr(acceleration, "prove", lambda *_: why_not)
    found = acceleration.acceleration()
    monkeypatch.setattr(acceleration, "prove", lambda *_: pytest.fail("the doctor boots nothing"))
    finding = the(checks.kvm())

    assert finding.state == state and found.reason in finding.text
    monkeypatch.setattr(checks, "boot_id", lambda: "another boot")
    assert "the first machine tells" in the(checks.kvm()).text


# libvirt


def test_host_on_which_all_is_well(virsh: VirshStub) -> None:
    findings = checks.host_of_machines()

    assert [finding.what for finding in findings] == ["libvirt", "VM network", "VM disks", "VM leftovers"]
    assert {finding.state for finding in findings} == {"good"}
    assert "102,400 MiB are free" in by_name(findings)["VM disks"].text


def test_daemon_that_does_not_answer_is_one_finding(virsh: VirshStub) -> None:
    virsh.set(error="failed to connect to the hypervisor\nerror: Failed to connect socket: No such file or directory")
    finding = the(checks.host_of_machines())

    assert finding.state == "gap" and "the daemon libvirtd does not answer" in finding.text
    assert "libvirtd" in finding.remedy


def test_user_who_may_not_use_libvirt(virsh: VirshStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    virsh.set(error="authentication unavailable: no polkit agent available to authenticate action")
    finding = the(checks.host_of_machines())

    assert "this user may not use libvirt" in finding.text
    assert finding.remedy.startswith("sudo usermod -aG libvirt $USER")


def test_network_and_pool_that_are_not_active(virsh: VirshStub) -> None:
    virsh.set(network="inactive", pool="inactive")
    found = by_name(checks.host_of_machines())

    assert found["VM network"].remedy == "virsh -c qemu:///system net-start vagrant-libvirt"
    assert found["VM disks"].remedy == "virsh -c qemu:///system pool-start default"
    assert found["VM network"].state == found["VM disks"].state == "gap"


def test_a_network_that_vagrant_has_made(virsh: VirshStub) -> None:
    virsh.set(network_is_vagrants=True)
    found = by_name(checks.host_of_machines())["VM network"]

    assert found.state == "gap" and "a boot waits 4 s longer" in found.text and "While no virtual machine" in found.text
    assert found.remedy == "virsh -c qemu:///system 'net-destroy vagrant-libvirt; net-undefine vagrant-libvirt'"


def test_host_before_its_first_machine(virsh: VirshStub) -> None:
    virsh.set(network="missing", pool="missing")
    found = by_name(checks.host_of_machines())

    assert "the first machine makes it" in found["VM network"].text and found["VM network"].state == "good"
    assert "the first machine makes it" in found["VM disks"].text


def test_full_pool(virsh: VirshStub) -> None:
    virsh.set(free=1 << 30)
    finding = by_name(checks.host_of_machines())["VM disks"]

    assert finding.state == "gap" and "1,024 MiB are free" in finding.text and "too little" in finding.text


def machine(name: str, keeper: ProcessIdentity | None, holder: ProcessIdentity, keep: bool = False) -> str:
    """Write down a machine, and return the name of its domain."""
    folder = machines_dir() / name
    folder.mkdir(parents=True)
    spec = {"name": name, "kind": "vagrant", "prefix": domain_prefix(name), "state": "up", "keep": keep}
    (folder / SPEC).write_text(json.dumps({**spec, "holder": holder.to_json()}))
    if keep:
        (folder / TRIAL_FILE).write_text("{}")
    if keeper is not None:
        (folder / KEEPER).write_text(json.dumps({"process": keeper.to_json()}))
    return f"{domain_prefix(name)}default"


def test_what_dead_machines_have_left(virsh: VirshStub, gone: ProcessIdentity) -> None:
    living, dead = machine("living", this_process(), gone), machine("dead", None, gone)
    kept, held = machine("kept", None, gone, keep=True), machine("held", None, this_process())
    lost, disk = f"{domain_prefix('lost')}default", f"{domain_prefix('bare')}default.img"
    names = [living, dead, kept, held, lost, "picolab_ffffffff_another_checkout_default", "db"]
    try:
        virsh.set(
            domains={name: {"state": "running"} for name in names},
            volumes={name: {"physical": 1} for name in [*(f"{name}.img" for name in names), disk]},
        )
        left = [finding for finding in checks.host_of_machines() if finding.what == "VM leftovers"]
    finally:
        for name in ("living", "dead", "kept", "held"):
            shutil.rmtree(machines_dir() / name)

    told = {finding.text: finding.remedy for finding in left}
    assert told.pop(f"a domain of a machine without a keeper: {dead}") == "picolab machines list"
    assert told.pop(f"a volume of a machine without a keeper: {dead}.img") == "picolab machines list"
    assert told.pop(f"a domain of a machine without a keeper: {kept}") == "picolab machines remove kept"
    assert told.pop(f"a volume of a machine without a keeper: {kept}.img") == "picolab machines remove kept"
    assert f"virsh -c qemu:///system undefine {lost} --remove-all-storage" in told.pop(
        f"a domain of no machine: {lost}"
    )
    assert told.pop(f"a volume of no machine: {disk}") == f"virsh -c qemu:///system vol-delete --pool default {disk}"
    assert not told
    assert lost.startswith(f"picolab_{state_mark(machines_dir())}_"), "leftovers are known by the mark of the checkout"


def test_a_machine_that_is_taken_down_meanwhile_is_no_leftover(
    virsh: VirshStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = machine("brief", this_process(), this_process())
    virsh.set(domains={name: {"state": "running"}})
    ask = libvirt.volumes

    def take_down_and_ask() -> list[str]:
        shutil.rmtree(machines_dir() / "brief")
        return ask()

    monkeypatch.setattr(libvirt, "volumes", take_down_and_ask)
    assert by_name(checks._leftovers())["VM leftovers"].text == "none"


# The box


@pytest.fixture
def buildable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_tools, "check_architecture", lambda: None)
    monkeypatch.setattr(box_tools, "missing_packages", list)


def test_box_that_is_not_built(home: Path, virsh: VirshStub, buildable: None) -> None:
    finding = the(checks.box())

    assert finding.state == "gap" and "debian/bookworm64 would be downloaded" in finding.text
    assert finding.remedy == "picolab box build"


def test_box_that_cannot_be_built(home: Path, virsh: VirshStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_tools, "missing_packages", lambda: ["mtools"])
    monkeypatch.setattr(box_tools.platform, "machine", lambda: "x86_64")
    finding = the(checks.box())

    assert finding.text.endswith("; to build it, install mtools: the command is above") and not finding.remedy
    monkeypatch.setattr(box_tools.platform, "machine", lambda: "aarch64")
    assert "is made for x86_64, not for this host's aarch64" in the(checks.box()).text


def test_box_of_another_recipe(home: Path, virsh: VirshStub, buildable: None) -> None:
    add_box(home, picolab_recipe="older")
    finding = the(checks.box())

    assert finding.state == "gap" and "another recipe (older)" in finding.text
    assert finding.remedy == "picolab box build"


def test_box_that_is_current_and_its_copy(home: Path, virsh: VirshStub, buildable: None) -> None:
    add_box(home, image_bytes=1000, picolab_recipe=box.recipe_version())
    base = boxes.base_volume("picolab")
    assert the(checks.box()).state == "good"

    virsh.set(volumes={base: {"physical": 1000}})
    assert the(checks.box()).state == "good"

    virsh.set(volumes={base: {"physical": 10}})
    finding = the(checks.box())
    assert finding.state == "gap" and "copy of picolab is truncated" in finding.text
    assert finding.remedy == f"virsh -c qemu:///system vol-delete --pool {libvirt.POOL} {base}"
