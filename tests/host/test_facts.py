"""Which disk is under a folder: real mounts where this user may mount, and lines of mountinfo as kernels write them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picolab.agent import procfs
from picolab.host import facts
from picolab.host.facts import Mount, disk_of, find_mount, mount_of, parse_mounts

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")

MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 27 0:35 /@ /srv rw,relatime shared:2 master:7 - btrfs /dev/sda2 rw,space_cache=v2,subvolid=256,subvol=/@
31 30 0:35 /@home /srv/home rw,relatime - btrfs /dev/sda2 rw,subvolid=257,subvol=/@home
32 27 0:40 / /mnt/two\040words rw - xfs /dev/mapper/a\040b rw
33 27 0:41 / /mnt/tab\011new\012back\134slash rw - tmpfs tmpfs rw
34 27 0:42 / /mnt/empty rw -  zfs tank/data rw
35 27 0:43 / /mnt/nfs rw propagate_from:3 unbindable - nfs4 nas:/export rw,vers=4.2
36 27 0:44 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
37 27 0:45 / /mnt/zfs rw - zfs tank/data rw,xattr
38 27 8:1 /data /mnt/bind rw,relatime - ext4 /dev/sda1 rw
39 27 0:46 / /mnt/fuse rw - fuse.sshfs me@host:/x rw
40 27 0:47 / /mnt/covered/below rw - tmpfs below rw
41 27 8:17 / /mnt/covered rw - ext4 /dev/sdb1 rw
42 27 0:48 / /mnt/twice rw - tmpfs first rw
43 27 8:33 / /mnt/twice rw - xfs second rw
44 27 0:49 / /mnt/nosource rw -  tmpfs  rw
45 27 0:50 / /a-b/-/c rw - 9p share rw
torn 27
46 27 0:51 / /mnt/torn rw -
47 27 0:52 / /mnt/ümläut rw - vfat /dev/sdc1 rw
"""


@pytest.mark.parametrize(
    ("place", "number", "file_system", "source"),
    [
        ("/etc", "254:0", "ext4", "/dev/vda"),
        ("/srv/x", "0:36", "btrfs", "/dev/sda2"),
        ("/srv/home/me/deep", "0:37", "btrfs", "/dev/sda2"),
        ("/srv/homes", "0:36", "btrfs", "/dev/sda2"),
        ("/mnt/two words", "0:40", "xfs", "/dev/mapper/a b"),
        ("/mnt/two words/x", "0:40", "xfs", "/dev/mapper/a b"),
        ("/mnt/tab\tnew\nback\\slash/x", "0:41", "tmpfs", "tmpfs"),
        ("/mnt/nfs/x", "0:43", "nfs4", "nas:/export"),
        ("/var/lib/docker/overlay2/x/merged/etc", "0:99", "overlay", "overlay"),
        ("/mnt/zfs/x", "0:45", "zfs", "tank/data"),
        ("/mnt/bind", "8:1", "ext4", "/dev/sda1"),
        ("/mnt/fuse/x", "0:46", "fuse.sshfs", "me@host:/x"),
        ("/mnt/covered/below/x", "8:17", "ext4", "/dev/sdb1"),
        ("/mnt/covered/below/x", "0:47", "tmpfs", "below"),
        ("/mnt/twice", "8:33", "xfs", "second"),
        ("/mnt/twice/x", "0:99", "xfs", "second"),
        ("/a-b/-/c/d", "0:50", "9p", "share"),
        ("/mnt/torn/x", "0:51", "ext4", "/dev/vda"),
        ("/mnt/ümläut/x", "0:52", "vfat", "/dev/sdc1"),
        ("/mnt", "254:0", "ext4", "/dev/vda"),
    ],
)
def test_the_mount_of_a_place(place: str, number: str, file_system: str, source: str) -> None:
    found = find_mount(parse_mounts(MOUNTS), None, Path(place), number)
    assert found is not None and (found.file_system, found.source) == (file_system, source)
    # The kernel's own word counts more than what the paths look like.
    told = find_mount(parse_mounts(MOUNTS), 37, Path(place), number)
    assert told is not None and told.file_system == "zfs"
    assert find_mount(parse_mounts(MOUNTS), 4711, Path(place), number) == found


def test_where_nothing_is_mounted() -> None:
    assert find_mount([], None, Path("/x"), "0:1") is None
    assert find_mount(parse_mounts("33 27 0:41 / /elsewhere rw - tmpfs tmpfs rw"), None, Path("/x"), "0:1") is None


@given(st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1), st.integers(0, 4))
def test_any_name_of_a_mount_point(name: str, optional: int) -> None:
    escaped = "".join(f"\\{ord(letter):03o}" if letter in " \t\n\\#" else letter for letter in name)
    more = " shared:1" * optional
    line = f"5 1 0:9 / /mnt/{escaped} rw{more} - btrfs /dev/{escaped} rw"
    others = parse_mounts(f"1 0 0:1 / / rw - ext4 /dev/vda rw\n{line}\n")
    if name in (".", ".."):
        return
    found = find_mount(others, None, Path("/mnt") / name / "below", "0:77")
    assert found == Mount(5, "0:9", Path("/mnt") / name, "btrfs", f"/dev/{name}")


def test_this_host(scratch: Path) -> None:
    mount = mount_of(scratch)
    assert mount is not None and disk_of(scratch).file_system == mount.file_system
    assert procfs.mounted_at(str(scratch)) == (mount.file_system, mount.source)
    assert disk_of(Path("/proc")).file_system == "proc" and disk_of(Path("/proc")).label is None
    # Without the kernel's word the path leads there as well.
    for place in (scratch, Path("/proc"), Path("/sys"), Path("/")):
        found = find_mount(parse_mounts(Path("/proc/self/mountinfo").read_text()), None, place, "no number")
        assert found is not None and found.file_system == disk_of(place).file_system


@pytest.fixture
def mounted(scratch: Path) -> Iterator[Callable[..., Path]]:
    """Mount for real, and unmount at the end."""
    points: list[Path] = []

    def mount(name: str, *command: str) -> Path:
        point = scratch / name
        point.mkdir(exist_ok=True)
        subprocess.run(["mount", *command, str(point)], check=True, timeout=60, capture_output=True)
        points.append(point)
        return point

    yield mount
    for point in reversed(points):
        subprocess.run(["umount", str(point)], check=True, timeout=60)


@needs_root
@pytest.mark.skipif(not shutil.which("mkfs.btrfs"), reason="mkfs.btrfs is not installed")
def test_a_subvolume_of_btrfs_has_its_file_system_and_disk(scratch: Path, mounted: Callable[..., Path]) -> None:
    image = scratch / "image"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True, timeout=60, capture_output=True)
    try:
        top = mounted("with two blanks", "-o", "loop", str(image))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"btrfs cannot be mounted here: {error.stderr.decode()}")
    subvolume = top / "sub volume"
    subprocess.run(["btrfs", "subvolume", "create", str(subvolume)], check=True, timeout=60, capture_output=True)
    (subvolume / "deep").mkdir()
    assert subvolume.stat().st_dev != top.stat().st_dev
    bound = mounted("bound", "--bind", str(subvolume / "deep"))
    other = mounted("other", "-o", "subvol=sub volume", *_loop_device(top))
    for place in (top, subvolume, subvolume / "deep", subvolume / "not" / "there", bound, other):
        disk = disk_of(place)
        assert disk.file_system == "btrfs", place
        assert disk.device is not None and disk.device.startswith("loop"), place
        assert disk.free_bytes > 0 and not disk.in_memory and disk.label
    assert procfs.mounted_at(str(subvolume))[0] == "btrfs"


def _loop_device(point: Path) -> tuple[str, ...]:
    mount = mount_of(point)
    assert mount is not None
    return (mount.source,)


@needs_root
def test_bind_mounts_covers_and_strange_names(scratch: Path, mounted: Callable[..., Path]) -> None:
    whole = disk_of(scratch)
    memory = mounted("a \\ strange\tname \n", "-t", "tmpfs", "picolab-test")
    assert (disk_of(memory / "x").file_system, disk_of(memory).label) == ("tmpfs", None)
    inside = memory / "bound"
    bound = mounted(str(inside.relative_to(scratch)), "--bind", str(scratch / "tmp"))
    assert disk_of(bound).file_system == whole.file_system
    assert disk_of(bound).device == whole.device
    (memory / "link").symlink_to(scratch)
    assert disk_of(memory / "link").file_system == whole.file_system
    # Covered by another mount at the same place.
    again = mounted("again", "-t", "tmpfs", "picolab-test")
    mounted("again", "--bind", str(scratch / "tmp"))
    assert disk_of(again).file_system == whole.file_system
    over = mounted("over", "-t", "overlay", "picolab-test", "-o", _overlay(memory))
    assert disk_of(over).file_system == "overlay"


def _overlay(place: Path) -> str:
    upper, work = place.parent / "upper", place.parent / "overlay-work"
    upper.mkdir()
    work.mkdir()
    return f"lowerdir={place.parent / 'tmp'},upperdir={upper},workdir={work}"


def test_a_kernel_that_says_nothing(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    monkeypatch.setattr(facts, "mount_of", lambda folder: None)
    assert disk_of(scratch).file_system == "unknown"
