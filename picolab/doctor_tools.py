"""What the doctor looks at around picolab: the Jupyter kernel, notebooks, machines, tools for virtual machines."""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from picolab.finding import Finding, as_root
from picolab.machines import folders, registry
from picolab.machines.cgroup import v1_parent, v2_parent
from picolab.machines.folders import KEEPER, SPEC
from picolab.paths import project_root, state_dir
from picolab.processes import ProcessIdentity

_LATER = "needed only for machine: vagrant, which this version does not have yet"
_DEBIAN_GEMS = Path("/usr/share/rubygems-integration")


def jupyter_kernel() -> list[Finding]:
    """Tell whether the kernel `python3` is picolab's own interpreter."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    what, mend = "Jupyter kernel", f"{sys.executable} -m ipykernel install --sys-prefix"
    try:
        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return [Finding(what, "bad", "there is no kernel `python3`, so no notebook can run", mend, blocks=True)]
    # jupyter_client starts its own interpreter for these names.
    own = {"python", f"python{sys.version_info[0]}", f"python{sys.version_info[0]}.{sys.version_info[1]}"}
    if program in own or Path(program) == Path(sys.executable):
        return [Finding(what, "good", f"python3 is {sys.executable}")]
    text = f"python3 is {program}, another interpreter than picolab's {sys.executable}: notebooks may lack packages"
    return [Finding(what, "bad", text, mend)]


def notebooks() -> list[Finding]:
    """Tell whether the notebooks are there and whole."""
    what, folder = "notebooks", Path(__file__).resolve().parent.parent / "notebooks"
    for name in ("trial.ipynb", "analysis.ipynb"):
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))["cells"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            mend = f"git -C {folder.parent} checkout -- notebooks/{name}"
            text = f"{folder / name} cannot be used ({type(error).__name__}: {error})"
            return [Finding(what, "bad", text, mend, blocks=True)]
    return [Finding(what, "good", f"trial.ipynb and analysis.ipynb are in {project_root() / 'notebooks'}")]


def machines() -> list[Finding]:
    """List the machines that are up."""
    findings = []
    for machine in registry.existing():
        text = f"{machine['name']!r} ({machine['ram_mb']} MiB) is up, held by {machine['holder']}"
        if machine["held"]:
            findings.append(Finding("machine", "good", text))
        else:
            findings.append(Finding("machine", "gap", text, f"picolab machines remove {machine['name']}"))
    return findings or [Finding("machines", "good", "none is up")]


def leftovers() -> list[Finding]:
    """Report what dead keepers have left: state, work folders, cgroups."""
    machines, work = folders.machines_dir(), state_dir() / "work"
    mark = folders.state_mark(machines)
    # Before the machines are read: one that is being made meanwhile writes its names down first.
    work_folders = sorted(work.glob(f"picolab-*-{mark}"))
    cgroups = sorted(
        path for parent in (v1_parent(), v2_parent()) if parent for path in parent.glob(f"picolab-*-{mark}")
    )
    machine_folders = sorted(folder for folder in machines.glob("*") if folder.is_dir())
    known = {path for folder in machine_folders for path in _places_of(folder)}
    findings = []
    dead = [folder.name for folder in machine_folders if not _keeper_alive(folder)]
    if dead:
        text = f"machines without a keeper: {', '.join(dead)}"
        findings.append(Finding("leftovers", "gap", text, "picolab machines list"))
    for path in work_folders:
        if path not in known:
            findings.append(Finding("leftovers", "gap", f"a work folder of no machine: {path}", f"rm -r {path}"))
    for path in cgroups:
        if path not in known:
            findings.append(Finding("leftovers", "gap", f"a cgroup of no machine: {path}", f"rmdir {path}"))
    return findings or [Finding("leftovers", "good", "none")]


def _json_of(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _places_of(folder: Path) -> list[Path]:
    """Return the work folder and the cgroup of a machine."""
    places = (_json_of(folder / SPEC).get("work"), _json_of(folder / KEEPER).get("cgroup"))
    return [Path(place) for place in places if place]


def _keeper_alive(folder: Path) -> bool:
    keeper = _json_of(folder / KEEPER).get("process")
    return keeper is not None and ProcessIdentity.from_json(keeper).alive


def kvm() -> list[Finding]:
    """Tell whether virtual machines could be fast."""
    device = Path("/dev/kvm")
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        flags = Path("/proc/cpuinfo").read_text(errors="replace")
        module = "kvm_intel" if " vmx" in flags else "kvm_amd" if " svm" in flags else ""
        why = "there is no /dev/kvm" + ("" if module else ", and the processor shows no virtualisation")
        return [Finding("KVM", "gap", f"{why}; {_LATER}", as_root(f"modprobe {module}") if module else "")]
    except OSError as error:
        text = f"/dev/kvm cannot be opened ({error.strerror}); {_LATER}"
        return [Finding("KVM", "gap", text, "sudo usermod -aG kvm $USER   (then log in again)")]
    return [Finding("KVM", "good", f"/dev/kvm can be opened; {_LATER}")]


def vm_tools() -> list[Finding]:
    """Look for programs and files alone: asking `vagrant` itself takes seconds."""
    what = "virtual machines"
    architecture = os.uname().machine
    tools = {
        "vagrant": ("vagrant", shutil.which("vagrant") is not None),
        "vagrant-libvirt": ("vagrant-libvirt", _has_vagrant_libvirt()),
        "libvirt": ("libvirt-daemon-system libvirt-clients", shutil.which("virsh") is not None),
        "qemu": (
            "qemu-system-x86 qemu-utils" if architecture == "x86_64" else "qemu-system-arm qemu-utils",
            shutil.which(f"qemu-system-{architecture}") is not None and shutil.which("qemu-img") is not None,
        ),
    }
    missing = [name for name, (_, there) in tools.items() if not there]
    if not missing:
        return [Finding(what, "good", f"{', '.join(tools)} are there; {_LATER}")]
    packages = " ".join(tools[name][0] for name in missing)
    remedy = as_root(f"apt-get install --no-install-recommends {packages}") if shutil.which("apt-get") else ""
    return [Finding(what, "gap", f"not there: {', '.join(missing)}; {_LATER}", remedy)]


def _has_vagrant_libvirt() -> bool:
    home = Path(os.environ.get("VAGRANT_HOME") or Path.home() / ".vagrant.d")
    with contextlib.suppress(OSError, ValueError):
        if "vagrant-libvirt" in json.loads((home / "plugins.json").read_text())["installed"]:
            return True
    return any(_DEBIAN_GEMS.glob("*/gems/vagrant-libvirt-*"))
