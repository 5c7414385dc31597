"""Outcomes: what a trial and its measured steps can find, and the stages in which they find it."""

from enum import StrEnum
from typing import Literal, get_args


class Outcome(StrEnum):
    """The finding of a trial, in one word."""

    OK = "ok"
    OOM_KILLED = "oom_killed"
    SERVER_DIED = "server_died"
    HTTP_ERROR = "http_error"
    STALLED = "stalled"
    TIMEOUT = "timeout"
    CORRUPTED = "corrupted"
    DISK_FULL = "disk_full"
    MACHINE_FAILED = "machine_failed"
    INTERRUPTED = "interrupted"
    INVALID = "invalid"

    @property
    def is_fault(self) -> bool:
        """True for a fault of the instrument: it may be retried and never enters a figure."""
        return self in FAULTS


FAULTS = frozenset({Outcome.MACHINE_FAILED, Outcome.INTERRUPTED, Outcome.INVALID})


OUTCOME_MEANINGS = {
    Outcome.OK: "every measured step was answered with success, and no byte is known to differ",
    Outcome.OOM_KILLED: "the kernel killed the server because the machine's memory was used up",
    Outcome.SERVER_DIED: "the server's process ended by itself",
    Outcome.HTTP_ERROR: "the server answered with an error",
    Outcome.STALLED: "no byte was delivered for the stall limit",
    Outcome.TIMEOUT: "a stage took longer than its limit",
    Outcome.CORRUPTED: "the download differs from what was uploaded",
    Outcome.DISK_FULL: "the server said that its disk is full",
    Outcome.MACHINE_FAILED: "fault of the instrument: the machine could not be made, reached or kept",
    Outcome.INTERRUPTED: "fault of the instrument: the trial was stopped from outside",
    Outcome.INVALID: "fault of the instrument: what was measured is not complete or not consistent",
}


Stage = Literal["provision", "start", "authenticate", "upload", "verify", "collect", "release"]


STAGES: tuple[Stage, ...] = get_args(Stage)


Step = Literal["upload", "download"]
"""What numbers are about. Which of the two are measured, the parameter `direction` says."""


STEPS: tuple[Step, ...] = get_args(Step)
