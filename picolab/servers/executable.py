"""Whether a file is a program that the kernel of this host can start, told from its bytes and without starting it.

Sources: execve(2), elf(5), and the kernel's fs/binfmt_elf.c and fs/binfmt_script.c.
"""

import os
import platform
import shutil
import struct
from pathlib import Path

_SCRIPT_LINE_BYTES = 256
"""The kernel looks for the interpreter of a script in so many bytes."""
MACHINES = {3: "i386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC 64", 22: "S/390", 40: "ARM"}
MACHINES |= {62: "x86-64", 183: "AArch64", 243: "RISC-V", 258: "LoongArch"}
RUNS = {
    "x86_64": ((2, 1, 62), (1, 1, 3), (1, 1, 62)),
    "i686": ((1, 1, 3),),
    "aarch64": ((2, 1, 183), (1, 1, 40)),
    "armv7l": ((1, 1, 40),),
    "riscv64": ((2, 1, 243),),
    "ppc64le": ((2, 1, 21),),
    "s390x": ((2, 2, 22),),
}
"""Class (1: 32 bit, 2: 64 bit), byte order (1: little) and machine of the programs that a processor runs."""
_OTHERS = {
    b"MZ": "a program for Windows",
    b"\xcf\xfa\xed\xfe": "a program for macOS",
    b"\xca\xfe\xba\xbe": "a program for macOS, or Java's",
    b"\x1f\x8b": "a gzip archive (one of a release is called .tar.gz)",
    b"PK\x03\x04": "a zip archive",
}
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_SONAME, _DT_FLAGS_1, _DF_1_PIE = 14, 0x6FFFFFFB, 0x08000000
_MOST_SEGMENTS_BYTES = 1 << 16
"""The kernel takes no more headers of segments."""


def why_no_program(path: Path, *, in_guest: bool = False, search: str = os.defpath) -> str:
    """Return why the kernel would not start a file, or an empty text when nothing speaks against it.

    Args:
        in_guest: it will run in a virtual machine of this host's architecture, whose files cannot be checked here.
        search: folders in which `#!/usr/bin/env` looks.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if size == 0:
        return "the file is empty"
    with path.open("rb") as file:
        first = file.read(_SCRIPT_LINE_BYTES)
    if first.startswith(b"\x7fELF"):
        return _why_no_elf(path, size, in_guest)
    if first.startswith(b"#!"):
        return _why_no_script(first, in_guest, search)
    for begin, what in _OTHERS.items():
        if first.startswith(begin):
            return f"the file is {what}"
    return "the file is no program: it begins neither with the ELF header nor with #!"


def _why_no_script(first: bytes, in_guest: bool, search: str) -> str:
    line, newline, _ = first[2:].partition(b"\n")
    if line.endswith(b"\r"):
        return "its first line ends with CR LF, as on Windows, so its interpreter is not found; end it with LF"
    words = line.partition(b"\0")[0].split()
    if not words:
        return "its first line #! names no interpreter"
    if not newline and len(first) == _SCRIPT_LINE_BYTES and len(words) == 1:
        return f"its first line, which names the interpreter, is longer than {_SCRIPT_LINE_BYTES} bytes"
    interpreter = os.fsdecode(words[0])
    if not interpreter.startswith("/"):
        return f"its interpreter {interpreter!r} is not named from the root"
    if in_guest:
        return ""
    problem = _why_no_interpreter(interpreter)
    if not problem and Path(interpreter).name == "env":
        wanted = [os.fsdecode(word) for word in words[1:] if not word.startswith(b"-") and b"=" not in word]
        # Without -S, env takes the rest of the line for one name.
        if wanted and words[1] == words[-1] and shutil.which(wanted[0], path=search) is None:
            return f"its interpreter {wanted[0]!r} is in none of {search}, where the server looks"
    return problem


def _why_no_interpreter(path: str) -> str:
    if not Path(path).exists():
        return f"its interpreter {path} is not there; install it, or build the program for this system (or static)"
    if not Path(path).is_file() or not os.access(path, os.X_OK):
        return f"its interpreter {path} may not be executed"
    return ""


def _why_no_elf(path: Path, size: int, in_guest: bool) -> str:
    """Look at the headers as the kernel does; `size` tells a file that was cut off."""
    cut = "the file was cut off; copy or build it again"
    with path.open("rb") as file:
        ident = file.read(64)
        if len(ident) < 52 or ident[4] not in (1, 2) or ident[5] not in (1, 2):
            return cut if len(ident) < 52 else "its ELF header is damaged"
        wide, order = ident[4] == 2, "<" if ident[5] == 1 else ">"
        kind, machine = struct.unpack_from(f"{order}HH", ident, 16)
        known = RUNS.get(platform.machine())
        if known is not None and (ident[4], ident[5], machine) not in known:
            name = MACHINES.get(machine, f"ELF machine {machine}")
            return (
                f"it is a program for another processor ({name}, {64 if wide else 32} bit), and this host has "
                f"{platform.machine()}"
            )
        if kind not in (2, 3):
            what = {1: "an object file that was not linked", 4: "a core dump"}.get(kind, f"an ELF file of type {kind}")
            return f"it is {what}, not a program"
        if len(ident) < (64 if wide else 52):
            return cut
        entry, table = struct.unpack_from(f"{order}QQ" if wide else f"{order}II", ident, 24)
        entry_bytes, count = struct.unpack_from(f"{order}HH", ident, 54 if wide else 42)
        if entry_bytes != (56 if wide else 32) or not 0 < count * entry_bytes <= _MOST_SEGMENTS_BYTES:
            return "its ELF header is damaged"
        if table + count * entry_bytes > size:
            return cut
        file.seek(table)
        headers = file.read(count * entry_bytes)
        segments = []
        for at in range(0, len(headers), entry_bytes):
            segment, offset, length = (
                struct.unpack_from(f"{order}I4xQ16xQ", headers, at)
                if wide
                else struct.unpack_from(f"{order}II8xI", headers, at)
            )
            segments.append((segment, offset, length))
        read = (_PT_LOAD, _PT_DYNAMIC, _PT_INTERP)
        if any(offset + length > size for segment, offset, length in segments if segment in read):
            return cut
        if not any(segment == _PT_LOAD for segment, _, _ in segments):
            return "it holds nothing to load (a file of debugging symbols?)"
        parts = {segment: (offset, length) for segment, offset, length in segments}
        if _PT_INTERP in parts:
            offset, length = parts[_PT_INTERP]
            file.seek(offset)
            interpreter = os.fsdecode(file.read(min(length, 4096)).rstrip(b"\0"))
            return "" if in_guest else _why_no_interpreter(interpreter)
        # Static programs that may lie anywhere (static PIE) have the type of a library, and a flag.
        if kind == 3:
            offset, length = parts.get(_PT_DYNAMIC, (0, 0))
            file.seek(offset)
            tags = dict(struct.iter_unpack(f"{order}{'qQ' if wide else 'iI'}", _whole(file.read(length), wide)))
            is_pie = tags.get(_DT_FLAGS_1, 0) & _DF_1_PIE
            if not is_pie and (entry == 0 or _DT_SONAME in tags):
                return "it is a shared library, not a program"
    return ""


def _whole(table: bytes, wide: bool) -> bytes:
    return table[: len(table) - len(table) % (16 if wide else 8)]
