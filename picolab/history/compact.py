"""Merging the small files of a history into larger ones: a query reads the footer and columns of every file.

A merged file shares the groups of those that it replaces, so a row that is in both counts once
(`picolab.history.database`). The checksums of those are verified first, so that damage gets no checksum of its own. It
is written whole, and read back, before they are removed. Whenever this is killed, and whoever adds, merges or reads at
the same time, each row is there and counts once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from picolab.errors import UnreadableFile
from picolab.history.checksums import damage, parquet, verified_table
from picolab.history.database import GROUPS_KEY, Database, FileSet, FileSize, despite_merges
from picolab.history.schema import MERGED_VERSION
from picolab.history.store import CAMPAIGNS, TRIALS, Store, StoredFile, file_name

MOST_ROWS = 50_000
"""Of a merged file, with whole campaigns."""
MOST_BYTES = 256 << 20
"""Of the columns of a merged file in memory: a plan of ten thousand trials has some MiB."""


@dataclass(frozen=True)
class Compacted:
    """How many files a folder of a history had, how many it has now, and how many of these were written."""

    before: int
    after: int
    written: int


def compact(store: Store) -> dict[str, Compacted]:
    """Merge the files that are small, hold a row twice, or have no checksum; return what was done by kind.

    Raises:
        ParameterError, UnreadableFile, HostUnfit, FileNotWritten: as `Database.rows`, `verified_table`, `Store.write`
            and `Store.remove` do. Nothing is lost, and it may be called again.
    """
    return {kind: despite_merges(store, partial(_compact, store, kind)) for kind in (TRIALS, CAMPAIGNS)}


def _compact(store: Store, kind: str) -> Compacted:
    database = Database(store)
    sets = database.sets(kind)
    files = [file for one in sets for file in one.files]
    sizes = database.sizes(files)
    after, written = len(files), 0
    for batch in _batches(sets, sizes):
        sources = [file for one in batch for file in one.files]
        if len(sources) > 1 or not all(sizes[file.address].has_checksum for file in sources):
            _merge(store, database, kind, sources, {group for one in batch for group in one.groups})
            after -= len(sources) - 1
            written += 1
    return Compacted(len(files), after, written)


def _batches(sets: Iterable[FileSet], sizes: Mapping[str, FileSize]) -> list[list[FileSet]]:
    """Return the sets to merge with each other; one that is large enough, one file, and has a checksum is in none."""
    batches: list[list[FileSet]] = []
    rows = size = 0
    for one in sets:
        found = [sizes[file.address] for file in one.files]
        more_rows, more_bytes = sum(each.rows for each in found), sum(each.in_memory_bytes for each in found)
        is_large = more_rows > MOST_ROWS // 2 or more_bytes > MOST_BYTES // 2
        if len(found) == 1 and is_large and found[0].has_checksum:
            continue
        rows, size = rows + more_rows, size + more_bytes
        if not batches or rows > MOST_ROWS or size > MOST_BYTES:
            batches.append([])
            rows, size = more_rows, more_bytes
        batches[-1].append(one)
    return batches


def _merge(store: Store, database: Database, kind: str, sources: list[StoredFile], groups: Iterable[str]) -> None:
    table = database.merged(kind, [verified_table(store, kind, file.name) for file in sources])
    content = parquet(table, {GROUPS_KEY: " ".join(sorted(groups))})
    name = file_name(_digest(groups, 12), _digest([file.name for file in sources], 16), MERGED_VERSION)
    store.write(kind, name, content)
    why = damage(store.read(kind, name))
    if why is not None:
        raise UnreadableFile(f"{store.address(kind, name)}: {why}; look at the disk of the history")
    store.remove(kind, [file.name for file in sources])


def _digest(words: Iterable[str], length: int) -> str:
    return hashlib.sha256(" ".join(sorted(words)).encode()).hexdigest()[:length]
