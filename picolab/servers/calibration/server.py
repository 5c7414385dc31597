#!/usr/bin/env python3
"""Serve PicoShare's HTTP contract with a truth that is known in advance, to prove a measuring instrument.

One file, standard library only, Python >= 3.9: copy it to any Linux machine and start it like PicoShare:

    PS_SHARED_SECRET=... PORT=4001 TMPDIR=/var/tmp server.py -db data/store.db

The environment variable PICOLAB_CALIBRATION holds a JSON object of knobs (class Knobs). It listens on
127.0.0.1 unless PICOLAB_CALIBRATION_HOST names another address. Read it top-down: knobs, time, memory, the
request body, multipart, disk, HTTP (ROUTES is the table), the process. The secret is never logged.
"""

from __future__ import annotations

import argparse
import base64
import email.message
import email.parser
import errno
import hashlib
import hmac
import http.client
import http.server
import io
import json
import math
import mmap
import os
import random
import re
import secrets
import signal
import socket
import socketserver
import sqlite3
import sys
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

VERSION = "1"
MIB = 1 << 20
CHUNK_BYTES = 327_680  # one row of the database, PicoShare's size
SPOOL_MEMORY_BYTES = MIB  # a larger file part goes to a temp file
BUFFER_BYTES = MIB  # what one upload holds of its body at a time
DISCARD_BYTES = 256 << 10  # what Go's net/http reads at most of a body that nobody wanted
LINGER_S = 0.5  # Go's pause between its FIN and a close that may reset the connection
SHUTDOWN_S = 5.0  # what a request in flight gets after SIGTERM
TICK_S = 0.002  # paced reads and writes happen about this often
PACED_RCVBUF_BYTES = 64 << 10  # so that a paced body cannot hide in the kernel
ID_LETTERS = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
DISK_FULL = "database error: database or disk is full"

# ---- knobs ---------------------------------------------------------------------------------------


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


KINDS: dict[str, Callable[[Any], bool]] = {
    "a number above 0": lambda value: _is_number(value) and value > 0,
    "a number, 0 or above": lambda value: _is_number(value) and value >= 0,
    "a number from 0 to 100": lambda value: _is_number(value) and 0 <= value <= 100,
    "an integer": _is_integer,
    "an integer from 0 to 255": lambda value: _is_integer(value) and 0 <= value <= 255,
    "an integer from 200 to 599": lambda value: _is_integer(value) and 200 <= value <= 599,
    "true or false": lambda value: isinstance(value, bool),
    "text": lambda value: isinstance(value, str),
}


def _knob(kind: str, truth: str, default: object = None) -> Any:
    return field(default=default, metadata={"kind": kind, "truth": truth})


@dataclass(frozen=True)
class Knobs:
    """The known truth: what each knob promises. Without a knob: PicoShare's own behaviour, at full speed."""

    transfer_mib_s: float | None = _knob(
        "a number above 0",
        "From the first to the last byte of an upload's body takes size / rate, each byte on schedule.",
    )
    commit_mib_s: float | None = _knob(
        "a number above 0", "From the last byte of the body to the response takes file size / rate."
    )
    startup_delay_s: float = _knob("a number, 0 or above", "Listens this much later.", 0)
    ballast_mib: float = _knob(
        "a number, 0 or above", "The first upload's first byte adds this much anonymous memory, for good.", 0
    )
    ballast_mib_per_mib: float = _knob(
        "a number, 0 or above",
        "Anonymous memory grows by this much with every MiB of body received, until the upload is answered.",
        0,
    )
    oom_after_mib: float | None = _knob(
        "a number, 0 or above", "After this much of the body, touches new memory until the kernel kills it."
    )
    oom_ceiling_mib: float = _knob(
        "a number above 0", "Where oom_after_mib gives up (logged, exit code 1) if no limit stops it.", 4096
    )
    exit_after_mib: float | None = _knob(
        "a number, 0 or above", "After this much of the body, the process ends at once, cleaning up nothing."
    )
    exit_code: int = _knob("an integer from 0 to 255", "The exit code of exit_after_mib.", 3)
    stall_after_mib: float | None = _knob(
        "a number, 0 or above", "After this much of the body, reads no more and holds the connection open."
    )
    stall_in_commit: bool = _knob("true or false", "Never answers once the whole body has arrived.", False)
    corrupt_byte: int | None = _knob(
        "an integer", "The stored file's byte at this offset is flipped; a negative one counts from the end."
    )
    status: int | None = _knob(
        "an integer from 200 to 599", "Answers this instead of storing, after the whole body has been read."
    )
    status_message: str | None = _knob("text", "The sentence that goes with status.")
    disk_quota_mib: float | None = _knob(
        "a number, 0 or above", "Temp files and database together may take this much; then the disk is full."
    )
    ignore_sigterm: bool = _knob("true or false", "SIGTERM does nothing.", False)
    occupy_port_without_listening: bool = _knob(
        "true or false", "Holds the port, says that it is taken, and lives on without a listener.", False
    )
    download_mib_s: float | None = _knob(
        "a number above 0", "From the first to the last byte of a download takes size / rate, each byte on schedule."
    )
    download_ballast_mib: float = _knob(
        "a number, 0 or above",
        "Each download adds this much anonymous memory, from before its first byte to its end.",
        0,
    )
    drift_per_minute: float = _knob(
        "a number, 0 or above",
        "Every rate is divided by 1 + this x minutes since drift_since, as it is when an upload or download begins.",
        0,
    )
    drift_since: float | None = _knob(
        "a number, 0 or above", "When the drift begins: wall-clock seconds since the epoch (1970)."
    )
    noise_percent: float = _knob(
        "a number from 0 to 100",
        "Every upload and download multiplies its rates by a random factor of its own: lognormal, median 1, with this "
        "standard deviation of its natural logarithm in per cent.",
        0,
    )

    @classmethod
    def parse(cls, text: str) -> Knobs:
        """Read knobs from a JSON object. Raises ValueError with a sentence that lists the valid names."""
        known = {knob.name: knob for knob in fields(cls)}
        valid = f"valid names: {', '.join(known)}"
        try:
            given = json.loads(text)
        except ValueError as error:
            raise ValueError(f"PICOLAB_CALIBRATION is not JSON ({error}); {valid}") from None
        if not isinstance(given, dict):
            raise ValueError(f"PICOLAB_CALIBRATION must be a JSON object of knobs; {valid}")
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"PICOLAB_CALIBRATION has no knob {name!r}; {valid}")
            kind = known[name].metadata["kind"]
            if not KINDS[kind](value):
                wrong = f"{name} must be {kind}, not {json.dumps(value)}"
                raise ValueError(f"PICOLAB_CALIBRATION: {wrong}; {valid}")
        if given.get("drift_per_minute") and "drift_since" not in given:
            raise ValueError(
                "PICOLAB_CALIBRATION: drift_per_minute needs drift_since, the seconds since the epoch at which the "
                f"drift begins; {valid}"
            )
        return cls(**given)


# ---- log and time --------------------------------------------------------------------------------


def log(message: str) -> None:
    """Write one line of the application log. As with Go's, a disk that is too full for it is no reason to fail."""
    with suppress(OSError):
        sys.stderr.write(f"{time.strftime('%Y/%m/%d %H:%M:%S')} {message}\n")
        sys.stderr.flush()


def die(message: str) -> NoReturn:
    """Log why the server cannot go on and exit 1 at once."""
    log(message)
    os._exit(1)


class Schedule:
    """The moment at which each byte is due at a constant rate, so that lateness never adds up.

    Without a rate every byte is due at once.
    """

    def __init__(self, knob: str, rate_mib_s: float | None, start_s: float) -> None:
        self._knob = knob
        self._rate = rate_mib_s * MIB if rate_mib_s else math.inf
        self._start_s = start_s

    def wait(self, done_bytes: int, left_bytes: int) -> int:
        """Sleep until the next piece after done_bytes is due; return how many bytes are due by then."""
        if math.isinf(self._rate):
            return left_bytes
        piece = min(left_bytes, max(1, int(self._rate * TICK_S)))
        self.wait_for(done_bytes + piece)
        return min(left_bytes, max(piece, int((time.monotonic() - self._start_s) * self._rate) - done_bytes))

    def wait_for(self, done_bytes: int) -> None:
        """Sleep until done_bytes are due."""
        while (early_s := self._start_s + done_bytes / self._rate - time.monotonic()) > 0:
            time.sleep(early_s)

    def check(self, done_bytes: int, end_s: float) -> None:
        """Log that the truth was not met if done_bytes at end_s were more than 1 % late."""
        promised_s, took_s = done_bytes / self._rate, end_s - self._start_s
        if promised_s and took_s > 1.01 * promised_s:
            log(f"{self._knob}: this truth is not met: took {took_s:.4f} s instead of {promised_s:.4f} s")


class Pace:
    """The rates of one upload or download: those of the knobs, times one factor for all of its phases."""

    def __init__(self, what: str, knobs: Knobs) -> None:
        """Draw the factor, and log it if it can differ from 1."""
        self._knobs = knobs
        minutes = max(0.0, time.time() - (knobs.drift_since or 0)) / 60
        drift = 1 / (1 + knobs.drift_per_minute * minutes)
        noise = random.lognormvariate(0, knobs.noise_percent / 100)
        self.factor = drift * noise
        if knobs.drift_per_minute or knobs.noise_percent:
            log(f"{what}: rates times {self.factor:.6f} (drift {drift:.6f}, noise {noise:.6f})")

    def schedule(self, knob: str, start_s: float) -> Schedule:
        """Return the schedule of a phase whose rate is the knob of that name."""
        rate: float | None = getattr(self._knobs, knob)
        return Schedule(knob, rate * self.factor if rate else None, start_s)


# ---- memory --------------------------------------------------------------------------------------


OOM_STEP_MIB = 64


def touched_memory(size_bytes: int) -> mmap.mmap:
    """Return anonymous memory of which every page has been written."""
    block = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, size_bytes, mmap.PAGESIZE):
        block[offset] = 1
    return block


@contextmanager
def held_memory(size_mib: float) -> Iterator[None]:
    """Hold anonymous memory of which every page has been written."""
    if int(size_mib * MIB) == 0:
        yield
        return
    with touched_memory(int(size_mib * MIB)):
        yield


class Ballast:
    """The constant ballast, shared by all uploads."""

    def __init__(self, size_mib: float) -> None:
        self._size_bytes = int(size_mib * MIB)
        self._memory: mmap.mmap | None = None
        self._lock = threading.Lock()

    def keep(self) -> None:
        """Touch the memory if it is not there yet."""
        with self._lock:
            if self._memory is None and self._size_bytes:
                self._memory = touched_memory(self._size_bytes)


# ---- the request body ----------------------------------------------------------------------------


class BadRequest(Exception):
    """The body cannot be used; the text is the sentence after `invalid request: `."""


class Body:
    """A request's body: its framing (Content-Length or chunked) undone, 100 Continue sent on the first read.

    Raises BadRequest if the framing is broken or the client ends early, ConnectionError if it is gone.
    """

    def __init__(self, handler: Handler) -> None:
        headers = handler.headers
        self._stream = handler.rfile
        self._proceed: Callable[[], None] | None = handler.proceed
        self._expects_100 = headers.get("Expect", "").lower() == "100-continue"
        self._chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        length = "0" if self._chunked else headers.get("Content-Length", "0").strip()
        self._broken = not (length.isascii() and length.isdigit())
        self._left = 0 if self._broken else int(length)  # of the body, or of the current chunk
        self.received_bytes = 0
        self.complete = not (self._chunked or self._broken or self._left)

    def readinto(self, view: memoryview) -> int:
        """Read what is there, at least one byte; return the number of bytes, 0 at the end."""
        if self._broken:
            raise BadRequest("bad Content-Length")
        if self.complete:
            return 0
        if self._proceed:
            if self._expects_100:
                self._proceed()
            self._proceed = None
        if self._chunked and not self._left and not self._next_chunk():
            return 0
        count = self._read_some(view[: self._left])
        if not count:
            raise BadRequest("unexpected EOF")
        self.received_bytes += count
        self._left -= count
        self.complete = not (self._chunked or self._left)
        return count

    def discard(self) -> None:
        """Read the rest if it is small, so that the connection can be used again."""
        limit = self.received_bytes + DISCARD_BYTES
        if self._left > DISCARD_BYTES or (self._proceed and self._expects_100):
            return
        with suppress(BadRequest):
            scrap = memoryview(bytearray(16 << 10))
            while not self.complete and self.received_bytes < limit:
                self.readinto(scrap)

    def _read_some(self, view: memoryview) -> int:
        return self._stream.readinto1(view)

    def _next_chunk(self) -> bool:
        line = self._stream.readline(4096)
        if self.received_bytes and line == b"\r\n":  # the end of the chunk before
            line = self._stream.readline(4096)
        size = re.fullmatch(rb"([0-9a-fA-F]{1,15})\s*(;.*)?\r\n", line, re.DOTALL)
        if size is None:
            self._broken = True
            raise BadRequest("malformed chunked encoding" if line else "unexpected EOF")
        self._left = int(size[1], 16)
        if not self._left:
            while self._stream.readline(4096) not in (b"\r\n", b""):
                pass
            self.complete = True
        return bool(self._left)


class UploadBody(Body):
    """The body of an upload: on schedule, with the knobs that count received bytes. A context manager."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler)
        self._knobs = knobs = handler.server.knobs
        self._ballast = handler.server.ballast
        self._growing: list[mmap.mmap] = []
        self.pace = Pace("upload", knobs)
        self._schedule: Schedule | None = None
        self.first_read_s = self.last_read_s = time.monotonic()
        self._milestones: list[tuple[int, Callable[[], None]]] = [
            (int(mib * MIB), act)
            for mib, act in (
                (knobs.oom_after_mib, self._take_all_memory),
                (knobs.exit_after_mib, self._exit),
                (knobs.stall_after_mib, wait_forever),
            )
            if mib is not None
        ]

    def __enter__(self) -> UploadBody:
        return self

    def __exit__(self, *_: object) -> None:
        self._growing.clear()

    def check(self) -> None:
        """Log if the body came slower than the knob promises."""
        if self._schedule:
            self._schedule.check(self.received_bytes, self.last_read_s)

    def _read_some(self, view: memoryview) -> int:
        if self._schedule is None:
            self._stream.peek(1)  # the clock starts when the body does, not when the client dawdles
            self.first_read_s = time.monotonic()
            self._schedule = self.pace.schedule("transfer_mib_s", self.first_read_s)
            self._ballast.keep()
        want = len(view)
        for at_bytes, act in self._milestones:
            if self.received_bytes == at_bytes:
                log(f"a knob acts after {at_bytes} bytes of the body")
                act()
            elif self.received_bytes < at_bytes:
                want = min(want, at_bytes - self.received_bytes)
        want = self._schedule.wait(self.received_bytes, want)
        count = super()._read_some(view[:want])
        self.last_read_s = time.monotonic()
        ballast_bytes = (self.received_bytes + count) * self._knobs.ballast_mib_per_mib
        while (len(self._growing) + 1) * MIB <= ballast_bytes:
            self._growing.append(touched_memory(MIB))
        return count

    def _exit(self) -> NoReturn:
        os._exit(self._knobs.exit_code)

    def _take_all_memory(self) -> NoReturn:
        taken: list[mmap.mmap] = []
        taken_mib = 0
        # The kernel itself writes the pages of each step: in a guest without memory this program's own code is read
        # from the disk again and again, and the end could take many minutes.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
        while taken_mib < int(self._knobs.oom_ceiling_mib):
            step_mib = min(OOM_STEP_MIB, int(self._knobs.oom_ceiling_mib) - taken_mib)
            taken.append(mmap.mmap(-1, step_mib * MIB, flags=flags))
            for offset in range(0, step_mib * MIB, mmap.PAGESIZE):
                taken[-1][offset] = 1
            taken_mib += step_mib
        die(f"oom_after_mib: gives up, for nothing stopped it at {taken_mib} MiB (oom_ceiling_mib)")


def wait_forever() -> None:
    """Hold this thread until the process ends."""
    threading.Event().wait()


# ---- multipart/form-data -------------------------------------------------------------------------


class MultipartReader:
    """Read multipart/form-data as it streams in, holding BUFFER_BYTES of it at a time.

    Call next_part, then exhaust content, again and again. Raises BadRequest in Go's words.
    """

    def __init__(self, readinto: Callable[[memoryview], int], boundary: str) -> None:
        self._readinto = readinto
        self._delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._buffer[:2] = b"\r\n"  # with it the first delimiter looks like all others
        self._start, self._end = 0, 2
        self._started = False

    def next_part(self) -> email.message.Message | None:
        """Return the next part's headers, or None after the last one, having read what follows it."""
        if not self._started:
            self._started = True
            for _ in self.content(at_end="multipart: NextPart: EOF"):
                pass
        self._need(2, "multipart: NextPart: EOF")
        if self._buffer.startswith(b"--", self._start):
            while self._fill():
                self._start = self._end
            return None
        line_end = self._find(b"\r\n")
        if self._buffer[self._start : line_end].strip(b" \t"):
            raise BadRequest("multipart: expecting a new Part")
        self._start = line_end  # so that a part without headers ends in an empty line as well
        headers_end = self._find(b"\r\n\r\n")
        head = self._buffer[self._start + 2 : headers_end + 2].decode("utf-8", "replace")
        self._start = headers_end + 4
        return email.parser.HeaderParser().parsestr(head)

    def content(self, at_end: str = "unexpected EOF") -> Iterator[memoryview]:
        """Yield the current part's content in pieces that are valid until the next one is asked for."""
        search_from = self._start
        while True:
            found = self._buffer.find(self._delimiter, search_from, self._end)
            after = found + len(self._delimiter)
            if found >= 0 and self._end - after >= 2:
                if self._buffer[after : after + 2] != b"--" and self._buffer[after] not in b" \t\r\n":
                    search_from = found + 1  # a longer line that only starts like the delimiter
                    continue
                if found > self._start:
                    yield self._view[self._start : found]
                self._start = after
                return
            # What could be the start of a delimiter stays for the next round.
            safe = found if found >= 0 else max(self._start, self._end - len(self._delimiter) + 1)
            if safe > self._start:
                yield self._view[self._start : safe]
                self._start = safe
            if not self._fill():
                raise BadRequest(at_end)
            search_from = self._start

    def _fill(self) -> bool:
        """Read more of the body; False at its end."""
        if self._start:
            rest = self._buffer[self._start : self._end]
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        if self._end == len(self._buffer):
            raise BadRequest("multipart: message too large")
        count = self._readinto(self._view[self._end :])
        self._end += count
        return count > 0

    def _need(self, count: int, at_end: str) -> None:
        while self._end - self._start < count:
            if not self._fill():
                raise BadRequest(at_end)

    def _find(self, mark: bytes) -> int:
        while (found := self._buffer.find(mark, self._start, self._end)) < 0:
            if not self._fill():
                raise BadRequest("multipart: NextPart: EOF")
        return found


# ---- disk ----------------------------------------------------------------------------------------


class Quota:
    """The bytes that temp files and the database may take together."""

    def __init__(self, quota_mib: float | None, db_path: Path) -> None:
        self._quota_bytes = math.inf if quota_mib is None else quota_mib * MIB
        self._db_files = [Path(f"{db_path}{suffix}") for suffix in ("", "-wal")]
        self._spooled_bytes = 0
        self._lock = threading.Lock()

    def check(self, more_bytes: int) -> None:
        """Raise BadRequest if so many bytes more do not fit."""
        if math.isinf(self._quota_bytes):
            return
        stored = sum(path.stat().st_size for path in self._db_files if path.exists())
        if stored + self._spooled_bytes + more_bytes > self._quota_bytes:
            raise BadRequest(DISK_FULL)

    def count_spooled(self, more_bytes: int) -> None:
        """Count what a temp file has grown by (less than 0: what its end has freed)."""
        with self._lock:
            self._spooled_bytes += more_bytes


class Spool:
    """The file part of an upload: in memory or, if larger, in $TMPDIR/multipart-<digits>."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._memory = bytearray()
        self._file: io.FileIO | None = None
        self._path: Path | None = None
        self._on_disk_bytes = 0
        self.size_bytes = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.unlink()
        if self._file:
            self._file.close()

    def write(self, data: memoryview) -> None:
        """Append data. Raises OSError, or BadRequest if the quota is used up."""
        if self._file is None and self.size_bytes + len(data) <= SPOOL_MEMORY_BYTES:
            self._memory += data
            self.size_bytes += len(data)
            return
        if self._file is None:
            path = Path(os.environ.get("TMPDIR") or "/tmp", f"multipart-{secrets.randbelow(10**10)}")
            self._file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+")
            self._path = path
            self._append(memoryview(self._memory))
        self._append(data)
        self.size_bytes += len(data)

    def chunks(self) -> Iterator[bytearray]:
        """Yield the content in the database's chunks; each is valid until the next one is asked for."""
        if self._file is None:
            for start in range(0, self.size_bytes, CHUNK_BYTES):
                yield self._memory[start : start + CHUNK_BYTES]
            return
        self._file.seek(0)
        chunk = bytearray(CHUNK_BYTES)
        for start in range(0, self.size_bytes, CHUNK_BYTES):
            if self.size_bytes - start < CHUNK_BYTES:
                chunk = bytearray(self.size_bytes - start)
            self._file.readinto(chunk)
            yield chunk

    def unlink(self) -> None:
        """Remove the temp file's name; its blocks are freed when the upload is over, which takes a while."""
        if self._path:
            self._quota.count_spooled(-self._on_disk_bytes)
            with suppress(FileNotFoundError):
                self._path.unlink()
            self._path = None

    def _append(self, data: memoryview) -> None:
        assert self._file is not None
        self._quota.check(len(data))
        self._quota.count_spooled(len(data))
        self._on_disk_bytes += len(data)
        while data:
            data = data[self._file.write(data) :]


@dataclass(frozen=True)
class Entry:
    """What is known of a stored file."""

    id: str
    filename: str
    content_type: str
    size_bytes: int


class Store:
    """The SQLite database: WAL, one row for every chunk, each in a transaction of its own."""

    def __init__(self, path: Path) -> None:
        """Open or create it. Raises sqlite3.Error."""
        self.path = path
        self._one_writer = threading.Lock()  # writers wait in line; SQLite's own waiting is by polling
        with suppress(OSError):  # SQLite says what is wrong
            path.parent.mkdir(exist_ok=True)
        self._kept_open = self._connect()  # the last connection to close would pay for a checkpoint
        self._kept_open.execute(
            "CREATE TABLE IF NOT EXISTS entries (id TEXT PRIMARY KEY, filename TEXT, content_type TEXT, "
            "note TEXT, size INTEGER, upload_time TEXT, expiration_time TEXT)"
        )
        self._kept_open.execute(
            "CREATE TABLE IF NOT EXISTS entries_data (id TEXT, chunk_index INTEGER, chunk BLOB, "
            "PRIMARY KEY (id, chunk_index))"
        )

    def add_chunk(self, db: sqlite3.Connection, entry_id: str, index: int, chunk: bytearray) -> None:
        """Store one chunk."""
        with self._one_writer:
            db.execute("INSERT INTO entries_data VALUES (?, ?, ?)", (entry_id, index, chunk))

    def add_entry(self, db: sqlite3.Connection, entry: Entry, note: str, expiration: str) -> None:
        """Make a file visible whose chunks are all there."""
        uploaded = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        row = (entry.id, entry.filename, entry.content_type, note, entry.size_bytes, uploaded, expiration)
        with self._one_writer:
            db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def find(self, entry_id: str) -> Entry | None:
        """Return the entry, or None."""
        with self.session() as db:
            row = db.execute(
                "SELECT id, filename, content_type, size FROM entries WHERE id = ?", (entry_id,)
            ).fetchone()
        return Entry(*row) if row else None

    def read(self, entry_id: str, start: int, end: int) -> Iterator[memoryview]:
        """Yield the bytes from start up to end, a chunk at a time."""
        with self.session() as db:
            for index in range(start // CHUNK_BYTES, -(-end // CHUNK_BYTES)):
                query = "SELECT chunk FROM entries_data WHERE id = ? AND chunk_index = ?"
                (chunk,) = db.execute(query, (entry_id, index)).fetchone()
                at = index * CHUNK_BYTES
                yield memoryview(chunk)[max(0, start - at) : end - at]

    def delete(self, entry_id: str) -> None:
        """Remove an entry and its chunks, if there are any."""
        with self._one_writer, self.session() as db:
            db.execute("DELETE FROM entries WHERE id = ?", (entry_id,))
            db.execute("DELETE FROM entries_data WHERE id = ?", (entry_id,))

    @contextmanager
    def session(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection to one request."""
        with closing(self._connect()) as db:
            yield db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=5, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA page_size = 65536")  # rows of this size take half the time they take with 4096
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 64")  # every 4 MiB, as by default; best in little memory
        return db


# ---- HTTP ----------------------------------------------------------------------------------------


def parse_expiration(text: str) -> str:
    """Check that a time is RFC 3339 and at least an hour ahead. Raises ValueError with a sentence."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.\d+)?([Zz]|[+-]\d\d:\d\d)", text)
    if not match:
        raise ValueError(f"cannot parse {text!r} as RFC3339" if text else "missing required parameter")
    day, clock, zone = match.groups()
    moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    if moment.timestamp() - time.time() < 3600:
        raise ValueError("expire time must be at least one hour in the future")
    return text


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Return (start, end) of a single byte range; None, for the whole file, if it is none.

    Raises ValueError if it lies outside the file.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text.replace(" ", ""))
    if not match or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    if start >= end:
        raise ValueError("invalid range: failed to overlap")
    return start, end


@dataclass
class Form:
    """The fields of an upload but its bytes."""

    filename: str | None = None
    content_type: str = "application/octet-stream"
    note: str = ""


class Refusal(Exception):
    """A request is answered with this status and sentence."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection. ROUTES below is the table of what is answered where."""

    protocol_version = "HTTP/1.1"
    server_version = f"picolab-calibration-server/{VERSION}"
    disable_nagle_algorithm = True
    server: Server
    rfile: io.BufferedReader
    _linger = False

    def _route(self) -> None:
        path, _, self._query = self.path.partition("?")
        with self.server.request_in_flight():
            self._body = Body(self)
            try:
                for pattern, needs_login, methods in ROUTES:
                    if match := pattern.fullmatch(path):
                        if self.command not in methods:
                            self._reply(405)
                        elif needs_login and not self._is_logged_in():
                            raise Refusal(401, "Authentication required")
                        else:
                            methods[self.command](self, *match.groups())
                        return
                raise Refusal(404, "404 page not found")
            except Refusal as refusal:
                self._reply(refusal.status, f"{refusal}\n".encode(), headers=refusal.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _route

    # -- the calls, in the order of ROUTES

    def _home(self) -> None:
        page = "<!doctype html><title>picolab</title><p>The calibration server: not a benchmark target.</p>\n"
        self._reply(200, page.encode(), "text/html; charset=utf-8")

    def _log_in(self) -> None:
        text = bytearray(64 << 10)
        size = 0
        try:
            while count := self._body.readinto(memoryview(text)[size:]):
                size += count
            given = json.loads(text[:size].decode()).get("sharedSecretKey", "")
            if size == len(text) or not isinstance(given, str):
                raise ValueError
        except (BadRequest, ValueError, AttributeError):
            raise Refusal(400, "malformed request") from None
        if not given:
            raise Refusal(400, "invalid shared secret")
        if not hmac.compare_digest(derive_cookie(given), self.server.cookie):
            raise Refusal(401, "incorrect shared secret")
        attributes = "Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict"
        self._reply(200, headers={"Set-Cookie": f"sharedSecret={self.server.cookie.decode()}; {attributes}"})

    def _upload(self) -> None:
        knobs = self.server.knobs
        try:
            expiration = parse_expiration(dict(urllib.parse.parse_qsl(self._query)).get("expiration", ""))
        except ValueError as error:
            raise Refusal(400, f"invalid expiration URL parameter: {error}") from None
        with Spool(self.server.quota) as spool, UploadBody(self) as body:
            self._body = body
            try:
                form = self._receive(body, spool)
                if knobs.stall_in_commit:
                    log("stall_in_commit: this upload is never answered")
                    wait_forever()
                if knobs.status is not None:
                    message = knobs.status_message or http.client.responses.get(knobs.status, "")
                    raise Refusal(knobs.status, message)
                entry_id = self._commit(form, spool, expiration, body)
            except ConnectionError:
                log(f"the client went away after {body.received_bytes} bytes of the body")
                raise
            except (BadRequest, sqlite3.Error, OSError) as error:
                raise Refusal(400, f"invalid request: {in_words(error)}") from error
            self._reply(200, json.dumps({"id": entry_id}).encode(), "application/json")

    def _delete(self, entry_id: str) -> None:
        self.server.store.delete(checked_id(entry_id))
        self._reply(200)

    def _download(self, entry_id: str) -> None:
        entry = self.server.store.find(checked_id(entry_id))
        if entry is None:
            raise Refusal(404, "entry not found")
        size = entry.size_bytes
        try:
            part = parse_range(self.headers.get("Range", ""), size)
        except ValueError as error:
            raise Refusal(416, str(error), {"Content-Range": f"bytes */{size}"}) from None
        name = entry.filename.replace("\\", "\\\\").replace('"', '\\"').encode().decode("latin-1")
        headers = {"Accept-Ranges": "bytes", "Content-Disposition": f'filename="{name}"'}
        start, end = part or (0, size)
        if part:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        knobs = self.server.knobs
        pace = Pace("download", knobs)
        with held_memory(knobs.download_ballast_mib):
            self.wfile.write(self._head(206 if part else 200, end - start, entry.content_type, headers))
            start_s = time.monotonic()
            schedule = pace.schedule("download_mib_s", start_s)
            sent = 0
            for chunk in self.server.store.read(entry_id, start, end):
                while chunk:
                    due = schedule.wait(sent, len(chunk))
                    self.connection.sendall(chunk[:due])
                    sent += due
                    chunk = chunk[due:]
            end_s = time.monotonic()
        schedule.check(sent, end_s)
        log(f"sent {sent} bytes in {end_s - start_s:.4f} s")

    # -- the two phases of an upload

    def _receive(self, body: UploadBody, spool: Spool) -> Form:
        """Transfer: spool the file part, keep the small fields, and read the body to its end."""
        if self.headers.get_content_type() != "multipart/form-data":
            raise BadRequest("request Content-Type isn't multipart/form-data")
        boundary = self.headers.get_boundary()
        if not boundary:
            raise BadRequest("no multipart boundary param in Content-Type")
        form = Form()
        reader = MultipartReader(body.readinto, boundary)
        while (part := reader.next_part()) is not None:
            name, filename = part.get_param("name", header="content-disposition"), part.get_filename()
            is_file = name == "file" and filename is not None and form.filename is None
            small = bytearray()
            for piece in reader.content():
                if is_file:
                    spool.write(piece)
                elif name == "note" and len(small) + len(piece) > MIB:
                    raise BadRequest("multipart: message too large")
                elif name == "note":
                    small += piece
            if is_file:
                form.filename = Path(filename or "").name
                form.content_type = " ".join(part.get("Content-Type", form.content_type).split())
            elif name == "note":
                form.note = small.decode("utf-8", "replace")
        body.check()
        log(f"received {body.received_bytes} bytes in {body.last_read_s - body.first_read_s:.4f} s")
        if form.filename is None:
            raise BadRequest("http: no such file")
        if not spool.size_bytes:
            raise BadRequest("file must be non-empty")
        if form.filename.startswith("."):
            raise BadRequest("filename cannot begin with dots")
        if not form.filename or len(form.filename) > 255 or not form.filename.isprintable():
            raise BadRequest("filename must have 1 to 255 printable characters")
        return form

    def _commit(self, form: Form, spool: Spool, expiration: str, body: UploadBody) -> str:
        """Commit: copy the spooled file into the database, a chunk at a time; return the entry's id."""
        server, size, start_s = self.server, spool.size_bytes, body.last_read_s
        entry_id = "".join(secrets.choice(ID_LETTERS) for _ in range(10))
        entry = Entry(entry_id, form.filename or "", form.content_type, size)
        schedule = body.pace.schedule("commit_mib_s", start_s)
        corrupt = server.knobs.corrupt_byte
        corrupt_at = size + corrupt if corrupt is not None and corrupt < 0 else corrupt
        if corrupt_at is not None and not 0 <= corrupt_at < size:
            log(f"corrupt_byte: {corrupt} lies outside this file of {size} bytes; nothing is flipped")
        with server.store.session() as db:
            try:
                for index, chunk in enumerate(spool.chunks()):
                    at = index * CHUNK_BYTES
                    if corrupt_at is not None and 0 <= corrupt_at - at < len(chunk):
                        chunk[corrupt_at - at] ^= 0xFF
                    server.quota.check(len(chunk))
                    schedule.wait_for(at)
                    server.store.add_chunk(db, entry_id, index, chunk)
                server.store.add_entry(db, entry, form.note, expiration)
            except (BadRequest, sqlite3.Error):
                with suppress(sqlite3.Error):  # a full disk may not let it
                    server.store.delete(entry_id)
                raise
        spool.unlink()
        schedule.wait_for(size)
        end_s = time.monotonic()
        schedule.check(size, end_s)
        log(f"committed {entry_id}: {size} bytes in {end_s - start_s:.4f} s")
        return entry_id

    # -- answers

    def _is_logged_in(self) -> bool:
        for cookie in self.headers.get("Cookie", "").split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == "sharedSecret" and hmac.compare_digest(value.encode(), self.server.cookie):
                return True
        return False

    def _reply(
        self,
        status: int,
        content: bytes = b"",
        content_type: str = "text/plain; charset=utf-8",
        headers: dict[str, str] | None = None,
    ) -> None:
        self._body.discard()
        if not self._body.complete:
            self.close_connection = self._linger = True
        head = self._head(status, len(content), content_type, headers or {})
        self.wfile.write(head if self.command == "HEAD" else head + content)

    def _head(self, status: int, size: int, content_type: str, headers: dict[str, str]) -> bytes:
        """Return an answer's head, and write the access log."""
        line = json.dumps(self.requestline)  # quoted, control characters escaped
        when = time.strftime("%d/%b/%Y:%H:%M:%S %z")
        with suppress(OSError):
            print(f"{self.client_address[0]} - - [{when}] {line} {status} {size}", flush=True)
        fixed = {"Server": self.server_version, "Date": self.date_time_string()}
        fixed["Content-Length"] = str(size)
        if size:
            fixed["Content-Type"] = content_type
        if self.close_connection:
            fixed["Connection"] = "close"
        lines = [f"{name}: {value}\r\n" for name, value in {**fixed, **headers}.items()]
        phrase = http.client.responses.get(status, "")
        return f"HTTP/1.1 {status} {phrase}\r\n{''.join(lines)}\r\n".encode("latin-1", "replace")

    def proceed(self) -> None:
        """Ask the client for the body it holds back."""
        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def handle_expect_100(self) -> bool:
        """Leave the 100 to the first read of the body, so that a refused client sends nothing."""
        return True

    def log_message(self, format: str, *args: object) -> None:
        """Send what the base class has to say (a request it cannot parse) to the application log."""
        log(format % args)

    def finish(self) -> None:
        """Like Go, give the client time to read an answer that came before the end of its body."""
        super().finish()
        if self._linger:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_WR)
                time.sleep(LINGER_S)


# Path, whether it needs the cookie, method -> call with the path's groups. Else 405, for another path 404.
ROUTES: list[tuple[re.Pattern[str], bool, dict[str, Callable[..., None]]]] = [
    (re.compile(r"/"), False, {"GET": Handler._home}),
    (re.compile(r"/api/auth"), False, {"POST": Handler._log_in}),
    (re.compile(r"/api/entry"), True, {"POST": Handler._upload}),
    (re.compile(r"/api/entry/([^/]+)"), True, {"DELETE": Handler._delete}),
    (re.compile(r"/-([^/]*)(?:/.*)?"), False, {"GET": Handler._download}),
]


def derive_cookie(secret: str) -> bytes:
    """Return the cookie's value for a shared secret: PicoShare's fixed salt and rounds, in base64."""
    return base64.b64encode(hashlib.pbkdf2_hmac("sha256", secret.encode(), b"\1\2\3\4", 100, dklen=32))


def checked_id(text: str) -> str:
    """Return text if it can be an entry's id, else raise Refusal."""
    if len(text) != 10 or not set(text) <= set(ID_LETTERS):
        raise Refusal(400, f"bad entry ID: {text!r}")
    return text


def in_words(error: Exception) -> str:
    """Return what went wrong with an upload as PicoShare words it."""
    if isinstance(error, sqlite3.Error):
        return f"database error: {error}"
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DISK_FULL
        return f"open {error.filename}: {os.strerror(error.errno or 0).lower()}"
    return str(error)


# ---- the process ---------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """The listener, and what its connections share."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], knobs: Knobs, store: Store, secret: str) -> None:
        """Bind and listen. Raises OSError."""
        self.knobs = knobs
        self.store = store
        self.quota = Quota(knobs.disk_quota_mib, store.path)
        self.ballast = Ballast(knobs.ballast_mib)
        self.cookie = derive_cookie(secret)
        self._in_flight = 0
        self._changed = threading.Condition()
        self.address_family = family_of(address[0])
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Bind without looking up a host name; connections inherit the small buffer of a paced server."""
        if self.knobs.transfer_mib_s or self.knobs.commit_mib_s:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PACED_RCVBUF_BYTES)
        socketserver.TCPServer.server_bind(self)
        self.server_port = self.server_address[1]

    @contextmanager
    def request_in_flight(self) -> Iterator[None]:
        """Count a request as long as it is served."""
        with self._changed:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def stop(self) -> bool:
        """Close the listener and wait for requests in flight; False if one outlives SHUTDOWN_S."""
        self.shutdown()
        self.server_close()
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, SHUTDOWN_S)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log a broken connection in one line."""
        error = sys.exc_info()[1]
        if isinstance(error, ConnectionError):
            log(f"connection lost: {error}")
        else:
            log(f"a request failed:\n{traceback.format_exc()}")


def family_of(host: str) -> socket.AddressFamily:
    """Return the address family of a numeric address (a name is taken for IPv4)."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def listen(host: str, port: str, knobs: Knobs, store: Store, secret: str) -> Server | None:
    """Return a listening server, or None, logged as PicoShare logs it, if the port cannot be had."""
    if not port.isdigit():
        reason = f"lookup tcp/{port}: unknown port"
    elif int(port) > 65535:
        reason = f"address {port}: invalid port"
    else:
        try:
            if not knobs.occupy_port_without_listening:
                return Server((host, int(port)), knobs, store, secret)
            with socket.socket(family_of(host)) as holder:
                holder.bind((host, int(port)))
                holder.detach()  # held until the process ends
            reason = f"{host}:{port}: bind: {os.strerror(errno.EADDRINUSE).lower()}"
        except OSError as error:
            reason = f"{host}:{port}: bind: {(error.strerror or str(error)).lower()}"
    log(f"http server exit: listen tcp {reason}")
    return None


def read_secret() -> str:
    """Return the shared secret. Raises ValueError or OSError."""
    path = os.environ.get("PS_SHARED_SECRET_FILE")
    secret = Path(path).read_text().strip() if path else os.environ.get("PS_SHARED_SECRET", "")
    if not secret:
        raise ValueError("PS_SHARED_SECRET environment variable must be set")
    return secret


def main() -> NoReturn:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        description="picolab's calibration server: PicoShare's contract with known truth.",
        epilog="knobs in PICOLAB_CALIBRATION (JSON): " + " | ".join(knob.name for knob in fields(Knobs)),
    )
    parser.add_argument("-db", "--db", type=Path, default="data/store.db", help="the SQLite database")
    parser.add_argument("--version", action="version", version=f"picolab-calibration-server {VERSION}")
    options = parser.parse_args()
    try:
        knobs = Knobs.parse(os.environ.get("PICOLAB_CALIBRATION") or "{}")
    except ValueError as error:
        die(str(error))
    stop_signals = {signal.SIGINT} if knobs.ignore_sigterm else {signal.SIGINT, signal.SIGTERM}
    if knobs.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)  # in every thread; only this one waits for them
    try:
        secret = read_secret()
    except (ValueError, OSError) as error:
        die(f"failed to read shared secret: {error}")
    try:
        store = Store(options.db)
    except sqlite3.Error as error:
        die(f"failed to set pragmas: {error}")
    if signal.sigtimedwait(stop_signals, knobs.startup_delay_s):
        os._exit(0)
    host, port = os.environ.get("PICOLAB_CALIBRATION_HOST") or "127.0.0.1", os.environ.get("PORT") or "4001"
    server = listen(host, port, knobs, store, secret)
    if server:
        log(f"listening on {host}:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    signal.sigwait(stop_signals)
    log("shutting down")
    finished = server.stop() if server else True
    os._exit(0 if finished else 1)  # without closing the database: like PicoShare, it leaves the WAL


if __name__ == "__main__":
    main()
