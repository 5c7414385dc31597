"""Verifying the checksums of a history: a query does not, because it reads only the columns that it needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from picolab.errors import ParameterError, UnreadableFile
from picolab.history.checksums import damage, has_checksum, remedy
from picolab.history.store import CAMPAIGNS, TRIALS, Store, readable


@dataclass
class Checked:
    """The findings of a check of a history.

    Attributes:
        files: how many were read.
        damaged: a sentence about each file that is not as it was written, with the remedy.
        without_checksum: how many others have no checksum, in which a changed value cannot be noticed.
    """

    files: int = 0
    damaged: list[str] = field(default_factory=list)
    without_checksum: int = 0


def check(store: Store) -> Checked:
    """Read every file of a history whole and verify its checksum.

    Files that others add or merge meanwhile are left out: who merges files has verified them.

    Raises:
        ParameterError: there is no file, or one of a newer schema.
        UnreadableFile, HostUnfit: the store cannot be read or reached.
    """
    found = Checked()
    files = {kind: readable(store, kind) for kind in (TRIALS, CAMPAIGNS)}
    if not any(files.values()):
        raise ParameterError(
            f"{store.place}: there is no history; name its place with --history, or make it with: picolab history add"
        )
    for kind in files:
        for file in files[kind]:
            content, why = b"", None
            try:
                content = store.read(kind, file.name)
            except UnreadableFile as error:
                if file.name not in store.names(kind):
                    continue
                why = str(error).removeprefix(f"{file.address}: ")
            found.files += 1
            why = why or damage(content)
            if why is not None:
                found.damaged.append(remedy(store, kind, file.name, why, content))
            elif not has_checksum(content):
                found.without_checksum += 1
    return found
