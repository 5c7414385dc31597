"""The kind `vagrant`: the server runs in a virtual machine with limited RAM, which Vagrant makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picolab.machines.kind import Foreseen, GuestSystem, HostDisk, MachineKind

if TYPE_CHECKING:
    from picolab.config.trial_parameters import TrialParameters
    from picolab.host.finding import Check
    from picolab.host.leftovers import LeftoverKind
    from picolab.machines.base import Holder, Machine, MachineWish

SMALLEST_GUEST_MB = 96
"""The smallest guest that was seen to boot: a Debian with a trimmed systemd, under emulation."""
_BOX_COPY_LIMIT_S = 900.0
"""Seconds that the first copy of a box into libvirt's pool may take."""


class VagrantKind(MachineKind):
    """A virtual machine with limited RAM."""

    name = "vagrant"
    meaning = "a virtual machine"
    is_virtual = True
    memory_limit_methods = ("virtual_machine",)
    reused_between_trials = True
    shows_progress = True
    ready_poll_s = 0.1
    assumed_boot_s = 20.0
    assumed_restore_s = 1.5
    assumed_change_s = 4.0
    assumed_overhead_s = 8.0
    smallest_ram_mb = SMALLEST_GUEST_MB
    ram_step_mb = 1
    imports = ("picolab.machines.vagrant.machine", "picolab.machines.vagrant.ssh")

    def why_unfit(self, parameters: TrialParameters) -> str | None:
        if parameters.ram_mb < SMALLEST_GUEST_MB:
            return (
                f"ram_mb = {parameters.ram_mb} is too little for machine = 'vagrant': the smallest virtual machine "
                f"that was seen to boot had {SMALLEST_GUEST_MB} MiB; give {SMALLEST_GUEST_MB} or more, or use machine "
                f"local"
            )
        if not float(parameters.ram_mb).is_integer():
            return f"ram_mb = {parameters.ram_mb} is no whole number of MiB, as machine = 'vagrant' needs it; round it"
        if parameters.memory_limit == "none":
            return (
                "memory_limit = 'none' makes no sense with machine = 'vagrant', since the memory of a virtual machine "
                "is always limited; remove it, or use machine local"
            )
        if parameters.work_dir:
            return (
                f"work_dir = {parameters.work_dir[:200]!r} is a folder of this host, and with machine = 'vagrant' data "
                f"folder and TMPDIR lie on the disk of the virtual machine; remove it, or use machine local"
            )
        return None

    def change_key(self, parameters: TrialParameters) -> tuple[Any, ...] | None:
        return (parameters.ram_mb, parameters.cpus, parameters.box, parameters.provider)

    def foresee(self, parameters: TrialParameters, fresh_for: str, before: Foreseen | None) -> Foreseen:
        from picolab.machines.vagrant.saved_state import name_of, removed_for

        key = self.change_key(parameters)
        # Made anew from another box, a machine has no saved states.
        is_another = before is None or before.key is None or key is None or before.key[2:] != key[2:]
        saved = () if before is None or is_another else before.saved
        if before is not None and before.key == key and fresh_for in ("", before.fresh_for):
            return Foreseen("cleaned up", key, fresh_for, saved)
        # Virtual machines have whole MiB.
        ram_mb = int(parameters.ram_mb)
        name = name_of(ram_mb, parameters.cpus)
        if name in dict(saved):
            return Foreseen("restore", key, fresh_for, saved)
        removed = removed_for(saved, ram_mb)
        kept = tuple(state for state in saved if state[0] not in removed)
        return Foreseen("boot", key, fresh_for, (*kept, (name, ram_mb)))

    def processors(self, parameters: TrialParameters) -> int:
        return parameters.cpus

    def make_limit_s(self, parameters: TrialParameters) -> float:
        # One that is not clean may be brought up twice, and another's first copy of the box be waited for.
        return 2 * parameters.boot_limit_s + _BOX_COPY_LIMIT_S

    def check_host(self, wanted: Sequence[TrialParameters]) -> None:
        from picolab.machines.vagrant import machine

        for provider in sorted({trial.provider for trial in wanted}):
            machine.check_host(provider)

    def guest_system(self, parameters: TrialParameters) -> GuestSystem | None:
        from picolab.machines.vagrant import boxes

        return boxes.guest_system(parameters.box or boxes.default_box(parameters.provider), parameters.provider)

    def checks(self) -> tuple[Check, ...]:
        from picolab.machines.vagrant.checks import CHECKS

        return CHECKS

    def disk_key(self, parameters: TrialParameters) -> str:
        return parameters.provider

    def host_disk(self, parameters: TrialParameters) -> HostDisk:
        from picolab.machines.vagrant import machine

        return HostDisk("the storage of virtual machines", machine.free_disk_bytes(parameters.provider))

    def obtain(self, wish: MachineWish, holder: Holder) -> Machine:
        from picolab.machines.vagrant.machine import VagrantMachine

        return VagrantMachine.obtain(wish, holder)

    def attach(self, folder: Path) -> Machine | None:
        from picolab.machines.vagrant.machine import VagrantMachine

        return VagrantMachine.attach(folder)

    def exists(self, folder: Path) -> bool:
        # It runs without its keeper too.
        return True

    def server_of(self, folder: Path) -> str:
        from picolab.machines.vagrant import machine

        return machine.server_of(folder)

    def way_in(self, folder: Path) -> str | None:
        from picolab.machines.vagrant import machine

        return machine.way_in(folder)

    def state(self, folder: Path, limit_s: float) -> str:
        from picolab.machines.vagrant import by_hand

        return by_hand.state(folder, limit_s)

    def ssh_words(self, folder: Path) -> list[str]:
        from picolab.machines.vagrant import by_hand

        return by_hand.ssh_words(folder)

    def halt(self, folder: Path, report: Callable[[str], None] | None = None) -> bool:
        from picolab.machines.vagrant import by_hand

        return by_hand.halt(folder, report)

    def start(self, folder: Path, report: Callable[[str], None] | None = None) -> bool:
        from picolab.machines.vagrant import by_hand

        return by_hand.start(folder, report)

    def why_silent(self, limit_s: float) -> str | None:
        from picolab.machines.vagrant import by_hand

        return by_hand.why_silent(limit_s)

    def saved_states_mb(self, folder: Path) -> list[int]:
        from picolab.machines.vagrant import saved_state

        return saved_state.sizes_mb(folder)

    def by_hand(self, folder: Path) -> str | None:
        from picolab.machines.vagrant import by_hand

        return by_hand.by_hand(folder)

    def foreign_guests(self, limit_s: float) -> list[str]:
        from picolab.machines.vagrant import by_hand

        return by_hand.foreign_guests(limit_s)

    def is_worth_keeping(self, folder: Path) -> bool:
        from picolab.machines.folders import spec_of

        # A half-made one holds nothing to look at.
        return (spec_of(folder) or {}).get("state") == "up"

    def release(self, folder: Path, report: Callable[[str], None] | None = None) -> None:
        from picolab.machines.vagrant import removal

        removal.release(folder, report)

    def is_abandoned(self, folder: Path) -> bool:
        from picolab.machines.vagrant import removal

        return removal.is_abandoned(folder)

    def sweep(self, folder: Path) -> bool:
        from picolab.machines.vagrant import removal

        return removal.sweep_folder(folder)

    def sweep_lost(self) -> list[str]:
        from picolab.machines.vagrant import removal

        return removal.sweep_lost()

    def leftovers(self) -> tuple[LeftoverKind, ...]:
        from picolab.machines.vagrant.leftovers import LEFTOVERS

        return LEFTOVERS
