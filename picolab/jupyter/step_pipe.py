"""A pipe through which a trial's process reports the steps of its machine's boot to the process that waits for it.

Whoever waits sleeps until a line arrives, and none does during a measured step.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from picolab.text.foreign import one_line

STEPS = "steps"
"""The name of the pipe in the kernel's folder, where only this user can write into it."""
_MOST_BYTES = 500
"""Of a line: below PIPE_BUF, so that a line is written as a whole or not at all."""
_READ_BYTES = 1 << 16


class StepPipe:
    """The end that reads. The folder is removed by the one who made it, and the pipe with it.

    Args:
        folder: of the kernel.
        on_step: is called with each line by `deliver`.

    Attributes:
        descriptor: can be waited for.
    """

    def __init__(self, folder: Path, on_step: Callable[[str], None]) -> None:
        self.path = folder / STEPS
        self._on_step = on_step
        self._rest = b""
        os.mkfifo(self.path, 0o600)
        # For writing too: without a writer, a wait for it would end at once.
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def deliver(self) -> None:
        """Pass on the lines that have arrived."""
        with suppress(BlockingIOError):
            while data := os.read(self.descriptor, _READ_BYTES):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self._on_step(one_line(line.decode(errors="replace")))

    def close(self) -> None:
        os.close(self.descriptor)


def report_step(pipe: Path | None, line: str) -> None:
    """Write a line into the pipe; nothing happens when there is none, or nobody reads it."""
    if pipe is None:
        return
    with suppress(OSError):
        descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(descriptor, one_line(line).encode()[:_MOST_BYTES] + b"\n")
        finally:
            os.close(descriptor)
