"""Where a history is: Parquet files in a folder or in an object store, each written whole, none ever changed."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from picolab.config.project import outputs_dir
from picolab.errors import HostUnfit, ParameterError, UnreadableFile
from picolab.files.writing import not_written, write_atomically
from picolab.history.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    import duckdb

FOLDER_VARIABLE = "PICOLAB_HISTORY"
DEFAULT_FOLDER = "_history"
"""In the folder of campaigns, of which none can have this name."""
TRIALS, CAMPAIGNS = "trials", "campaigns"
_NAME = re.compile(r"(?P<group>[0-9a-f]{12})-[0-9a-f]{16}\.v(?P<version>\d{1,6})\.parquet")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")
_ELSEWHERE = "or name another folder by --history"
_T = TypeVar("_T")


class Store(Protocol):
    """The files of a history."""

    place: str
    """Folder or URL, for messages."""

    def names(self, kind: str) -> list[str]:
        """Return the names of the files of one kind, in order."""

    def address(self, kind: str, name: str) -> str:
        """Return where DuckDB reads a file."""

    def write(self, kind: str, name: str, content: bytes) -> None:
        """Write a file whole or not at all; one that is there already holds the same."""

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection read the files."""


def open_store(place: str | None) -> Store:
    """Return a store.

    Args:
        place: folder, or URL such as `s3://bucket/folder`; None: `PICOLAB_HISTORY`, or `_history` in the folder of
            campaigns.

    Raises:
        ParameterError: a URL that is not s3://, or a file in place of the folder.
        HostUnfit: the packages for such a URL are not installed.
    """
    place = place or os.environ.get(FOLDER_VARIABLE) or str(outputs_dir() / DEFAULT_FOLDER)
    scheme = _SCHEME.match(place)
    if scheme is None:
        folder = Path(place)
        if folder.exists() and not folder.is_dir():
            raise ParameterError(f"{place} is a file; name a folder for the history")
        return FolderStore(folder)
    if scheme[1] != "s3":
        raise ParameterError(f"{place}: a history is in a folder or at an s3:// URL; name one of these")
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[^\s?#*\[\]]*)?", place):
        raise ParameterError(f"{place}: is no URL of a bucket and a folder; write it as s3://BUCKET/FOLDER")
    return S3Store(place)


class FolderStore:
    """A history in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.place = str(folder)

    def names(self, kind: str) -> list[str]:
        try:
            return sorted(path.name for path in (self.folder / kind).iterdir() if path.suffix == ".parquet")
        except FileNotFoundError:
            return []
        except OSError as error:  # a glob would find nothing in it
            raise UnreadableFile(
                f"{self.folder / kind}: the folder of a history cannot be read ({error.strerror}); look at its "
                f"permissions, {_ELSEWHERE}"
            ) from None

    def address(self, kind: str, name: str) -> str:
        return str(self.folder / kind / name)

    def write(self, kind: str, name: str, content: bytes) -> None:
        path = self.folder / kind / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(path, error, _ELSEWHERE) from None
        write_atomically(path, content, elsewhere=_ELSEWHERE)

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        pass


class S3Store:
    """A history in an object store that speaks S3. Its address and credentials come from the usual AWS settings."""

    def __init__(self, url: str) -> None:
        self.place = url
        self._base = url.removeprefix("s3://").rstrip("/")
        self._files = needed("s3fs", "picolab[s3]").S3FileSystem(use_listings_cache=False, skip_instance_cache=True)

    def names(self, kind: str) -> list[str]:
        found = self._reached(lambda: self._files.find(f"{self._base}/{kind}"))
        return sorted(path.rpartition("/")[2] for path in found if path.endswith(".parquet"))

    def address(self, kind: str, name: str) -> str:
        return f"s3://{self._base}/{kind}/{name}"

    def write(self, kind: str, name: str, content: bytes) -> None:
        # An object is there as a whole or not at all.
        self._reached(lambda: self._files.pipe_file(f"{self._base}/{kind}/{name}", content))

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.register_filesystem(self._files)

    def _reached(self, call: Callable[[], _T]) -> _T:
        errors = importlib.import_module("botocore.exceptions")
        try:
            return call()
        except FileNotFoundError:
            raise HostUnfit(f"{self.place}: there is no such bucket; make it first") from None
        except (OSError, errors.BotoCoreError, errors.ClientError) as error:
            raise HostUnfit(
                f"{self.place}: cannot be reached ({str(error)[:300]}); check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY"
            ) from None


def needed(module: str, package: str) -> Any:
    """Import a module that an optional package has.

    Raises:
        HostUnfit: it is not installed; the message has the command.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise HostUnfit(f"{module} is not installed; install it with: pip install '{package}'") from None


def file_name(group: str, content: str) -> str:
    """Return the name of a file.

    Args:
        group: 12 hexadecimal digits, the same for files that may hold a row twice.
        content: 16 hexadecimal digits that say what is in it.
    """
    return f"{group}-{content}.v{SCHEMA_VERSION}.parquet"


def readable(store: Store, kind: str) -> dict[str, list[str]]:
    """Return the addresses of the files of one kind by their group.

    Raises:
        ParameterError: a file is of a newer schema.
    """
    found: dict[str, list[str]] = {}
    for name in store.names(kind):
        match = _NAME.fullmatch(name)
        if match is None:
            continue  # no file of a history
        if int(match["version"]) > SCHEMA_VERSION:
            raise ParameterError(
                f"{store.place}: {name} has schema {int(match['version'])}, and this picolab reads schemas up to "
                f"{SCHEMA_VERSION}; install a newer picolab"
            )
        found.setdefault(match["group"], []).append(store.address(kind, name))
    return found


def all_addresses(groups: dict[str, list[str]], several: bool) -> Sequence[str]:
    """Return the addresses of all groups with several files, or of those with one."""
    return [address for addresses in groups.values() if (len(addresses) > 1) == several for address in addresses]
