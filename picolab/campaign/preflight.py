"""Checks before anything starts: can this host run a plan, or a single trial?"""

from collections.abc import Sequence
from pathlib import Path

from picolab.campaign.budget import Budget, check_budget
from picolab.config.given_paths import is_word
from picolab.config.plan import Plan
from picolab.config.sizes import MIB
from picolab.config.trial_parameters import DISK_FACTOR, TrialParameters
from picolab.errors import HostUnfit, ParameterError
from picolab.jupyter.trial_template import check_trial_notebook
from picolab.machines.kinds import kind_of
from picolab.servers.build import check_in_guest
from picolab.servers.registry import server_of


def check_plan(plan: Plan) -> None:
    """Refuse a plan that this host cannot run, as far as that can be known in advance.

    Raises:
        ParameterError: a path of the plan does not say where it is.
        HostUnfit: too little disk or RAM, or no way to limit memory.
        BuildError: a build is missing, or cannot run here.
    """
    wanted = [trial.parameters for trial in plan.trials]
    if plan.answer is not None and plan.answer.grows:
        asked = plan.answer.parameters
        wanted += [asked.model_copy(update={"file_size": size}) for size in plan.answer.sizes]
    _check(wanted, plan.source, plan.machines, is_saved=True)
    check_budget(plan, Budget.of_host())


def check_trial(parameters: TrialParameters) -> None:
    """Refuse a single trial as `check_plan` refuses a campaign of it."""
    _check([parameters], "picolab trial", is_saved=parameters.fresh_machine == "per_trial")


def _check(wanted: Sequence[TrialParameters], source: str, machines: int = 1, *, is_saved: bool) -> None:
    check_trial_notebook()
    _check_paths(wanted, source)
    builds = {
        (trial.server, trial.build, trial.release_base_url, trial.machine, trial.box, trial.provider): trial
        for trial in wanted
    }
    for (server, *_), trial in sorted(builds.items(), key=lambda item: item[0]):
        kind = kind_of(trial.machine)
        check_in_guest(server_of(server).find_build(trial, in_guest=kind.is_virtual), kind.guest_system(trial))
    _check_memory(wanted, source)
    for machine in dict.fromkeys(trial.machine for trial in wanted):
        kind_of(machine).check_host([trial for trial in wanted if trial.machine == machine])
    _check_disks(wanted, source, machines, is_saved)


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
    for trial in wanted:
        most = kind_of(trial.machine).largest_ram_mb()
        if trial.ram_mb > most:
            raise HostUnfit(
                f"{source}: ram_mb = {trial.ram_mb} is more than this host's {most} MiB, so the limit would mean "
                f"nothing; choose smaller levels"
            )


def _check_disks(wanted: Sequence[TrialParameters], source: str, machines: int, is_saved: bool) -> None:
    """Look at each disk once: the largest upload must fit, as often as there are machines at the same time.

    Args:
        is_saved: the states of the machines after their boots are saved, as far as their kind does that.
    """
    disks: dict[tuple[str, str], list[TrialParameters]] = {}
    for trial in wanted:
        disks.setdefault((trial.machine, kind_of(trial.machine).disk_key(trial)), []).append(trial)
    for (machine, _), trials in disks.items():
        saved_bytes = kind_of(machine).saved_states_bytes(trials) if is_saved else 0
        _check_disk(max(trials, key=lambda trial: trial.needed_disk_bytes), source, machines, saved_bytes)


def _check_disk(trial: TrialParameters, source: str, machines: int, saved_bytes: int) -> None:
    try:
        disk = kind_of(trial.machine).host_disk(trial)
    except HostUnfit as error:
        raise HostUnfit(f"{source}: {error}") from None
    needed = machines * (trial.needed_disk_bytes + saved_bytes)
    if disk.free_bytes is not None and disk.free_bytes < needed:
        several = f"{trial.parallel_uploads} x " if trial.parallel_uploads > 1 else ""
        at_once = f" on {machines} machines at the same time" if machines > 1 else ""
        saved = f" and up to {saved_bytes / MIB:,.0f} MiB for saved states" if saved_bytes else ""
        raise HostUnfit(
            f"{source}: an upload of {several}{trial.file_size}{at_once} needs {DISK_FACTOR} times its size on disk"
            f"{saved}, {needed / MIB:,.0f} MiB, and {disk.name} has {disk.free_bytes / MIB:,.0f} MiB free; free some, "
            f"or choose smaller files{disk.advice}"
        )
