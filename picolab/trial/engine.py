"""How a stage runs: once, again, after an interruption, and what its exceptions mean."""

import time
from collections.abc import Callable
from contextlib import suppress

from picolab.errors import BuildError, HostUnfit, MachineBusy, ParameterError, PicolabError, ProbeError, StageError
from picolab.files import reserve
from picolab.machines.base import Holder
from picolab.record import host_caveats
from picolab.record.outcomes import STAGES, Outcome, Stage
from picolab.trial.notebook import publish
from picolab.trial.run import NotOk, TrialRun
from picolab.trial.turn import NEIGHBOUR_TIMES

_MEASURING = ("start", "authenticate", "upload", "verify")


def run_stage(run: TrialRun, stage: Stage, action: Callable[[TrialRun], str]) -> None:
    """Run a stage unless it has nothing to do, and keep its result in the trial's state and folder.

    A result other than ok ends the stage with a line. Any other exception is a fault of the instrument: the record is
    published, then it is raised.

    Args:
        action: does the work and returns a line for the reader.

    Raises:
        StageError, ParameterError, BuildError, HostUnfit, MachineBusy: the order of the cells, a value, or the host is
            to blame; nothing was measured, so no outcome is noted.
        PicolabError: a fault.
    """
    why_nothing = _why_nothing_to_do(run, stage)
    if why_nothing is not None:
        run.say(f"{stage}: {why_nothing}")
        return
    if run.state.outcome_stage == stage:
        run.state.begins_again_at(stage)
    progress = run.state.stages[stage]
    progress.attempts += 1
    begun = time.monotonic()
    try:
        run.turn.begin(stage)
        begun = time.monotonic()
        line = action(run)
        progress.done = True
    except NotOk as finding:
        if run.context is not None and not run.context.owner_process.alive:
            # Then the keeper ended the server, and what looks like a result is none.
            gone = "the process that this trial belonged to is gone"
            _note_fault(run, Outcome.INTERRUPTED, stage, gone, begun)
            raise StageError(f"{gone}; run the trial again") from None
        run.state.found(finding.outcome, stage, finding.detail)
        line = f"{finding.outcome}: {finding.detail}"
    except BaseException as error:
        _end_turn(run, stage, over=True)
        fault = _fault_of(error, stage, measured=run.state.upload is not None)
        if fault is not None:
            _note_fault(run, fault[0], stage, fault[1], begun)
        elif isinstance(error, PicolabError):
            progress.attempts -= 1
            with suppress(OSError):
                run.state.save(run.folder)
        raise
    progress.duration_s += time.monotonic() - begun
    _end_turn(run, stage, over=run.state.outcome is not None)
    # When a kept machine is released its folder is the trial's only home; a finished trial keeps its state too.
    run.state.save(run.folder)
    if stage == "release":
        reserve.free(run.folder)
    run.say(f"{stage}: {line}")


def _end_turn(run: TrialRun, stage: Stage, over: bool) -> None:
    run.turn.end(stage, over)
    timeline, why = run.state.timeline, run.turn.why_unknown
    run.add_caveats(host_caveats.of_overlap(timeline, why))
    run.explain("timeline", timeline, dict.fromkeys(NEIGHBOUR_TIMES if why else (), why))


def _why_nothing_to_do(run: TrialRun, stage: Stage) -> str | None:
    found_at = run.state.outcome_stage
    if found_at is not None and STAGES.index(stage) > STAGES.index(found_at) and stage in _MEASURING:
        return f"nothing to do, because {found_at} found {run.state.outcome}"
    verify_again = stage == "verify" and run.unverified() and not run.state.stages["collect"].done
    if run.state.stages[stage].done and found_at != stage and not verify_again:
        return "already done"
    return None


def _fault_of(error: BaseException, stage: Stage, measured: bool) -> tuple[Outcome, str] | None:
    """Return the fault of the instrument that an exception is, with its detail; None: it is none.

    Args:
        measured: there is an upload whose numbers would be lost.
    """
    match error:
        case KeyboardInterrupt():
            return Outcome.INTERRUPTED, f"interrupted in stage {stage}"
        case HostUnfit() if measured:
            return Outcome.MACHINE_FAILED, str(error)
        case StageError() | ParameterError() | BuildError() | HostUnfit() | MachineBusy():
            return None
        case ProbeError():
            return Outcome.INVALID, str(error)
        case PicolabError():
            return Outcome.MACHINE_FAILED, str(error)
        case Exception():
            return Outcome.INVALID, f"{type(error).__name__}: {error}"
    return None


def _note_fault(run: TrialRun, outcome: Outcome, stage: Stage, detail: str, begun: float) -> None:
    """Keep everything found before a fault, in the notebook and on disk; the caller raises."""
    run.state.stages[stage].duration_s += time.monotonic() - begun
    if stage == "release" and run.state.outcome is not None:
        # The measurement is complete and published: a fault from now on does not change the result.
        run.state.save(run.folder)
        return
    run.state.found(outcome, stage, detail)
    with suppress(OSError):
        run.state.save(run.folder)
    publish(run, run.state.record())
    reserve.free(run.folder)
    if run.machine is not None:
        with suppress(PicolabError):
            run.machine.save_log()
    by_command = run.context is not None and run.context.campaign is None
    if by_command and run.machine is not None and outcome is not Outcome.INTERRUPTED and run.keeps():
        # The notebook ends here, and somebody wants to look at the machine.
        with suppress(PicolabError):
            run.machine.hold(Holder(run.holder().process, keep=True))
