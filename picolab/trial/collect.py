"""The stages collect and release."""

from picolab.errors import MachineError, MachineSilent, StageError
from picolab.machines import registry
from picolab.machines.base import Holder, Machine
from picolab.record.outcomes import STAGES, Outcome
from picolab.trial.run import TrialRun
from picolab.trial.state import PROGRESS_FILE, SERVER_LOG_FILE


def collect(run: TrialRun) -> str:
    """Stop the server unless it is kept, and complete the state; return a line for the reader."""
    missing_stages = [stage for stage in STAGES[:5] if not run.state.stages[stage].done]
    if run.state.outcome is None and missing_stages:
        raise StageError(f"there is nothing to collect yet; run the {missing_stages[0]} cell first")
    if run.state.outcome is None:
        not_known = "the upload was answered with success; whether every byte came back is not known"
        run.state.found(Outcome.OK, None, not_known if run.unverified() else "every byte was stored and came back")
    server = run.state.server
    if server is not None and run.machine is not None:
        run.state.missing.pop("server.stop_s", None)
        _note_stored_space(run, run.machine)
        if run.keeps():
            status = run.machine.process_status()
            run.machine.save_log()
            run.state.missing["server.stop_s"] = "the server was kept running"
        else:
            try:
                status = run.stop_server()
            except MachineSilent as error:
                if run.state.outcome is not Outcome.STALLED:
                    raise
                silent = f"the machine did not answer ({error})"
                run.state.missing |= {"server.stop_s": silent, "server.oom_kills": silent}
                return _collected(run)
        server.exit_code, server.exit_signal = status.exit_code, status.exit_signal
        if run.state.verify is None or run.measures("download"):
            server.oom_kills, server.oom_evidence = status.oom_kills, status.oom_evidence
        if server.oom_kills is None:
            run.state.missing["server.oom_kills"] = "nobody counts OOM kills where this server ran"
        if status.stop_s is not None:
            server.stop_s = status.stop_s
        else:
            run.state.missing.setdefault("server.stop_s", "the server ended by itself")
    return _collected(run)


def _note_stored_space(run: TrialRun, machine: Machine) -> None:
    """Note the disk space of the server's files.

    Not right after the upload: a server may remove its temp file only when it has answered.
    """
    if run.state.upload is None:
        return
    try:
        run.state.upload.stored_disk_bytes = machine.files_bytes()
    except MachineError as error:
        run.state.missing["upload.stored_disk_bytes"] = str(error)


def _collected(run: TrialRun) -> str:
    (run.folder / PROGRESS_FILE).unlink(missing_ok=True)
    return f"{run.state.outcome}: {run.state.outcome_detail}"


def release(run: TrialRun) -> str:
    """Take the machine down, give it back to the campaign, or keep it; return a line for the reader."""
    machine = run.machine or registry.attach(run.machine_name)
    if machine is None:
        return "the machine is already gone"
    if run.keeps():
        machine.hold(Holder(run.holder().process, keep=True))
        return (
            f"machine {machine.name!r} is kept (keep_machine: {run.state.parameters.keep_machine}). Its server: "
            f"{run.state.base_url}, log: {run.folder / SERVER_LOG_FILE}. "
            + (f"To get in: {machine.way_in}. " if machine.way_in else "")
            + "Fix the cause and run the cells again from the failing one; to take the machine down: "
            f"picolab machines remove {machine.name}"
        )
    run.machine = None
    if run.state.identity.campaign is not None:
        machine.hand_back()
        return f"machine {machine.name!r} given back to the campaign"
    machine.release()
    return f"machine {machine.name!r} taken down"
