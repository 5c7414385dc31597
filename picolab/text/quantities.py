"""Durations and sizes in a line of text; a missing one reads `not known`."""

_MIB = 1 << 20


def in_seconds(duration_s: float | None) -> str:
    """Return a duration such as `1.25 s`, or `not known` when it is missing."""
    return "not known" if duration_s is None else f"{duration_s:.2f} s"


def in_mib(size_bytes: int | None) -> str:
    """Return a size such as `18.6 MiB`, or `not known` when it is missing."""
    return "not known" if size_bytes is None else f"{size_bytes / _MIB:,.1f} MiB"
