"""The body of a request: framing removed, an upload paced, and the knobs that count its bytes."""

from __future__ import annotations

import mmap
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from picolab.servers.calibration.log import die, log
from picolab.servers.calibration.memory import touched_memory
from picolab.servers.calibration.pacing import Pace, Schedule

if TYPE_CHECKING:
    from picolab.servers.calibration.handler import Handler

MIB = 1 << 20
OOM_STEP_MIB = 64
DISCARD_BYTES = 256 << 10  # what Go's net/http reads at most of a body that nobody wanted


class BadRequest(Exception):
    """The body cannot be used; the text is the sentence after `invalid request: `."""


class Body:
    """A request's body: its framing (Content-Length or chunked) undone, 100 Continue sent on the first read.

    Raises BadRequest if the framing is broken or the client ends early, ConnectionError if it is gone.
    """

    def __init__(self, handler: Handler) -> None:
        headers = handler.headers
        self._stream = handler.rfile
        self._proceed: Callable[[], None] | None = handler.proceed
        self._expects_100 = headers.get("Expect", "").lower() == "100-continue"
        self._chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        length = "0" if self._chunked else headers.get("Content-Length", "0").strip()
        self._broken = not (length.isascii() and length.isdigit())
        self._left = 0 if self._broken else int(length)  # of the body, or of the current chunk
        self.received_bytes = 0
        self.complete = not (self._chunked or self._broken or self._left)

    def readinto(self, view: memoryview) -> int:
        """Read what is there, at least one byte; return the number of bytes, 0 at the end."""
        if self._broken:
            raise BadRequest("bad Content-Length")
        if self.complete:
            return 0
        if self._proceed:
            if self._expects_100:
                self._proceed()
            self._proceed = None
        if self._chunked and not self._left and not self._next_chunk():
            return 0
        count = self._read_some(view[: self._left])
        if not count:
            raise BadRequest("unexpected EOF")
        self.received_bytes += count
        self._left -= count
        self.complete = not (self._chunked or self._left)
        return count

    def read_all(self) -> None:
        """Read the rest and throw it away; a client that ends early ends it."""
        scrap = memoryview(bytearray(64 << 10))
        with suppress(BadRequest):
            while self.readinto(scrap):
                pass

    def discard(self) -> None:
        """Read the rest if it is small, so that the connection can be used again."""
        limit = self.received_bytes + DISCARD_BYTES
        if self._left > DISCARD_BYTES or (self._proceed and self._expects_100):
            return
        with suppress(BadRequest):
            scrap = memoryview(bytearray(16 << 10))
            while not self.complete and self.received_bytes < limit:
                self.readinto(scrap)

    def _read_some(self, view: memoryview) -> int:
        return self._stream.readinto1(view)

    def _next_chunk(self) -> bool:
        line = self._stream.readline(4096)
        if self.received_bytes and line == b"\r\n":  # the end of the chunk before
            line = self._stream.readline(4096)
        size = re.fullmatch(rb"([0-9a-fA-F]{1,15})\s*(;.*)?\r\n", line, re.DOTALL)
        if size is None:
            self._broken = True
            raise BadRequest("malformed chunked encoding" if line else "unexpected EOF")
        self._left = int(size[1], 16)
        if not self._left:
            while self._stream.readline(4096) not in (b"\r\n", b""):
                pass
            self.complete = True
        return bool(self._left)


class UploadBody(Body):
    """The body of an upload: on schedule, with the knobs that count received bytes. A context manager."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler)
        self._knobs = knobs = handler.server.knobs
        self._ballast = handler.server.ballast
        self._growing: list[mmap.mmap] = []
        self.pace = Pace("upload", knobs)
        self._schedule: Schedule | None = None
        self.first_read_s = self.last_read_s = time.monotonic()
        self._milestones: list[tuple[int, Callable[[], None]]] = [
            (int(mib * MIB), act)
            for mib, act in (
                (knobs.oom_after_mib, self._take_all_memory),
                (knobs.exit_after_mib, self._exit),
                (knobs.stall_after_mib, wait_forever),
            )
            if mib is not None
        ]

    def __enter__(self) -> UploadBody:
        return self

    def __exit__(self, *_: object) -> None:
        self._growing.clear()

    def check(self) -> None:
        """Log if the body came slower than the knob promises."""
        if self._schedule:
            self._schedule.check(self.received_bytes, self.last_read_s)

    def _read_some(self, view: memoryview) -> int:
        if self._schedule is None:
            self._stream.peek(1)  # the clock starts when the body does, not when the client dawdles
            self.first_read_s = time.monotonic()
            self._schedule = self.pace.schedule("transfer_mib_s", self.first_read_s)
            self._ballast.keep()
        want = len(view)
        for at_bytes, act in self._milestones:
            if self.received_bytes == at_bytes:
                log(f"a knob acts after {at_bytes} bytes of the body")
                act()
            elif self.received_bytes < at_bytes:
                want = min(want, at_bytes - self.received_bytes)
        want = self._schedule.wait(self.received_bytes, want)
        count = super()._read_some(view[:want])
        self.last_read_s = time.monotonic()
        ballast_bytes = (self.received_bytes + count) * self._knobs.ballast_mib_per_mib
        while (len(self._growing) + 1) * MIB <= ballast_bytes:
            self._growing.append(touched_memory(MIB))
        return count

    def _exit(self) -> NoReturn:
        os._exit(self._knobs.exit_code)

    def _take_all_memory(self) -> NoReturn:
        taken: list[mmap.mmap] = []
        taken_mib = 0
        # The kernel itself writes the pages of each step: in a guest without memory this program's own code is read
        # from the disk again and again, and the end could take many minutes.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
        while taken_mib < int(self._knobs.oom_ceiling_mib):
            step_mib = min(OOM_STEP_MIB, int(self._knobs.oom_ceiling_mib) - taken_mib)
            taken.append(mmap.mmap(-1, step_mib * MIB, flags=flags))
            for offset in range(0, step_mib * MIB, mmap.PAGESIZE):
                taken[-1][offset] = 1
            taken_mib += step_mib
        die(f"oom_after_mib: gives up, for nothing stopped it at {taken_mib} MiB (oom_ceiling_mib)")


def wait_forever() -> None:
    """Hold this thread until the process ends."""
    threading.Event().wait()
