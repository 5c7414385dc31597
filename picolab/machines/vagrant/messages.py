"""Error messages of vagrant and libvirt, and their meaning in picolab's words."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Trouble:
    """A message of vagrant's that picolab knows.

    Attributes:
        name: one word or two for it.
        cause: what is wrong, in our words.
        remedy: what to do; `{machine}` stands for the machine's name, as in `cause` `{box}` for that of its box.
        passes: it goes away by itself, so that the same command is tried again.
    """

    name: str
    cause: str
    remedy: str
    passes: bool = False


NO_ROOM = r"No space left on device|[Nn]ot enough space|[Ii]nsufficient space|[Dd]isk quota exceeded"
"""How Vagrant, libvirt and QEMU say that a disk of this host is full. None of them says which."""
MAYBE_NO_ROOM = rf"{NO_ROOM}|Error while writing VM state"
"""The same, and what QEMU calls an input/output error when a state of a guest finds no room."""
_DOCTOR = "picolab doctor names what is missing"
_TAKE_AWAY = "take it away with: picolab machines remove {machine}"

NOT_INSTALLED = Trouble("not installed", "the program vagrant is not there", _DOCTOR)
TIME_LIMIT = Trouble("time limit", "vagrant did not end in time and was ended", "this host may be too busy; try again")
BOOT_LIMIT = Trouble(
    "boot limit",
    "the machine did not boot within boot_limit_s = {limit_s:g} s ({cause})",
    "set boot_limit_s to more: under emulation a boot takes 20 to 40 s, and longer on a busy host; picolab doctor "
    "checks KVM, network and base volume",
)
"""Stands around the cause of a boot that was ended at its limit."""
START_LIMIT = Trouble(
    "start limit",
    "the machine did not boot within {limit_s:g} s ({cause})",
    "try again when this host is less busy; picolab doctor checks KVM and network; or take the machine away with: "
    "picolab machines remove {machine}",
)
"""The same for a boot whose limit the user cannot set."""
NO_ADDRESS = Trouble(
    "no address",
    "the guest has got no IP address in time",
    "a slow host needs a larger boot_limit_s; picolab doctor checks network and base volume",
)
NO_SSH = Trouble(
    "no ssh",
    "the guest has not answered to ssh in time",
    "a slow host needs a larger boot_limit_s, and very little RAM makes a boot slow",
)
BUSY = Trouble("busy", "another call of vagrant for this machine is not over", "wait for it, or interrupt it")
UNKNOWN = Trouble("unknown", "vagrant failed", "")

_KNOWN: tuple[tuple[str, Trouble], ...] = (
    (
        r"because it is locked",
        Trouble("index lock", "another vagrant is reading this machine", "try again when it has ended", passes=True),
    ),
    (
        r"another process is already executing an action",
        Trouble("action lock", "another vagrant is working on this machine", "wait for it, or end it", passes=True),
    ),
    (
        r"lock is being held by another instance of Vagrant",
        Trouble("vagrant lock", "another vagrant holds a lock of this user's", "wait for it, or end it", passes=True),
    ),
    (
        r"of domain about to create is already taken",
        Trouble("name taken", "libvirt still has a virtual machine of this name, whose state was lost", _TAKE_AWAY),
    ),
    (
        r"Volume for domain is already created",
        Trouble("volume exists", "libvirt still has the disk of a virtual machine of this name", _TAKE_AWAY),
    ),
    (
        r"could not be accessed in the remote catalog|The box '.*' does not exist|Box '.*' could not be found"
        r"|error occurred while downloading the remote file|error while downloading the metadata for this box",
        Trouble(
            "no box",
            "the box {box!r} is not here, and no catalogue that can be reached has it",
            "make picolab's own with: picolab box build",
        ),
    ),
    (
        r"doesn't support the provider|doesn't match the provider",
        Trouble("other provider", "the box is not made for this provider", "choose another box or provider"),
    ),
    (
        r"provider '.*' could not be found|No usable default provider|plugins? .*not (currently )?installed",
        Trouble("no provider", "vagrant has no plugin for this provider", _DOCTOR),
    ),
    (
        r"isn't usable on this system",
        Trouble("provider unusable", "vagrant cannot use this provider on this host", _DOCTOR),
    ),
    (
        r"authentication unavailable|polkit|[Pp]ermission denied.*libvirt-sock|libvirt-sock.*[Pp]ermission denied",
        Trouble(
            "no permission",
            "this user may not use libvirt",
            "join its group with: sudo usermod -aG libvirt $USER   (then log in again)",
        ),
    ),
    (
        r"[Ee]rror while connecting to [Ll]ibvirt|virConnectOpen|Failed to connect socket to .*libvirt",
        Trouble("no libvirt", "the daemon libvirtd does not answer", _DOCTOR),
    ),
    (
        r"KVM kernel module|failed to initialize kvm|[Kk]vm.*(not available|permission denied)"
        r"|virt(ualization)? type.*kvm|emulator does not support.*kvm",
        Trouble("no KVM", "KVM cannot be used on this host", _DOCTOR),
    ),
    (
        NO_ROOM,
        Trouble("disk full", "a disk of this host is full", "free some space"),
    ),
    (
        r"[Cc]annot (set up guest|allocate) memory",
        Trouble("host memory", "the host has too little free memory for this machine", "end other programs"),
    ),
    (
        r"Network .*is not available|[Ee]rror (while|occurred while) .*network|no network with matching name"
        r"|network '.*' is not active|[Nn]etwork not found",
        Trouble("no network", "libvirt's network for the machine cannot be used", _DOCTOR),
    ),
    (
        r"[Nn]o usable storage pool|[Ss]torage pool not found|storage pool '.*' is not active|creating Libvirt storage",
        Trouble("no pool", "libvirt's storage pool cannot be used", _DOCTOR),
    ),
    (
        r"uploading image to storage pool",
        Trouble("upload failed", "the box could not be copied into libvirt's storage pool", "try again; " + _DOCTOR),
    ),
    (
        r"snapshot name .* was not found|Snapshot not found|no domain snapshot with matching",
        Trouble("no snapshot", "the machine has no such snapshot (any more)", _TAKE_AWAY),
    ),
    (
        r"Cannot (create|revert|list) snapshot|virDomain(Snapshot|Revert)\w* failed|Error while deleting snapshot",
        Trouble("snapshot failed", "libvirt could not work with the machine's snapshots", _TAKE_AWAY),
    ),
    (r"No IP address found|wait_for timeout", NO_ADDRESS),
    (r"Timed out while waiting for the machine to boot|timed out while attempting to connect via SSH", NO_SSH),
    (
        r"SSH authentication failed",
        Trouble(
            "ssh key", "the guest does not take vagrant's ssh key", "choose a box with the user vagrant and its key"
        ),
    ),
    (
        r"not yet ready for SSH",
        Trouble("not up", "the machine is not up", "run the provision cell, or picolab trial, again"),
    ),
    (
        r"must be created before running|Domain is not created|No domain found|Domain not found",
        Trouble("not created", "the virtual machine is not there (any more)", _TAKE_AWAY),
    ),
    (
        r"error loading a Vagrantfile|syntax error in the following Vagrantfile|Vagrant environment or target machine",
        Trouble(
            "Vagrantfile",
            "the Vagrantfile cannot be used",
            "delete it and run `picolab init` in the project (in a checkout: git checkout -- Vagrantfile)",
        ),
    ),
)


def translate(said: str, *, ended: bool = False) -> Trouble:
    """Return what vagrant's output means.

    Args:
        said: all that it printed.
        ended: it was ended at its time limit, so that there is no message, and how far it came is the best hint.
    """
    for pattern, trouble in _KNOWN:
        if re.search(pattern, said):
            return trouble
    if ended:
        steps = {said.rfind("to get an IP address"): NO_ADDRESS, said.rfind("Waiting for SSH"): NO_SSH, -1: TIME_LIMIT}
        return steps[max(steps)]
    return UNKNOWN
