"""How long a campaign has run: the time limit of `repeats: auto` is about this time."""

import bisect
from datetime import datetime

from picolab.results.ledger import LedgerEntry


class RunningTime:
    """The time in which at least one trial of a campaign ran, faults included, from the entries of its ledger.

    It is the same for one machine, several machines and several hosts. The time between a stop and a resume does not
    count, and neither does an attempt that nobody timed.
    """

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    def add(self, entry: LedgerEntry) -> None:
        """Add an attempt that has ended."""
        if entry.started_at is None or entry.duration_s is None:
            return
        try:
            begun_s = datetime.fromisoformat(entry.started_at).timestamp()
        except (ValueError, OverflowError):
            return
        ended_s = begun_s + entry.duration_s
        first = bisect.bisect(self._spans, (begun_s, ended_s))
        if first and self._spans[first - 1][1] >= begun_s:
            first -= 1
        last = first
        while last < len(self._spans) and self._spans[last][0] <= ended_s:
            begun_s, ended_s = min(begun_s, self._spans[last][0]), max(ended_s, self._spans[last][1])
            last += 1
        self._spans[first:last] = [(begun_s, ended_s)]

    @property
    def seconds(self) -> float:
        return sum(ended_s - begun_s for begun_s, ended_s in self._spans)
