"""Space of removed files that a disk is told of; the disk is a file that the kernel presents as one."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
from small_mounts import Mount

from picolab.agent import disk
from picolab.agent.refusal import Refusal

MIB = 1 << 20

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


def used_bytes(file: Path) -> int:
    return file.stat().st_blocks * 512


def test_a_disk_gives_back_the_space_of_a_removed_file(mount: Mount, scratch: Path) -> None:
    place = mount("ext4", 64)
    (place / "file").write_bytes(os.urandom(20 * MIB))
    os.sync()
    assert used_bytes(scratch / "image") > 20 * MIB
    (place / "file").unlink()
    os.sync()
    disk.trim(str(place))
    assert used_bytes(scratch / "image") < 10 * MIB


def test_where_no_disk_is_below_nothing_happens(mount: Mount) -> None:
    disk.trim(str(mount("tmpfs", 1)))


def test_a_disk_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "ioctl", fail)
    with pytest.raises(Refusal, match=r"could not be told which blocks are free \(Input/output error\)"):
        disk.trim(str(tmp_path))
