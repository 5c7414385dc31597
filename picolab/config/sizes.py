"""Sizes and their binary units: 1K is 1024 bytes, 1M is 1024K, 1G is 1024M."""

import math
import re

from picolab.errors import ParameterError
from picolab.text.foreign import shown

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
LARGEST_FILE_BYTES = 1 << 40
SMALLEST_RAM_MB = 4
RAM_STEPS_PER_MIB = 16
"""RAM is a multiple of 64 KiB, which is whole pages on every host, and is exact as a decimal number."""
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


def parse_ram_mib(value: object) -> object:
    """Return the MiB that an amount of RAM means: 512 and `512` are MiB, `12.5M` and `1G` have a unit of their own.

    A whole number of MiB is an int. What is no amount is returned unchanged, for pydantic to refuse.

    Raises:
        ParameterError: a text that is no amount, or one that is no multiple of 64 KiB.
    """
    mib = _in_mib(value) if isinstance(value, str) else value
    if isinstance(mib, float) and math.isfinite(mib):
        if not (mib * RAM_STEPS_PER_MIB).is_integer():
            raise ParameterError(f"RAM {shown(value)} is no multiple of 64 KiB; round it, for example to 12.5M")
        return int(mib) if mib.is_integer() else mib
    return mib


def _in_mib(text: str) -> float:
    if re.fullmatch(r"\s*\d{1,9}(\.\d{1,9})?\s*", text, re.ASCII):
        return float(text)
    try:
        return parse_size(text) / MIB
    except ParameterError as error:
        raise ParameterError(str(error).replace("file size", "RAM", 1)) from None


def format_size(size_bytes: int) -> str:
    """Return the shortest exact text for a size, such as `100M` for 104857600; `parse_size` reads it."""
    for unit in ("T", "G", "M", "K"):
        if size_bytes >= _UNIT_BYTES[unit] and size_bytes % _UNIT_BYTES[unit] == 0:
            return f"{size_bytes // _UNIT_BYTES[unit]}{unit}"
    return str(size_bytes)


def in_mib(size_bytes: int | None) -> str:
    """Return a size for a line of text: `18.6 MiB`, or `not known` when it is missing."""
    return "not known" if size_bytes is None else f"{size_bytes / MIB:,.1f} MiB"
