"""The machines that exist, of every kind: obtain one, attach to one, list them, take them down, sweep what is left."""

import contextlib
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from picolab.errors import MachineError, MachineKept
from picolab.host.processes import ProcessIdentity, this_process
from picolab.jupyter import kernel_folders
from picolab.machines.base import Holder, Machine, MachineWish
from picolab.machines.folders import (
    TRIAL_FILE,
    folder_of,
    held_since,
    machine_folders,
    machines_dir,
    refuse_if_held,
    spec_of,
    unheld_since,
)
from picolab.machines.kind import MachineKind
from picolab.machines.kinds import DEFAULT_KIND, KINDS, kind_of

NOT_RUNNING = ("suspended", "asleep", "off", "not created")
"""The states of a machine that uses no processor."""
_OTHERS_LIMIT_S = 5.0
SILENT_AFTER_S = 5.0
"""A daemon that hangs shall not hold up whoever lists machines or starts a trial."""


def kind_in(folder: Path) -> MachineKind:
    """Return the kind of the machine in a folder; the default one when its `machine.json` cannot be read."""
    return KINDS.get((spec_of(folder) or {}).get("kind", DEFAULT_KIND), KINDS[DEFAULT_KIND])


def obtain(wish: MachineWish, holder: Holder) -> Machine:
    """Return the wanted machine: the one of that name if it fits and nobody else holds it, else a new one.

    Raises:
        MachineBusy: somebody who is alive holds it.
        HostUnfit: this host cannot make such a machine.
        MachineError: it could not be made.
    """
    folder = folder_of(wish.name)
    spec = spec_of(folder)
    if spec is not None and spec.get("kind") != wish.kind:
        check_free(wish.name)
        release_by_name(wish.name)
    return kind_of(wish.kind).obtain(wish, holder)


def attach(name: str) -> Machine | None:
    """Return the machine of that name if it exists and is looked after, without taking hold of it."""
    folder = folder_of(name)
    return kind_in(folder).attach(folder)


def check_free(name: str) -> None:
    """Do nothing if a machine of that name may be taken.

    Raises:
        MachineBusy: it exists, and a process that is alive and no ancestor of this one holds it.
    """
    folder = folder_of(name)
    spec = spec_of(folder)
    if spec is not None and kind_in(folder).exists(folder):
        refuse_if_held(spec)


def check_not_kept(name: str, choose: str = "choose another machine_name") -> None:
    """Do nothing if no machine of that name was left up for debugging.

    Args:
        choose: how the caller gets another name, for the message.

    Raises:
        MachineKept: one was, and nobody has come back for it yet; the message names its trial and the ways on.
    """
    folder = folder_of(name)
    spec = spec_of(folder)
    if spec is None or not spec.get("keep") or not kind_in(folder).is_worth_keeping(folder):
        return
    if ProcessIdentity.from_json(spec["holder"]) == this_process():
        # Whoever works in this kernel is the one who looks at it.
        return
    trial = trial_folder_of(folder)
    of_whom = f" by the trial {trial.name}" if trial else ""
    look = f"look at it by opening {trial / 'trial.ipynb'}; " if trial and attach(name) is not None else ""
    raise MachineKept(
        f"the machine {name!r} was kept for debugging{of_whom}, and this would destroy it: {look}take it down with: "
        f"picolab machines remove {name}; or {choose}"
    )


def trial_folder_of(folder: Path) -> Path | None:
    """Return the folder of the trial that used a machine last, as far as that is known."""
    try:
        return Path(json.loads((folder / TRIAL_FILE).read_text())["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def existing() -> list[dict[str, Any]]:
    """Return the machines that exist now, without asking any of them.

    Each has its name, kind, ram_mb, holder, whether it is held, trial (that keeps it; empty when held or unknown),
    since (when it is held or kept), server, way_in, saved_states_mb and folder.
    """
    machines = []
    for folder in machine_folders():
        spec = spec_of(folder)
        kind = kind_in(folder)
        if spec is None or not kind.exists(folder):
            continue
        with contextlib.suppress(MachineError, FileNotFoundError):
            holder = ProcessIdentity.from_json(spec["holder"])
            held = holder.alive
            trial = trial_folder_of(folder) if spec.get("keep") and not held else None
            since = (held_since(spec) or holder.started_at) if held else unheld_since(folder, spec)
            machines.append(
                {
                    "name": spec["name"],
                    "kind": kind.name,
                    "ram_mb": spec["ram_mb"],
                    "held": held,
                    "holder": f"pid {holder.pid} ({holder.command})" if held else "nobody",
                    "trial": trial.name if trial else "",
                    "since": since.isoformat(timespec="seconds"),
                    "server": kind.server_of(folder),
                    "way_in": kind.way_in(folder),
                    "saved_states_mb": kind.saved_states_mb(folder),
                    "folder": str(folder),
                }
            )
    return machines


def others_running(name: str) -> list[str]:
    """Return the machines and guests that run on this host next to the machine of that name.

    These are machines that a process holds or a trial has kept, and guests of other state folders or of nobody that
    picolab knows. Suspended ones do not count, since they use no processor. Where libvirt does not answer within
    `_OTHERS_LIMIT_S` seconds, machines count and guests are not known.
    """
    found = [
        machine["name"]
        for machine in existing()
        if machine["name"] != name and state_of(machine["name"], _OTHERS_LIMIT_S) not in NOT_RUNNING
    ]
    for kind in KINDS.values():
        with contextlib.suppress(MachineError):
            found += kind.foreign_guests(_OTHERS_LIMIT_S)
    return found


def by_hand(name: str) -> str | None:
    """Return a line of shell with which the program that made a machine is used on it; None without one.

    Raises:
        MachineError: the machine was removed meanwhile.
    """
    folder = folder_of(name)
    return kind_in(folder).by_hand(folder)


def state_of(name: str, limit_s: float) -> str:
    """Return the state of a machine, in words; `unknown` and why, when that is not known after `limit_s` seconds."""
    folder = folder_of(name)
    try:
        return kind_in(folder).state(folder, limit_s)
    except MachineError as error:
        return f"unknown ({error})"


def silent_kinds(limit_s: float) -> dict[str, str]:
    """Return the kinds whose daemon does not answer within `limit_s` seconds, each with the reason."""
    asked = {kind.name: kind.why_silent(limit_s) for kind in KINDS.values()}
    return {name: why for name, why in asked.items() if why is not None}


def release_by_name(name: str, report: Callable[[str], None] | None = None) -> bool:
    """Take a machine down, whoever holds it; return False when there is none of that name.

    Args:
        report: gets a line while another process makes it or takes it down.
    """
    folder = folder_of(name)
    if not folder.is_dir():
        return False
    kind_in(folder).release(folder, report)
    return True


def not_taken_down(name: str, error: Exception, then: str = "") -> str:
    """Return a sentence about a machine that could not be taken down, for whoever has a result that it cannot spoil.

    Args:
        then: what happens next; empty: the user may do it.
    """
    then = then or f"do it with: picolab machines remove {name}"
    return f"The machine {name} could not be taken down: {error}; {then}"


def sweep(silent: Collection[str] | None = None) -> list[str]:
    """Remove what dead kernels and machines without a keeper have left, and return the names of the machines.

    Args:
        silent: the kinds of machine whose daemon does not answer, which are left out; None: they are looked up.
    """
    swept = []
    silent = silent_kinds(SILENT_AFTER_S) if silent is None else silent
    # Here, so that a state folder that cannot be used is found out before anything is done.
    machines_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    kernel_folders.sweep()
    for folder in machine_folders():
        # What libvirt does not let go now is tried again at the next start; nobody else shall wait for it.
        with contextlib.suppress(MachineError, OSError):
            if kind_in(folder).name not in silent and kind_in(folder).sweep(folder):
                swept.append(folder.name)
    for kind in KINDS.values():
        with contextlib.suppress(MachineError, OSError):
            swept += kind.sweep_lost() if kind.name not in silent else []
    return swept
