"""The disk of the box: its partitions, boot loader and initrd."""

import gzip
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

from picolab.config.sizes import MIB
from picolab.machines.vagrant.box_tools import STEP_LIMIT_S, boot_code, run

GUEST = Path(__file__).resolve().parent / "box_guest"
DISK_GIB = 16
BOOT_BEGIN_MIB, BOOT_MIB = 1, 31
ROOT_BEGIN_MIB = BOOT_BEGIN_MIB + BOOT_MIB
_SECTOR = 512
_FAT16, _LINUX, _BOOTABLE = 0x0E, 0x83, 0x80


def make_sparse(disk: Path) -> None:
    """Make an empty disk of `DISK_GIB` that takes no space, and that mmdebstrap's processes may write."""
    with disk.open("wb") as file:
        file.truncate(DISK_GIB * 1024 * MIB)
    disk.chmod(0o666)


def initrd(boot: Path) -> bytes:
    """Return the first file system of the kernel: busybox, the modules that the disk needs, and our own /init."""
    busybox, modules = boot / "busybox", sorted((boot / "modules").glob("*.ko"))
    entries: list[tuple[str, int, bytes]] = [
        (name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "modules", "proc", "system")
    ]
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()))
    entries.append(("init", stat.S_IFREG | 0o755, (GUEST / "initrd_init.sh").read_bytes()))
    entries += [(f"modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes()) for module in modules]
    return gzip.compress(cpio(entries), mtime=0)


def cpio(entries: Sequence[tuple[str, int, bytes]]) -> bytes:
    """Return an archive in the form that the kernel unpacks (its initramfs-buffer-format.rst, "newc").

    Args:
        entries: name, mode and content of each member; folders before what is in them.
    """
    parts = []
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        parts += [header, b"\0" * (-len(header) % 4), content, b"\0" * (-len(content) % 4)]
    return b"".join(parts)


def fill_boot_partition(disk: Path, boot: Path) -> None:
    """Write the partition table, and a file system with boot loader, kernel and initrd in front of the root's."""
    with disk.open("r+b") as file:
        file.write(boot_sector(boot_code() or b""))
    offset = BOOT_BEGIN_MIB * MIB
    target = f"{disk}@@{offset}"
    sectors = BOOT_MIB * MIB // _SECTOR
    geometry = ("-h", "255", "-s", "63", "-H", str(offset // _SECTOR), "-T", str(sectors))
    run(["mformat", "-i", target, *geometry, "-v", "PICOLAB", "::"], "mformat", STEP_LIMIT_S)
    files = [boot / "vmlinuz", boot / "initrd", GUEST / "syslinux.cfg"]
    run(["mcopy", "-i", target, *map(str, files), "::/"], "mcopy", STEP_LIMIT_S)
    run(["syslinux", "--install", "--offset", str(offset), str(disk)], "syslinux", STEP_LIMIT_S)


def boot_sector(code: bytes) -> bytes:
    """Return the first sector of the disk: syslinux' code and the table with the boot and the root partition."""
    boot = struct.pack(
        "<B3sB3sII", _BOOTABLE, b"\xfe\xff\xff", _FAT16, b"\xfe\xff\xff", *_sectors(BOOT_BEGIN_MIB, BOOT_MIB)
    )
    root_mib = DISK_GIB * 1024 - ROOT_BEGIN_MIB
    root = struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", _LINUX, b"\xfe\xff\xff", *_sectors(ROOT_BEGIN_MIB, root_mib))
    return code[:440].ljust(446, b"\0") + boot + root + b"\0" * 32 + b"\x55\xaa"


def _sectors(begin_mib: int, size_mib: int) -> tuple[int, int]:
    return begin_mib * MIB // _SECTOR, size_mib * MIB // _SECTOR
