"""Small file systems of a test's own, that fill up for real."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from picolab.machines import registry

Mount = Callable[[str, int], Path]


@pytest.fixture
def mount(scratch: Path) -> Iterator[Mount]:
    """Mount a small file system of a kind and return its folder."""
    from conftest import GIVE_UP_S

    mounted: list[Path] = []

    def make(kind: str, size_mib: int) -> Path:
        place = scratch / f"small-{kind}"
        place.mkdir()
        if kind == "tmpfs":
            command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(place)]
        else:
            image = scratch / "image"
            with image.open("wb") as file:
                file.truncate(size_mib << 20)
            done = subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=False, capture_output=True)
            if done.returncode:
                pytest.skip("there is no mkfs.ext4")
            command = ["mount", "-o", "loop", str(image), str(place)]
        if subprocess.run(command, check=False, capture_output=True, timeout=GIVE_UP_S).returncode:
            pytest.skip(f"this user may mount no {kind} here")
        mounted.append(place)
        return place

    yield make
    for name in ("local", "test"):
        registry.release_by_name(name)
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True, timeout=GIVE_UP_S)


def fill(place: Path) -> Path:
    """Take every free byte of a small file system; return the file that has them."""
    end = 0
    with (place / "rest").open("wb", buffering=0) as file:
        for size in (1 << 26, 1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), end, size)
                    end += size
        # What a file system gives out in smaller pieces.
        file.seek(end)
        with contextlib.suppress(OSError):
            while file.write(bytes(512)):
                pass
    return place / "rest"
