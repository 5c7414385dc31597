"""Whether the host is idle, and the wait for it."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from picolab.host.conditions import CPU_COLUMNS, Own, Reading, busiest_process, read

IDLE_BUSY_SHARE = 0.10
"""A host counts as idle up to this share of the time of all processors. Housekeeping stays far below it, and one busy
process exceeds it on up to nine processors. With more processors, others are free for the trial."""
IDLE_READINGS = 3
"""Consecutive readings that must be below: a short pause of a busy program is no idle host."""
IDLE_READING_S = 1.0
_STOP_POLL_S = 0.05


@dataclass(frozen=True)
class IdleResult:
    """How the wait for an idle host ended.

    Attributes:
        waited_s: length of the wait.
        idle: true when the last readings were all below `IDLE_BUSY_SHARE`.
        busy_share: of all processors, without this process, in the last reading; None before there was one.
        busiest: the process that used most CPU time in the last reading, if one stood out.
        stopped: true when the caller ended the wait.
    """

    waited_s: float
    idle: bool
    busy_share: float | None
    busiest: str | None = None
    stopped: bool = False

    @property
    def line(self) -> str:
        """One sentence about the result, without a full stop."""
        if self.busy_share is None:
            return "the wait for an idle host was stopped"
        busy = f"{self.busy_share:.0%} of all processors busy"
        if self.idle:
            return f"the host is idle ({busy}), after {self.waited_s:.0f} s"
        return f"the host was not idle for {self.waited_s:.0f} s: {busy}" + (
            f", most of it by {self.busiest}" if self.busiest else ""
        )


def wait_for_idle(
    limit_s: float,
    report: Callable[[str], None] = lambda line: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> IdleResult:
    """Wait until the host is idle in three readings of a second each, up to a limit.

    Stolen time counts as busy: this host cannot use it.

    Args:
        limit_s: longest wait in seconds; an idle host takes three seconds in any case.
        report: receives a line for each reading while the host is busy.
        stop_requested: ends the wait when it returns true.
    """
    own = Own(frozenset({os.getpid()}))
    begun = time.monotonic()
    idle_readings, share, busiest = 0, None, None
    before = read(own)
    while True:
        ends_s = before.t_s + IDLE_READING_S
        while (left_s := ends_s - time.monotonic()) > 0:
            if stop_requested():
                return IdleResult(time.monotonic() - begun, False, share, busiest, stopped=True)
            time.sleep(min(_STOP_POLL_S, left_s))
        after = read(own)
        share, busiest = _busy_share(before, after), busiest_process(before, after)
        before = after
        waited_s = after.t_s - begun
        idle_readings = idle_readings + 1 if share <= IDLE_BUSY_SHARE else 0
        if idle_readings >= IDLE_READINGS:
            return IdleResult(waited_s, True, share, busiest)
        if waited_s >= limit_s and idle_readings == 0:
            return IdleResult(waited_s, False, share, busiest)
        if idle_readings == 0:
            most = f", most of it by {busiest}" if busiest else ""
            report(
                f"waiting for an idle host: {share:.0%} of all processors busy (limit {IDLE_BUSY_SHARE:.0%}){most}; "
                f"{max(0.0, limit_s - waited_s):.0f} s left"
            )


def _busy_share(before: Reading, after: Reading) -> float:
    cpu = {name: max(0.0, after.cpu_s[name] - before.cpu_s[name]) for name in CPU_COLUMNS}
    busy_s = sum(cpu.values()) - cpu["idle"] - cpu["iowait"] - (after.own_s - before.own_s)
    return max(0.0, busy_s / sum(cpu.values())) if any(cpu.values()) else 0.0
