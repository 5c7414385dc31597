"""A history as tables of DuckDB: `trials` and `campaigns`, each row once, whatever files hold it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from picolab.errors import UnreadableFile
from picolab.history.checksums import CHECKSUM_KEY
from picolab.history.schema import columns
from picolab.history.store import CAMPAIGNS, TRIALS, Store, StoredFile, readable
from picolab.text.foreign import shown

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

CAMPAIGN_COLUMNS = {
    "campaign_key": "string",
    "campaign": "string",
    "created_at": "string",
    "added_at": "string",
    "trials": "Int64",
    "floors": "string",
    "files": "string",
    "digest": "string",
}
_SQL_TYPES = {
    "string": "VARCHAR",
    "boolean": "BOOLEAN",
    "Int64": "BIGINT",
    "Float64": "DOUBLE",
    "timestamp": "TIMESTAMP",
}
_SETTINGS = {
    # Nothing is loaded from the network.
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
_IDENTITIES = {
    TRIALS: ("trial_key", "started_utc, campaign_key"),
    CAMPAIGNS: ("campaign_key", "trials DESC, added_at DESC"),
}
"""Of each table: the column that tells rows apart, and which of several rows with one identity comes first."""
_BY_TIME = {TRIALS: "started_utc", CAMPAIGNS: "added_at"}


_T = TypeVar("_T")
_TABLE = re.compile(rf"\bFROM ({TRIALS}|{CAMPAIGNS})\b")


GROUPS_KEY = "picolab.groups"
"""Of the metadata of a merged file: the groups in it, separated by spaces."""


@dataclass(frozen=True)
class FileSize:
    """How large the content of a file is, as its footer has it.

    Attributes:
        in_memory_bytes: its columns before they were compressed.
        has_checksum: False for a file of a picolab that wrote none.
    """

    rows: int
    in_memory_bytes: int
    has_checksum: bool


@dataclass
class FileSet:
    """Files that may hold a row twice, because they have a group in common, and their groups."""

    files: list[StoredFile]
    groups: set[str]


def _literal(address: str) -> str:
    """Return the address of a file as a literal of SQL that means this file alone."""
    exactly = re.sub(r"[*?\[]", r"[\g<0>]", address)
    return "'" + exactly.replace("'", "''") + "'"


def _once(table: str) -> str:
    """Return the end of a query that leaves each row of a table once."""
    identity, order = _IDENTITIES[table]
    return f" QUALIFY row_number() OVER (PARTITION BY {identity} ORDER BY {order}) = 1"


def despite_merges(store: Store, read: Callable[[], _T]) -> _T:
    """Return what `read` returns; it is called again when a file that was there before it is gone after it failed.

    Raises:
        UnreadableFile: all files are still there, so one of them is damaged.
    """

    def names() -> set[tuple[str, str]]:
        return {(kind, name) for kind in (TRIALS, CAMPAIGNS) for name in store.names(kind)}

    while True:
        before = names()
        try:
            return read()
        except UnreadableFile:
            if before <= names():
                raise


class Database:
    """The tables of a store. Files that are added after the first query are not seen."""

    def __init__(self, store: Store, group: str | None = None) -> None:
        """Read a store when the first query comes.

        Args:
            group: begin of the names of the files to read; None: all files.
        """
        self.store = store
        self._group = group
        self._tables: dict[str, str] = {}

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        connection = duckdb.connect(config=_SETTINGS)  # type: ignore[arg-type]
        # Each footer is read once.
        connection.execute("SET parquet_metadata_cache = true")
        # In a notebook without ipywidgets it refuses, and shows none.
        with suppress(duckdb.InvalidInputException):
            connection.execute("SET enable_progress_bar = false")
        self.store.attach(connection)
        return connection

    def _table(self, table: str) -> str:
        """Return the query that is a table."""
        if table not in self._tables:
            self._tables[table] = self._made(table, columns() if table == TRIALS else CAMPAIGN_COLUMNS)
        return self._tables[table]

    def sets(self, table: str) -> list[FileSet]:
        """Return the files of a table in sets: rows of different sets are different rows.

        Raises:
            ParameterError, UnreadableFile, HostUnfit: as `rows` does.
        """
        files = readable(self.store, table)
        merged = self._groups_in([file for file in files if file.is_merged])
        sets: dict[str, FileSet] = {}
        for file in files:
            groups = merged.get(file.address, frozenset()) or {file.group}
            joined = FileSet([file], set(groups))
            for other in {id(sets[group]): sets[group] for group in groups if group in sets}.values():
                joined = FileSet([*other.files, *joined.files], other.groups | joined.groups)
            sets |= dict.fromkeys(joined.groups, joined)
        return list({id(one): one for one in sets.values()}.values())

    def _groups_in(self, files: Sequence[StoredFile]) -> dict[str, frozenset[str]]:
        """Return the groups in merged files, by address."""
        if not files:
            return {}
        names = ", ".join(_literal(file.address) for file in files)
        found = self._executed(
            f"SELECT file_name, decode(value) FROM parquet_kv_metadata([{names}]) WHERE decode(key) = '{GROUPS_KEY}'"
        ).fetchall()
        groups = {address: frozenset(str(text).split()) for address, text in found}
        for file in files:
            if not groups.get(file.address):
                raise UnreadableFile(
                    f"{self.store.place}: {file.name} does not name the campaigns in it; remove it and add them again"
                )
        return groups

    def _made(self, table: str, kinds: Mapping[str, str]) -> str:
        sets = [one.files for one in self.sets(table) if self._group is None or self._group in one.groups]
        once = [file.address for files in sets for file in files if len(files) == 1]
        repeated = [file.address for files in sets for file in files if len(files) > 1]
        parts = []
        for addresses, distinct in ((once, False), (repeated, True)):
            if addresses:
                parts.append(f"SELECT * FROM ({self._selected(table, addresses, kinds, distinct)})")
        nothing = ", ".join(f'NULL::{_SQL_TYPES[kind]} AS "{name}"' for name, kind in kinds.items())
        return " UNION ALL BY NAME ".join(parts) or f"SELECT {nothing} WHERE false"

    def _selected(
        self,
        table: str,
        addresses: Sequence[str],
        kinds: Mapping[str, str],
        distinct: bool,
    ) -> str:
        names = ", ".join(map(_literal, addresses))
        source = f"read_parquet([{names}], union_by_name = true, hive_partitioning = false)"
        there = {row[0] for row in self._executed(f"DESCRIBE SELECT * FROM {source}").fetchall()}
        # A column that none of these files has yet.
        lacking = "".join(
            f', NULL::{_SQL_TYPES[kind]} AS "{name}"' for name, kind in kinds.items() if name not in there
        )
        return f"SELECT *{lacking} FROM {source}{_once(table) if distinct else ''}"

    def rows(self, query: str, *values: str) -> list[dict[str, Any]]:
        """Return the rows of a query as dicts, None where something is missing.

        Args:
            query: in it `FROM trials` and `FROM campaigns` stand for the tables, and `?` for a value.
            values: texts from outside.

        Raises:
            ParameterError: the store holds files of a newer schema.
            UnreadableFile: a file is damaged.
            HostUnfit: the store cannot be reached.
        """
        try:
            return self._rows(query, values)
        except UnreadableFile:
            # Somebody may have merged files since their names were read.
            return despite_merges(self.store, lambda: self._rows(query, values, anew=True))

    def _rows(self, query: str, values: Sequence[str], anew: bool = False) -> list[dict[str, Any]]:
        if anew:
            self._tables.clear()
        cursor = self._executed(self._whole(query), values)
        names = [column[0] for column in cursor.description or []]
        with self._named_errors():
            found = cursor.fetchall()
        return [dict(zip(names, row, strict=True)) for row in found]

    def parsed(self, campaign: str, column: str, text: str | None, kind: type[_T]) -> _T:
        """Return a column of the table `campaigns`, which holds JSON.

        Args:
            campaign: its name.

        Raises:
            UnreadableFile: it is damaged.
        """
        try:
            found = json.loads(text or "")
            if isinstance(found, kind):
                return found
            why = f"no {kind.__name__}"
        except ValueError as error:
            why = str(error)
        raise UnreadableFile(
            f"{self.store.place}: {column} of the campaign {shown(campaign)} are damaged ({why}); remove the files of "
            f"this campaign in {CAMPAIGNS}/ and add it again"
        )

    def _whole(self, query: str) -> str:
        # In place, because a view is bound once more.
        return _TABLE.sub(lambda match: f"FROM ({self._table(match[1])}) AS {match[1]}", query)

    def merged(self, table: str, parts: Sequence[pa.Table]) -> pa.Table:
        """Return the rows of some files of a table, each once, and by time; columns that none of them has are missing.

        Raises:
            UnreadableFile: two files have values of different kinds in one column.
        """
        import pyarrow as pa

        try:
            rows = pa.concat_tables(parts, promote_options="permissive")
        except pa.ArrowException as error:
            why = str(error).partition("\n")[0][:300]
            raise UnreadableFile(
                f"{self.store.place}: files in {table}/ cannot be merged, because one column has values of two kinds "
                f"in them ({why}); nothing was changed, and they are read as before"
            ) from None
        order = f"{_BY_TIME[table]}, {_IDENTITIES[table][0]}"
        with self._named_errors():
            self._connection.register("parts", rows)
            found: pa.Table = self._connection.sql(
                f"SELECT * FROM parts{_once(table)} ORDER BY {order}"
            ).to_arrow_table()
            self._connection.unregister("parts")
        return found

    def sizes(self, files: Sequence[StoredFile]) -> dict[str, FileSize]:
        """Return the sizes of files by address.

        Raises:
            UnreadableFile, HostUnfit: as `rows` does.
        """
        if not files:
            return {}
        names = ", ".join(_literal(file.address) for file in files)
        found = self._executed(
            f"SELECT file_name, coalesce(sum(row_group_num_rows) FILTER (column_id = 0), 0), "
            f"coalesce(sum(total_uncompressed_size), 0) FROM parquet_metadata([{names}]) GROUP BY file_name"
        ).fetchall()
        checked = self._executed(
            f"SELECT file_name FROM parquet_kv_metadata([{names}]) WHERE decode(key) = '{CHECKSUM_KEY}'"
        ).fetchall()
        have = {address for (address,) in checked}
        return {address: FileSize(int(rows), int(size), address in have) for address, rows, size in found}

    def _executed(self, query: str, values: Sequence[str] = ()) -> duckdb.DuckDBPyConnection:
        with self._named_errors():
            return self._connection.execute(query, values)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        import duckdb

        try:
            yield
        except duckdb.Error as error:
            why = str(error).splitlines()[0][:300]
            raise UnreadableFile(
                f"{self.store.place}: a file of the history cannot be read ({why}); make it readable, or remove it and "
                f"add its campaign again"
            ) from None
