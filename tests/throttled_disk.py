"""A disk of known speed: the block device under a folder, throttled for the processes of a cgroup (v1, blkio).

Who calls fsync sends a file's dirty pages to the disk itself, so that `n` bytes of them take n / rate seconds for a
process of that group. The kernel's own write-back is not throttled, nor is any other process.

Source: the kernel's admin-guide/cgroup-v1/blkio-controller.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BLKIO = Path("/sys/fs/cgroup/blkio")


def _whole_disk(folder: Path) -> str | None:
    """Return `major:minor` of the disk under a folder; None when it has no block device."""
    device = folder.stat().st_dev
    place = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not place.exists():
        return None
    place = place.resolve()
    return ((place.parent if (place / "partition").exists() else place) / "dev").read_text().strip()


@contextmanager
def throttled(folder: Path, bytes_per_s: int, pid: int) -> Iterator[None]:
    """Let a process write to the disk under `folder` at this rate; skip the test where that cannot be had."""
    if not (BLKIO / "blkio.throttle.write_bps_device").exists() or os.geteuid() != 0:
        pytest.skip("no disk of known speed: that needs root and a blkio hierarchy of cgroup v1 with throttling")
    disk = _whole_disk(folder)
    if disk is None:
        pytest.skip(f"no disk of known speed: {folder} has no block device of its own")
    groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    own = BLKIO / next(line.split(":", 2)[2] for line in groups if "blkio" in line.split(":")[1]).strip("/")
    group = own / f"picolab-throttled-{pid}"
    group.mkdir()
    try:
        try:
            (group / "blkio.throttle.write_bps_device").write_text(f"{disk} {bytes_per_s}\n")
        except OSError as error:
            pytest.skip(f"no disk of known speed: the kernel does not throttle {disk} ({error.strerror})")
        (group / "cgroup.procs").write_text(f"{pid}\n")
        try:
            yield
        finally:
            (own / "cgroup.procs").write_text(f"{pid}\n")
    finally:
        group.rmdir()
