"""Numbers and lists in words for people: changes in percent, durations, sizes, counts, enumerations."""

from collections.abc import Iterable

NOTHING = "–"
"""Stands where there is no number."""
MINUS = "\N{MINUS SIGN}"
_FEW = 6


def listed(names: Iterable[str]) -> str:
    """Return names as in a sentence: `a`, `a and b`, `a, b and c`."""
    every = list(names)
    return " and ".join([", ".join(every[:-1]), every[-1]] if len(every) > 1 else every)


def listed_few(names: Iterable[str]) -> str:
    """Return names as `listed` does, of many names the first and a count: `a, b and 3 more`."""
    every = list(names)
    return listed(every if len(every) <= _FEW else [*every[:_FEW], f"{len(every) - _FEW} more"])


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 trial` or `2 trials`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def change(ratio: float | None, decimals: int = 1) -> str:
    """Return a ratio as a change in percent with its sign, such as `+4.8 %` or `−3.0 %`; a dash for None.

    A change of 100 % and more has no decimals.
    """
    if ratio is None:
        return NOTHING
    percent = 100 * (ratio - 1)
    number = f"{abs(percent):,.{0 if abs(percent) >= 99.95 else decimals}f}"
    if not number.strip("0."):
        return f"{number} %"
    return f"{'+' if percent > 0 else MINUS}{number} %"


def change_and_interval(ratio: float | None, low: float | None, high: float | None) -> str:
    """Return a ratio and its interval as a change, such as `+5.2 % [+3.9, +6.6]`; a dash for no ratio."""
    if ratio is None or low is None or high is None:
        return change(ratio)
    return f"{change(ratio)} [{change(low).removesuffix(' %')}, {change(high).removesuffix(' %')}]"


def percent(share: float, decimals: int | None = None) -> str:
    """Return a share in percent, such as `5 %` or `12.5 %`.

    Args:
        decimals: None for as many as it has, at most six digits.
    """
    return f"{100 * share:g} %" if decimals is None else f"{100 * share:.{decimals}f} %"


def moment(text: object) -> str:
    """Return a time in ISO 8601, UTC, for people: `2026-01-31 10:00 UTC`; `at an unknown time` for none."""
    return f"{str(text).replace('T', ' ')[:16]} UTC" if text else "at an unknown time"


def duration(seconds: float) -> str:
    """Return a duration in whole units: `42 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def in_seconds(duration_s: float | None) -> str:
    """Return a measured duration: `1.25 s`, or `not known` when it is missing."""
    return "not known" if duration_s is None else f"{duration_s:.2f} s"
