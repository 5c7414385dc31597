"""Files and folders that others may have written: read with a bound, checked before use, removed only inside.

A campaign folder may come from somebody else, or be torn. Nothing here blocks (a FIFO), reads without an end
(`/dev/zero`), believes a number that no column can hold, or follows a link out of the folder.
"""

import gc
import json
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from picolab.config.sizes import MIB
from picolab.errors import UnreadableFile, UnsafePath

MOST_DEPTH = 60
"""Of lists and objects in each other; a record of picolab's has fewer than ten."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Return what a regular file holds.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFile: it is no regular file, is larger than `most_bytes`, or cannot be read; one sentence.
    """
    try:
        # Looked at before it is opened, too: opening a device may do something.
        _require_regular(path, path.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            status = os.fstat(descriptor)
            _require_regular(path, status)
            data = b"" if status.st_size > most_bytes else _read(descriptor, status.st_size, most_bytes)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if status.st_size > most_bytes or len(data) > most_bytes:
        raise UnreadableFile(f"{path}: is too large: more than {most_bytes / MIB:,.0f} MiB")
    return data


def _read(descriptor: int, size: int, most_bytes: int) -> bytes:
    """Return what a file holds, at most one byte more than `most_bytes`; it may have grown since it had this size."""
    # A campaign has thousands of files, and a file object for each takes longer than these calls.
    parts = [os.read(descriptor, size + 1)]
    length = len(parts[0])
    while parts[-1] and length <= most_bytes:
        parts.append(os.read(descriptor, min(MIB, most_bytes + 1 - length)))
        length += len(parts[-1])
    return b"".join(parts)


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableFile(f"{path}: cannot be read: it is {_kind(status.st_mode)}, not a file")


def _kind(mode: int) -> str:
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "something else")


def read_text(path: Path, most_bytes: int) -> str:
    """Return a file's text, as `read_bounded` does.

    Raises:
        FileNotFoundError, UnreadableFile: as there, or it is not UTF-8.
    """
    return _text(path, read_bounded(path, most_bytes))


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UnreadableFile(f"{path}: is not text in UTF-8") from None


def read_json(path: Path, most_bytes: int) -> Any:
    """Return a file's JSON, as `read_bounded` does.

    Raises:
        FileNotFoundError, UnreadableFile: as there, or it is no JSON.
    """
    data = read_bounded(path, most_bytes)
    with collection_paused():
        try:
            return from_json(data)
        except ValueError:
            pass  # for its words, and for what only `json` accepts
    text = _text(path, data)
    try:
        return parse_json(text)
    except (ValueError, RecursionError, MemoryError) as error:
        if not text.strip():
            raise UnreadableFile(f"{path}: is empty") from None
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error) or "no memory for it"
        raise UnreadableFile(f"{path}: is cut off or damaged ({why})") from None


def parse_json(text: str) -> Any:
    """Return parsed JSON, as `json.loads` does and with its errors, in a time that grows no faster than the text."""
    with collection_paused():
        try:
            # The parser of pydantic takes a third of the time. It accepts nothing that `json` refuses, finds the same
            # values, and refuses some texts that `json` accepts, such as one with a lone surrogate.
            return from_json(text)
        except (ValueError, TypeError):  # TypeError: the text itself has half a surrogate pair
            return json.loads(text)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Let Python look for no cycles meanwhile: parsed JSON and records have none.

    It would look through all objects again and again while they become more: a file of a million lists takes 20 times
    as long with it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def unfit_value(data: Any) -> str | None:
    """Return which value in parsed JSON nothing downstream can hold, as half a sentence; None when all is well.

    Columns are 64 bits wide, JSON has no infinity, UTF-8 no lone surrogate, and nothing of picolab's is nested deeply.
    """
    with collection_paused():
        return _unfit_value(data)


_SMALL, _HUGE = 1 << 62, 1e300


def _unfit_value(data: Any) -> str | None:
    if not isinstance(data, dict | list):
        reason = _why_unfit(data)
        return reason and f"the whole {reason}"
    # Containers with the way to them, as nested pairs: a hostile file has millions, whose names nobody needs.
    left: list[tuple[Any, Any, int]] = [(data, None, 0)]
    while left:
        container, way, depth = left.pop()
        if depth >= MOST_DEPTH:
            return f"{_place(way)[:200]} is nested too deeply"
        items: Iterable[tuple[Any, Any]] = container.items() if isinstance(container, dict) else enumerate(container)
        for name, item in items:
            if type(name) is str and not name.isascii() and not _is_text(name):
                return f"{_place(way)} has a name that is no text in Unicode"
            kind = type(item)
            # Nearly all values, without another call for each.
            if item is None or kind is bool or (kind is str and item.isascii()):
                continue
            if (kind is int and -_SMALL < item < _SMALL) or (kind is float and -_HUGE < item < _HUGE):
                continue
            if isinstance(item, dict | list):
                if item or depth + 1 >= MOST_DEPTH:
                    left.append((item, (way, name), depth + 1))
            elif reason := _why_unfit(item):
                return f"{_place((way, name))} {reason}"
    return None


def _place(way: Any) -> str:
    names: list[str] = []
    while way is not None:
        way, name = way
        names.append(str(name))
    return ".".join(reversed(names)) or "the whole"


def _why_unfit(value: Any) -> str | None:
    if isinstance(value, str):
        return None if _is_text(value) else "is no text in Unicode"
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return f"is a number of {value.bit_length()} bits, more than 64"
    if isinstance(value, float) and not math.isfinite(value):
        return "is no finite number"
    return None


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def remove_tree_inside(folder: Path, path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it lies inside `folder` when every link is resolved.

    A link is removed, and never followed. What is not there, or cannot be removed, is left as it is.

    Raises:
        UnsafePath: it does not lie inside; nothing was touched.
    """
    try:
        inside, parent = folder.resolve(), path.parent.resolve()
    except (OSError, RuntimeError) as error:
        raise UnsafePath(f"{path}: its place cannot be resolved ({error}), so it is not removed") from None
    place = parent / path.name
    if path.name in ("", ".", "..") or inside not in place.parents:
        raise UnsafePath(f"{path}: is not inside {folder}, so it is not removed; look at it, and remove it by hand")
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with suppress(OSError):
            place.unlink()


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder in which one of the names is a link, a pipe or a device: what is written would land elsewhere.

    Raises:
        UnsafePath: it is one.
    """
    for name in names:
        path = folder / name
        try:
            mode = path.lstat().st_mode
        except OSError:
            continue
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            what = "a link to another place" if stat.S_ISLNK(mode) else _kind(mode)
            raise UnsafePath(
                f"{path}: is {what}, and nothing may be written there; put the file or folder itself there"
            )
