"""The stage provision: a machine with the wanted memory, and the build."""

import json

from picolab.config.sizes import MIB, in_mib
from picolab.config.trial_parameters import DISK_FACTOR, TrialParameters
from picolab.errors import HostUnfit, ParameterError
from picolab.files.writing import write_atomically
from picolab.instrument import store
from picolab.machines import registry
from picolab.machines.folders import TRIAL_FILE
from picolab.machines.kinds import kind_of
from picolab.record import caveats, host_caveats
from picolab.record.machine import MachineRecord
from picolab.servers.build import check_in_guest
from picolab.trial.measured_step import files_in_words
from picolab.trial.run import TrialRun


def provision(run: TrialRun) -> str:
    """Find the build and reach the machine; return a line for the reader.

    Raises:
        ParameterError, BuildError, HostUnfit, MachineBusy: the trial cannot run here like this.
    """
    parameters = run.state.parameters
    run.add_caveats(caveats.of_parameters(parameters))
    why_unfit = run.server.why_unfit(parameters)
    if why_unfit is not None:
        raise ParameterError(why_unfit)
    kind = kind_of(parameters.machine)
    build = run.server.find_build(parameters, in_guest=kind.is_virtual)
    check_in_guest(build, kind.guest_system(parameters))
    run.state.build, run.state.build_path = build.identity, build.path
    run.add_caveats(caveats.of_build(build.identity))
    _look_at_instrument(run)
    machine = run.reach()
    write_atomically(machine.folder / TRIAL_FILE, json.dumps({"folder": str(run.folder)}))
    run.state.machine = machine.describe()
    siblings = run.turn.siblings()
    others = [name for name in registry.others_running(machine.name) if name not in siblings]
    run.add_caveats(host_caveats.of_neighbours(others))
    run.add_caveats(caveats.of_machine(run.state.machine))
    _check_guest_disk(run.state.machine, parameters)
    return f"{_in_words(run.state.machine)}; build {build.identity.label} (sha256 {build.identity.sha256[:12]})"


def _look_at_instrument(run: TrialRun) -> None:
    """Note which calibration of the instrument holds for this trial."""
    run.state.instrument, why_not = store.reference(run.state.parameters.machine)
    if run.state.instrument is None:
        run.state.missing["instrument"] = why_not
    else:
        for name, why in store.unexplained(run.state.instrument).items():
            run.state.missing[f"instrument.{name}"] = why


def _check_guest_disk(machine: MachineRecord, parameters: TrialParameters) -> None:
    """Refuse an upload that cannot fit: the server would be blamed for it.

    Raises:
        HostUnfit: the guest's disk is too small.
    """
    needed = parameters.needed_disk_bytes
    if kind_of(machine.kind).is_virtual and machine.free_disk_bytes < needed:
        raise HostUnfit(
            f"an upload of {files_in_words(parameters)} needs {DISK_FACTOR} times its size on disk, "
            f"{needed / MIB:,.0f} MiB, and the guest has {machine.free_disk_bytes / MIB:,.0f} MiB free; choose smaller "
            f"files, or a box with a larger disk"
        )


def _in_words(machine: MachineRecord) -> str:
    """Return the machine in words, for the provision cell."""
    limit, virtual = machine.memory_limit, machine.virtual_machine
    if virtual is not None:
        return (
            f"machine {machine.name!r} {virtual.reached_by} in {virtual.reached_s:.1f} s: {virtual.box}, "
            f"{virtual.nominal_ram_bytes // MIB} MiB of RAM, of which the guest can use "
            f"{virtual.usable_ram_bytes / MIB:.0f} and has {virtual.available_ram_bytes / MIB:.0f} available, "
            f"{virtual.acceleration}" + "".join(f"; {sentence}" for sentence in virtual.mended)
        )
    enforced = f"{in_mib(limit.limit_bytes)} enforced by {limit.method}" if limit.limit_bytes else "NO memory limit"
    return f"machine {machine.name!r} {'re-used' if machine.reused else 'made'}, {enforced}"
