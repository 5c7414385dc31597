"""The files of the server: their space on the disk, their page cache, and when they are on the disk.

Every kind of machine does this in the same way: the local machine on this host, a virtual machine in its guest.

Sources: the kernel's admin-guide/sysctl/vm.rst for drop_caches; mincore(2); fsync(2); inode(7) for st_blocks;
linux/fs.h for FITRIM, whose program is fstrim(8).
"""

# ruff: noqa: PTH113, PTH114
# ruff: noqa: PTH123

from __future__ import annotations

import os
import time

from picolab.agent.refusal import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


MIB = 1 << 20
BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the file system's own blocks are."""

FITRIM = 0xC0185879
LEAST_TRIMMED_BYTES = MIB
"""Smaller gaps between files are not worth a request to the disk."""

CACHED_SHARE = 0.01
"""What may stay in the page cache of a server's files: the server maps a little of them, and keeps running."""


def files_in(folder: str) -> Iterator[str]:
    """Return the paths of the regular files below a folder. Raises OSError if it is not there or cannot be read."""

    def fail(error: OSError) -> None:
        if error.filename == folder or not isinstance(error, FileNotFoundError):
            raise error

    for parent, _, files in os.walk(folder, onerror=fail):
        for name in files:
            path = f"{parent}/{name}"
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def space_of(folders: Iterable[str]) -> int:
    """Return the bytes of disk space that the files and folders below some folders take, these folders included.

    A file that was removed and is still open is not counted, and a file with several names is counted once. What is
    removed meanwhile is left out.

    Raises:
        OSError: one of the folders is not there or cannot be read.
    """
    blocks, seen = 0, set()
    to_read = list(folders)
    for folder in to_read:
        blocks += os.lstat(folder).st_blocks
    top = len(to_read)
    for place, folder in enumerate(to_read):
        try:
            entries = os.scandir(folder)
        except FileNotFoundError:
            if place < top:
                raise
            continue
        with entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                    if (found.st_dev, found.st_ino) in seen:
                        continue
                    seen.add((found.st_dev, found.st_ino))
                blocks += found.st_blocks
                if entry.is_dir(follow_symlinks=False):
                    to_read.append(entry.path)
    return blocks * BLOCK_BYTES


def sync_path(path: str) -> None:
    """Wait until a file, or a folder's list of names, is on the disk; nothing happens if it has just been removed."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: str) -> float:
    """Put what lies in a folder on the disk: fsync of every file and of every folder. Return the seconds it took.

    Not syncfs: that waits for whatever any program has written to the file system. On ext4, 16 MiB took 9 ms with
    fsync, alone or next to 512 MiB of another program's dirty pages, for which syncfs took 300 ms more. What fsync
    shares with others is the file system's journal.

    Raises:
        Refusal: a file or folder cannot be read, or the disk has failed.
    """
    begun = time.monotonic()
    try:
        for path in files_in(folder):
            sync_path(path)
        for parent, _, _ in os.walk(folder, topdown=False):
            sync_path(parent)
    except OSError as error:
        why = f"{error.strerror}: {error.filename or folder}"
        raise Refusal(f"what the server has written could not be brought to the disk ({why})") from None
    return time.monotonic() - begun


def cached_and_size(path: str) -> tuple[int, int]:
    """Return the bytes of a file that are in the page cache (whole pages), and its size; nothing of it is read.

    Both are 0 for a file that has just been removed. Raises OSError.
    """
    import ctypes
    import mmap

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0, 0
    try:
        size = ctypes.c_size_t(os.fstat(descriptor).st_size)
        if not size.value:
            return 0, 0
        place = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, ctypes.c_long(0))
        if place == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap failed", path)
    finally:
        os.close(descriptor)
    pages = ctypes.create_string_buffer(-(-size.value // mmap.PAGESIZE))
    failed = libc.mincore(ctypes.c_void_p(place), size, pages)
    error = ctypes.get_errno()
    libc.munmap(ctypes.c_void_p(place), size)
    if failed:
        raise OSError(error, "mincore failed", path)
    return sum(page & 1 for page in pages.raw) * mmap.PAGESIZE, size.value


def write_drop_caches() -> None:
    """Have the kernel drop the page cache, directory entries and inodes. Raises Refusal if this user may not."""
    # Dirty pages cannot be dropped.
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("3")
    except OSError as error:
        raise Refusal(f"the page cache could not be dropped ({error.strerror}); it needs root") from None


def trim(folder: str) -> None:
    """Tell the disk which blocks the file system under a folder does not use.

    The file of a virtual disk gives their space back. Blocks of files that were just removed count after a sync.
    Nothing happens where disk, file system or kernel knows no such request, or this user may not make it.

    Raises:
        Refusal: the request failed, as on a disk with a fault.
    """
    import errno
    import fcntl
    import struct

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FITRIM, struct.pack("QQQ", 0, (1 << 64) - 1, LEAST_TRIMMED_BYTES))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM, errno.EINVAL):
            raise Refusal(f"the disk could not be told which blocks are free ({error.strerror})") from None
    finally:
        os.close(descriptor)


def drop_page_cache(folder: str) -> str | None:
    """Drop the page cache and look whether the files below a folder are out of it.

    Returns:
        None when they are, but for CACHED_SHARE of them or 1 MiB; else a sentence that says why not.
    """
    try:
        write_drop_caches()
        found = [cached_and_size(path) for path in files_in(folder)]
    except Refusal as refusal:
        return str(refusal)
    except (OSError, ImportError) as error:
        return f"whether the page cache was dropped could not be found out ({error})"
    cached, size = sum(one[0] for one in found), sum(one[1] for one in found)
    if cached > max(MIB, CACHED_SHARE * size):
        return (
            f"{cached / MIB:.0f} of {size / MIB:.0f} MiB of the server's files stayed in the page cache; "
            f"they are in use, or {folder} does not lie on a disk"
        )
    return None
