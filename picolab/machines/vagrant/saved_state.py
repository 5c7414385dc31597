"""Saved states of a running virtual machine: its memory and its disk at one moment, kept in its own disk image.

They are internal snapshots of QEMU, made and loaded through libvirt. A machine that goes back to one of the same memory
size keeps its QEMU process, and so its network port: nothing is booted and nothing is negotiated anew. `vagrant
snapshot` starts Ruby and another QEMU process for the same, and waits until ssh answers.

Each is noted in `machine.json` with the conditions it was saved under: box, RAM, processors, driver, versions. One that
was saved under other conditions than the present ones is removed and never restored.
"""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import picolab
from picolab.errors import MachineError
from picolab.machines.folders import exclusive_now, machine_folders, spec_of
from picolab.machines.vagrant import boxes, libvirt, network
from picolab.machines.vagrant.domain import command_of, domain_state
from picolab.machines.vagrant.state import State

SAVED_STATES_LIMIT_MB = 8192
"""MiB of RAM that the saved states of one machine hold together. On the disk a state takes no more than its RAM."""
NOTES = "saved_states"
"""The key in `machine.json`: a list, the oldest first, of {name, ram_mb, cpus, conditions}."""
_LIMIT_S = 180.0
_IS_GONE = re.compile(r"[Dd]omain snapshot not found|no domain snapshot with matching", re.I)


def name_of(ram_mb: int, cpus: int) -> str:
    """Return the name of the saved state of a machine with that RAM and that many processors."""
    return f"fresh-{ram_mb}mb-{cpus}cpu"


def image_of(box: str, provider: str) -> str:
    """Return a text that differs when the installed box is another one, even under the same name and version."""
    copy = boxes.base_volume(box) if provider == "libvirt" else None
    found = None if copy else boxes.installed_box(box, provider)
    return copy or (f"{box} {found.recipe or found.version}" if found else box)


def conditions(spec: dict[str, Any], made_from: str) -> dict[str, str]:
    """Return all that a saved state of a machine depends on, besides its RAM and processors, in words for messages.

    Args:
        spec: the machine's description.
        made_from: the image that its disk is a difference to, as `image_of` names it.

    Raises:
        LibvirtError: libvirt does not answer.
    """
    versions = libvirt.versions() if spec["provider"] == "libvirt" else {}
    return {
        "box": made_from,
        "provider": spec["provider"],
        "acceleration": spec["acceleration"],
        "QEMU": versions.get("qemu", "unknown"),
        "libvirt": versions.get("libvirt", "unknown"),
        "agent": spec["agent"],
        "picolab": picolab.__version__,
    }


def removed_for(saved: Sequence[tuple[str, int]], ram_mb: int) -> list[str]:
    """Return the saved states that make room for a new one: the oldest first, and no more than necessary.

    Args:
        saved: name and MiB of RAM of each, the oldest first; without the new one.
        ram_mb: of the new one, which is saved however large it is.
    """
    total_mb = ram_mb + sum(size_mb for _, size_mb in saved)
    removed = []
    for name, size_mb in saved:
        if total_mb <= SAVED_STATES_LIMIT_MB:
            break
        removed.append(name)
        total_mb -= size_mb
    return removed


class SavedStates:
    """The saved states of one machine.

    Args:
        state: of the machine.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    @property
    def _notes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._state.get(NOTES, [])
        return found

    @property
    def names(self) -> list[str]:
        """Their names, the oldest first."""
        return [note["name"] for note in self._notes]

    def useless(self) -> dict[str, str]:
        """Return the saved states that must not be restored any more, each with the reason.

        Raises:
            LibvirtError: libvirt does not answer.
        """
        if not self._notes:
            return {}
        now = conditions(self._state, image_of(self._state["box"], self._state["provider"]))
        found = {}
        for note in self._notes:
            changed = [what for what in now if note["conditions"].get(what) != now[what]]
            if changed:
                before = note["conditions"].get(changed[0], "unknown")
                found[note["name"]] = f"{changed[0]} was {before} when it was saved and is {now[changed[0]]}"
        return found

    def save(self, ram_mb: int, cpus: int) -> None:
        """Save the running machine. It pauses meanwhile, for about a second.

        The oldest ones are removed where all together would hold more than `SAVED_STATES_LIMIT_MB` of RAM.

        Raises:
            MachineError: it could not be saved.
        """
        name, now = name_of(ram_mb, cpus), conditions(self._state, self._state["made_from"])
        self.remove(name)
        for old in removed_for([(note["name"], note["ram_mb"]) for note in self._notes], ram_mb):
            self.remove(old)
        if self._state["provider"] == "libvirt":
            libvirt.virsh("snapshot-create-as", self._domain(), name, "--atomic", limit_s=_LIMIT_S)
        else:
            command_of(self._state.folder, self._state).snapshot_save(name)
        note = {"name": name, "ram_mb": ram_mb, "cpus": cpus, "conditions": now}
        self._state.write(**{NOTES: [*self._notes, note]})

    def load(self, name: str, limit_s: float, in_place: bool = True) -> None:
        """Have the machine run as it was when it was saved, whether it runs now or is off.

        QEMU loads a state of its own memory size into the running process, in 0.2 s for a guest of 256 MiB. libvirt's
        command starts another process for it, which takes ten times as long, and is needed for another size and for a
        machine that is off.

        Args:
            in_place: try the running process; False where it is known to have another memory size.

        Raises:
            MachineError: there is no such saved state, or it could not be restored.
        """
        if self._state["provider"] == "libvirt":
            domain = self._domain()
            if not (in_place and _load_into_process(domain, name)):
                with network.in_use():
                    libvirt.virsh("snapshot-revert", domain, name, "--running", "--force", limit_s=_LIMIT_S)
        else:
            command_of(self._state.folder, self._state).snapshot_restore(name, limit_s=limit_s)

    def remove(self, name: str) -> None:
        """Remove a saved state from the machine's disk; nothing happens when there is none of that name.

        Raises:
            MachineError: libvirt failed.
        """
        if name not in self.names:
            return
        if self._state["provider"] == "libvirt" and domain_state(self._state.folder, self._state) != "not_created":
            try:
                libvirt.virsh("snapshot-delete", self._domain(), name, limit_s=_LIMIT_S)
            except libvirt.LibvirtError as error:
                if not _IS_GONE.search(error.said):
                    raise
        self._state.write(**{NOTES: [note for note in self._notes if note["name"] != name]})

    def _domain(self) -> str:
        for name in libvirt.domains(self._state["prefix"]):
            return name
        raise MachineError(f"the virtual machine {self._state['prefix']}default does not exist any more")


def _load_into_process(domain: str, name: str) -> bool:
    """Have the running QEMU of a domain load a saved state; return False when it is off or has another memory size."""
    try:
        said = libvirt.virsh("qemu-monitor-command", domain, "--hmp", f"loadvm {name}", limit_s=_LIMIT_S)
    except libvirt.LibvirtError:
        return False
    # The human monitor prints an error and succeeds; it prints nothing when it loaded the state.
    return not said.strip()


def sizes_mb(folder: Path) -> list[int]:
    """Return the MiB of RAM of each saved state of a machine, the oldest first, without asking libvirt."""
    with contextlib.suppress(KeyError, TypeError):
        return [int(note["ram_mb"]) for note in (spec_of(folder) or {}).get(NOTES, [])]
    return []


def all_useless() -> dict[tuple[Path, str], str]:
    """Return the saved states of all machines that must not be restored any more, each with the reason."""
    found: dict[tuple[Path, str], str] = {}
    for folder in machine_folders():
        with contextlib.suppress(MachineError, KeyError, TypeError):
            if sizes_mb(folder):
                found |= {(folder, name): why for name, why in SavedStates(State(folder)).useless().items()}
    return found


def remove_useless(folder: Path, name: str) -> bool:
    """Remove a saved state, unless somebody works on its machine or it has become usable; return whether that was done.

    Raises:
        MachineError: libvirt failed.
    """
    with exclusive_now(folder.name) as is_ours:
        if not is_ours or spec_of(folder) is None:
            return False
        states = SavedStates(State(folder))
        if name not in states.useless():
            return False
        states.remove(name)
        return True
