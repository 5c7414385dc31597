"""The steps beside an upload that a machine takes: emptying the page cache, and bringing data to the disk."""

from __future__ import annotations

import errno
import mmap
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import MIB, eventually
from throttled_disk import throttled

from picolab.agent import disk
from picolab.errors import MachineError
from picolab.host.processes import this_process
from picolab.machines.base import Holder, MachineWish, ProcessSpec
from picolab.machines.local.machine import LocalMachine

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may drop the page cache, or mount")

WRITE = """
import os, sys, time
for path, mib in zip(sys.argv[1::2], sys.argv[2::2]):
    with open(path, "wb") as file:
        for _ in range(int(mib)):
            file.write(os.urandom(1 << 20))
print("written", flush=True)
time.sleep(1000)
"""

Obtain = Callable[..., LocalMachine]


@pytest.fixture
def obtain() -> Iterator[Obtain]:
    """Obtain the local machine; take it down at the end."""
    made: list[LocalMachine] = []

    def make(work_dir: Path | str = "") -> LocalMachine:
        made.append(LocalMachine.obtain(MachineWish("steps", 64, "none", str(work_dir)), Holder(this_process(), False)))
        return made[-1]

    yield make
    for machine in made:
        machine.release()


def run(machine: LocalMachine, scratch: Path, code: str, *words: str) -> None:
    """Run a program as the machine's server; return when it has said something."""
    spec = ProcessSpec([sys.executable, "-I", "-S", "-c", code, *words], {"PATH": os.defpath}, scratch / "server.log")
    machine.start_process(spec)
    eventually(lambda: machine.process_log(), "the server says that it is done")


def read_from_disk(path: Path) -> int:
    """Read a file in a process of its own; return the bytes that had to come from the disk."""
    code = "import sys; open(sys.argv[1], 'rb').read(); print(open('/proc/self/io').read())"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    found = re.search(r"^read_bytes: (\d+)$", done.stdout, re.MULTILINE)
    assert found is not None
    return int(found[1])


# ---- the page cache ------------------------------------------------------------------------------


@needs_root
def test_after_dropping_it_the_servers_files_come_from_the_disk(obtain: Obtain, scratch: Path) -> None:
    machine = obtain()
    store = Path(machine.fresh_folders()[0]) / "store.db"
    # Dirty, so that it can be dropped only after it was written.
    run(machine, scratch, WRITE, str(store), "32")
    assert read_from_disk(store) < MIB, "it is in the page cache to begin with"
    assert machine.drop_page_cache() is None
    assert read_from_disk(store) >= 32 * MIB
    assert read_from_disk(store) < MIB


@needs_root
def test_an_empty_data_folder_is_no_reason_to_fail(obtain: Obtain) -> None:
    machine = obtain()
    data = Path(machine.fresh_folders()[0])
    assert machine.drop_page_cache() is None
    (data / "empty").touch()
    (data / "link").symlink_to("/proc/kmsg")
    os.mkfifo(data / "pipe")
    assert machine.drop_page_cache() is None


@needs_root
def test_what_stays_in_the_page_cache_is_told(obtain: Obtain, scratch: Path) -> None:
    machine = obtain()
    store = Path(machine.fresh_folders()[0]) / "store.db"
    store.write_bytes(os.urandom(8 * MIB))
    code = (
        "import mmap, sys, time\n"
        "file = open(sys.argv[1], 'rb')\n"
        "view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "used = sum(view[::4096])\n"
        "print('in use', flush=True)\n"
        "time.sleep(1000)"
    )
    run(machine, scratch, code, str(store))
    reason = machine.drop_page_cache()
    assert reason is not None and reason.startswith("8 of 8 MiB of the server's files stayed in the page cache"), reason
    machine.stop_process(0)
    assert machine.drop_page_cache() is None


@pytest.mark.alone
def test_how_much_of_a_file_is_cached(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(8 * MIB + 1))
    assert disk.cached_and_size(str(path)) == (8 * MIB + mmap.PAGESIZE, 8 * MIB + 1)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 4 * MIB, 0, os.POSIX_FADV_DONTNEED)
    assert disk.cached_and_size(str(path)) == (4 * MIB, 8 * MIB + 1)
    assert disk.cached_and_size(str(tmp_path / "gone")) == (0, 0)


# ---- the disk ------------------------------------------------------------------------------------


def check_the_time_of_a_sync(machine: LocalMachine, scratch: Path) -> None:
    rate = 16 * MIB
    data, tmp = (Path(folder) for folder in machine.fresh_folders())
    (data / "below").mkdir()
    # What lies elsewhere on the same file system, and its being dirty, is none of the server's data.
    words = (str(tmp / "spool"), "32", str(data / "store.db"), "24", str(data / "below" / "store.db-wal"), "8")
    run(machine, scratch, WRITE, *words)
    with throttled(data, rate, os.getpid()):
        begun_s = time.monotonic()
        took_s = machine.sync_data()
        elapsed_s = time.monotonic() - begun_s
        again_s = machine.sync_data()
    machine.stop_process(0)
    # A busy host makes it longer and never shorter; the kernel's throttle lets 0.1 s of its rate pass at once.
    assert 0.94 * 32 * MIB / rate <= took_s <= elapsed_s
    assert again_s < took_s / 2, "all of it was on the disk before"


@pytest.mark.alone
def test_bringing_data_to_the_disk_takes_what_the_disk_takes(obtain: Obtain, scratch: Path) -> None:
    check_the_time_of_a_sync(obtain(), scratch)


def test_files_that_vanish_meanwhile_are_no_error(obtain: Obtain, scratch: Path) -> None:
    machine = obtain()
    data = machine.fresh_folders()[0]
    code = (
        "import os, sys\n"
        "print('begins', flush=True)\n"
        "while True:\n"
        "    os.mkdir(f'{sys.argv[1]}/folder')\n"
        "    for place in ('journal', 'folder/journal'):\n"
        "        open(f'{sys.argv[1]}/{place}', 'w').close()\n"
        "        os.unlink(f'{sys.argv[1]}/{place}')\n"
        "    os.rmdir(f'{sys.argv[1]}/folder')\n"
    )
    run(machine, scratch, code, data)
    for _ in range(300):
        assert machine.sync_data() > 0
    assert machine.process_status().running


def test_a_sync_that_fails_says_why(obtain: Obtain, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = obtain()
    data = Path(machine.fresh_folders()[0])

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(MachineError) as caught:
        machine.sync_data()
    wanted = "machine 'steps': what the server has written could not be brought to the disk (Input/output error: "
    assert str(caught.value) == f"{wanted}{data})"
    monkeypatch.undo()
    data.rmdir()
    with pytest.raises(MachineError, match=rf"\(No such file or directory: {re.escape(str(data))}\)"):
        machine.sync_data()


@pytest.fixture
def tmpfs(scratch: Path) -> Iterator[Path]:
    """A file system in memory."""
    place = scratch / "tmpfs"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "picolab-test", str(place)], check=True, timeout=60)
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=60)


@needs_root
def test_a_data_folder_in_memory_has_no_disk_and_no_page_cache(tmpfs: Path, obtain: Obtain) -> None:
    machine = obtain(work_dir=tmpfs)
    (Path(machine.fresh_folders()[0]) / "store.db").write_bytes(os.urandom(4 * MIB))
    with pytest.raises(MachineError, match=r"data folder in memory \(tmpfs\).*set work_dir to a folder on a disk"):
        machine.sync_data()
    reason = machine.drop_page_cache()
    assert reason is not None and "4 of 4 MiB" in reason and "does not lie on a disk" in reason
    # Before the fixture unmounts.
    machine.release()
