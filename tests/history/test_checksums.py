"""Checksums of a history: each changed bit is noticed, named with its remedy, and never merged into another file."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import picolab_here
from history_campaigns import night

from picolab.config.project import outputs_dir
from picolab.errors import UnreadableFile
from picolab.exit_codes import ExitCode
from picolab.history import checksums
from picolab.history.add import add_campaign
from picolab.history.check import check
from picolab.history.checksums import damage, has_checksum, parquet
from picolab.history.compact import Compacted, compact
from picolab.history.database import Database
from picolab.history.store import CAMPAIGNS, TRIALS, FolderStore

KINDS = (TRIALS, CAMPAIGNS)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "history")
    add_campaign(store, night(0, {"build-a": 1.0}))
    return store


def only_file(store: FolderStore, kind: str) -> Path:
    (name,) = store.names(kind)
    return store.folder / kind / name


def flipped(content: bytes, place: int, bit: int = 0) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def flip_a_value(path: Path) -> None:
    """Flip a bit in the last page of a file's first column."""
    content = path.read_bytes()
    path.write_bytes(flipped(content, pages_end(content)[0] - 1))


def pages_end(content: bytes) -> list[int]:
    """Return where each column of a file ends: the last byte before it is of a page."""
    row_group = pq.read_metadata(pa.BufferReader(content)).row_group(0)
    columns = [row_group.column(number) for number in range(row_group.num_columns)]
    starts = [one.dictionary_page_offset or one.data_page_offset for one in columns]
    return [start + one.total_compressed_size for start, one in zip(starts, columns, strict=True)]


def as_before_checksums(path: Path) -> None:
    """Write a file anew as an older picolab did."""
    table = pq.read_table(path)
    pq.write_table(table, path, compression="zstd", store_schema=False, write_statistics=False)


@pytest.mark.parametrize("kind", KINDS)
def test_every_page_has_a_checksum_of_its_own(store: FolderStore, kind: str) -> None:
    content = only_file(store, kind).read_bytes()
    row_group = pq.read_metadata(pa.BufferReader(content)).row_group(0)
    columns = [row_group.column(number) for number in range(row_group.num_columns)]
    # The last byte of each page with values, and of each dictionary before one.
    places = [end - 1 for end in pages_end(content)]
    places += [one.data_page_offset - 1 for one in columns if one.dictionary_page_offset is not None]

    assert len(places) > len(columns)
    for place in places:
        with pytest.raises(OSError, match="CRC checksum verification failed"):
            pq.read_table(pa.BufferReader(flipped(content, place)), page_checksum_verification=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_bit_is_noticed_wherever_it_is(store: FolderStore, kind: str) -> None:
    content = only_file(store, kind).read_bytes()
    length = len(content)
    marks = [(place, bit) for place in range(length - 300, length) for bit in range(8)]
    places = [*((place, place % 8) for place in range(0, length, 11)), *marks]

    assert damage(content) is None
    assert [(place, bit) for place, bit in places if damage(flipped(content, place, bit)) is None] == []
    assert damage(content[: length // 2]) and damage(b"")


def test_metadata_are_kept_next_to_the_checksum() -> None:
    content = parquet(pa.table({"a": [1]}), {"groups": "x y"})
    assert pq.read_metadata(pa.BufferReader(content)).metadata[b"groups"] == b"x y"
    assert damage(content) is None and has_checksum(content)


def test_damaged_files_are_named_with_their_remedy(store: FolderStore) -> None:
    add_campaign(store, night(1, {"build-a": 1.0}))
    place = ("--history", str(store.folder))
    fine = picolab_here("history", "check", *place)
    names = [store.names(kind)[0] for kind in KINDS]
    for kind, name in zip(KINDS, names, strict=True):
        flip_a_value(store.folder / kind / name)
    done = picolab_here("history", "check", *place)

    assert fine.returncode == 0 and "4 files are as they were written" in fine.stdout, fine.stderr
    assert done.returncode == 1
    assert "2 of 4 files are damaged" in done.stdout
    for kind, name in zip(KINDS, names, strict=True):
        assert f"{store.folder}/{kind}/{name}: is not as it was written" in done.stderr
    assert done.stderr.count("move it out of the history and add bench-0") == 2


def test_one_file_is(store: FolderStore) -> None:
    only_file(store, CAMPAIGNS).unlink()
    place = ("--history", str(store.folder))
    fine = picolab_here("history", "check", *place)
    flip_a_value(only_file(store, TRIALS))
    damaged = picolab_here("history", "check", *place)
    assert fine.stdout == f"History: {store.folder}: 1 file is as it was written\n"
    assert damaged.stdout == f"History: {store.folder}: 1 of 1 file is damaged\n"


def test_where_no_history_is_nothing_is_intact(tmp_path: Path) -> None:
    done = picolab_here("history", "check", "--history", str(tmp_path / "hisotry"))
    assert done.returncode == ExitCode.BAD_PARAMETERS and done.stdout == ""
    assert f"{tmp_path / 'hisotry'}: there is no history; name its place with --history, or " in done.stderr


def test_a_file_without_a_checksum_is_read_once(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = only_file(store, TRIALS)
    as_before_checksums(path)
    read: list[int] = []
    real = checksums._table
    monkeypatch.setattr(checksums, "_table", lambda *given: [read.append(1), real(*given)][1])
    assert isinstance(checksums.verified_table(store, TRIALS, path.name), pa.Table)
    assert len(read) == 1


def test_the_remedy_brings_everything_back(store: FolderStore) -> None:
    queries = ("SELECT * FROM trials ORDER BY trial_key", "SELECT * EXCLUDE (added_at) FROM campaigns")
    before = [Database(store).rows(query) for query in queries]
    for kind in KINDS:
        flip_a_value(only_file(store, kind))
        only_file(store, kind).unlink()
        add_campaign(store, outputs_dir() / "bench-00")

    assert check(store).damaged == []
    assert [Database(store).rows(query) for query in queries] == before


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_not_merged(store: FolderStore, kind: str) -> None:
    add_campaign(store, night(1, {"build-a": 1.0}))
    path = store.folder / kind / store.names(kind)[1]
    flip_a_value(path)
    before = store.names(kind)
    with pytest.raises(UnreadableFile, match=f"{path.name}: is not as it was written.+ add bench-0"):
        compact(store)

    assert store.names(kind) == before


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_an_older_picolab_get_checksums(store: FolderStore, kind: str) -> None:
    before = Database(store).rows(f"SELECT * FROM {kind}")
    as_before_checksums(only_file(store, kind))
    found, done = check(store), picolab_here("history", "check", "--history", str(store.folder))

    assert (found.damaged, found.without_checksum) == ([], 1)
    assert done.returncode == 0 and "Without a checksum, from an older picolab: 1 of 2 files" in done.stdout
    assert "picolab history compact" in done.stdout
    assert compact(store)[kind] == Compacted(1, 1, written=1)
    assert check(store).without_checksum == 0
    assert Database(store).rows(f"SELECT * FROM {kind}") == before
    assert compact(store)[kind] == Compacted(1, 1, written=0)


def test_an_older_file_that_cannot_be_read_is_damaged(store: FolderStore) -> None:
    path = only_file(store, TRIALS)
    as_before_checksums(path)
    path.write_bytes(path.read_bytes()[:-30])
    (sentence,) = check(store).damaged

    assert sentence.startswith(f"{path}: cannot be read (")
    assert sentence.endswith("move it out of the history and add its campaigns again")


def test_a_file_that_the_disk_refuses_is_damaged(store: FolderStore) -> None:
    path = only_file(store, TRIALS)
    path.unlink()
    path.mkdir()
    (sentence,) = check(store).damaged
    assert sentence.startswith(f"{path}: cannot be read: it is a folder, not a file; put a copy")


def test_files_merged_meanwhile_are_no_damage(store: FolderStore) -> None:
    class Merged(FolderStore):
        def read(self, kind: str, name: str) -> bytes:
            compact(FolderStore(self.folder))
            return super().read(kind, name)

    add_campaign(store, night(1, {"build-a": 1.0}))
    assert check(Merged(store.folder)).damaged == []
