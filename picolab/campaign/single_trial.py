"""One trial from the command line: a campaign of one, without a campaign's files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from picolab.campaign.preflight import check_trial
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import MachineError, RecordError, UnreadableFile
from picolab.exit_codes import ExitCode
from picolab.files import reserve
from picolab.host.processes import this_process
from picolab.jupyter.live_line import last_line
from picolab.jupyter.notebook_process import NOTEBOOK_FILE, PROCESS_LOG_FILE, TrialProcess, interrupt, last_words
from picolab.jupyter.trial_context import TrialContext
from picolab.machines import registry
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.results.trial_files import read_side_file
from picolab.trial.state import PROGRESS_FILE, RECORD_FILE, STATE_FILE, TrialState, claim_folder

_REFRESH_S = 1.0
_LONG_S = 3600.0


@dataclass(frozen=True)
class FinishedTrial:
    """The result of a single trial.

    Attributes:
        record: None when the trial's process ended without one.
        reason: why there is none.
        kept_machine: name of the machine that is still up, or None.
        way_in: the command to enter that machine; None when it is this host.
        still_up: a sentence when the machine could not be taken down; else empty.
    """

    folder: Path
    record: Record | None
    reason: str
    kept_machine: str | None
    way_in: str | None
    still_up: str = ""

    @property
    def exit_code(self) -> ExitCode:
        if self.record is None:
            return ExitCode.INSTRUMENT_FAULT
        if self.record.outcome is Outcome.INTERRUPTED:
            return ExitCode.INTERRUPTED
        if self.record.outcome.is_fault:
            return ExitCode.INSTRUMENT_FAULT
        return ExitCode.OK if self.record.outcome is Outcome.OK else ExitCode.TRIALS_FAILED


def run_single_trial(
    parameters: TrialParameters,
    stop_requested: Callable[[], bool],
    live: Callable[[str], None] | None,
    on_step: Callable[[str], None] | None = None,
) -> FinishedTrial:
    """Run the trial notebook once, in a folder of its own under `outputs/single-trials/`.

    Args:
        stop_requested: asked after each signal.
        live: receives the trial's line of progress once a second; None: nobody watches.
        on_step: receives each step of the boot of its machine; None: nobody wants them.

    Raises:
        BuildError, HostUnfit: known before anything is started.
        MachineBusy: somebody holds a machine of that name.
        MachineKept: an earlier trial left a machine of that name up for debugging.
    """
    check_trial(parameters)
    registry.sweep()
    name = parameters.machine_name or parameters.machine
    registry.check_free(name)
    registry.check_not_kept(name, "choose another machine_name: -p machine_name NAME")
    registry.release_by_name(name)
    state = TrialState.begin(parameters, None)
    folder = claim_folder(state)
    context = TrialContext(folder=folder, trial_id=state.identity.trial_id, owner=this_process().to_json())
    process = TrialProcess(parameters, context, on_step=on_step)
    try:
        while not stop_requested():
            if process.wait(_REFRESH_S if live is not None else _LONG_S):
                break
            if live is not None:
                live(last_line(folder / PROGRESS_FILE))
        else:
            interrupt([process])
    finally:
        process.kill()
        machine = registry.attach(name)
        kept = machine is not None and machine.kept
        way_in = machine.way_in if machine is not None and kept else None
        still_up = ""
        if not kept:
            try:
                registry.release_by_name(name)
            except (MachineError, OSError) as error:
                still_up = registry.not_taken_down(name, error)
            (folder / STATE_FILE).unlink(missing_ok=True)
            reserve.free(folder)
        if live is not None:
            live("")
    record, reason = _read_record(folder, context.trial_id, process.ended_by())
    return FinishedTrial(folder, record, reason, name if kept else None, way_in, still_up)


def _read_record(folder: Path, trial_id: str, killed: str) -> tuple[Record | None, str]:
    path = folder / RECORD_FILE
    try:
        record = read_side_file(path)
    except FileNotFoundError:
        words = killed or last_words(folder)
        return None, (
            f"the trial ended without a record{': ' + words if words else ''}; see {folder / PROCESS_LOG_FILE} and "
            f"{folder / NOTEBOOK_FILE}"
        )
    except (UnreadableFile, RecordError) as error:
        return None, str(error)
    if record.identity.trial_id != trial_id:
        return None, f"{path} is the record of another trial"
    return record, ""
