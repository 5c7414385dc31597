"""One machine's domain and disks in libvirt, or its VM in VirtualBox: named, asked, destroyed."""

import contextlib
from pathlib import Path
from typing import Any

from picolab.errors import MachineError
from picolab.host.processes import ProcessIdentity
from picolab.machines.folders import machines_dir, state_mark
from picolab.machines.vagrant import libvirt, network
from picolab.machines.vagrant.command import VagrantCommand
from picolab.machines.vagrant.state import State


def domain_prefix(name: str) -> str:
    """Return with what the names of a machine's domain and volumes begin: nobody else's begin so."""
    return f"picolab_{state_mark(machines_dir())}_{name}_"


def command_of(folder: Path, spec: dict[str, Any]) -> VagrantCommand:
    """Return Vagrant, set up for one machine."""
    environment = {
        "PICOLAB_BOX": spec["box"],
        "PICOLAB_RAM_MB": str(spec["ram_mb"]),
        "PICOLAB_CPUS": str(spec["cpus"]),
        "PICOLAB_PREFIX": spec["prefix"],
        "PICOLAB_DRIVER": "kvm" if spec["acceleration"] == "kvm" else "qemu",
        "VAGRANT_DEFAULT_PROVIDER": spec["provider"],
    }
    return VagrantCommand(folder, environment)


def domain_state(folder: Path, spec: dict[str, Any]) -> str:
    """Return `running`, `not_created` or another word for a machine that exists and does not run."""
    if spec["provider"] != "libvirt":
        return command_of(folder, spec).status()
    return next(iter(libvirt.domains(spec["prefix"]).values()), "not_created")


def boot(spec: dict[str, Any]) -> None:
    """Cut the power of a machine of libvirt's if it runs, and start it with the RAM and processors of its description.

    Without Vagrant, which needs longer for this than the guest for its boot. It is not waited for.

    Raises:
        MachineError: libvirt failed.
    """
    with network.in_use():
        _boot(spec)


def _boot(spec: dict[str, Any]) -> None:
    for name in libvirt.domains(spec["prefix"]):
        libvirt.power_off(name)
        for words in (
            ("setmaxmem", name, f"{spec['ram_mb']}MiB"),
            ("setmem", name, f"{spec['ram_mb']}MiB"),
            ("setvcpus", name, str(spec["cpus"]), "--maximum"),
            ("setvcpus", name, str(spec["cpus"])),
        ):
            libvirt.virsh(*words, "--config")
        try:
            libvirt.virsh("start", name)
        except libvirt.LibvirtError:
            # The network can be gone since the power was cut.
            network.make()
            libvirt.virsh("start", name)


def destroy(folder: Path, spec: dict[str, Any]) -> None:
    """Remove a machine's domain and disks, and nothing that other machines use.

    Raises:
        MachineError: something of it could not be removed.
    """
    for note in (folder / "vagrant").glob("machines/*/libvirt/created_networks"):
        # Vagrant removes the networks in it, whoever needs them next.
        note.unlink(missing_ok=True)
    try:
        command_of(folder, spec).destroy()
    except (MachineError, OSError):
        # Whatever Vagrant has against it, or a full disk against Vagrant: what has our own prefix is ours.
        if spec["provider"] != "libvirt":
            raise
    if spec["provider"] == "libvirt":
        for domain in libvirt.domains(spec["prefix"]):
            libvirt.remove_domain(domain)
        for volume in libvirt.leftovers(spec["prefix"]):
            libvirt.remove_volume(volume)


def emulators(prefix: str) -> frozenset[int]:
    """Return the QEMU processes of the machine with that prefix."""
    own, found = libvirt.own_names(prefix), set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "comm").read_bytes().startswith(b"qemu"):
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                guests = [word.removeprefix("guest=").partition(",")[0] for word in words if word.startswith("guest=")]
                if any(own.fullmatch(guest) for guest in guests):
                    found.add(int(folder.name))
    return frozenset(found)


def software(state: State) -> dict[str, str]:
    """Return the versions of the programs that run a machine, by name, as they were at its boot; call it after each.

    They are kept as long as the QEMU process lives, which no upgrade changes. With a version that is not known at the
    moment, or without such a process, they are read again at the next call.
    """
    identities = map(ProcessIdentity.of, sorted(emulators(state["prefix"])))
    processes = [identity.to_json() for identity in identities if identity is not None]
    if processes and state.get("software_of") == processes:
        return dict(state["software"])
    found = command_of(state.folder, state).versions()
    if state["provider"] == "libvirt":
        found |= {"libvirt": "unknown", "qemu": "unknown"}
        with contextlib.suppress(libvirt.LibvirtError):
            found |= libvirt.versions()
    if processes and "unknown" not in found.values():
        state.write(software=found, software_of=processes)
    return found
