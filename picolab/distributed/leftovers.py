"""Leftovers of a worker for `picolab clean`: orders that no process runs, and executables that no order needs."""

import stat
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from picolab.campaign.filing import RUNNING, TRIALS
from picolab.distributed.block_process import CAMPAIGN, LOCK_FILE, ORDER_FILE
from picolab.distributed.order import Order
from picolab.distributed.worker import builds_dir, orders_dir
from picolab.errors import UnreadableFile
from picolab.files.foreign import read_text
from picolab.host.leftovers import LeftoverKind, Removables, is_ours, is_unlocked, remove_locked
from picolab.text.wording import counted

_NEW_S = 3600.0
"""What is younger may belong to an order that begins."""
_LARGEST_ORDER_BYTES = 64 << 20


def kinds() -> list[LeftoverKind]:
    """Return the kinds of leftovers of workers."""
    return [
        LeftoverKind("order of a worker without a result", _orders),
        LeftoverKind("build that was sent to a worker", _builds),
    ]


def left_alone() -> list[str]:
    """Return a sentence for each order that has results and no process, with the way to bring them home."""
    said = []
    for folder in _abandoned():
        results = _results(folder)
        if results:
            order = _order_in(folder)
            name = order.plan.campaign if order is not None else "unknown"
            said.append(
                f"order {folder}: {counted(len(results), 'result')} of the campaign {name} may not have come home; "
                f"continue it with --scheduler, or copy {folder / CAMPAIGN}, and then: rm -r {folder}"
            )
    return said


def _orders() -> Removables:
    for folder in _abandoned():
        if not _results(folder):
            yield str(folder), partial(remove_locked, folder / LOCK_FILE, folder)


def _builds() -> Removables:
    needed: set[str] = set()
    for folder in _folders():
        order = _order_in(folder)
        if order is None:
            return  # whatever it needs is not known
        needed |= {build.sha256 for build in order.builds.values()}
    for path in sorted(builds_dir().glob("*")):
        if path.name not in needed and is_ours(path, stat.S_ISREG) and _is_old(path):
            yield str(path), partial(path.unlink, missing_ok=True)


def _folders() -> list[Path]:
    return [folder for folder in sorted(orders_dir().glob("*")) if is_ours(folder, stat.S_ISDIR)]


def _abandoned() -> Iterator[Path]:
    """Yield the folders of orders that no process runs, or begins to run."""
    for folder in _folders():
        if is_unlocked(folder / LOCK_FILE) and _is_old(folder / ORDER_FILE):
            yield folder


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _NEW_S
    except OSError:
        return False


def _results(folder: Path) -> list[Path]:
    """Return the records of an order's trials, those included that were not filed yet."""
    campaign = folder / CAMPAIGN
    return [*campaign.glob(f"{TRIALS}/*.record.json"), *campaign.glob(f"{RUNNING}/*/record.json")]


def _order_in(folder: Path) -> Order | None:
    try:
        return Order.model_validate_json(read_text(folder / ORDER_FILE, _LARGEST_ORDER_BYTES))
    except (OSError, UnreadableFile, ValueError):
        return None
