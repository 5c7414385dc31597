"""A request to stop: the first Ctrl-C or SIGTERM is noted, the second one ends the work at once."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Notes the first of some signals, so that work can end in an orderly way; the second one ends it at once.

    `install` is for the rest of the process; as a context manager it puts the old handlers back.

    Args:
        signals: which ones.

    Attributes:
        requested: whether one has come.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self.requested = False
        self._signals = signals or _SIGNALS
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> StopRequest:
        for number in self._signals:
            # A signal that nohup, or a shell's `&`, ignores stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                # Outside the main thread nobody may set a handler, and no signal arrives.
                with suppress(ValueError):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __enter__(self) -> StopRequest:
        return self.install()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        with suppress(OSError):
            # Unbuffered, as a signal handler needs it; the terminal may be gone.
            os.write(2, b"\nStopping after cleaning up (again: at once) ...\n")
