"""Disk space for what a trial writes after its measured step, reserved before the step begins.

Another program, or the server itself, may fill the file system in between; the result is written all the same. A
reserve is a hidden file whose blocks exist already. `write` puts the text into it and renames it, so that nobody else
can take its blocks at any moment.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

from picolab.errors import HostUnfit
from picolab.files.writing import not_written, write_atomically

SLOTS = 6
"""Writes from a measured step to the end: the state after each of four stages, the record, and one more."""
_SLOT, _NOTEBOOK = ".reserved-{}", ".reserved-notebook"
_FALLOC_FL_KEEP_SIZE = 1
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def take(folder: Path, slot_bytes: int, notebook_bytes: int, step: str = "upload") -> None:
    """Reserve room in a trial's folder, for its state and record and for the notebook that shows them.

    Args:
        step: what begins now, for the message. What an earlier step has reserved stays so, whatever happens.

    Raises:
        HostUnfit: there is not as much, or the folder cannot be written.
    """
    wanted = dict.fromkeys([_SLOT.format(number) for number in range(SLOTS)], slot_bytes) | {_NOTEBOOK: notebook_bytes}
    made = [folder / name for name in wanted if not (folder / name).exists()]
    for name, size in wanted.items():
        path = folder / name
        try:
            _allocate(path, size)
        except OSError as error:
            for new in made:
                new.unlink(missing_ok=True)
            needed = sum(wanted.values()) >> 20
            raise HostUnfit(
                f"the {step} was not begun, because its result could not be kept ({needed} MiB): "
                f"{not_written(path, error)}"
            ) from None


def _allocate(path: Path, size: int) -> None:
    # Not for appending: then the C library does not step in where a file system cannot reserve.
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        for offset in range(0, size, 1 << 20):
            os.pwrite(file, bytes(min(1 << 20, size - offset)), offset)
    finally:
        os.close(file)


def hold_back(path: Path, size: int, step: str = "upload") -> None:
    """Have the file system keep blocks for a file that will grow, without changing its size, where it can do that.

    Raises:
        HostUnfit: there is not as much room, or the file cannot be written.
    """
    fallocate: Callable[..., int] = ctypes.CDLL(None, use_errno=True).fallocate
    try:
        with path.open("ab") as file:
            length = (ctypes.c_int64(0), ctypes.c_int64(size))
            if fallocate(file.fileno(), _FALLOC_FL_KEEP_SIZE, *length) == 0:
                return
        number = ctypes.get_errno()
        if number not in _UNSUPPORTED:
            raise OSError(number, os.strerror(number))
    except OSError as error:
        raise HostUnfit(
            f"the {step} was not begun, because its samples could not be kept ({(size >> 20) + 1} MiB): "
            f"{not_written(path, error)}"
        ) from None


def give_back(path: Path) -> None:
    """Give back the blocks that `hold_back` has kept and that the file did not need."""
    if path.exists():
        os.truncate(path, path.stat().st_size)


def write(path: Path, text: str) -> None:
    """Write a file as `write_atomically` does, into reserved space next to it if there is any left.

    Raises:
        FileNotWritten: it could not be written.
    """
    slot = next(iter(sorted(path.parent.glob(_SLOT.format("[0-9]")))), None)
    if slot is None:
        write_atomically(path, text)
        return
    try:
        with slot.open("r+b") as file:
            file.write(text.encode())
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        slot.replace(path)
    except OSError as error:
        raise not_written(path, error) from None


def free(folder: Path, notebook_only: bool = False) -> None:
    """Give back what is still reserved in a trial's folder."""
    for path in folder.glob(_NOTEBOOK if notebook_only else _SLOT.format("*")):
        path.unlink(missing_ok=True)
