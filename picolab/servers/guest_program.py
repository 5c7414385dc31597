"""Whether a program can start in a guest: its processor, its interpreter, its libraries and its version of glibc.

The kernel's own rules are in `executable.py`. This adds those of the dynamic loader, from the ELF file alone.

Sources: elf(5), ld.so(8), and the Linux Standard Base, chapter Symbol Versioning.
"""

import mmap
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from picolab.machines.kind import GuestSystem
from picolab.servers.executable import MACHINES, RUNS

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29
_DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF
_MOST_ENTRIES = 4096
_LONGEST_TEXT = 4096
_GLIBC = re.compile(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?")
_ADVICE = "build it for the guest's system, or static"


def why_unfit(path: Path, guest: GuestSystem) -> str:
    """Return why a program would not start in a guest, or an empty text when nothing speaks against it.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        first = file.read(256)
        if first.startswith(b"#!"):
            return _why_no_script(first, guest)
        if not first.startswith(b"\x7fELF"):
            return ""
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _why_no_elf(_Elf(content), guest)
            except (struct.error, IndexError, ValueError, OverflowError):
                # Damage that the kernel does not look at: the loader in the guest has the last word.
                return ""


def _why_no_script(first: bytes, guest: GuestSystem) -> str:
    words = [os.fsdecode(word) for word in first[2:].partition(b"\n")[0].split()]
    if not words or not guest.complete:
        return ""
    if not guest.has(words[0]):
        return f"its interpreter {words[0]} is not in the guest; use a box that has it, or a program without it"
    if Path(words[0]).name == "env" and len(words) == 2 and not guest.has_command(words[1]):
        return f"its interpreter {words[1]!r} is not in the guest; use a box that has it, or a program without it"
    return ""


def _why_no_elf(elf: "_Elf", guest: GuestSystem) -> str:
    runs = RUNS.get(guest.processor)
    if runs is not None and elf.target not in runs:
        name = MACHINES.get(elf.target[2], f"ELF machine {elf.target[2]}")
        return f"it is a program for another processor ({name}), and the guest has {guest.processor}; {_ADVICE}"
    if elf.interpreter is None:
        return ""
    if guest.files and not guest.has(elf.interpreter):
        return f"its interpreter {elf.interpreter} is not in the guest; {_ADVICE}"
    if not guest.complete:
        return ""
    missing = [name for name in elf.needed if not guest.has_library(name)]
    if missing and not elf.has_own_path:
        return f"its library {', '.join(missing)} is not in the guest; {_ADVICE}"
    if guest.glibc and elf.glibc > guest.glibc:
        wanted, there = (".".join(map(str, version)) for version in (elf.glibc, guest.glibc))
        return f"it needs glibc {wanted} or newer, and the guest has {there}; {_ADVICE}"
    return ""


@dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    address: int
    length: int


class _Elf:
    """The parts of an ELF file that the dynamic loader uses.

    Attributes:
        target: class, byte order and machine.
        interpreter: path of the dynamic loader; None for a static program.
        needed: names of its libraries.
        has_own_path: whether it names folders of its own where libraries are.
        glibc: the newest version of glibc that it needs; empty when none is named.
    """

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._wide, self._order = content[4] == 2, "<" if content[5] == 1 else ">"
        self.target = (content[4], content[5], self._unpack("H", 18)[0])
        self._segments = self._read_segments()
        found = {segment.kind: segment for segment in self._segments}
        interpreter = found.get(_PT_INTERP)
        self.interpreter = self._text(interpreter.offset) if interpreter else None
        tags = self._tags(found[_PT_DYNAMIC]) if _PT_DYNAMIC in found else []
        values = dict(tags)
        self._texts = self._offset(values[_DT_STRTAB]) if _DT_STRTAB in values else 0
        self.needed = [self._text(self._texts + value) for tag, value in tags if tag == _DT_NEEDED]
        self.has_own_path = bool({_DT_RPATH, _DT_RUNPATH} & values.keys())
        self.glibc = self._newest_glibc(values)

    def _unpack(self, form: str, at: int) -> tuple[int, ...]:
        return struct.unpack_from(f"{self._order}{form}", self._content, at)

    def _read_segments(self) -> list[_Segment]:
        (table,) = self._unpack("Q", 32) if self._wide else self._unpack("I", 28)
        size, count = self._unpack("HH", 54 if self._wide else 42)
        segments = []
        for at in range(table, table + size * count, size):
            if self._wide:
                kind, offset, address, length = self._unpack("I4xQQ8xQ", at)
            else:
                kind, offset, address, length = self._unpack("III4xI", at)
            segments.append(_Segment(kind, offset, address, length))
        return segments

    def _tags(self, table: _Segment) -> list[tuple[int, int]]:
        size = 16 if self._wide else 8
        tags = []
        for at in range(table.offset, table.offset + min(table.length, size * _MOST_ENTRIES), size):
            tag, value = self._unpack("QQ" if self._wide else "II", at)
            if tag == 0:
                break
            tags.append((tag, value))
        return tags

    def _offset(self, address: int) -> int:
        """Return where in the file an address of memory is."""
        for segment in self._segments:
            if segment.kind == _PT_LOAD and segment.address <= address < segment.address + segment.length:
                return address - segment.address + segment.offset
        raise ValueError(address)

    def _text(self, at: int) -> str:
        return os.fsdecode(self._content[at : at + _LONGEST_TEXT].partition(b"\0")[0])

    def _newest_glibc(self, values: dict[int, int]) -> tuple[int, ...]:
        """Return the newest version of glibc among those of the symbols that are used."""
        newest: tuple[int, ...] = ()
        if _DT_VERNEED not in values:
            return newest
        library = self._offset(values[_DT_VERNEED])
        for _ in range(min(values.get(_DT_VERNEEDNUM, 0), _MOST_ENTRIES)):
            _, count, _, first, following = self._unpack("HHIII", library)
            entry = library + first
            for _ in range(min(count, _MOST_ENTRIES)):
                name, step = self._unpack("8xII", entry)
                named = _GLIBC.fullmatch(self._text(self._texts + name))
                if named:
                    newest = max(newest, (int(named[1]), int(named[2])))
                entry += step
            library += following
        return newest
