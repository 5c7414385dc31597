"""The server ends, or does not: killed, out of memory, never ready, deaf to SIGTERM."""

from __future__ import annotations

from picolab.record import Outcome, Record

from .catalogue import fault
from .conftest import MisbehavingServer, RunTrial, kill_server

A_RESULT = "Nothing: it is a result and counts. The server's log is beside the record."


def is_(record: Record, outcome: Outcome, stage: str | None, *words: str) -> None:
    assert (record.outcome, record.outcome_stage) == (outcome, stage), record.outcome_detail
    for word in words:
        assert word in record.outcome_detail, record.outcome_detail


@fault(
    "server killed before the upload",
    group="server",
    outcome="server_died",
    see="the server ended with signal SIGKILL, before the upload",
    do=A_RESULT,
)
def test_server_killed_before_the_upload(run_trial: RunTrial) -> None:
    record = run_trial({"upload": kill_server})
    is_(record, Outcome.SERVER_DIED, "upload", "signal SIGKILL, before the upload")
    assert record.server and record.server.oom_kills == 0


@fault(
    "server killed in the transfer",
    group="server",
    outcome="server_died",
    see="the server ended with signal SIGKILL, in the transfer",
    do=A_RESULT,
)
def test_server_killed_in_the_transfer(run_trial: RunTrial, server_that: MisbehavingServer) -> None:
    build = server_that("threading.Timer(0.0, lambda: None)\n" + KILL_AFTER_A_MIB, transfer_mib_s=8)
    is_(run_trial(build=build), Outcome.SERVER_DIED, "upload", "signal SIGKILL")


KILL_AFTER_A_MIB = """
read = server.UploadBody.readinto
def readinto(body, view):
    if body.received_bytes > 1 << 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(body, view)
server.UploadBody.readinto = readinto
"""
