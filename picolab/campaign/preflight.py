"""What can be refused before anything is started: a plan or a single trial that this host cannot carry out."""

import os
from collections.abc import Sequence
from pathlib import Path

from picolab.config.given_paths import is_word
from picolab.config.parameters import DISK_FACTOR, TrialParameters
from picolab.config.plan import Plan
from picolab.config.project import state_dir
from picolab.config.sizes import MIB
from picolab.errors import HostUnfit, ParameterError
from picolab.host.facts import disk_of, memory_info
from picolab.jupyter.trial_template import check_trial_notebook
from picolab.machines.local.cgroup import find_method
from picolab.machines.vagrant import machine
from picolab.servers.build import find_build


def check_plan(plan: Plan) -> None:
    """Refuse a plan that this host cannot carry out, as far as that can be known before.

    Raises:
        ParameterError: a path of the plan does not say where it is.
        HostUnfit: too little disk or RAM, or no way to limit memory.
        BuildError: a build is not there, or cannot run here.
    """
    _check([trial.parameters for trial in plan.trials], plan.source)


def check_trial(parameters: TrialParameters) -> None:
    """Refuse a single trial as `check_plan` refuses a campaign of it."""
    _check([parameters], "picolab trial")


def _check(wanted: Sequence[TrialParameters], source: str) -> None:
    check_trial_notebook()
    _check_paths(wanted, source)
    builds = {(trial.build, trial.release_base_url, trial.machine != "local") for trial in wanted}
    for build, base_url, in_guest in sorted(builds):
        find_build(build, build, base_url, in_guest=in_guest)
    _check_memory(wanted, source)
    for provider in sorted({trial.provider for trial in wanted if trial.machine == "vagrant"}):
        machine.check_host(provider)
    if any(trial.memory_limit == "enforced" and trial.machine == "local" for trial in wanted):
        find_method()
    _check_disks(wanted, source)


def _check_paths(wanted: Sequence[TrialParameters], source: str) -> None:
    """Refuse a relative path, which means another file in each folder: plans of older versions have them."""
    for trial in wanted:
        for name, path in (("build", trial.build), ("work_dir", trial.work_dir)):
            if path and not Path(path).is_absolute() and not (name == "build" and is_word(path)):
                raise ParameterError(
                    f"{source}: {name} = {path!r} does not say in which folder; make a new plan of the parameter file, "
                    f"or write the path from the root"
                )


def _check_memory(wanted: Sequence[TrialParameters], source: str) -> None:
    largest, total = max(trial.ram_mb for trial in wanted) * MIB, memory_info()["MemTotal"]
    if largest > total:
        raise HostUnfit(
            f"{source}: ram_mb = {largest // MIB} is more than this host's {total // MIB} MiB, so the limit "
            f"would mean nothing; choose smaller levels"
        )


def _check_disks(wanted: Sequence[TrialParameters], source: str) -> None:
    """Look at each place once: trials run one after the other, so that the largest upload is what must fit."""
    largest: dict[tuple[str, str], TrialParameters] = {}
    for trial in wanted:
        place = ("vagrant", trial.provider) if trial.machine == "vagrant" else ("local", trial.work_dir)
        if place not in largest or trial.needed_disk_bytes > largest[place].needed_disk_bytes:
            largest[place] = trial
    for trial in largest.values():
        _check_disk(trial, source)


def _check_disk(trial: TrialParameters, source: str) -> None:
    if trial.machine == "vagrant":
        place, free = "the storage of virtual machines", machine.free_disk_bytes(trial.provider)
    else:
        work = Path(trial.work_dir) if trial.work_dir else state_dir()
        _check_work_dir(work, source)
        place, free = str(work), disk_of(work).free_bytes
    needed = trial.needed_disk_bytes
    if free is not None and free < needed:
        elsewhere = ", or set work_dir to a folder on a larger disk" if trial.machine == "local" else ""
        several = f"{trial.parallel_uploads} x " if trial.parallel_uploads > 1 else ""
        raise HostUnfit(
            f"{source}: an upload of {several}{trial.file_size} needs {DISK_FACTOR} times its size on disk, "
            f"{needed / MIB:,.0f} MiB, and {place} has {free / MIB:,.0f} MiB free; free some, or choose "
            f"smaller files{elsewhere}"
        )


def _check_work_dir(folder: Path, source: str) -> None:
    """Refuse a folder in which nothing can be made; it need not be there yet."""
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        problem = "" if there.is_dir() else f"{there} is no folder"
    except OSError as error:
        there, problem = folder, str(error.strerror)
    if not problem and not os.access(there, os.W_OK | os.X_OK):
        problem = f"nothing can be written into {there}"
    if problem:
        raise HostUnfit(f"{source}: data folder and TMPDIR cannot be in {folder}: {problem}; set work_dir to another")
