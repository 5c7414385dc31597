"""The functions that run in a Dask worker: they take an order, run it in a process of its own, and pack its files.

The trials run in `picolab.distributed.block_process`, not in a thread of the worker. That process ends, after cleaning
up, when the pipe from the worker closes: when the client stops, and when the worker ends or is killed.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from picolab import __version__
from picolab.agent.procfs import boot_id
from picolab.config.project import state_dir
from picolab.config.sizes import MIB
from picolab.distributed.block_process import CAMPAIGN, ENDING_FILE, LOCK_FILE, ORDER_FILE, Ending
from picolab.distributed.host_lock import HostLock
from picolab.distributed.order import Order, Parcel, SentBuild, pack, starts_of
from picolab.errors import PicolabError, UnreadableFile
from picolab.files.foreign import read_text
from picolab.files.writing import write_atomically
from picolab.host.facts import host_identity, provenance
from picolab.host.leftovers import remove_locked
from picolab.servers.build import COPIES_VARIABLE, sha256_of

CHUNK_BYTES = 4 * MIB
MOST_BUILD_BYTES = 1024 * MIB
_LARGEST_ENDING_BYTES = MIB
_HOST_LOCK = HostLock()
_LOCK = threading.Lock()
_RUNNING: dict[str, list[tuple[str, subprocess.Popen[bytes]]]] = defaultdict(list)
"""The processes of each session, each with the key of its order."""
_STOPPED: set[tuple[str, str]] = set()
"""Sessions that their client has stopped, and single orders of them by their key; all of a session by an empty one."""


def software() -> str:
    """Return which picolab this is: its version, and the commit of a checkout."""
    found = provenance()
    return f"{__version__} ({found.picolab_commit[:12]})" if found.picolab_commit else __version__


def facts() -> dict[str, Any]:
    """Return what a client asks a worker: its picolab, its host, and which other worker's process measures there."""
    return {
        "software": software(),
        "hostname": str(host_identity()["hostname"]),
        "boot_id": boot_id(),
        "host_id": host_identity()["host_id"],
        "waits_for": _HOST_LOCK.other_holder(),
    }


def run_order(text: str) -> dict[str, Any]:
    """Run the trials of an order, given as JSON; return a parcel as plain data."""
    from distributed import get_worker

    address = str(get_worker().address)
    try:
        parcel = _run(text, address)
    except (PicolabError, OSError) as error:
        parcel = Parcel(ending="refused", worker=address, sentence=str(error)[:2000])
    return parcel.model_dump(mode="python")


def _run(text: str, address: str) -> Parcel:
    try:
        order = Order.model_validate_json(text)
        theirs = order.software
    except ValidationError:
        # An order of another version may have another form.
        order, theirs = None, str(json.loads(text).get("software"))[:200]
    if order is None or theirs != software():
        return Parcel(
            ending="refused",
            worker=address,
            sentence=f"it has picolab {software()} and the client {theirs}; install the same version on both",
        )
    missing = _missing(order)
    if missing:
        return Parcel(ending="needs_builds", worker=address, missing=missing)
    folder = orders_dir() / order.key
    with _HOST_LOCK.held(lambda: _is_stopped(order)) as lock:
        if lock is None:
            return Parcel(ending="stopped", worker=address)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ORDER_FILE, order.model_dump_json())
        # From now on `picolab clean` keeps its builds; while it waited, it may have removed some.
        missing = _missing(order)
        if missing:
            return Parcel(ending="needs_builds", worker=address, missing=missing)
        _say_begun(order)
        if not _run_process(order, folder, lock):
            return Parcel(ending="stopped", worker=address)
    ending = _ending(folder)
    return Parcel(
        ending="died" if ending.died else "refused" if ending.error else "stopped" if ending.interrupted else "ran",
        worker=address,
        sentence=ending.error or " ".join(ending.notes)[:2000],
        attempts=pack(folder / CAMPAIGN),
        starts=starts_of(folder / CAMPAIGN),
    )


def topic(session: str) -> str:
    """Return under which topic of Dask's events a client learns that orders of its session begin."""
    return f"picolab-{session}"


def _say_begun(order: Order) -> None:
    """Tell the client that an order begins here: if this worker is lost now, the client counts it."""
    from distributed import get_worker

    here = get_worker()
    begun = {"order": order.key, "worker": str(here.address), "host": str(host_identity()["hostname"])}
    here.log_event(topic(order.session), begun)


def _run_process(order: Order, folder: Path, lock: int) -> bool:
    """Run the process of an order until it ends; return False when the session was stopped before.

    Args:
        lock: descriptor of the host's lock, which the process has too.
    """
    copies = {path: str(_place(build.sha256)) for path, build in order.builds.items()}
    (folder / ENDING_FILE).unlink(missing_ok=True)
    with _LOCK, (folder / "log").open("ab") as log:
        if _is_stopped(order):
            return False
        process = subprocess.Popen(
            [sys.executable, "-m", "picolab.distributed.block_process", str(folder), str(lock)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
            env={**os.environ, COPIES_VARIABLE: json.dumps(copies)},
        )
        _RUNNING[order.session].append((order.key, process))
    try:
        process.wait()
    finally:
        with _LOCK:
            _RUNNING[order.session].remove((order.key, process))
        _close_pipe(process)
    return True


def _close_pipe(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()


def _ending(folder: Path) -> Ending:
    try:
        return Ending.model_validate_json(read_text(folder / ENDING_FILE, _LARGEST_ENDING_BYTES))
    except (FileNotFoundError, UnreadableFile, ValueError):
        try:
            words = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
        except OSError:
            words = []
        error = f"the process of the trials ended early{': ' + words[0][:300] if words else ''}"
        return Ending(died=True, error=error)


def stop_session(session: str, key: str = "") -> None:
    """Stop the running orders of a session, after cleaning up, and refuse the later ones.

    Args:
        key: of the only order to be stopped; empty: all.
    """
    with _LOCK:
        _STOPPED.add((session, key))
        for order, process in _RUNNING[session]:
            if key in ("", order):
                _close_pipe(process)


def _is_stopped(order: Order) -> bool:
    return not _STOPPED.isdisjoint({(order.session, ""), (order.session, order.key)})


def forget_orders(keys: Sequence[str]) -> None:
    """Remove the files of orders that no process runs: they are at home."""
    for key in filter(str.isalnum, keys):
        folder = orders_dir() / key
        with contextlib.suppress(OSError):
            remove_locked(folder / LOCK_FILE, folder)


def store_chunk(sha256: str, size_bytes: int, offset: int, data: bytes) -> None:
    """Write a part of an executable; the last part is kept only when the SHA-256 of the whole is right.

    Raises:
        ValueError: it is not what was announced.
    """
    SentBuild(sha256=sha256, size_bytes=size_bytes)
    if len(data) > CHUNK_BYTES or offset + len(data) > size_bytes or size_bytes > MOST_BUILD_BYTES:
        raise ValueError(f"a build of {size_bytes} bytes, or a part of {len(data)} bytes, is more than may be sent")
    final = _place(sha256)
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f".{sha256}.{os.getpid()}.new")
    with part.open("wb" if offset == 0 else "r+b") as file:
        file.seek(offset)
        file.write(data)
    if offset + len(data) < size_bytes:
        return
    if sha256_of(part) != sha256:
        part.unlink()
        raise ValueError(f"the build with the SHA-256 {sha256[:16]}... arrived with another one")
    part.chmod(0o755)
    part.replace(final)


def _place(sha256: str) -> Path:
    return builds_dir() / sha256


def _missing(order: Order) -> list[str]:
    """Return the SHA-256 of each executable of an order that is not here."""
    return [build.sha256 for build in order.builds.values() if not _is_stored(build)]


def _is_stored(build: SentBuild) -> bool:
    """Return whether an executable is here, and still what it should be."""
    place = _place(build.sha256)
    return place.is_file() and place.stat().st_size == build.size_bytes and sha256_of(place) == build.sha256


def orders_dir() -> Path:
    """Return the folder of the orders that run here, or whose client was lost."""
    return state_dir() / "orders"


def builds_dir() -> Path:
    """Return the folder of the executables that clients have sent."""
    return state_dir() / "received-builds"
