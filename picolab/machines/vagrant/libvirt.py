"""libvirt by its own program virsh: what there is of virtual machines, disks and networks, and what can be fixed.

Everything here is bounded in time. A machine's domain and volumes are known by the machine's unique prefix:
vagrant-libvirt calls them `<prefix>default` and `<prefix>default.img`.
"""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from picolab.errors import MachineError
from picolab.host.finding import as_root
from picolab.host.locks import Wait, holders_of, in_words, names_still, try_lock
from picolab.machines.vagrant import boxes, without_systemd

POOL = "default"
NETWORK = "vagrant-libvirt"
"""The network that vagrant-libvirt makes, with DHCP and NAT."""
IMAGES = Path("/var/lib/libvirt/images")
"""Where vagrant-libvirt makes the pool, if there is none."""
_URI = "qemu:///system"
_LIMIT_S = 30.0
_REMOVE_LIMIT_S = 90.0
_FIRST_UP_LIMIT_S = 900.0
_STANDSTILL_S = 3.0
_POLL_S = 0.25
_SETTLE_S = 0.5
_NO_POOL = re.compile(r"pool not found|no storage pool with matching|is not active")
_BETWEEN = "====="
_PREFIX = re.compile(r"[-A-Za-z0-9_.]+_")


class LibvirtError(MachineError):
    """virsh failed; the message holds what it said.

    Attributes:
        said: its stderr alone.
    """

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


def virsh(*words: str, limit_s: float = _LIMIT_S) -> str:
    """Run a command of virsh and return its output.

    Raises:
        LibvirtError: it failed, or did not end within `limit_s` seconds.
    """
    command = ["virsh", "--connect", _URI, *words]
    what = f"virsh {' '.join(words)}"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise LibvirtError("the program virsh is not there; see: picolab doctor") from None
    except subprocess.TimeoutExpired:
        raise LibvirtError(f"{what}: libvirt gave no answer within {limit_s:.0f} s; see: picolab doctor") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.replace("error: ", "").split())
        raise LibvirtError(f"{what}: {said or f'exit code {done.returncode}'}", said)
    return done.stdout


def _rows(table: str) -> list[list[str]]:
    """Return the cells of a table that virsh prints, without its head; cells end with two blanks."""
    return [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()[2:] if line.strip()]


def _fields(text: str) -> dict[str, str]:
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _bytes(field: str) -> int:
    return int(field.split()[0])


# The daemon


@dataclass(frozen=True)
class Problem:
    """Why libvirt cannot be used, and the command that fixes it."""

    text: str
    remedy: str


NETWORK_DOWN = Problem(
    f"libvirt's network {NETWORK} is inactive, so that no machine gets an address",
    f"virsh -c {_URI} net-start {NETWORK}",
)
POOL_DOWN = Problem(
    f"libvirt's pool {POOL} is inactive, so that no machine can be made", f"virsh -c {_URI} pool-start {POOL}"
)


def diagnose(limit_s: float = _LIMIT_S) -> Problem | None:
    """Ask the daemon for a sign of life; return None when all is well."""
    if shutil.which("virsh") is None:
        return Problem("the program virsh is not there", "apt-get install --no-install-recommends libvirt-clients")
    try:
        virsh("list", "--name", limit_s=limit_s)
    except LibvirtError as error:
        if re.search(r"[Pp]ermission denied|authentication|polkit|access denied", error.said):
            return Problem(
                f"this user may not use libvirt ({error.said})",
                "usermod -aG libvirt $USER   (then log in again)",
            )
        return Problem(f"the daemon libvirtd does not answer ({error.said or error})", without_systemd.start_command())
    return None


def problem() -> Problem | None:
    """Return why no machine can be made or booted: the daemon, the network or the pool; None when all is well.

    A network or a pool that is missing is none: vagrant makes it. One that somebody has stopped stays so.
    """
    try:
        # In one call: each costs more than its answer.
        networks, _, pools = virsh(f"net-list --all; echo {_BETWEEN}; pool-list --all").partition(f"{_BETWEEN}\n")
    except LibvirtError:
        found = diagnose()
        if found is None:
            raise
        return Problem(found.text, as_root(found.remedy))
    if _state_in(networks, NETWORK) == "inactive":
        # Vagrant defines one before it starts it, which takes a moment.
        time.sleep(_SETTLE_S)
        if network() == "inactive":
            return NETWORK_DOWN
    return POOL_DOWN if _state_in(pools, POOL) == "inactive" else None


def versions() -> dict[str, str]:
    """Return the versions of libvirt and QEMU as the daemon says, without one that it does not say.

    Raises:
        LibvirtError: it does not answer.
    """
    said = virsh("version")
    patterns = {"libvirt": r"Using library: libvirt (\S+)", "qemu": r"Running hypervisor: QEMU (\S+)"}
    return {what: found[1] for what, pattern in patterns.items() if (found := re.search(pattern, said))}


def network() -> str:
    """Return the state of the machines' network: `active`, `inactive` or `missing` (then vagrant makes it)."""
    return _state_in(virsh("net-list", "--all"), NETWORK)


def _state_in(table: str, name: str) -> str:
    """Return the state of a network or pool in virsh's table of them; `missing` when it is not there."""
    return {row[0]: row[1] for row in _rows(table)}.get(name, "missing")


# Domains


def own_names(prefix: str) -> re.Pattern[str]:
    """Return the pattern of the names of a machine's domain and volumes.

    No more than that: the prefix of a machine `a` is also how the names of a machine `a_b` begin.
    """
    if not _PREFIX.fullmatch(prefix):
        raise MachineError(f"{prefix!r} is no prefix of a machine's names: letters, digits, '-', '.', at its end '_'")
    return re.compile(re.escape(prefix) + r"[^_.]+((_\d+)?\.img)?")


def domains(prefix: str, limit_s: float = _LIMIT_S) -> dict[str, str]:
    """Return the domains of the machine with that prefix and their states: `running`, `shutoff`, `paused`, ..."""
    own = own_names(prefix)
    return {name: state for name, state in all_domains(limit_s).items() if own.fullmatch(name)}


def all_domains(limit_s: float = _LIMIT_S) -> dict[str, str]:
    """Return all domains of this host and their states, whoever's they are."""
    return {name: state.replace(" ", "") for _, name, state in _rows(virsh("list", "--all", limit_s=limit_s))}


def domain_memory(name: str) -> int:
    """Return the bytes of memory that a domain has."""
    kib, unit = _fields(virsh("dominfo", name))["Max memory"].split()
    assert unit == "KiB"
    return int(kib) << 10


def remove_domain(name: str) -> None:
    """Remove a domain with its disks and snapshots, whether it runs or not; nothing happens when there is none."""
    if all_domains().get(name) is None:
        return
    power_off(name)
    with _gone_is_fine("domain"):
        virsh(
            *("undefine", name, "--remove-all-storage", "--snapshots-metadata", "--managed-save", "--nvram"),
            limit_s=_REMOVE_LIMIT_S,
        )


def power_off(name: str) -> None:
    """Cut a domain's power; nothing happens to one that does not run. What the guest has not written yet is lost."""
    if all_domains().get(name, "shutoff") == "shutoff":
        return
    try:
        virsh("destroy", name, limit_s=_REMOVE_LIMIT_S)
    except LibvirtError:
        # It may have ended by itself meanwhile.
        if all_domains().get(name, "shutoff") != "shutoff":
            raise


@contextlib.contextmanager
def _gone_is_fine(what: str) -> Iterator[None]:
    """Take it well when somebody else was faster to remove something."""
    try:
        yield
    except LibvirtError as error:
        if not re.search(rf"failed to get (domain|vol)|no {what} with matching|{what} not found", error.said, re.I):
            raise


# Volumes


def pool_state() -> str:
    """Return `active`, `inactive` or `missing`."""
    return _state_in(virsh("pool-list", "--all"), POOL)


def volumes(pool: str = POOL) -> list[str]:
    """Return the names of all volumes of a pool; none when there is no such pool, or it is not active."""
    try:
        return [row[0] for row in _rows(virsh("vol-list", "--pool", pool))]
    except LibvirtError as error:
        if _NO_POOL.search(error.said):
            return []
        raise


def volume_bytes(name: str) -> int:
    """Return the size of the file behind a volume, as it is at this moment."""
    return _bytes(_fields(virsh("vol-info", "--pool", POOL, name, "--bytes", "--physical"))["Physical"])


def remove_volume(name: str) -> None:
    """Remove a volume with what is in it; nothing happens when there is none."""
    with _gone_is_fine("storage vol"):
        virsh("vol-delete", "--pool", POOL, name, limit_s=_REMOVE_LIMIT_S)


def pool_free_bytes() -> int | None:
    """Return what the disks of machines may still take; None when there is no pool yet, or it is not active."""
    try:
        found = _fields(virsh("pool-info", "--bytes", POOL))
    except LibvirtError as error:
        if _NO_POOL.search(error.said):
            return None
        raise
    if "Available" not in found:
        return None
    free_bytes = _bytes(found["Available"])
    path = ElementTree.fromstring(virsh("pool-dumpxml", POOL)).findtext("target/path")
    with contextlib.suppress(OSError):
        # libvirt counts what the file system keeps for others, too.
        free_bytes = min(free_bytes, shutil.disk_usage(path or IMAGES).free)
    return free_bytes


def leftovers(prefix: str) -> list[str]:
    """Return the volumes of the machine with that prefix that no domain of it uses."""
    own, disks = own_names(prefix), domains(prefix)
    return [
        name
        for name in volumes()
        if own.fullmatch(name) and not any(re.fullmatch(rf"{re.escape(disk)}(_\d+)?\.img", name) for disk in disks)
    ]


# Base volumes: libvirt's copies of boxes


def base_volume(box: str) -> str | None:
    """Return the name of libvirt's copy of the installed box, if there is such a copy."""
    name = boxes.base_volume(box)
    return name if name in volumes() else None


def base_volume_is_truncated(box: str, image: Path) -> bool:
    """Return whether libvirt's copy of a box ends too early: whoever copied it was killed.

    Args:
        image: the image in the box. The copy is never written to, so its file has the same size forever.
    """
    name = base_volume(box)
    return name is not None and volume_bytes(name) < image.stat().st_size


def _users_of(base: str) -> list[str]:
    """Return the volumes that are differences to a base volume."""
    path = virsh("vol-path", "--pool", POOL, base).strip()
    users = []
    for name in volumes():
        with _gone_is_fine("storage vol"):
            xml = ElementTree.fromstring(virsh("vol-dumpxml", "--pool", POOL, name))
            if xml.findtext("backingStore/path") == path:
                users.append(name)
    return users


def _stands_still(name: str) -> bool:
    """Return whether nobody is copying into a volume at this moment."""
    before = volume_bytes(name)
    deadline = time.monotonic() + _STANDSTILL_S
    while time.monotonic() < deadline:
        # To see whether it grows there is nothing but to look again later.
        time.sleep(_POLL_S)
        if volume_bytes(name) != before:
            return False
    return True


# Stale state


def fix_stale(prefix: str, box: str, image: Path | None, dotfile_folder: Path) -> list[str]:
    """Remove what would make the machine's `up` fail, or hang, and is provably ours; return a sentence for each.

    Call it within `first_up_lock`, when the machine is to be created.

    Args:
        prefix: of the machine, unique on this host.
        image: the image in the box; None when the box is not here yet.
        dotfile_folder: where vagrant notes which domain is its own.

    Raises:
        MachineError: a truncated base volume is used by machines that are not this one, or something failed.
    """
    fixed = []
    known = _ids_in(dotfile_folder)
    for name, state in domains(prefix).items():
        if virsh("domuuid", name).strip() not in known:
            remove_domain(name)
            fixed.append(f"removed the domain {name} ({state}): vagrant's notes of it were lost")
    for name in leftovers(prefix):
        remove_volume(name)
        fixed.append(f"removed the volume {name}: its domain was gone")
    if image is not None and base_volume_is_truncated(box, image):
        fixed += _fix_base_volume(box, image)
    return fixed


def _ids_in(dotfile_folder: Path) -> set[str]:
    """Return the domains that vagrant takes for its own."""
    return {path.read_text().strip() for path in dotfile_folder.glob("machines/*/libvirt/id")}


def _fix_base_volume(box: str, image: Path) -> list[str]:
    name = base_volume(box)
    deadline = time.monotonic() + _FIRST_UP_LIMIT_S
    while name is not None and base_volume_is_truncated(box, image) and not _stands_still(name):
        # Somebody copies it by hand, without our lock.
        if time.monotonic() > deadline:
            raise MachineError(
                f"the copy of the box {box!r} in libvirt's pool, {name}, is not finished; try again later"
            )
        name = base_volume(box)
    if name is None or not base_volume_is_truncated(box, image):
        return []
    size = volume_bytes(name)
    extent = f"{size} of {image.stat().st_size} bytes"
    users = _users_of(name)
    if users:
        raise MachineError(
            f"the base volume {name} is truncated ({extent}), so that no machine made of it boots, but still used "
            f"by {', '.join(users)}: take these machines down (picolab machines list, virsh list --all), then: "
            f"virsh vol-delete --pool {POOL} {name}"
        )
    remove_volume(name)
    return [f"removed the base volume {name}, which was truncated ({extent}): whoever made it was killed"]


@contextlib.contextmanager
def first_up_lock(box: str, report: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock of this user's while a machine is made whose box libvirt has not copied yet.

    Two such at the same time, or one that is killed, leave a truncated copy behind that the next one silently uses.
    Where the copy is whole, or as soon as it is, machines are made side by side. The kernel frees the lock of a dead
    process.

    Args:
        report: gets a line while somebody else has it: who that is, and for how long it is waited for at most.

    Raises:
        MachineError: somebody else has held it for too long; or the copy is not whole afterwards.
    """
    path = first_up_lock_file(box)
    path.parent.mkdir(parents=True, exist_ok=True)
    wait = Wait(_FIRST_UP_LIMIT_S, report)
    while not _base_volume_is_whole(box):
        with path.open("a") as lock:
            if try_lock(lock) and names_still(path, lock):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                _check_copy(box)
                return
        if wait.is_over:
            raise MachineError(
                f"{in_words(holders_of([path]))} has been making the first machine of the box {box!r} for "
                f"{wait.limit_s:.0f} s; end it, then try again ({path})"
            )
        wait.show(lambda: in_words(holders_of([path])), f"it makes the first machine of the box {box!r}")
        time.sleep(_POLL_S)
    yield


def first_up_lock_file(box: str) -> Path:
    """Return the file that `first_up_lock` locks; `*` for a pattern of all of them."""
    return boxes.vagrant_home() / f"picolab-first-up-{box.replace('/', '-')}.lock"


def _check_copy(box: str) -> None:
    """Raise MachineError if libvirt's copy of a box is truncated."""
    image = boxes.box_image(box)
    if image is not None and base_volume_is_truncated(box, image):
        raise MachineError(
            f"libvirt's copy of the box {box!r} is not whole although vagrant said nothing; "
            f"look for free space with: picolab doctor"
        )


def _base_volume_is_whole(box: str) -> bool:
    image = boxes.box_image(box)
    return image is not None and base_volume(box) is not None and not base_volume_is_truncated(box, image)
