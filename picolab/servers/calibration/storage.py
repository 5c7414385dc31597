"""Disk: the temp files of uploads, the SQLite database, and the quota of both."""

from __future__ import annotations

import io
import math
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from picolab.servers.calibration.body import BadRequest

MIB = 1 << 20
CHUNK_BYTES = 327_680  # one row of the database, PicoShare's size
SPOOL_MEMORY_BYTES = MIB  # a larger file part goes to a temp file
DISK_FULL = "database error: database or disk is full"


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

    def __init__(self, quota: Quota, keeps_file: bool = False) -> None:
        self._quota = quota
        self._keeps_file = keeps_file
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
                if not self._keeps_file:
                    self._path.unlink()
            self._path = None

    def _append(self, data: memoryview) -> None:
        assert self._file is not None
        self._quota.check(len(data))
        self._quota.count_spooled(len(data))
        self._on_disk_bytes += len(data)
        while data:
            data = data[self._file.write(data) :]


class Entry(NamedTuple):
    """A stored file."""

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

    def forget_entries(self) -> None:
        """Forget all files; their chunks stay."""
        self._kept_open.execute("DELETE FROM entries")

    def damage(self) -> None:
        """Overwrite the last page of the database's file."""
        self._kept_open.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = self._kept_open.execute("PRAGMA page_size").fetchone()[0]
        with self.path.open("r+b") as file:
            file.seek(-page, os.SEEK_END)
            file.write(b"\xff" * page)

    def sweep(self) -> None:
        """Remove what uploads left that were never completed: temp files, and chunks without an entry."""
        for path in Path(os.environ.get("TMPDIR") or "/tmp").glob("multipart-*"):
            path.unlink()
        for statement in (
            "DELETE FROM entries_data WHERE id NOT IN (SELECT id FROM entries)",
            "PRAGMA wal_checkpoint(TRUNCATE)",
            "VACUUM",
            "PRAGMA wal_checkpoint(TRUNCATE)",
        ):
            self._kept_open.execute(statement)

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
