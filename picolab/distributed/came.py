"""Attempts that have come home from workers: each is filed once, however often its worker sends it.

A worker whose process died, or that refused in the middle, keeps its files, and sends all of them again with the next
parcel. An attempt is known by its start. One that the worker itself found after a process died has none, and the
ledger of the worker knows it by its number and by when it was found; these are kept in `came.jsonl`.
"""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from picolab.errors import UnreadableFile
from picolab.files.foreign import read_text, refuse_links
from picolab.files.writing import append_line
from picolab.results.ledger import LARGEST_LEDGER_BYTES, Ledger, LedgerEntry

CAME_FILE = "came.jsonl"


class _Line(BaseModel):
    """An attempt: as its worker knows it, and its number in the ledger at home."""

    model_config = ConfigDict(extra="forbid")

    trial_id: str
    attempt: int
    ended_at: str
    number: int = Field(ge=1)


class Came:
    """The attempts of a campaign that have come home.

    Args:
        folder: of the campaign.
        ledger: at home.
    """

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        refuse_links(folder, [CAME_FILE])
        self._path = folder / CAME_FILE
        self._ledger = ledger
        self._starts: set[tuple[str, str | None]] = set()
        self._looked_at_entries = 0
        self._noted: set[tuple[str, int, str]] = set()
        self._numbers: set[tuple[str, int]] = set()
        for line in self._lines():
            try:
                self._add(_Line.model_validate_json(line))
            except ValidationError:
                continue  # torn by a crash: at worst, its attempt comes once more

    def is_filed(self, entry: LedgerEntry) -> bool:
        """Return whether an attempt is here, given as its worker knows it."""
        # The ledger of a large campaign is long: each entry is looked at once.
        entries = self._ledger.entries()
        self._starts.update((known.trial_id, known.started_at) for known in entries[self._looked_at_entries :])
        self._looked_at_entries = len(entries)
        if entry.started_at is not None and (entry.trial_id, entry.started_at) in self._starts:
            return True
        return (entry.trial_id, entry.attempt, entry.ended_at) in self._noted

    def has(self, trial_id: str, number: int) -> bool:
        """Return whether the files of an attempt in the ledger at home have come."""
        return (trial_id, number) in self._numbers

    def note(self, entry: LedgerEntry, number: int) -> None:
        """Note that an attempt is filed whose start the ledger at home does not name.

        Args:
            entry: as its worker knows it.
            number: of the attempt at home.

        Raises:
            FileNotWritten: `came.jsonl` could not be written.
        """
        line = _Line(trial_id=entry.trial_id, attempt=entry.attempt, ended_at=entry.ended_at, number=number)
        self._add(line)
        append_line(self._path, json.dumps(line.model_dump()))

    def _add(self, line: _Line) -> None:
        self._noted.add((line.trial_id, line.attempt, line.ended_at))
        self._numbers.add((line.trial_id, line.number))

    def _lines(self) -> list[str]:
        try:
            return read_text(self._path, LARGEST_LEDGER_BYTES).splitlines()
        except (FileNotFoundError, UnreadableFile):
            return []
