"""Merging the small files of a history into larger ones: a query reads the footer and columns of every file.

A merged file shares the groups of those that it replaces, so a row that is in both counts once
(`picolab.history.database`). It is written whole before they are removed. Whenever this is killed, and whoever adds,
merges or reads at the same time, each row is there and counts once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from picolab.errors import UnreadableFile
from picolab.history.add import parquet
from picolab.history.database import GROUPS_KEY, Database, FileSet, despite_merges
from picolab.history.schema import MERGED_VERSION
from picolab.history.store import TRIALS, Store, StoredFile, file_name

MOST_ROWS = 50_000
"""Of a merged file, with whole campaigns: their records have 150 MB in memory."""


@dataclass(frozen=True)
class Compacted:
    """How many files of trials a history had, and has now."""

    before: int
    after: int


def compact(store: Store) -> Compacted:
    """Merge the files of trials that are small or hold a row twice.

    Raises:
        ParameterError, UnreadableFile, HostUnfit, FileNotWritten: as `Database.rows`, `Store.write` and `Store.remove`
            do. Nothing is lost, and it may be called again.
    """
    return despite_merges(store, lambda: _compact(store))


def _compact(store: Store) -> Compacted:
    database = Database(store)
    sets = database.sets(TRIALS)
    files = [file for one in sets for file in one.files]
    after = len(files)
    for batch in _batches(sets, database.counts(files)):
        sources = [file for one in batch for file in one.files]
        if len(sources) > 1:
            _merge(store, database, sources, {group for one in batch for group in one.groups})
            after -= len(sources) - 1
    return Compacted(len(files), after)


def _batches(sets: Iterable[FileSet], counts: dict[str, int]) -> list[list[FileSet]]:
    """Return the sets to merge with each other; one that is large enough and one file is in none."""
    batches: list[list[FileSet]] = [[]]
    rows = 0
    for one in sets:
        size = sum(counts[file.address] for file in one.files)
        if len(one.files) == 1 and size > MOST_ROWS // 2:
            continue
        if rows + size > MOST_ROWS:
            batches.append([])
            rows = 0
        batches[-1].append(one)
        rows += size
    return batches


def _merge(store: Store, database: Database, sources: list[StoredFile], groups: set[str]) -> None:
    table = database.merged(sources)
    table = table.replace_schema_metadata({GROUPS_KEY: " ".join(sorted(groups))})
    name = file_name(_digest(groups, 12), _digest([file.name for file in sources], 16), MERGED_VERSION)
    store.write(TRIALS, name, parquet(table))
    written = StoredFile(name, store.address(TRIALS, name), "", is_merged=True)
    if Database(store).counts([written]) != {written.address: table.num_rows}:
        raise UnreadableFile(f"{store.place}: {name} does not hold what was written; look at the disk of the history")
    store.remove(TRIALS, [file.name for file in sources])


def _digest(words: Iterable[str], length: int) -> str:
    return hashlib.sha256(" ".join(sorted(words)).encode()).hexdigest()[:length]
