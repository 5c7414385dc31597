"""Checks of disk space: a full disk, and an upload that its client cuts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from picolab.config.sizes import MIB
from picolab.examine.bench import FILE_BYTES, Bench, Running, said
from picolab.examine.check import Check, NotExamined, Observation, Severity
from picolab.examine.thresholds import FREE_S, KEPT_SHARE
from picolab.servers.measurements import UploadMeasurement
from picolab.text.wording import percent

DISK_MIB = 32
TOO_LARGE_BYTES = 64 * MIB
TOO_LARGE_STATUS = 413
"""Content Too Large (RFC 9110, section 15.5.14): of all 4xx the one that points to the size."""
_MOUNT = 'mount -t tmpfs -o "size=$1m,mode=0700" picolab "$2" && mkdir -p "$3" "$4" && shift 4 && exec "$@"'


class _SmallDisk:
    """A server whose work folder is a small file system of its own mount namespace.

    The file system is gone with the last process of the server, however it ends. Without root, the server is root of a
    user namespace of its own, which maps to this user.
    """

    def __init__(self, bench: Bench) -> None:
        work = bench.require_this_host()
        namespaces = _namespaces()
        self._bench = bench
        self._work = work
        self.place = bench.fresh_place()
        paths = (str(work), self.place.data, self.place.tmp)
        self.before = (*namespaces, "sh", "-c", _MOUNT, "sh", str(DISK_MIB), *paths)

    def free_bytes(self) -> int:
        """Return the free space, as the server sees it."""
        pid = self._bench.machine.process_status().pid
        found = os.statvfs(Path(f"/proc/{pid}/root") / self._work.relative_to("/"))
        if found.f_blocks * found.f_frsize > DISK_MIB * MIB:
            raise NotExamined("the server did not run on the small file system")
        return found.f_bavail * found.f_frsize


def _namespaces() -> list[str]:
    """Return the command before which a program may mount file systems that nobody else sees.

    Raises:
        NotExamined: there is none on this host.
    """
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("mount") is None:
        raise NotExamined("a small file system needs the programs unshare and mount; install util-linux")
    command = [unshare, "--mount"] if os.geteuid() == 0 else [unshare, "--user", "--map-root-user", "--mount"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise NotExamined(
            f"a small file system needs root, or a kernel that lets every user have namespaces ({tried.stderr.strip()})"
        )
    return command


def _too_large(running: Running) -> UploadMeasurement:
    sent = running.upload(3, TOO_LARGE_BYTES)
    if sent.entry_id is not None:
        raise NotExamined(f"{TOO_LARGE_BYTES // MIB} MiB were stored on a disk of {DISK_MIB} MiB")
    return sent


def _full(bench: Bench) -> UploadMeasurement:
    disk = _SmallDisk(bench)
    with bench.running(disk.place, disk.before) as running:
        disk.free_bytes()
        running.stored()
        return _too_large(running)


def _status(bench: Bench) -> Observation:
    sent = _full(bench)
    status = sent.http_status
    if status is None:
        raise NotExamined(f"the upload that filled the disk got no answer: {said(sent)}")
    return Observation(status < 500 and status != TOO_LARGE_STATUS, f"The answer was {said(sent)}.")


def _sentence(bench: Bench) -> Observation:
    sent = _full(bench)
    clear = sent.server_message is not None and bench.server.is_disk_full(sent.server_message)
    return Observation(not clear, f"The answer was {said(sent)}.")


def _freed(bench: Bench) -> Observation:
    disk = _SmallDisk(bench)
    with bench.running(disk.place, disk.before) as running:
        running.stored()
        before = disk.free_bytes()
        _too_large(running)
        bench.outcome(FREE_S, lambda: before - disk.free_bytes() <= KEPT_SHARE * before)
        kept = before - disk.free_bytes()
    seen = (
        f"Of {before / MIB:.1f} MiB that were free before the upload, {max(0, kept) / MIB:.1f} MiB were not after it."
    )
    return Observation(kept > KEPT_SHARE * before, seen)


def _cut(bench: Bench) -> Observation:
    bench.require_this_host()
    with bench.running() as running:
        running.stored()
        before = bench.disk_bytes()
        with running.part() as part:
            part.first(0.5)
            bench.outcome(FREE_S, lambda: bench.disk_bytes() - before > FILE_BYTES // 4)
        half = FILE_BYTES // 2
        bench.outcome(FREE_S, lambda: bench.disk_bytes() - before <= KEPT_SHARE * half)
        kept = bench.disk_bytes() - before
        running.stored(4)
    seen = f"{FREE_S:g} s later at most, {max(0, kept) / MIB:.1f} of {half / MIB:.0f} MiB were still on disk."
    return Observation(kept > KEPT_SHARE * half, seen)


_ACTION = f"A file of {TOO_LARGE_BYTES // MIB} MiB was uploaded to a disk of {DISK_MIB} MiB."

CHECKS = (
    Check(
        "disk-full-status",
        "A full disk is answered as an error of the client",
        _ACTION,
        f"A status below 500 other than {TOO_LARGE_STATUS}.",
        "Clients take 4xx for a bad request and try another one, and monitoring counts no fault of the server.",
        "Answer 507 Insufficient Storage (RFC 4918, section 11.5).",
        Severity.MEDIUM,
        _status,
    ),
    Check(
        "disk-full-sentence",
        "The answer does not say that the disk is full",
        _ACTION,
        "The answer has no sentence that names the full disk.",
        "Neither user nor operator learns what to do.",
        "Name the full disk in the answer and in the log.",
        Severity.MEDIUM,
        _sentence,
    ),
    Check(
        "disk-full-space",
        "An upload that filled the disk keeps the space",
        _ACTION,
        f"After {FREE_S:g} s more than {percent(KEPT_SHARE)} of the space that was free before is still taken.",
        "The disk stays full, and all later uploads fail too.",
        "Remove the temporary file and the rows of an upload that fails.",
        Severity.HIGH,
        _freed,
    ),
    Check(
        "cut-space",
        "An upload that the client cuts keeps its space",
        "Half of an upload was sent, then the connection was closed.",
        f"After {FREE_S:g} s more than {percent(KEPT_SHARE)} of what was sent is on disk.",
        "Each lost connection takes disk space that nobody frees.",
        "Remove the temporary file when the body ends early.",
        Severity.MEDIUM,
        _cut,
    ),
)
