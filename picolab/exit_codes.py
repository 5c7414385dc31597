"""The exit codes of every picolab command."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit code of a picolab command.

    When both 1 and 3 apply, 3 wins: a fault of the instrument means that the campaign is not complete.
    """

    OK = 0
    """Everything asked for was done, and every trial's outcome is `ok`."""
    TRIALS_FAILED = 1
    """The campaign is complete, and some trials found a result other than `ok` (such as `oom_killed`)."""
    REGRESSION = TRIALS_FAILED
    """The same number in a comparison: a candidate is worse than the baseline, or fails more often."""
    FINDINGS = TRIALS_FAILED
    """The same number in an examination: a finding is at least as severe as `--fail-on`; or a file of the history is
    damaged."""
    UNDECIDED = 2
    """A comparison was made and cannot exclude a regression beyond the margin."""
    INSTRUMENT_FAULT = 3
    """A fault of the instrument remains after all retries: something that was asked for was not measured."""
    BAD_PARAMETERS = 4
    """The command, a parameter or a file is invalid. Nothing was started."""
    HOST_UNFIT = 5
    """This host cannot do what was asked (memory limit, disk, RAM). Nothing was started. See `picolab doctor`."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C or SIGTERM, after cleaning up; `picolab resume` continues."""
