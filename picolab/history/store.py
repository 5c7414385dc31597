"""Where a history is: Parquet files in a folder or in an object store, each written whole, none ever changed.

Small files may be merged into a larger one (`picolab.history.compact`), which replaces them.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from picolab.config.given_paths import URL
from picolab.config.project import outputs_dir
from picolab.config.sizes import GIB
from picolab.errors import HostUnfit, ParameterError, UnreadableFile
from picolab.files.foreign import read_bounded
from picolab.files.writing import not_written, write_atomically
from picolab.history.schema import MERGED_VERSION, SCHEMA_VERSION

if TYPE_CHECKING:
    import duckdb

FOLDER_VARIABLE = "PICOLAB_HISTORY"
DEFAULT_FOLDER = "_history"
"""In the folder of campaigns, of which none can have this name."""
TRIALS, CAMPAIGNS = "trials", "campaigns"
_NAME = re.compile(r"(?P<group>[0-9a-f]{12})-[0-9a-f]{16}\.v(?P<version>\d{1,6})\.parquet")
_ELSEWHERE = "or name another folder by --history"
_LARGEST_BYTES = 4 * GIB
"""A merged file is a hundredth of that."""
_T = TypeVar("_T")


class Store(Protocol):
    """The files of a history."""

    place: str
    """Folder or URL, for messages."""

    def names(self, kind: str) -> list[str]:
        """Return the names of the files of one kind, in order."""

    def address(self, kind: str, name: str) -> str:
        """Return where DuckDB reads a file."""

    def read(self, kind: str, name: str) -> bytes:
        """Return what a file holds; UnreadableFile when it cannot be read, or is not there any more."""

    def write(self, kind: str, name: str, content: bytes) -> None:
        """Write a file whole or not at all; one that is there already holds the same."""

    def remove(self, kind: str, names: Iterable[str]) -> None:
        """Remove files, once all that was written before is safe; one that is gone already is no error."""

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
    scheme = URL.match(place)
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

    def read(self, kind: str, name: str) -> bytes:
        path = self.folder / kind / name
        try:
            return read_bounded(path, _LARGEST_BYTES)
        except FileNotFoundError:
            raise UnreadableFile(f"{path}: is not there any more") from None

    def write(self, kind: str, name: str, content: bytes) -> None:
        path = self.folder / kind / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(path, error, _ELSEWHERE) from None
        write_atomically(path, content, elsewhere=_ELSEWHERE)

    def remove(self, kind: str, names: Iterable[str]) -> None:
        folder = self.folder / kind
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # The names of new files must not be lost where those of old ones are.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for name in names:
            try:
                (folder / name).unlink(missing_ok=True)
            except OSError as error:
                raise HostUnfit(
                    f"{folder / name}: cannot be removed ({error.strerror}), and is merged into another file; nothing "
                    f"is lost or counted twice; look at the permissions of the folder"
                ) from None

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

    def read(self, kind: str, name: str) -> bytes:
        def content() -> bytes | None:
            with suppress(FileNotFoundError):
                return bytes(self._files.cat_file(f"{self._base}/{kind}/{name}"))
            return None

        found = self._reached(content)
        if found is None:
            raise UnreadableFile(f"{self.address(kind, name)}: is not there any more")
        return found

    def write(self, kind: str, name: str, content: bytes) -> None:
        # An object is there as a whole or not at all.
        self._reached(lambda: self._files.pipe_file(f"{self._base}/{kind}/{name}", content))

    def remove(self, kind: str, names: Iterable[str]) -> None:
        def remove_one(name: str) -> None:
            with suppress(FileNotFoundError):
                self._files.rm_file(f"{self._base}/{kind}/{name}")

        for name in names:
            self._reached(partial(remove_one, name))

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


def file_name(group: str, content: str, version: int = SCHEMA_VERSION) -> str:
    """Return the name of a file.

    Args:
        group: 12 hexadecimal digits, the same for files that may hold a row twice.
        content: 16 hexadecimal digits that say what is in it.
        version: `MERGED_VERSION` for a file that holds several groups.
    """
    return f"{group}-{content}.v{version}.parquet"


@dataclass(frozen=True)
class StoredFile:
    """A file of a history.

    Attributes:
        address: where DuckDB reads it.
        group: of its name; of a merged file it says nothing, and its metadata name the groups in it.
    """

    name: str
    address: str
    group: str
    is_merged: bool


def readable(store: Store, kind: str) -> list[StoredFile]:
    """Return the files of one kind.

    Raises:
        ParameterError: a file is of a newer schema.
    """
    found = []
    for name in store.names(kind):
        match = _NAME.fullmatch(name)
        if match is None:
            continue  # no file of a history
        version = int(match["version"])
        if version > MERGED_VERSION:
            raise ParameterError(
                f"{store.place}: {name} has schema {version}, and this picolab reads schemas up to {MERGED_VERSION}; "
                f"install a newer picolab"
            )
        found.append(StoredFile(name, store.address(kind, name), match["group"], version == MERGED_VERSION))
    return found
