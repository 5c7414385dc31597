"""When each byte of an upload or download is due."""

from __future__ import annotations

import math
import random
import time

from picolab.servers.calibration.knobs import Knobs
from picolab.servers.calibration.log import log
from picolab.servers.calibration.memory import memory_limit_mib

MIB = 1 << 20
TICK_S = 0.002  # paced reads and writes happen about this often


class Schedule:
    """The moment at which each byte is due at a constant rate, so that lateness never adds up.

    Without a rate every byte is due at once.
    """

    def __init__(self, knob: str, rate_mib_s: float | None, start_s: float) -> None:
        self._knob = knob
        self._rate = rate_mib_s * MIB if rate_mib_s else math.inf
        self._start_s = start_s

    def wait(self, done_bytes: int, left_bytes: int) -> int:
        """Sleep until the next piece after done_bytes is due; return how many bytes are due by then."""
        if math.isinf(self._rate):
            return left_bytes
        piece = min(left_bytes, max(1, int(self._rate * TICK_S)))
        self.wait_for(done_bytes + piece)
        return min(left_bytes, max(piece, int((time.monotonic() - self._start_s) * self._rate) - done_bytes))

    def wait_for(self, done_bytes: int) -> None:
        """Sleep until done_bytes are due."""
        while (early_s := self._start_s + done_bytes / self._rate - time.monotonic()) > 0:
            time.sleep(early_s)

    def check(self, done_bytes: int, end_s: float) -> None:
        """Log that the truth was not met if done_bytes at end_s were more than 1 % late."""
        promised_s, took_s = done_bytes / self._rate, end_s - self._start_s
        if promised_s and took_s > 1.01 * promised_s:
            log(f"{self._knob}: this truth is not met: took {took_s:.4f} s instead of {promised_s:.4f} s")


class Pace:
    """The rates of one upload or download: those of the knobs, times one factor for all of its phases."""

    def __init__(self, what: str, knobs: Knobs) -> None:
        """Draw the factor, and log it if it can differ from 1."""
        self._knobs = knobs
        minutes = max(0.0, time.time() - (knobs.drift_since or 0)) / 60
        drift = 1 / (1 + knobs.drift_per_minute * minutes)
        noise = random.lognormvariate(0, knobs.noise_percent / 100)
        shortage = 1.0
        if knobs.full_speed_mib is not None:
            shortage = min(1.0, memory_limit_mib() / knobs.full_speed_mib) ** knobs.full_speed_power
        self.factor = drift * noise * shortage
        if knobs.drift_per_minute or knobs.noise_percent or knobs.full_speed_mib is not None:
            words = f"drift {drift:.6f}, noise {noise:.6f}"
            words += "" if knobs.full_speed_mib is None else f", memory {shortage:.6f}"
            log(f"{what}: rates times {self.factor:.6f} ({words})")

    def schedule(self, knob: str, start_s: float) -> Schedule:
        """Return the schedule of a phase whose rate is the knob of that name."""
        rate: float | None = getattr(self._knobs, knob)
        return Schedule(knob, rate * self.factor if rate else None, start_s)
