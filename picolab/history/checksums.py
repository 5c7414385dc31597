"""The Parquet files of a history, and the checksums by which a changed bit in one is noticed.

Each page has Parquet's own checksum, which other programs can verify too. These leave out the heads of pages and the
footer with the names, types and places of columns. So the footer also holds the SHA-256 of the whole file, made while
zeros stood in its place. DuckDB verifies neither when it runs a query.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from picolab.errors import UnreadableFile
from picolab.text.wording import listed_few

if TYPE_CHECKING:
    import pyarrow as pa

    from picolab.history.store import Store

CHECKSUM_KEY = "picolab.sha256"
"""Of a file's metadata. The value begins with the same words: one changed bit does not make a file look older."""
_CHECKSUM = re.compile(rb"picolab\.sha256=([0-9a-f]{64})")
_ZEROS = b"0" * 64
_END_BYTES = 8
"""Of a Parquet file, behind its footer: the length of the footer, and four letters."""


def parquet(table: pa.Table, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a table as the content of a file, with checksums."""
    import pyarrow.parquet as pq

    content = io.BytesIO()
    # Without what DuckDB does not use, a footer is a quarter as long: a query reads that of every file.
    with pq.ParquetWriter(
        content,
        table.schema,
        compression="zstd",
        store_schema=False,
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({**(metadata or {}), CHECKSUM_KEY: f"{CHECKSUM_KEY}={_ZEROS.decode()}"})
    written = content.getvalue()
    place = _place(written)
    assert place is not None
    start, end = place
    return written[:start] + hashlib.sha256(written).hexdigest().encode() + written[end:]


def _footer(content: bytes) -> bytes:
    return content[-_END_BYTES - int.from_bytes(content[-_END_BYTES:-4], "little") :]


def _place(content: bytes) -> tuple[int, int] | None:
    """Return where the checksum of a file stands in it: its first byte, and the one after its last."""
    footer = _footer(content)
    found = list(_CHECKSUM.finditer(footer))
    if not found:
        return None
    before = len(content) - len(footer)
    return before + found[-1].start(1), before + found[-1].end(1)


def has_checksum(content: bytes) -> bool:
    """Return False for a file of a picolab that wrote none."""
    return CHECKSUM_KEY.encode() in _footer(content)


def damage(content: bytes) -> str | None:
    """Return why a file is not as it was written, as a phrase; None when nothing is wrong with it.

    Of a file without a checksum all values are read, which finds what cannot be read, and no changed value.
    """
    found = _mismatch(content) if has_checksum(content) else _table(content)
    return found if isinstance(found, str) else None


def _mismatch(content: bytes) -> str | None:
    """Return why the checksum of a file does not match, as a phrase; None when it does, or when there is none."""
    if not has_checksum(content):
        return None
    place = _place(content)
    if place is None:
        return "is not as it was written: its checksum is damaged"
    start, end = place
    made = hashlib.sha256(content[:start] + _ZEROS + content[end:]).hexdigest().encode()
    return None if content[start:end] == made else "is not as it was written: its checksum does not match"


def _table(content: bytes, columns: list[str] | None = None) -> pa.Table | str:
    """Return the table in a file, or why it cannot be read, as a phrase; the checksums of its pages are verified."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read(columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        why = str(error).partition("\n")[0][:300]
        return f"cannot be read ({why})"


def verified_table(store: Store, kind: str, name: str) -> pa.Table:
    """Return the table in a file of a history, whose checksums match as far as it has any.

    Raises:
        UnreadableFile: it is damaged, or not there any more; one sentence with the remedy.
        HostUnfit: the store cannot be reached.
    """
    content = store.read(kind, name)
    found = _mismatch(content) or _table(content)
    if isinstance(found, str):
        raise UnreadableFile(remedy(store, kind, name, found, content))
    return found


def remedy(store: Store, kind: str, name: str, why: str, content: bytes = b"") -> str:
    """Return a sentence about a damaged file and what to do about it.

    Args:
        why: a phrase, such as `is not as it was written`.
        content: of the file, for the names of the campaigns in it.
    """
    try:
        found = _table(content, ["campaign"])
        values = [] if isinstance(found, str) else found["campaign"].to_pylist()
    except LookupError:
        values = []
    names = sorted({str(value) for value in values if value})
    again = f"add {listed_few(names)} again" if names else "add its campaigns again"
    return (
        f"{store.address(kind, name)}: {why}; put a copy from a backup in its place, or move it out of the history and "
        f"{again}"
    )
