"""Sizes and their binary units: 1K is 1024 bytes, 1M is 1024K, 1G is 1024M."""

import re

from picolab.errors import ParameterError
from picolab.text.foreign import shown

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
LARGEST_FILE_BYTES = 1 << 40
_UNIT_BYTES = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1 << 40}
# A bounded number of digits cannot overflow; ASCII only, since other letters may look like a unit.
_SIZE = re.compile(r"^\s*(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(iB)?\s*$", re.IGNORECASE | re.ASCII)


def parse_size(text: str | int) -> int:
    """Return the bytes that a size such as `100M`, `1.5G`, `512KiB` or `4096` means.

    Units are binary: `1G` is 1024 MiB, 1 MiB is 1,048,576 bytes.

    Raises:
        ParameterError: not a size, not a whole number of bytes, zero, or more than 1 TiB.
    """
    match = None if isinstance(text, bool) else _SIZE.match(str(text))
    if not match:
        hint = ""
        if re.match(r"^\s*\d+(\.\d+)?\s*[KMGT]B\s*$", str(text), re.IGNORECASE):
            hint = " (MB and GB mean different things to different people, so they are not taken)"
        raise ParameterError(
            f"file size {shown(text)} is not a size{hint}: write a number and K, M, G or T, binary, "
            f"such as 100M or 1.5G"
        )
    size = float(match[1]) * _UNIT_BYTES[match[2].upper()]
    if size != int(size):
        raise ParameterError(f"file size {text!r} is not a whole number of bytes: write it in a smaller unit")
    if not 1 <= size <= LARGEST_FILE_BYTES:
        raise ParameterError(f"file size {text!r} is outside 1 byte to 1T: nothing sensible can be uploaded")
    return int(size)


def format_size(size_bytes: int) -> str:
    """Return the shortest exact text for a size, such as `100M` for 104857600; `parse_size` reads it."""
    for unit in ("T", "G", "M", "K"):
        if size_bytes >= _UNIT_BYTES[unit] and size_bytes % _UNIT_BYTES[unit] == 0:
            return f"{size_bytes // _UNIT_BYTES[unit]}{unit}"
    return str(size_bytes)


def in_mib(size_bytes: int | None) -> str:
    """Return a size for a line of text: `18.6 MiB`, or `not known` when it is missing."""
    return "not known" if size_bytes is None else f"{size_bytes / MIB:,.1f} MiB"
