"""The kernel's OOM killer: its kills, and the processes that are protected from it.

Sources: proc(5) for oom_score_adj and vmstat; the kernel's ABI/testing/dev-kmsg.
"""

# ruff: noqa: PTH123

from __future__ import annotations

import os
import re

from picolab.agent.procfs import read_text, stat_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def oom_kills() -> int | None:
    """Return how many processes the kernel has killed at its memory limit since boot; None before Linux 4.13."""
    found = re.search(r"^oom_kill (\d+)$", read_text("/proc/vmstat") or "", re.MULTILINE)
    return int(found[1]) if found else None


def kernel_log() -> Iterator[tuple[int, str]]:
    """Return (number, line) for all lines of the kernel's log that are still there; none when it may not be read."""
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        while True:
            try:
                record = os.read(log, 8192)
            except BrokenPipeError:  # the kernel has just overwritten this one
                continue
            except OSError:
                return
            head, _, rest = record.decode("utf-8", "replace").partition(";")
            yield int(head.split(",")[1]), rest.partition("\n")[0]
    finally:
        os.close(log)


def protect_the_instrument() -> None:
    """Keep the kernel's OOM killer off the agent and off the ssh session that it is spoken to through.

    The server shall be what it takes, for its memory is what is measured. Only root may do so; without that it is
    left as it is.
    """
    process = stat_of(os.getpid())
    name = "agent"
    while process is not None and process.pid > 1:
        if name in ("agent", "sudo", "sshd", "sshd-session"):
            set_oom_score(process.pid, -1000)
        elif name not in ("sh", "dash", "bash"):
            return
        process = stat_of(process.parent)
        name = (read_text(f"/proc/{process.pid}/comm") or "").strip() if process else ""


def set_oom_score(pid: int, score: int) -> None:
    """Set how readily the OOM killer takes a process (-1000: never), if this user may."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except OSError:
        return
