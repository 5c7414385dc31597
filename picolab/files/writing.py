"""Files written whole or not at all, and the error that says why one could not be written."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from picolab.config.sizes import MIB
from picolab.errors import FileNotWritten

_LONGEST_NAME = 200
"""A file system takes 255 bytes, and names get endings such as `.attempt2.download-samples.jsonl`."""


_ELSEWHERE = "or name another folder by PICOLAB_OUTPUTS_DIR (results) or PICOLAB_STATE_DIR (machines and their data)"


def not_written(path: Path, error: OSError, elsewhere: str = _ELSEWHERE) -> FileNotWritten:
    """Return an error that says which file could not be written, on which file system, and what to do about it.

    Args:
        elsewhere: how the user gives the file another place, as the end of a sentence.
    """
    place = path.absolute().parent
    while not place.exists():
        place = place.parent
    mount = place.resolve()
    while not os.path.ismount(mount):
        mount = mount.parent
    numbers = os.statvfs(place)
    free = f"{numbers.f_bavail * numbers.f_frsize / MIB:,.1f} MiB free"
    match error.errno:
        case errno.ENOSPC if numbers.f_files and not numbers.f_favail:
            why, remedy = f"has no inode left for another file ({free})", f"remove files there, {elsewhere}"
        case errno.ENOSPC:
            why, remedy = f"is full ({free})", f"free some space there, {elsewhere}"
        case errno.EDQUOT:
            why, remedy = f"has no more room for this user, whose quota is used up ({free})", f"free some, {elsewhere}"
        case errno.EROFS:
            why, remedy = f"is mounted read-only ({free})", f"mount it writable, {elsewhere}"
        case _:
            why, remedy = f"refuses it: {error.strerror or error} ({free})", f"look at its permissions, {elsewhere}"
    found = FileNotWritten(f"{path} could not be written, because the file system mounted at {mount} {why}; {remedy}")
    found.errno, found.filename = error.errno, str(path)
    return found


def write_atomically(path: Path, content: str | bytes, mode: int = 0o666, elsewhere: str = _ELSEWHERE) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part, also after a crash.

    Args:
        mode: permissions of the file; the umask applies.
        elsewhere: how the user gives the file another place, as in `not_written`.

    Raises:
        FileNotWritten: it could not be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:  # noqa: PTH123
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise not_written(path, error, elsewhere) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file so that it is on disk when this returns; a last line torn by a crash stays by itself.

    Raises:
        FileNotWritten: it could not be written.
    """
    try:
        with path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = "\n" + line
            file.write(f"{line}\n".encode(errors="replace"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise not_written(path, error) from None


def file_name(text: str) -> str:
    """Return a text that is used as the name of a file or folder, if it can only be that and never a path.

    Raises:
        ValueError: it cannot; one sentence.
    """
    if not text or not (text[0].isalnum() or text[0] == "_") or "/" in text or not text.isprintable():
        raise ValueError(
            f"{text[:60]!r} cannot be a file name: it should begin with a letter or digit and hold no slash"
        )
    if len(text.encode()) > _LONGEST_NAME:
        raise ValueError(f"{text[:60]!r}... cannot be a file name: it is longer than {_LONGEST_NAME} bytes")
    return text
