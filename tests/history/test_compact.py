"""Merging the files of a history: each row stays, counts once, and stays where it is when the merge is killed."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command_line import picolab_here
from history_campaigns import night

from picolab.config.project import outputs_dir
from picolab.errors import HostUnfit, UnreadableFile
from picolab.history import compact as compacting
from picolab.history.add import add_campaign
from picolab.history.compact import Compacted, compact
from picolab.history.database import Database
from picolab.history.store import TRIALS, FolderStore, file_name

NIGHTS = 3
KILLED = """
import os, signal, sys
from pathlib import Path
from picolab.history.compact import compact
from picolab.history.store import FolderStore

class Killed(FolderStore):
    def remove(self, kind, names):
        super().remove(kind, list(names)[: int(sys.argv[2])])
        os.kill(os.getpid(), signal.SIGKILL)

compact(Killed(Path(sys.argv[1])))
"""


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "history")
    for number in range(NIGHTS):
        add_campaign(store, night(number, {"build-a": 1.0}))
    return store


def rows(store: FolderStore) -> list[dict[str, Any]]:
    return Database(store).rows("SELECT * FROM trials ORDER BY trial_key")


def test_every_row_is_the_same_in_one_file(store: FolderStore) -> None:
    before = rows(store)
    assert compact(store) == Compacted(NIGHTS, 1)

    assert rows(store) == before
    assert len(store.names(TRIALS)) == 1
    assert compact(store) == Compacted(1, 1)


def test_campaigns_are_known_after_a_merge(store: FolderStore) -> None:
    compact(store)
    before = rows(store)
    again = add_campaign(store, outputs_dir() / "bench-00")
    later = add_campaign(store, night(NIGHTS, {"build-a": 1.0}))

    assert again.new == 0 and again.known > 0
    assert len(rows(store)) == len(before) + later.new
    assert compact(store) == Compacted(2, 1)
    assert len(rows(store)) == len(before) + later.new


def test_a_file_that_came_back_counts_once(store: FolderStore) -> None:
    before = rows(store)
    old = {name: (store.folder / TRIALS / name).read_bytes() for name in store.names(TRIALS)}
    compact(store)
    name = min(old)
    store.write(TRIALS, name, old[name])

    assert rows(store) == before
    assert compact(store) == Compacted(2, 1)
    assert rows(store) == before


@pytest.mark.parametrize("removed", [0, 1])
def test_a_killed_merge_loses_and_doubles_nothing(store: FolderStore, removed: int) -> None:
    before = rows(store)
    done = subprocess.run([sys.executable, "-c", KILLED, str(store.folder), str(removed)], check=False, timeout=60)

    assert done.returncode == -signal.SIGKILL
    assert len(store.names(TRIALS)) == NIGHTS + 1 - removed
    assert rows(store) == before
    compact(store)
    assert rows(store) == before and len(store.names(TRIALS)) == 1


def test_nothing_is_removed_when_the_merged_file_is_not_whole(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = store.names(TRIALS)

    def torn(kind: str, name: str, content: bytes) -> None:
        raise HostUnfit("the disk is gone")

    monkeypatch.setattr(store, "write", torn)
    with pytest.raises(HostUnfit):
        compact(store)
    assert store.names(TRIALS) == old


def test_two_merges_at_once_keep_every_row(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows(store)
    write = store.write

    def other_first(kind: str, name: str, content: bytes) -> None:
        add_campaign(FolderStore(store.folder), night(NIGHTS, {"build-a": 1.0}))
        compact(FolderStore(store.folder))
        write(kind, name, content)

    monkeypatch.setattr(store, "write", other_first)
    compact(store)
    kept = {row["trial_key"] for row in before}
    found = rows(store)
    assert [row for row in found if row["trial_key"] in kept] == before
    assert len({row["trial_key"] for row in found}) == len(found) > len(before)


class Raced(FolderStore):
    """A store whose files another process replaces right after they are listed, a few times."""

    left = 3

    def names(self, kind: str) -> list[str]:
        found = super().names(kind)
        for name in found if self.left and kind == TRIALS else []:
            path = Path(self.address(kind, name))
            path.rename(path.with_name(file_name(name[:12], f"{self.left:016x}")))
        self.left -= kind == TRIALS and self.left > 0
        return found


def test_files_replaced_by_another_are_listed_again(store: FolderStore) -> None:
    before = rows(store)
    assert rows(Raced(store.folder)) == before
    assert compact(Raced(store.folder)) == Compacted(NIGHTS, 1)
    assert rows(store) == before


def test_a_damaged_file_is_named_at_once(store: FolderStore) -> None:
    name = store.names(TRIALS)[0]
    (store.folder / TRIALS / name).write_bytes(b"PAR1 torn PAR1")
    for use in (compact, rows):
        with pytest.raises(UnreadableFile, match=name):
            use(store)
    assert len(store.names(TRIALS)) == NIGHTS


def test_a_reader_follows_files_that_were_merged(store: FolderStore) -> None:
    database = Database(store)
    query = "SELECT count(*) AS n FROM trials"
    before = database.rows(query)
    # Some rows are read from the files themselves, not from the footers that are known.
    compact(store)

    assert database.rows("SELECT record FROM trials") and database.rows(query) == before


def test_large_files_stay_as_they_are(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [pq.read_metadata(store.folder / TRIALS / name).num_rows for name in store.names(TRIALS)]
    monkeypatch.setattr(compacting, "MOST_ROWS", sum(sizes[:2]))
    before = rows(store)

    assert compact(store) == Compacted(NIGHTS, NIGHTS - 1)
    assert rows(store) == before


def test_on_the_command_line(store: FolderStore) -> None:
    done = picolab_here("history", "compact", "--history", str(store.folder))
    assert done.returncode == 0, done.stderr
    assert f"{NIGHTS} files of trials merged into 1" in done.stdout
