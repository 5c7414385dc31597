"""Orders and parcels: the trials that one task runs on a worker, and the files that come home from it.

An order travels as JSON, and a parcel as JSON with compressed files. Both are data: a name in them is checked against
the names that a trial's files can have, and no path travels in either direction.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from picolab.campaign.filing import FAULTS, TRIALS, is_trial_file, stored_files
from picolab.config.plan import FileName, Plan, PlannedTrial
from picolab.config.sizes import MIB
from picolab.errors import UnreadableFile
from picolab.files.foreign import read_bounded
from picolab.files.writing import write_atomically
from picolab.host.idleness import IdleResult
from picolab.results.ledger import LEDGER_FILE, LedgerEntry, read_ledger
from picolab.results.starts_file import read_starts

MOST_FILE_BYTES = 256 * MIB
"""Of one file of a trial; five hours of samples have a third of it."""
MOST_PARCEL_BYTES = 512 * MIB
"""Of all files of an order, compressed: they pass through the memory of the scheduler."""
_MOST_FILES = 64
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class SentBuild(BaseModel):
    """An executable that a worker gets from the client."""

    model_config = ConfigDict(extra="forbid")

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=1)]


Builds = Mapping[str, tuple[Path, SentBuild]]
"""The executables of this host that are sent, by the text that the plan names them with."""


class Order(BaseModel):
    """The trials of a plan that one task runs, in their order."""

    model_config = ConfigDict(extra="forbid")

    session: FileName
    """Of the client: all orders of a session can be stopped together."""
    software: str
    """Of the client: a worker with another one refuses."""
    plan: Plan
    attempts: dict[str, int]
    """The attempts at each trial that the client knows of."""
    builds: dict[str, SentBuild]
    """By the text that the plan names them with."""

    @cached_property
    def key(self) -> str:
        """A name that is the same whenever the same trials of the same plan and builds are ordered again."""
        builds = json.dumps({name: build.sha256 for name, build in sorted(self.builds.items())})
        return hashlib.sha256((self.plan.model_dump_json() + builds).encode()).hexdigest()[:16]


class Attempt(BaseModel):
    """One attempt at a trial, with its files."""

    model_config = ConfigDict(extra="forbid")

    entry: LedgerEntry
    files: dict[str, bytes]
    """By the name that the file had while the trial ran, compressed with zlib."""


class Parcel(BaseModel):
    """The answer to an order.

    Attributes:
        ending: `ran`; `stopped`: the client asked for it; `needs_builds`: nothing ran; `refused`: this worker cannot;
            `died`: the process of the trials was killed.
        worker: its address.
        sentence: why it refused, or which notes its campaign made.
        missing: the SHA-256 of builds that it needs.
        starts: how each wait for an idle host ended.
    """

    model_config = ConfigDict(extra="forbid")

    ending: Literal["ran", "stopped", "needs_builds", "refused", "died"]
    worker: Annotated[str, Field(max_length=300)]
    sentence: Annotated[str, Field(max_length=2000)] = ""
    missing: list[Sha256] = []
    attempts: list[Attempt] = []
    starts: list[dict[str, Any]] = []

    @property
    def is_all(self) -> bool:
        """Whether it has all that its worker has: a process that died, or refused in the middle, left some unfiled."""
        return self.ending == "ran" or (self.ending == "stopped" and bool(self.attempts))

    def waits(self) -> Iterator[IdleResult]:
        """Yield how each wait for an idle host ended, as far as it makes sense."""
        for start in self.starts:
            try:
                yield IdleResult(**start)
            except TypeError:
                continue


def part_of(plan: Plan, trials: Sequence[PlannedTrial]) -> Plan:
    """Return a plan with some of the trials of another."""
    return plan.model_copy(update={"trials": list(trials), "baseline": None, "factors": {}, "stopping": None})


def pack(folder: Path) -> list[Attempt]:
    """Return every attempt of a worker's campaign with its files.

    Raises:
        UnreadableFile: a file cannot be read, or there is more than may travel.
    """
    attempts, total = [], 0
    for entry in read_ledger(folder / LEDGER_FILE)[0]:
        place = FAULTS if entry.outcome.is_fault else TRIALS
        files = {}
        for name, path in stored_files(folder / place, entry.trial_id, entry.attempt if place == FAULTS else None):
            files[name] = zlib.compress(read_bounded(path, MOST_FILE_BYTES), 3)
            total += len(files[name])
        if total > MOST_PARCEL_BYTES:
            raise UnreadableFile(
                f"the files of the trials have more than {MOST_PARCEL_BYTES / MIB:,.0f} MiB, compressed, and stay in "
                f"{folder}; order fewer trials together"
            )
        attempts.append(Attempt(entry=entry, files=files))
    return attempts


def starts_of(folder: Path) -> list[dict[str, Any]]:
    """Return how each start of a worker's campaign waited for an idle host."""
    return [dict(vars(result)) for result in read_starts(folder)[0]]


def unpack(attempt: Attempt, folder: Path) -> str:
    """Write the files of an attempt into a new folder; return what is wrong with them, empty when nothing is.

    Nothing is written when something is wrong.
    """
    if len(attempt.files) > _MOST_FILES:
        return f"{len(attempt.files)} files came for one trial"
    contents = {}
    for name, data in attempt.files.items():
        if not is_trial_file(name):
            return f"a file with the name {name[:80]!r} came, which no file of a trial has"
        unpacker = zlib.decompressobj()
        try:
            contents[name] = unpacker.decompress(data, MOST_FILE_BYTES + 1)
        except zlib.error:
            return f"the file {name} came damaged"
        if len(contents[name]) > MOST_FILE_BYTES or not unpacker.eof:
            return f"the file {name} came damaged, or has more than {MOST_FILE_BYTES / MIB:,.0f} MiB"
    folder.mkdir(parents=True)
    for name, content in contents.items():
        # Safely on the disk, since the worker removes its own copy afterwards.
        write_atomically(folder / name, content)
    return ""
