"""A lock of the host: of all workers on it, whoever started them, one runs one order at a time.

It is a unix socket with an abstract name (unix(7)): no file stays, the kernel frees it with the last process that has
it open, and it says who listens. A container with a network of its own has another lock. There a campaign finds workers
on one kernel by its boot id, and gives orders to one of them; another campaign may give orders to another one.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NAME = "\0picolab-worker"
_LOOK_S = 0.5
"""Between two tries while another process has it: too seldom to disturb what that one measures."""


class HostLock:
    """The lock as a process sees it: an order has it from its begin to its end, and others of that process wait too."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._socket: socket.socket | None = None

    @contextmanager
    def held(self, is_stopped: Callable[[], bool]) -> Iterator[int | None]:
        """Wait for the lock; yield a descriptor for the process that runs the trials, or None when it was stopped.

        Whoever inherits the descriptor has the lock too, so that the clean-up of a killed worker still has it.

        Args:
            is_stopped: whether to wait no longer.
        """
        while (descriptor := self._take()) is None and not is_stopped():
            time.sleep(_LOOK_S)
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                self._give_back()

    def _take(self) -> int | None:
        with self._guard:
            if self._socket is not None:
                return None
            made = socket.socket(socket.AF_UNIX)
            try:
                made.bind(NAME)
            except OSError:
                made.close()
                return None
            made.listen()
            self._socket = made
            return made.fileno()

    def _give_back(self) -> None:
        with self._guard:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def other_holder(self) -> str:
        """Return which other process has the lock, such as `process 42 of user 1000`; empty when none has."""
        with self._guard:
            if self._socket is not None:
                return ""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.setblocking(False)
            try:
                asking.connect(NAME)
            except OSError:
                return ""
            pid, uid, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f"process {pid} of user {uid}"
