"""Parts of every measured step: memory limit, page cache, conditions of the host, room on the disk, samples."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from picolab.config.trial_parameters import TrialParameters
from picolab.errors import MachineError, MachineSilent, ProbeError
from picolab.files import reserve
from picolab.host import conditions
from picolab.machines.base import Machine
from picolab.machines.kinds import kind_of
from picolab.record import caveats
from picolab.record.conditions import ConditionsRecord
from picolab.record.outcomes import Step
from picolab.record.samples import MOST_SCRAP_SAMPLES, read_samples, summarise
from picolab.record.steps import LimitDuringStep, MemoryRecord, PageCache
from picolab.servers.payload import PayloadFile, payload_files
from picolab.trial.run import TrialRun

_SAMPLE_BYTES, _MOST_SAMPLES = 320, 50_000
_POINT_BYTES, _MOST_POINTS, _PROGRESS_POINTS_PER_S = 48, 50_000, 5
_RECORD_BYTES = 128 << 10
"""Most bytes on the disk of a sample, of a point of the progress, and of the rest of a record. Uploads that are longer
than the other numbers stand for find room on the disk or do not."""


def files(run: TrialRun) -> list[PayloadFile]:
    """Return the files that the trial uploads."""
    parameters = run.state.parameters
    return payload_files(parameters.seed, parameters.file_size_bytes, parameters.parallel_uploads)


def limit_in_force(run: TrialRun, machine: Machine) -> LimitDuringStep:
    """Return how the memory limit is in a step that is measured.

    Raises:
        MachineError: an earlier kernel had lifted it, and it cannot be put back.
    """
    if not has_limit(run):
        return "none"
    why_not = machine.restore_memory_limit()
    if why_not is not None:
        raise MachineError(f"machine {machine.name!r}: {why_not}; run the notebook again from its first cell")
    return "kept"


def has_limit(run: TrialRun) -> bool:
    """Return whether the server runs under a memory limit."""
    return run.state.machine is not None and run.state.machine.memory_limit.method != "none"


@contextmanager
def limit_lifted(run: TrialRun, machine: Machine, not_restored: list[str]) -> Iterator[LimitDuringStep]:
    """Lift the memory limit for a step that is not measured, where that is possible, and put it back afterwards.

    Args:
        not_restored: gets a sentence when the limit could not be put back.
    """
    if not has_limit(run):
        yield "none"
        return
    lifted = False
    try:
        lifted = machine.lift_memory_limit() is None
        yield "lifted" if lifted else "kept"
    finally:
        # Without its keeper there is no limit any more, and the next look at the server's status reports that.
        with suppress(MachineError):
            why_not = machine.restore_memory_limit() if lifted else None
            not_restored += [why_not] if why_not else []


def reserve_room(run: TrialRun, step: Step, samples_file: str) -> None:
    """Reserve room on the disk for the results of a step that begins now.

    Raises:
        HostUnfit: there is not enough.
    """
    parameters = run.state.parameters
    samples = parameters.upload_limit_s / parameters.sample_interval_s
    points = parameters.upload_limit_s * _PROGRESS_POINTS_PER_S
    slot_bytes = _RECORD_BYTES + int(min(points, _MOST_POINTS) * _POINT_BYTES)
    notebook_bytes = 2 * slot_bytes + int(min(samples, MOST_SCRAP_SAMPLES) * _SAMPLE_BYTES)
    reserve.take(run.folder, slot_bytes, notebook_bytes, step)
    reserve.hold_back(run.folder / samples_file, int(min(samples, _MOST_SAMPLES) * _SAMPLE_BYTES), step)


def conditions_now(run: TrialRun, machine: Machine) -> conditions.Reading:
    """Read the conditions on the host, right before or right after a measured step."""
    caller = run.context.owner_process.pid if run.context is not None else None
    return conditions.read(conditions.own_of(machine, caller), machine.work_folder)


def conditions_since(run: TrialRun, before: conditions.Reading, machine: Machine, path: str) -> ConditionsRecord:
    """Return the conditions since a reading, and note why values are missing under `path` of the record."""
    found, missing = conditions.between(before, conditions_now(run, machine))
    run.state.missing.update({f"{path}.{name}": why for name, why in missing.items()})
    return found


def page_cache(run: TrialRun, machine: Machine, step: Literal["upload", "download"]) -> PageCache:
    """Drop the page cache before a step if it is to be measured with a cold one; return how the cache is."""
    parameters = run.state.parameters
    if parameters.cache == "warm" or parameters.direction not in (step, "both"):
        return "warm"
    why_not = machine.drop_page_cache()
    run.add_caveats(caveats.of_cache(why_not))
    return "dropped" if why_not is None else "unknown"


def memory_of(run: TrialRun, samples_file: str, zero_s: float) -> tuple[MemoryRecord, dict[str, str], bool]:
    """Sum up the samples of a step.

    Args:
        zero_s: the moment that counts as zero, on the host's monotonic clock.

    Returns:
        the record; why values are missing in it, by path; whether the probe ran to its end.

    Raises:
        ProbeError: there are none.
        MachineError: there are none, because the machine is gone.
    """
    try:
        samples = read_samples(run.folder / samples_file)
    except ProbeError:
        if run.machine is not None:
            with suppress(MachineSilent):
                # One that does not run any more is the reason, and says so.
                run.machine.process_status()
        raise
    if run.state.machine is not None and kind_of(run.state.machine.kind).is_virtual:
        run.add_new_caveats(caveats.of_unlocked_probe(samples.unlocked))
    memory, missing = summarise(samples, run.state.parameters.sample_interval_s, zero_s)
    return memory, missing, samples.end is not None


def probe_ended_early(run: TrialRun, machine: Machine, probe_exit: int | None, memory: MemoryRecord) -> ProbeError:
    """Return the error for a probe that ended too early; raise the machine's own error when the machine is gone."""
    machine.process_status()
    return ProbeError(
        f"the memory probe ended too early (exit code {probe_exit}) after {memory.samples} samples, so "
        f"the memory of this step is not known; run the cell again"
    )


def files_in_words(parameters: TrialParameters) -> str:
    """Return the uploaded files in words, such as `4 x 100M`."""
    several = f"{parameters.parallel_uploads} x " if parameters.parallel_uploads > 1 else ""
    return several + parameters.file_size
