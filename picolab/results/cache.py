"""Keeps a campaign that was read in its folder as Parquet, so that ten thousand trials are read once.

A cache is used only if it was made of exactly the files that are there: the key holds name, size, inode and times of
every file that reading looks at, the place of the folder, and picolab's own code with the schema of records. Anything
else means that it is read and written anew. So it is never a source of results: a record that is gone, or another one,
changes the key. Times of change (ctime) cannot be set or copied, so a cache that came with a copied folder has another
key. Each of its files is used only with the digest that the key file names, and only if this user wrote it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import picolab
from picolab.config.plan import PLAN_FILE
from picolab.config.sizes import MIB
from picolab.errors import FileNotWritten, UnreadableFile, UnsafePath
from picolab.files.foreign import parse_json, read_bounded, refuse_links
from picolab.files.writing import write_atomically
from picolab.results.begun_file import BEGUN_FILE
from picolab.results.ledger import LEDGER_FILE
from picolab.results.records import Records
from picolab.results.rows import SampleColumns
from picolab.results.standing import RESULTS_FILE
from picolab.results.starts_file import STARTS_FILE
from picolab.results.stop_file import STOPPED_FILE

if TYPE_CHECKING:  # pandas takes half a second, and a trial that only reads a record does not need it.
    import pandas as pd
    import pyarrow as pa

CACHE_FOLDER = ".cache"
FEWEST_TRIALS = 100
"""Fewer are read in no time, and their folder stays as it is."""
SETTLED_S = 2.0
"""A file that changed less than this before it was read may change again and keep its times: no cache is made of it."""
_VERSION = 2
_KEY_FILE = "key.json"
_LARGEST_KEY_BYTES = MIB
_LARGEST_BYTES = 1024 * MIB
_READ_FILES = (PLAN_FILE, LEDGER_FILE, BEGUN_FILE, STARTS_FILE, STOPPED_FILE, RESULTS_FILE)
_READ_FOLDERS = ("trials", "faults")
_SIZES = b"samples"
"""Of the metadata of the samples: how many there are by trial_id."""
PARTS = ("facts.json", "trials.parquet", "samples.parquet", "records.parquet")


def key_of(folder: Path) -> tuple[str, bool]:
    """Return what identifies the state of a campaign's files, and whether their last change was long enough ago."""
    found = hashlib.sha256(f"{_VERSION} {_own_code()} {folder.resolve()}\n".encode())
    newest = 0
    for path, name in _paths(folder):
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            found.update(f"{name!r} {error.errno}\n".encode())
            continue
        newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
        facts = (status.st_mode, status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        found.update(f"{name!r} {facts}\n".encode())
    return found.hexdigest(), newest < time.time_ns() - SETTLED_S * 1e9


def _paths(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the files that reading a campaign looks at, and their names in its folder."""
    for name in _READ_FILES:
        yield os.path.join(folder, name), name  # noqa: PTH118 (twenty thousand of them)
    for place in _READ_FOLDERS:
        with contextlib.suppress(OSError), os.scandir(folder / place) as entries:
            for name in sorted(entry.name for entry in entries):
                yield os.path.join(folder, place, name), f"{place}/{name}"  # noqa: PTH118


@functools.cache
def _own_code() -> str:
    """Return the digest of everything that decides what a file means: picolab's code, its schema, and pandas."""
    from importlib.metadata import version

    found = hashlib.sha256(f"{version('pandas')} {version('pyarrow')} {version('pydantic')}".encode())
    root = Path(picolab.__file__).parent
    for path in sorted(path for kind in ("*.py", "*.json") for path in root.rglob(kind)):
        found.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return found.hexdigest()


def read_cache(folder: Path, key: str) -> dict[str, bytes] | None:
    """Return the parts of a campaign's cache, if it was made of what is there now and nothing of it is damaged."""
    place = folder / CACHE_FOLDER
    try:
        if place.is_symlink() or (place / _KEY_FILE).stat().st_uid != os.geteuid():
            return None
        said = json.loads(read_bounded(place / _KEY_FILE, _LARGEST_KEY_BYTES))
        if said["key"] != key:
            return None
        parts = {name: read_bounded(place / name, _LARGEST_BYTES) for name in PARTS}
        intact = all(hashlib.sha256(data).hexdigest() == said["sha256"][name] for name, data in parts.items())
    except (OSError, UnreadableFile, ValueError, TypeError, LookupError, RecursionError):
        return None
    return parts if intact else None


def write_cache(folder: Path, key: str, parts: Mapping[str, bytes]) -> None:
    """Keep what was read, if this user owns the folder and may write there; nothing depends on it."""
    place = folder / CACHE_FOLDER
    try:
        if folder.stat().st_uid != os.geteuid() or any(len(data) > _LARGEST_BYTES for data in parts.values()):
            return
        refuse_links(folder, [CACHE_FOLDER])
        place.mkdir(exist_ok=True)
        refuse_links(place, [*PARTS, _KEY_FILE])
        for name, data in parts.items():
            write_atomically(place / name, data)
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
        # Last: what it does not name is not used.
        write_atomically(place / _KEY_FILE, json.dumps({"key": key, "sha256": digests}))
    except (FileNotWritten, UnsafePath, OSError):
        with contextlib.suppress(OSError):
            if not place.is_symlink():
                for name in (*PARTS, _KEY_FILE):
                    (place / name).unlink(missing_ok=True)
                place.rmdir()


def parts_of(
    facts: Mapping[str, Any], trials: pd.DataFrame, samples: SampleColumns, records: Records
) -> dict[str, bytes]:
    """Return what was read of a campaign as the files of its cache.

    Args:
        samples: by themselves: with the columns of their trials they take twice as long to write.
    """
    import pyarrow as pa

    own = pa.table(samples.values, metadata={_SIZES: json.dumps(samples.sizes)})
    texts = pa.table({"trial_id": list(records), "record": [records.text(name) for name in records]})
    buffer = io.BytesIO()
    trials.to_parquet(buffer, index=False, compression="zstd")
    frames = (buffer.getvalue(), _parquet(own, use_dictionary=False), _parquet(texts, use_dictionary=False))
    return dict(zip(PARTS, [json.dumps(facts).encode(), *frames], strict=True))


def _parquet(table: pa.Table, **settings: Any) -> bytes:
    import pyarrow.parquet as parquet

    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd", **settings)
    return buffer.getvalue()


def frame_of(data: bytes) -> pd.DataFrame:
    """Return the frame of a Parquet file in memory."""
    import pandas as pd

    return pd.read_parquet(io.BytesIO(data))


def samples_of(data: bytes) -> SampleColumns:
    """Return the samples of the cache."""
    import pyarrow.parquet as parquet

    table = parquet.read_table(io.BytesIO(data))
    values = {name: table[name].to_numpy() for name in table.column_names}
    return SampleColumns(json.loads(table.schema.metadata[_SIZES]), values)


def records_of(data: bytes) -> Records:
    """Return the records of the cache."""
    import pyarrow.parquet as parquet

    table = parquet.read_table(io.BytesIO(data))
    return Records(dict(zip(table["trial_id"].to_pylist(), table["record"].to_pylist(), strict=True)))


def facts_of(data: bytes) -> dict[str, Any]:
    """Return the facts of the cache that are no table."""
    found: dict[str, Any] = parse_json(data.decode())
    return found
