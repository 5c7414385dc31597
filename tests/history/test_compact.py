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
from picolab.history.store import CAMPAIGNS, TRIALS, FolderStore, file_name

NIGHTS = 3
KINDS = (TRIALS, CAMPAIGNS)
KILLED = """
import os, signal, sys
from pathlib import Path
from picolab.history.compact import compact
from picolab.history.store import FolderStore

class Killed(FolderStore):
    def remove(self, kind, names):
        is_last = kind == sys.argv[3]
        super().remove(kind, list(names)[: int(sys.argv[2]) if is_last else None])
        if is_last:
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
    database = Database(store)
    trials = database.rows("SELECT * FROM trials ORDER BY trial_key")
    return trials + database.rows("SELECT * FROM campaigns ORDER BY campaign_key")


def counts(store: FolderStore) -> dict[str, tuple[int, int]]:
    return {kind: (done.before, done.after) for kind, done in compact(store).items()}


def both(before: int, after: int) -> dict[str, tuple[int, int]]:
    return {TRIALS: (before, after), CAMPAIGNS: (before, after)}


def test_every_row_is_the_same_in_one_file(store: FolderStore) -> None:
    before = rows(store)
    assert compact(store) == dict.fromkeys(KINDS, Compacted(NIGHTS, 1, written=1))

    assert rows(store) == before
    assert [len(store.names(kind)) for kind in KINDS] == [1, 1]
    assert compact(store) == dict.fromkeys(KINDS, Compacted(1, 1, written=0))


def test_campaigns_are_known_after_a_merge(store: FolderStore) -> None:
    compact(store)
    before = rows(store)
    again = add_campaign(store, outputs_dir() / "bench-00")
    assert again.new == 0 and again.known > 0
    assert [len(store.names(kind)) for kind in KINDS] == [1, 1]

    later = add_campaign(store, night(NIGHTS, {"build-a": 1.0}))
    assert len(rows(store)) == len(before) + later.new + 1
    assert counts(store) == both(2, 1)
    assert len(rows(store)) == len(before) + later.new + 1


def test_a_file_that_came_back_counts_once(store: FolderStore) -> None:
    before = rows(store)
    old = {kind: (min(store.names(kind)), store.read(kind, min(store.names(kind)))) for kind in KINDS}
    compact(store)
    for kind, (name, content) in old.items():
        store.write(kind, name, content)

    assert rows(store) == before
    assert counts(store) == both(2, 1)
    assert rows(store) == before


@pytest.mark.parametrize(("kind", "removed"), [(TRIALS, 0), (TRIALS, 1), (CAMPAIGNS, 0), (CAMPAIGNS, 1)])
def test_a_killed_merge_loses_and_doubles_nothing(store: FolderStore, kind: str, removed: int) -> None:
    before = rows(store)
    words = [sys.executable, "-c", KILLED, str(store.folder), str(removed), kind]
    done = subprocess.run(words, check=False, timeout=60)

    assert done.returncode == -signal.SIGKILL
    assert len(store.names(kind)) == NIGHTS + 1 - removed
    assert rows(store) == before
    compact(store)
    assert rows(store) == before and len(store.names(kind)) == 1


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
    found = rows(store)
    assert [row for row in found if row in before] == before
    assert len({row.get("trial_key") or row["campaign_key"] for row in found}) == len(found) > len(before)


class Raced(FolderStore):
    """A store whose files another process replaces right after they are listed, a few times."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.left = dict.fromkeys(KINDS, 3)

    def names(self, kind: str) -> list[str]:
        found = super().names(kind)
        for name in found if self.left[kind] else []:
            path = Path(self.address(kind, name))
            path.rename(path.with_name(file_name(name[:12], f"{self.left[kind]:016x}")))
        self.left[kind] -= self.left[kind] > 0
        return found


def test_files_replaced_by_another_are_listed_again(store: FolderStore) -> None:
    before = rows(store)
    assert rows(Raced(store.folder)) == before
    assert counts(Raced(store.folder)) == both(NIGHTS, 1)
    assert rows(store) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named_at_once(store: FolderStore, kind: str) -> None:
    name = store.names(kind)[0]
    (store.folder / kind / name).write_bytes(b"PAR1 torn PAR1")
    for use in (compact, rows):
        with pytest.raises(UnreadableFile, match=name):
            use(store)
    assert len(store.names(kind)) == NIGHTS


def test_a_reader_follows_files_that_were_merged(store: FolderStore) -> None:
    database = Database(store)
    query = "SELECT count(*) AS n FROM trials"
    before = database.rows(query)
    # Some rows are read from the files themselves, not from the footers that are known.
    compact(store)

    assert database.rows("SELECT record FROM trials") and database.rows(query) == before
    assert len(database.rows("SELECT files FROM campaigns")) == NIGHTS


def test_large_files_stay_as_they_are(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [pq.read_metadata(store.folder / TRIALS / name).num_rows for name in store.names(TRIALS)]
    monkeypatch.setattr(compacting, "MOST_ROWS", sum(sizes[:2]))
    before = rows(store)

    assert compact(store)[TRIALS] == Compacted(NIGHTS, NIGHTS - 1, written=1)
    assert rows(store) == before


def test_large_plans_are_not_merged_at_once(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows(store)
    monkeypatch.setattr(compacting, "MOST_BYTES", 1)

    assert compact(store) == dict.fromkeys(KINDS, Compacted(NIGHTS, NIGHTS, written=0))
    assert rows(store) == before


def test_on_the_command_line(store: FolderStore) -> None:
    done = picolab_here("history", "compact", "--history", str(store.folder))
    assert done.returncode == 0, done.stderr
    assert f"{NIGHTS} files of trials merged into 1, {NIGHTS} files of campaigns merged into 1" in done.stdout
    again = picolab_here("history", "compact", "--history", str(store.folder))
    assert "1 file of trials, none to merge, 1 file of campaigns, none to merge" in again.stdout
