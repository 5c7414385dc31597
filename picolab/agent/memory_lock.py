"""Locks the instrument's own pages in memory, so that it keeps working in a machine that has run out of memory.

Without swap, a machine under memory pressure drops the pages of programs that it can read again from the disk, and
reads them again whenever they run: it may be busy with nothing else for minutes before the OOM killer acts. A probe
whose own code has to be read again cannot sample that.

Source: mlock(2). Measured with CPython 3.11: all mapped pages at once take 4 MiB more than the probe ever uses. With
MCL_ONFAULT a page is locked when it is first used, and the resident memory stays as it was; ctypes adds 0.4 MiB.
"""

from __future__ import annotations

import errno
import os

from picolab.agent.procfs import read_text

_NOW, _LATER, _ONCE_USED = 1, 2, 4
"""MCL_CURRENT, MCL_FUTURE and MCL_ONFAULT (Linux 4.4) of x86 and ARM."""
_CAP_IPC_LOCK = 14


def lock_memory() -> str | None:
    """Lock the pages of this process that it has used or is going to use; a child does not inherit that.

    Returns:
        None when they are locked; else a sentence that says why not.
    """
    failed = "the instrument's pages could not be locked in memory"
    machine = os.uname().machine
    if not machine.startswith(("x86", "i686", "aarch64", "arm")):
        return f"{failed} (not supported on {machine})"
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
    except (ImportError, OSError) as error:
        return f"{failed} ({error})"
    # Under a limit, whatever exceeds it later would be a MemoryError.
    later = _LATER if _may_lock_any_amount() else 0
    for flags in (_NOW | later | _ONCE_USED, _NOW | later):
        if libc.mlockall(flags) == 0:
            return None
        if ctypes.get_errno() != errno.EINVAL:
            break
    return f"{failed} ({os.strerror(ctypes.get_errno())}); it needs root, or a higher limit of `ulimit -l`"


def _may_lock_any_amount() -> bool:
    for line in (read_text("/proc/self/status") or "").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False
