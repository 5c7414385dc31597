"""Saved states of a running virtual machine: its memory and its disk at one moment, kept in its own disk image.

They are internal snapshots of QEMU, made and loaded through libvirt. A machine that goes back to one of the same memory
size keeps its QEMU process, and so its network port: nothing is booted and nothing is negotiated anew. `vagrant
snapshot` starts Ruby and another QEMU process for the same, and waits until ssh answers.
"""

from picolab.errors import MachineError
from picolab.machines.vagrant import libvirt

_LIMIT_S = 180.0


def _domain(prefix: str) -> str:
    """Return the domain of a machine.

    Raises:
        MachineError: it has none.
    """
    for name in libvirt.domains(prefix):
        return name
    raise MachineError(f"the virtual machine {prefix}default does not exist any more")


def save(prefix: str, name: str) -> None:
    """Save the running machine with this prefix under a name. It pauses meanwhile, for about a second.

    Raises:
        MachineError: libvirt failed.
    """
    libvirt.virsh("snapshot-create-as", _domain(prefix), name, "--atomic", limit_s=_LIMIT_S)


def load(prefix: str, name: str) -> None:
    """Have the running machine with this prefix run as it was when it was saved.

    QEMU loads a state of its own memory size into the running process, in 0.2 s for a guest of 256 MiB. libvirt's
    command starts another process for it, which takes ten times as long, and is needed for another size.

    Raises:
        MachineError: there is no such saved state, or libvirt failed.
    """
    domain = _domain(prefix)
    # The human monitor prints an error and succeeds; it prints nothing when it loaded the state.
    if libvirt.virsh("qemu-monitor-command", domain, "--hmp", f"loadvm {name}", limit_s=_LIMIT_S).strip():
        libvirt.virsh("snapshot-revert", domain, name, "--running", "--force", limit_s=_LIMIT_S)
