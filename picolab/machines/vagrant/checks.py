"""The doctor's checks for virtual machines: programs, KVM, libvirt with its network and pool, the box, leftovers.

None of it is needed for `machine: local`, so that nothing here is worse than a gap. No machine is booted, and vagrant
is never asked: that takes seconds.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from picolab.agent.procfs import boot_id
from picolab.config.project import state_dir
from picolab.config.sizes import MIB
from picolab.errors import HostUnfit
from picolab.host.finding import Check, Finding, as_root
from picolab.host.processes import ProcessIdentity
from picolab.machines.folders import keeper_of, machine_folders, machines_dir, spec_of, state_mark
from picolab.machines.vagrant import box_tools, boxes, libvirt, network, removal, without_systemd
from picolab.machines.vagrant.box_tools import which

_FOR_VMS = "needed only for machine: vagrant"
_DEBIAN_GEMS = Path("/usr/share/rubygems-integration")
_VIRSH = "virsh -c qemu:///system"
_ASK_LIMIT_S = 1.5
_LEAST_FREE_BYTES = 4 << 30
"""A box, its copy and the disk of a machine with a few hundred MiB of uploads."""


def kvm() -> list[Finding]:
    """Check whether virtual machines can use KVM."""
    what, slow = "KVM", "virtual machines would be emulated, which makes all times in them long"
    device = Path("/dev/kvm")
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        flags = Path("/proc/cpuinfo").read_text(errors="replace")
        module = "kvm_intel" if " vmx" in flags else "kvm_amd" if " svm" in flags else ""
        why = "there is no /dev/kvm" + ("" if module else ", and the processor shows no virtualisation")
        return [Finding(what, "gap", f"{why}: {slow}", as_root(f"modprobe {module}") if module else "")]
    except OSError as error:
        text = f"/dev/kvm cannot be opened ({error.strerror}): {slow}"
        return [Finding(what, "gap", text, "sudo usermod -aG kvm $USER   (then log in again)")]
    tried = _tried()
    if tried is None:
        return [Finding(what, "good", "/dev/kvm can be opened; whether a guest runs with it, the first machine tells")]
    if tried["kind"] != "kvm":
        return [Finding(what, "gap", f"{tried['reason']}: {slow}")]
    return [Finding(what, "good", str(tried["reason"]))]


def _tried() -> dict[str, str] | None:
    """Return what a machine has found out about KVM since this host was booted: to try it takes too long here."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        proof = json.loads((state_dir() / "acceleration.json").read_text())
        if proof["tried"][0] == boot_id():
            return dict(proof["found"])
    return None


def tools() -> list[Finding]:
    """Look for the programs and files of Vagrant, libvirt and QEMU."""
    what = "virtual machines"
    architecture = os.uname().machine
    qemu = "qemu-system-x86" if architecture == "x86_64" else "qemu-system-arm"
    wanted = {
        "vagrant": ("vagrant", which("vagrant")),
        "vagrant-libvirt": ("vagrant-libvirt", _has_vagrant_libvirt()),
        "libvirt": ("libvirt-daemon-system libvirt-clients", which("virsh") and which("libvirtd")),
        "qemu": (f"{qemu} qemu-utils", which(f"qemu-system-{architecture}") and which("qemu-img")),
        "dnsmasq": ("dnsmasq-base", which("dnsmasq")),
        "iptables": ("iptables", which("iptables")),
    }
    missing = [name for name, (_, there) in wanted.items() if not there]
    packages = " ".join(wanted[name][0] for name in missing).split()
    # One command for everything: who installs the rest wants to build the box next.
    if of_box := [package for package in _packages_of_box() if package not in packages]:
        missing.append("programs that build the box")
        packages += of_box
    if not missing:
        return [Finding(what, "good", f"{', '.join(wanted)} are there")]
    command = " ".join(["apt-get install --no-install-recommends", *packages])
    remedy = as_root(command) if shutil.which("apt-get") else ""
    return [Finding(what, "gap", f"not there: {', '.join(missing)}; {_FOR_VMS}", remedy)]


def _packages_of_box() -> list[str]:
    """Return the packages that are missing to build picolab's own box; none where it is built or cannot run."""
    # Imported here: nobody but a builder needs it.
    from picolab.machines.vagrant import box as builder

    is_current = builder.is_current(boxes.PICOLAB_BOX)
    return [] if is_current or os.uname().machine != "x86_64" else box_tools.missing_packages()


def _has_vagrant_libvirt() -> bool:
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        if "vagrant-libvirt" in json.loads((boxes.vagrant_home() / "plugins.json").read_text())["installed"]:
            return True
    return any(_DEBIAN_GEMS.glob("*/gems/vagrant-libvirt-*"))


def host_of_machines() -> list[Finding]:
    """Look at libvirt: its daemon, and then the network and the pool for machines, and what dead machines have left."""
    # First: the daemon reads its settings when it starts.
    settings = without_systemd.qemu_user()
    found = libvirt.diagnose(_ASK_LIMIT_S)
    if found is not None:
        # A package that is missing is in the one command for all of them.
        remedy = as_root(found.remedy) if shutil.which("virsh") else ""
        return [*settings, Finding("libvirt", "gap", f"{found.text}; {_FOR_VMS}", remedy)]
    answers = Finding("libvirt", "good", "the daemon answers")
    return [*settings, answers, *without_systemd.reaper(), *_network(), *_pool(), *_leftovers()]


def _network() -> list[Finding]:
    what = "VM network"
    match libvirt.network():
        case "active" if network.is_slow():
            text = (
                f"libvirt's network {libvirt.NETWORK} has the spanning tree protocol on, as Vagrant makes it: a boot "
                f"waits 4 s longer for its address. While no virtual machine runs, remove it: the next machine makes "
                f"a better one"
            )
            remedy = f"{_VIRSH} 'net-destroy {libvirt.NETWORK}; net-undefine {libvirt.NETWORK}'"
            return [Finding(what, "gap", text, remedy)]
        case "active":
            return [Finding(what, "good", f"libvirt's network {libvirt.NETWORK} is active")]
        case "missing":
            return [Finding(what, "good", f"there is no network {libvirt.NETWORK} yet; the first machine makes it")]
        case _:
            return [Finding(what, "gap", libvirt.NETWORK_DOWN.text, libvirt.NETWORK_DOWN.remedy)]


def _pool() -> list[Finding]:
    what, pool = "VM disks", libvirt.POOL
    match libvirt.pool_state():
        case "active":
            free_bytes = libvirt.pool_free_bytes() or 0
            text = f"{free_bytes / MIB:,.0f} MiB are free in libvirt's pool {pool}"
        case "missing":
            place = next(place for place in (libvirt.IMAGES, *libvirt.IMAGES.parents) if place.exists())
            free_bytes = shutil.disk_usage(place).free
            text = (
                f"there is no pool {pool} yet; the first machine makes it, where {free_bytes / MIB:,.0f} MiB are free"
            )
        case _:
            return [Finding(what, "gap", libvirt.POOL_DOWN.text, libvirt.POOL_DOWN.remedy)]
    if free_bytes < _LEAST_FREE_BYTES:
        return [Finding(what, "gap", f"{text}: too little for a box and a machine; make room in {libvirt.IMAGES}")]
    return [Finding(what, "good", text)]


def _leftovers() -> list[Finding]:
    """Find domains and volumes of this checkout whose machine is dead or gone."""
    what, mark = "VM leftovers", f"picolab_{state_mark(machines_dir())}_"
    # Twice: one that is taken down, or made, while libvirt is asked is in one of the two alone.
    before = _machines()
    domains, volumes = libvirt.all_domains(), libvirt.volumes()
    machines = [*before, *_machines()]
    findings = []
    for name in sorted({*domains, *volumes}):
        of = [machine for machine in machines if machine.names.fullmatch(name)]
        if not name.startswith(mark) or any(machine.is_well for machine in of):
            continue
        kind = "domain" if name in domains else "volume"
        if of:
            text, remedy = f"a {kind} of a machine without a keeper: {name}", of[0].remedy
        elif kind == "domain":
            text = f"a domain of no machine: {name}"
            remedy = f"{_VIRSH} destroy {name}; {_VIRSH} undefine {name} --remove-all-storage --snapshots-metadata"
        elif name.removesuffix(".img") in domains:
            # Goes with its domain.
            continue
        else:
            text = f"a volume of no machine: {name}"
            remedy = f"{_VIRSH} vol-delete --pool {libvirt.POOL} {name}"
        findings.append(Finding(what, "gap", text, remedy))
    return findings or [Finding(what, "good", "none")]


@dataclass(frozen=True)
class _Machine:
    """A machine of this checkout, as its folder says.

    Attributes:
        names: of its domain and volumes.
        is_well: somebody looks after it.
        remedy: what removes it, where nobody does.
    """

    names: re.Pattern[str]
    is_well: bool
    remedy: str


def _machines() -> list[_Machine]:
    found = []
    for folder in machine_folders():
        prefix = (spec_of(folder) or {}).get("prefix")
        if prefix:
            # The list removes what nobody has kept.
            remedy = "list" if removal.is_abandoned(folder) else f"remove {shlex.quote(folder.name)}"
            is_well = keeper_of(folder) is not None or _is_held(folder)
            found.append(_Machine(libvirt.own_names(prefix), is_well, f"picolab machines {remedy}"))
    return found


def _is_held(folder: Path) -> bool:
    with contextlib.suppress(LookupError, TypeError, ValueError):
        return ProcessIdentity.from_json((spec_of(folder) or {})["holder"]).alive
    return False


def box() -> list[Finding]:
    """Look at picolab's own box, at libvirt's copy of it, and at what it takes to build it."""
    # Imported here, as above.
    from picolab.machines.vagrant import box as builder

    what, name = "box", boxes.PICOLAB_BOX
    try:
        box_tools.check_architecture()
        missing = " ".join(box_tools.missing_packages())
        cannot = f"; to build it, install {missing}: the command is above" if missing else ""
    except HostUnfit as error:
        cannot = f"; {error}"
    build = "" if cannot else "picolab box build"
    installed = boxes.installed_box(name)
    if installed is None:
        text = f"picolab's own is not built, and {boxes.PUBLIC_BOX} would be downloaded instead; {_FOR_VMS}{cannot}"
        return [Finding(what, "gap", text, build)]
    if not builder.is_current(name):
        text = f"{name} was made by another recipe ({installed.recipe}) than this version's {builder.recipe_version()}"
        return [Finding(what, "gap", f"{text}{cannot}", build)]
    text = f"{name}, recipe {installed.recipe}, {installed.size_bytes / MIB:,.0f} MiB"
    image = boxes.box_image(name)
    if image is None or libvirt.diagnose(_ASK_LIMIT_S) is not None:
        return [Finding(what, "good", text)]
    if libvirt.base_volume_is_truncated(name, image):
        volume = boxes.base_volume(name)
        broken = f"libvirt's copy of {name} is truncated: no machine made of it boots; the next new machine removes it"
        return [Finding(what, "gap", broken, f"{_VIRSH} vol-delete --pool {libvirt.POOL} {volume}")]
    return [Finding(what, "good", text)]


CHECKS: tuple[Check, ...] = (
    ("virtual machines", tools),
    ("KVM", kvm),
    ("libvirt", host_of_machines),
    ("box", box),
)
