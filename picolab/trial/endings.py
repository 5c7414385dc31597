"""The end of a server: what it means for the trial's outcome."""

import time

from picolab.machines.base import Machine, ProcessStatus
from picolab.machines.kinds import kind_of
from picolab.record.outcomes import Outcome
from picolab.record.steps import LimitDuringStep
from picolab.servers.exchange import redacted
from picolab.trial.run import NotOk, TrialRun

_SERVER_END_LIMIT_S = 3.0
_END_POLL_S = 0.01


def settled_status(run: TrialRun, wait: bool) -> ProcessStatus:
    """Return how the server is; after a lost connection give a dying process a moment to be dead."""
    assert run.machine is not None
    deadline = time.monotonic() + (_SERVER_END_LIMIT_S if wait else 0.0)
    status = run.machine.process_status()
    while status.running and time.monotonic() < deadline:
        time.sleep(_END_POLL_S)
        status = run.machine.process_status()
    return status


def server_ended(run: TrialRun, status: ProcessStatus, when: str, limit: LimitDuringStep | None = None) -> NotOk:
    if was_oom_killed(run, status):
        evidence = f'; the kernel says "{status.oom_evidence}"' if status.oom_evidence else ""
        where = f"at the limit of {run.state.parameters.ram_mb} MiB"
        if limit == "lifted":
            where = "because this host ran out of memory while the server's limit was lifted"
        return NotOk(Outcome.OOM_KILLED, f"the kernel killed the server {where}, {when}{evidence}")
    ended = f"signal {status.exit_signal}" if status.exit_signal else f"exit code {status.exit_code}"
    last_words = run.machine.process_log().strip().splitlines()[-1:] if run.machine else []
    said = f'; its log ends with "{redacted(last_words[0], run.secrets())[:200]}"' if last_words else ""
    return NotOk(Outcome.SERVER_DIED, f"the server ended with {ended}, {when}{said}")


def was_oom_killed(run: TrialRun, status: ProcessStatus) -> bool:
    if run.state.machine is not None and kind_of(run.state.machine.kind).is_virtual:
        # A guest counts the kills of all of its processes: there the line that names the server decides.
        return status.oom_evidence is not None
    # However it ended, or not at all: a script that has started the real server may live on or end in its own way.
    return bool(status.oom_kills)


def lost(run: TrialRun, what: str) -> NotOk:
    status = settled_status(run, wait=True)
    if not status.running or was_oom_killed(run, status):
        return server_ended(run, status, what)
    return NotOk(Outcome.HTTP_ERROR, what)


def require_running(run: TrialRun, machine: Machine, when: str) -> None:
    """Raise NotOk when the server has ended since the stage before."""
    status = machine.process_status()
    if not status.running:
        raise server_ended(run, status, when)
