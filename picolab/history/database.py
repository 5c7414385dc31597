"""A history as tables of DuckDB: `trials` and `campaigns`, each row once, whatever files hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from picolab.errors import UnreadableFile
from picolab.history.schema import columns
from picolab.history.store import CAMPAIGNS, TRIALS, Store, all_addresses, readable

if TYPE_CHECKING:
    import duckdb

CAMPAIGN_COLUMNS = {
    "campaign_key": "string",
    "campaign": "string",
    "created_at": "string",
    "added_at": "string",
    "trials": "Int64",
    "floors": "string",
    "files": "string",
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
_IDENTITIES = {TRIALS: ("trial_key", "started_utc"), CAMPAIGNS: ("campaign_key", "trials DESC, added_at DESC")}
"""Of each table: the column that tells rows apart, and which of several rows with one identity comes first."""


def text(value: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + value.replace("'", "''").replace("\0", "") + "'"


class Database:
    """The tables of a store. Files that are added after the first query are not seen."""

    def __init__(self, store: Store, group: str | None = None) -> None:
        """Read a store when the first query comes.

        Args:
            group: begin of the names of the files to read; None: all files.
        """
        self.store = store
        self._group = group
        self._made: set[str] = set()

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

    def _make_view(self, connection: duckdb.DuckDBPyConnection, table: str, kinds: Mapping[str, str]) -> None:
        groups = {
            name: files
            for name, files in readable(self.store, table).items()
            if self._group is None or name == self._group
        }
        once, repeated = all_addresses(groups, several=False), all_addresses(groups, several=True)
        parts = []
        for addresses, distinct in ((once, False), (repeated, True)):
            if addresses:
                parts.append(f"SELECT * FROM ({self._selected(connection, table, addresses, kinds, distinct)})")
        nothing = ", ".join(f'NULL::{_SQL_TYPES[kind]} AS "{name}"' for name, kind in kinds.items())
        query = " UNION ALL BY NAME ".join(parts) or f"SELECT {nothing} WHERE false"
        connection.execute(f"CREATE VIEW {table} AS {query}")

    def _selected(
        self,
        connection: duckdb.DuckDBPyConnection,
        table: str,
        addresses: Sequence[str],
        kinds: Mapping[str, str],
        distinct: bool,
    ) -> str:
        source = f"read_parquet([{', '.join(map(text, addresses))}], union_by_name = true)"
        there = {row[0] for row in self._fetched(connection, f"DESCRIBE SELECT * FROM {source}")}
        # A column that none of these files has yet.
        lacking = "".join(
            f', NULL::{_SQL_TYPES[kind]} AS "{name}"' for name, kind in kinds.items() if name not in there
        )
        identity, order = _IDENTITIES[table]
        once = f" QUALIFY row_number() OVER (PARTITION BY {identity} ORDER BY {order}) = 1" if distinct else ""
        return f"SELECT *{lacking} FROM {source}{once}"

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Return the rows of a query as dicts, None where something is missing.

        Raises:
            ParameterError: the store holds files of a newer schema.
            UnreadableFile: a file is damaged.
            HostUnfit: the store cannot be reached.
        """
        for table, kinds in ((TRIALS, columns()), (CAMPAIGNS, CAMPAIGN_COLUMNS)):
            if table not in self._made and f"FROM {table}" in query:
                self._make_view(self._connection, table, kinds)
                self._made.add(table)
        cursor = self._executed(self._connection, query)
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _fetched(self, connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
        return self._executed(connection, query).fetchall()

    def _executed(self, connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyConnection:
        import duckdb

        try:
            return connection.execute(query)
        except (duckdb.IOException, duckdb.InvalidInputException, duckdb.ConversionException) as error:
            why = str(error).splitlines()[0][:300]
            raise UnreadableFile(
                f"{self.store.place}: a file of the history cannot be read ({why}); remove it and add its campaign "
                f"again"
            ) from None
