"""Checks of a crash: SIGKILL in the transfer and in the commit of an upload, and a restart with the same files."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from picolab.config.sizes import MIB
from picolab.examine.bench import FILE_BYTES, Bench, Running
from picolab.examine.check import Check, NotExamined, Observation, Severity
from picolab.examine.thresholds import KEPT_SHARE, RESTART_S
from picolab.servers.base import Place
from picolab.text.wording import percent

COMMIT_BYTES = 64 * MIB
COMMIT_WAITS_S = (0.02, 0.005, 0.0)
"""From the end of the body to the SIGKILL, in each attempt: a server may commit faster than the first one."""
_SQLITE_HEAD = b"SQLite format 3\0"


@dataclass(frozen=True)
class _After:
    """A server that was killed and has started again with the same files.

    Attributes:
        entry_id: of a file from before.
        sent_bytes: of the upload that was killed.
        before_bytes: on disk before that upload; None where that cannot be seen.
    """

    running: Running
    entry_id: str
    sent_bytes: int
    before_bytes: int | None


@contextlib.contextmanager
def _killed(bench: Bench, *, in_commit: bool) -> Iterator[_After]:
    for wait_s in COMMIT_WAITS_S if in_commit else (None,):
        place = bench.fresh_place()
        found = _killed_at(bench, place, wait_s)
        if found is not None:
            break
    else:
        raise NotExamined(
            f"the commit of {COMMIT_BYTES // MIB} MiB was over before it could be interrupted, "
            f"in {len(COMMIT_WAITS_S)} attempts"
        )
    entry_id, sent_bytes, before_bytes = found
    with bench.running(place) as again:
        yield _After(again, entry_id, sent_bytes, before_bytes)


def _killed_at(bench: Bench, place: Place, wait_s: float | None) -> tuple[str, int, int | None] | None:
    """Kill the server in an upload.

    Args:
        wait_s: from the end of the body to the SIGKILL; None: in the middle of the body.

    Returns:
        The id of a file from before, the bytes that were sent, and those on disk before; None when the commit was over.
    """
    size_bytes = FILE_BYTES if wait_s is None else COMMIT_BYTES
    with bench.running(place) as running:
        entry_id = running.stored()
        before_bytes = None if bench.machine.work_folder is None else bench.disk_bytes()
        with running.part(size_bytes=size_bytes) as part:
            part.first(0.5)
            if wait_s is not None:
                part.rest()
                if part.answers_within(wait_s):
                    return None
            bench.kill()
    return entry_id, size_bytes // 2 if wait_s is None else size_bytes, before_bytes


def _files(bench: Bench, *, in_commit: bool) -> Observation:
    with _killed(bench, in_commit=in_commit) as after:
        why = after.running.why_not_intact(after.entry_id)
        took_s = after.running.ready_s
    if why:
        return Observation(True, f"Of the file from before, {why}.")
    return Observation(False, f"The file from before came back intact; ready {took_s:.2f} s after the restart.")


def _database(bench: Bench, *, in_commit: bool) -> Observation:
    work = bench.require_this_host()
    with _killed(bench, in_commit=in_commit):
        pass
    databases = [path for path in sorted(work.rglob("*")) if path.is_file() and _is_sqlite(path)]
    if not databases:
        raise NotExamined("no SQLite database is in its data folder")
    troubles = [f"{path.name}: {said}" for path in databases if (said := _integrity(path, bench.folder)) != "ok"]
    return Observation(bool(troubles), f"PRAGMA integrity_check: {'; '.join(troubles) or 'ok'}.")


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE_HEAD)) == _SQLITE_HEAD


def _integrity(path: Path, folder: Path) -> str:
    """Check a copy: SQLite writes even while it reads a database with a WAL."""
    with tempfile.TemporaryDirectory(dir=folder) as copy:
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copy(file, copy)
        try:
            with contextlib.closing(sqlite3.connect(Path(copy) / path.name)) as db:
                return str(db.execute("PRAGMA integrity_check(1)").fetchone()[0])
        except sqlite3.Error as error:
            return str(error)


def _leak(bench: Bench, *, in_commit: bool) -> Observation:
    bench.require_this_host()
    with _killed(bench, in_commit=in_commit) as after:
        leaked = bench.disk_bytes() - (after.before_bytes or 0)
        sent = after.sent_bytes
    seen = f"{max(0, leaked) / MIB:.1f} MiB of the {sent / MIB:.0f} MiB that were sent stayed on disk."
    return Observation(leaked > KEPT_SHARE * sent, seen)


def _restart(bench: Bench) -> Observation:
    bench.require_real_speed()
    with _killed(bench, in_commit=True) as after:
        took_s = after.running.ready_s
    return Observation(took_s > RESTART_S, f"It was ready {took_s:.2f} s after the restart.")


def _action(in_commit: bool) -> str:
    when = "when its whole body had been sent" if in_commit else "when half of its body had been sent"
    return f"A file was uploaded; during a second upload, {when}, the server got SIGKILL and was started again."


def _checks(in_commit: bool) -> tuple[Check, ...]:
    phase = "commit" if in_commit else "transfer"
    action = _action(in_commit)
    return (
        Check(
            f"kill-{phase}-files",
            f"A crash in the {phase} of an upload loses earlier files",
            action,
            "The file from before does not come back, or a byte of it differs.",
            "An OOM kill costs files that users believe to be safe.",
            "Write in transactions, and sync before an upload is answered.",
            Severity.HIGH,
            lambda bench: _files(bench, in_commit=in_commit),
        ),
        Check(
            f"kill-{phase}-database",
            f"A crash in the {phase} of an upload damages the database",
            action,
            "PRAGMA integrity_check reports anything other than ok.",
            "A damaged database fails later, in places that do not point to the crash.",
            "Use SQLite's journal or WAL, and never write to the file around it.",
            Severity.HIGH,
            lambda bench: _database(bench, in_commit=in_commit),
        ),
        Check(
            f"kill-{phase}-leak",
            f"A crash in the {phase} of an upload leaks disk space",
            action,
            f"After the restart more than {percent(KEPT_SHARE)} of what was sent is on disk.",
            "Each crash takes space that nobody frees, until the disk is full.",
            "At the start, remove the temporary files and the rows of uploads that were never completed.",
            Severity.MEDIUM,
            lambda bench: _leak(bench, in_commit=in_commit),
        ),
    )


CHECKS = (
    *_checks(in_commit=False),
    *_checks(in_commit=True),
    Check(
        "kill-restart",
        "A restart after a crash takes long",
        _action(in_commit=True),
        f"Not ready after {RESTART_S:g} s.",
        f"More than {RESTART_S:g} s without an answer is downtime at the worst moment.",
        "Listen first, and repair while requests wait.",
        Severity.MEDIUM,
        _restart,
    ),
)
