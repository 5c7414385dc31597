"""Is KVM really usable: a tiny guest is booted under it, because a /dev/kvm that opens promises nothing.

Inside of some virtual machines and containers /dev/kvm opens, and guests hang or die all the same.
"""

import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from picolab.agent.procfs import boot_id
from picolab.config.project import state_dir
from picolab.errors import ParameterError
from picolab.files.writing import write_atomically
from picolab.machines.vagrant.boxes import PICOLAB_BOX, installed_boxes

Kind = Literal["kvm", "emulation"]

MARKER = "picolab: user space reached"
"""What the box's initrd prints when the kernel's command line holds `PROVE`."""
PROVE = "picolab_prove"
PROOF_LIMIT_S = 8.0
"""Under KVM the proof takes less than a second; under emulation two to three."""
GUEST_MIB = 128

_DEVICE = Path("/dev/kvm")
_QEMU = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm")
_DRIVERS: dict[str, Kind] = {"kvm": "kvm", "qemu": "emulation"}


@dataclass(frozen=True)
class Acceleration:
    """How a virtual machine's processor is made: by the host's own, or by a program that emulates one.

    Attributes:
        reason: one sentence without a full stop.
    """

    kind: Kind
    reason: str

    @property
    def driver(self) -> str:
        """The word for it in `PICOLAB_DRIVER` and in libvirt."""
        return "kvm" if self.kind == "kvm" else "qemu"


def acceleration() -> Acceleration:
    """Return whether machines on this host can use KVM, and how that is known.

    `PICOLAB_DRIVER` wins; then what a guest proves, once a boot of the host; without picolab's box, and so without a
    guest to try, /dev/kvm is believed. Takes up to `PROOF_LIMIT_S`; no root is needed.

    Raises:
        ParameterError: PICOLAB_DRIVER is something else than kvm or qemu.
    """
    wanted = os.environ.get("PICOLAB_DRIVER", "")
    if wanted:
        if wanted not in _DRIVERS:
            raise ParameterError(f"PICOLAB_DRIVER is {wanted!r}, but can only be kvm or qemu")
        return Acceleration(_DRIVERS[wanted], f"PICOLAB_DRIVER={wanted} says so")
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Acceleration("emulation", f"{_DEVICE} cannot be opened ({error.strerror})")
    guest, qemu = guest_to_try(), _qemu()
    if guest is None:
        return Acceleration("kvm", f"{_DEVICE} can be opened; no guest was tried: picolab's own box is not built")
    if qemu is None:
        return Acceleration("kvm", f"{_DEVICE} can be opened; no guest was tried: there is no {_QEMU[0]}")
    return _once(guest, qemu)


def guest_to_try() -> tuple[Path, Path] | None:
    """Return kernel and initrd of a box that picolab has built; None when there is none."""
    own = [box for box in installed_boxes() if box.recipe is not None]
    for box in sorted(own, key=lambda box: box.name != PICOLAB_BOX):
        kernel, initrd = box.folder / "vmlinuz", box.folder / "initrd"
        if kernel.is_file() and initrd.is_file():
            return kernel, initrd
    return None


def prove(kernel: Path, initrd: Path, command: list[str], limit_s: float = PROOF_LIMIT_S) -> str | None:
    """Boot a guest until it reaches user space; return None when it does, else why not.

    Args:
        command: qemu and its options for the processor.
    """
    guest = [
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", str(GUEST_MIB)),
        *("-serial", "stdio", "-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", f"console=ttyS0 quiet panic=-1 {PROVE}"),
    ]
    with subprocess.Popen(
        [*command, *guest],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return f"it was not in user space after {limit_s:.0f} s"
        finally:
            # Whatever happened here, Ctrl-C too: a guest that hangs takes a whole processor.
            process.kill()
    if MARKER in said:
        return None
    last = (said.strip().splitlines() or ["nothing"])[-1].strip()
    return f"qemu ended with {process.returncode} and said: {last}"


def _qemu() -> str | None:
    return next((path for name in _QEMU if (path := shutil.which(name))), None)


def _once(guest: tuple[Path, Path], qemu: str) -> Acceleration:
    """Return the proof of this boot of the host for this guest, from the state folder, if there is one."""
    cache = state_dir() / "acceleration.json"
    tried = [boot_id(), qemu, *(f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}" for path in guest)]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(cache.read_text())
        if known["tried"] == tried and known["found"]["kind"] in _DRIVERS.values():
            return Acceleration(**known["found"])
    # As libvirt does it with cpu_mode host-passthrough.
    why_not = prove(*guest, [qemu, "-accel", "kvm", "-cpu", "host"])
    if why_not is None:
        found = Acceleration("kvm", f"a guest has reached user space under {_DEVICE}")
    else:
        found = Acceleration("emulation", f"{_DEVICE} can be opened, but a guest does not run under it: {why_not}")
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(cache, json.dumps({"tried": tried, "found": asdict(found)}))
    return found
