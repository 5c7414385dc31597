"""A launch of the server in the guest: its files, its processes, and how it ended.

A shell runs the server and notes how it ended. To a shell an exit code above 128 looks like a signal; they are told
apart by what it prints about a signal, which it does not do for SIGINT, SIGPIPE and SIGTERM: exit codes 130, 141 and
143 count as these.
"""

from __future__ import annotations

import re
import signal
import time

from picolab.agent.kernel_log import kernel_log
from picolab.agent.process import Process, until
from picolab.agent.procfs import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


NOTE_LIMIT_S = 5.0

SILENT_SIGNALS = (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)
"""A shell says nothing when one of these ended what it ran."""

WRAPPER = """\
# Runs the server and notes its pid and how it ended. $1: the folder of this launch, $2: the server's log.
# Its environment was empty, so the server has no more than `start` gives it.
cd "$1" || exit
# `said` and `exit` hold blanks that are overwritten: a server that has filled the disk cannot keep them from being
# written. What goes to `said` is what the shell says when a signal ends the server.
exec 2<>said
# What ends a session or comes from a keyboard is not for the wrapper: it notes the end in any case.
trap : HUP INT QUIT TERM
PATH={path}
read -r own </proc/$$/stat
read -r parent </proc/$PPID/stat
printf '%s\\n' "$own" "$parent" >wrapper
if [ -t 1 ]; then tail -n +1 -f --pid=$$ "$2" 2>/dev/null & fi
# It holds the secret: it is gone before the server starts.
exec 3<start
rm start
(. /proc/self/fd/3)
code=$?
read -r uptime idle </proc/uptime
# What the server has started ends with it. Its number means nobody else as long as one of them is there.
read -r pid rest <pid && kill -s KILL -- "-$pid" 2>/dev/null
printf '%s %s\\n' "$code" "$uptime" 1<>exit
"""


def on_monotonic(since_boot_s: float) -> float:
    """Return a time that the kernel counts since boot, sleep included, on CLOCK_MONOTONIC. It is good to 10 ms."""
    return round(since_boot_s - (time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()), 3)


class Launch:
    """The last launch of a server: which it was, and what is known of its processes.

    Args:
        note: the contents of launch.json.
    """

    def __init__(self, note: dict[str, Any]) -> None:
        self.note = note
        self.folder: str = note["folder"]
        self.launcher: str = note["launcher"]

    def _processes(self, name: str) -> list[Process]:
        text = read_text(f"{self.folder}/{name}") or ""
        return [Process(line) for line in text.splitlines()] if text.endswith("\n") else []

    @property
    def server(self) -> Process | None:
        """The server, alive or not; None when it has not been started yet."""
        return next(iter(self._processes("pid")), None)

    @property
    def wrapper(self) -> Process | None:
        return next(iter(self._processes("wrapper")), None)

    @property
    def screen(self) -> Process | None:
        """The screen session, alive or not."""
        found = self._processes("wrapper")
        return found[1] if self.launcher == "screen" and len(found) > 1 else None

    @property
    def wrapper_is_alive(self) -> bool:
        wrapper = self.wrapper
        return wrapper is not None and wrapper.alive

    @property
    def server_runs(self) -> bool:
        server = self.server
        return server is not None and server.alive

    @property
    def end(self) -> tuple[int, float] | None:
        """The wrapper's note about the server's end: the shell's exit code, and the time on CLOCK_MONOTONIC."""
        text = read_text(f"{self.folder}/exit") or ""
        words = text.partition("\n")[0].split()
        return (int(words[0]), on_monotonic(float(words[1]))) if len(words) == 2 else None

    @property
    def said(self) -> str:
        """The exit code of the wrapper's shell."""
        return (read_text(f"{self.folder}/said") or "").strip()

    def exit(self) -> tuple[int | None, str | None]:
        """Return (exit code, name of the signal) of a server that has ended; one of them, or none, is known."""
        if self.end is None:
            return None, None
        code = self.end[0]
        number = code - 128
        if number <= 0 or not (self.said or number in SILENT_SIGNALS):
            return code, None
        try:
            return None, signal.Signals(number).name
        except ValueError:  # a real-time signal
            return None, f"SIG{number}"

    def await_note(self) -> None:
        """Give the wrapper of a server that has ended the moment that it takes to note so."""
        until(lambda: self.end is not None or not self.wrapper_is_alive, NOTE_LIMIT_S)

    def oom_evidence(self) -> str | None:
        """Return the line of the kernel's log that says that it killed the server, or None when there is none."""
        server = self.server
        if server is None:
            return None
        killed = re.compile(rf"\bKilled process {server.pid}\b")
        since = self.note["kernel_log_number"]
        lines = (line for number, line in kernel_log() if number > since and killed.search(line))
        return next(lines, None)
