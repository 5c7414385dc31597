"""A history as tables of DuckDB: `trials` and `campaigns`, each row once, whatever files hold it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from picolab.errors import UnreadableFile
from picolab.history.schema import columns
from picolab.history.store import CAMPAIGNS, TRIALS, Store, all_addresses, readable
from picolab.text.foreign import shown

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
_IDENTITIES = {
    TRIALS: ("trial_key", "started_utc, campaign_key"),
    CAMPAIGNS: ("campaign_key", "trials DESC, added_at DESC"),
}
"""Of each table: the column that tells rows apart, and which of several rows with one identity comes first."""


_T = TypeVar("_T")
_TABLE = re.compile(rf"\bFROM ({TRIALS}|{CAMPAIGNS})\b")


def _file(address: str) -> str:
    """Return the address of a file as a literal of SQL that means this file alone."""
    exactly = re.sub(r"[*?\[]", r"[\g<0>]", address)
    return "'" + exactly.replace("'", "''") + "'"


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

    def _made(self, table: str, kinds: Mapping[str, str]) -> str:
        groups = {
            name: files
            for name, files in readable(self.store, table).items()
            if self._group is None or name == self._group
        }
        once, repeated = all_addresses(groups, several=False), all_addresses(groups, several=True)
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
        source = f"read_parquet([{', '.join(map(_file, addresses))}], union_by_name = true, hive_partitioning = false)"
        there = {row[0] for row in self._executed(f"DESCRIBE SELECT * FROM {source}").fetchall()}
        # A column that none of these files has yet.
        lacking = "".join(
            f', NULL::{_SQL_TYPES[kind]} AS "{name}"' for name, kind in kinds.items() if name not in there
        )
        identity, order = _IDENTITIES[table]
        once = f" QUALIFY row_number() OVER (PARTITION BY {identity} ORDER BY {order}) = 1" if distinct else ""
        return f"SELECT *{lacking} FROM {source}{once}"

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
        # In place, because a view is bound once more.
        whole = _TABLE.sub(lambda match: f"FROM ({self._table(match[1])}) AS {match[1]}", query)
        cursor = self._executed(whole, values)
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

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

    def _executed(self, query: str, values: Sequence[str] = ()) -> duckdb.DuckDBPyConnection:
        import duckdb

        try:
            return self._connection.execute(query, values)
        except duckdb.Error as error:
            why = str(error).splitlines()[0][:300]
            raise UnreadableFile(
                f"{self.store.place}: a file of the history cannot be read ({why}); make it readable, or remove it and "
                f"add its campaign again"
            ) from None
