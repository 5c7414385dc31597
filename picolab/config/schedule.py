"""Times of a watch: `6h`, `30min`, `day at 03:00`, `monday at 03:00`. All are UTC, which has no hour twice."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MINUTES = {"min": 1, "h": 60, "d": 1440}
_INTERVAL = re.compile(r"(\d{1,5}) ?(min|h|d)", re.ASCII)
_AT = re.compile(rf"(day|{'|'.join(_DAYS)}) at ([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_WEEK = timedelta(days=7)
_A_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)


@dataclass(frozen=True)
class Schedule:
    """Times at equal intervals.

    Attributes:
        first: one of them, from which all others are counted.
        interval: between two of them.
    """

    first: datetime
    interval: timedelta

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Read what follows `every:`.

        `6h` means 00:00, 06:00, 12:00 and 18:00: intervals are counted from Monday, 5 January 1970, 00:00 UTC.

        Raises:
            ValueError: it is no such text.
        """
        words = " ".join(text.lower().split())
        interval, at = _INTERVAL.fullmatch(words), _AT.fullmatch(words)
        if interval and int(interval[1]):
            return cls(_A_MONDAY, timedelta(minutes=int(interval[1]) * _MINUTES[interval[2]]))
        if at:
            time_of_day = timedelta(hours=int(at[2]), minutes=int(at[3]))
            if at[1] == "day":
                return cls(_A_MONDAY + time_of_day, timedelta(days=1))
            return cls(_A_MONDAY + timedelta(days=_DAYS.index(at[1])) + time_of_day, _WEEK)
        raise ValueError(f"{text[:60]!r} is no time; write 30min, 6h, 2d, day at 03:00 or monday at 03:00 (UTC)")

    def last(self, now: datetime) -> datetime:
        """Return the last of these times that is not after `now`."""
        return self.first + (now - self.first) // self.interval * self.interval
