"""The kind `local`: the server is a process of this host under a memory limit."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picolab.config.sizes import RAM_STEPS_PER_MIB, SMALLEST_RAM_MB
from picolab.errors import HostUnfit
from picolab.machines.kind import HostDisk, MachineKind

if TYPE_CHECKING:
    from picolab.config.trial_parameters import TrialParameters
    from picolab.host.finding import Check
    from picolab.host.leftovers import LeftoverKind
    from picolab.machines.base import Holder, Machine, MachineWish


class LocalKind(MachineKind):
    """A process of this host under a memory limit."""

    name = "local"
    meaning = "a process under a memory limit"
    is_virtual = False
    memory_limit_methods = ("cgroup_v1", "cgroup_v2", "cgroup_v2_systemd_user", "none")
    reused_between_trials = False
    shows_progress = False
    ready_poll_s = 0.005
    assumed_boot_s = 0.0
    assumed_restore_s = 0.0
    assumed_change_s = 0.0
    assumed_overhead_s = 2.0
    smallest_ram_mb = SMALLEST_RAM_MB
    ram_step_mb = 1 / RAM_STEPS_PER_MIB
    imports = ("picolab.machines.local.machine",)

    def why_unfit(self, parameters: TrialParameters) -> str | None:
        return None

    def change_key(self, parameters: TrialParameters) -> tuple[Any, ...] | None:
        return None

    def make_limit_s(self, parameters: TrialParameters) -> float:
        return 0.0

    def check_host(self, wanted: Sequence[TrialParameters]) -> None:
        from picolab.machines.local.cgroup import find_method

        if any(trial.memory_limit == "enforced" for trial in wanted):
            find_method()

    def checks(self) -> tuple[Check, ...]:
        from picolab.machines.local.checks import CHECKS

        return CHECKS

    def disk_key(self, parameters: TrialParameters) -> str:
        return parameters.work_dir

    def host_disk(self, parameters: TrialParameters) -> HostDisk:
        from picolab.config.project import state_dir
        from picolab.host.facts import disk_of

        work = Path(parameters.work_dir) if parameters.work_dir else state_dir()
        _check_work_dir(work)
        return HostDisk(str(work), disk_of(work).free_bytes, ", or set work_dir to a folder on a larger disk")

    def obtain(self, wish: MachineWish, holder: Holder) -> Machine:
        from picolab.machines.local.machine import LocalMachine

        return LocalMachine.obtain(wish, holder)

    def attach(self, folder: Path) -> Machine | None:
        from picolab.machines.local.machine import LocalMachine

        return LocalMachine.attach(folder.name)

    def exists(self, folder: Path) -> bool:
        return not self.is_abandoned(folder)

    def server_of(self, folder: Path) -> str:
        from picolab.machines.local import request

        pid = request.server_of(folder)
        return f"pid {pid}" if pid is not None else "none"

    def way_in(self, folder: Path) -> str | None:
        return None

    def release(self, folder: Path, report: Callable[[str], None] | None = None) -> None:
        from picolab.machines.local import removal

        removal.release(folder, report)

    def is_abandoned(self, folder: Path) -> bool:
        from picolab.machines.folders import keeper_of

        return keeper_of(folder) is None

    def sweep(self, folder: Path) -> bool:
        from picolab.machines.local import removal

        return removal.sweep_if_abandoned(folder)

    def leftovers(self) -> tuple[LeftoverKind, ...]:
        from picolab.machines.local.leftovers import LEFTOVERS

        return LEFTOVERS


def _check_work_dir(folder: Path) -> None:
    """Refuse a folder in which nothing can be made; it need not exist yet.

    Raises:
        HostUnfit: the message names the folder and the reason.
    """
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        problem = "" if there.is_dir() else f"{there} is no folder"
    except OSError as error:
        there, problem = folder, str(error.strerror)
    if not problem and not os.access(there, os.W_OK | os.X_OK):
        problem = f"nothing can be written into {there}"
    if problem:
        raise HostUnfit(f"data folder and TMPDIR cannot be in {folder}: {problem}; set work_dir to another")
