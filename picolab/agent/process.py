"""Processes of the guest, and how to end and await them."""

# ruff: noqa: PTH123

from __future__ import annotations

import os
import select
import signal
import time

from picolab.agent.procfs import Stat, stat_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


POLL_S = 0.005


def until(condition: Callable[[], object], limit_s: float) -> bool:
    """Wait until a condition is true, at most `limit_s` seconds; return whether it is."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


class Process(Stat):
    """One process, not just a pid: pids are used again, start times are not."""

    @property
    def alive(self) -> bool:
        now = stat_of(self.pid)
        return now is not None and not now.has_ended and now.start_ticks == self.start_ticks

    @property
    def command_line(self) -> bytes:
        try:
            with open(f"/proc/{self.pid}/cmdline", "rb") as file:
                return file.read()
        except OSError:
            return b""

    def signal(self, number: int) -> None:
        """Send a signal if the process is still this one."""
        try:
            watch = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        except OSError:  # a kernel before 5.3
            if self.alive:
                os.kill(self.pid, number)
            return
        try:
            # Whoever has the pid now is held by the pidfd.
            if self.alive:
                signal.pidfd_send_signal(watch, number)
        except ProcessLookupError:
            return
        finally:
            os.close(watch)

    def wait(self, limit_s: float) -> bool:
        """Wait until it is gone, at most `limit_s` seconds; return whether it is."""
        try:
            watch = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        except OSError:  # a kernel before 5.3
            return until(lambda: not self.alive, limit_s)
        try:
            return not self.alive or bool(select.select([watch], [], [], limit_s)[0])
        finally:
            os.close(watch)


def kill_group(leader: int) -> None:
    """SIGKILL what a process that has just ended left of its group."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
