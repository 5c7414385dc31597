"""The ledger of a campaign: one line of JSON for each attempt, appended and synced, never rewritten."""

import io
import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from picolab.config.sizes import MIB
from picolab.errors import UnreadableFile
from picolab.files.foreign import read_bounded
from picolab.files.writing import append_line, file_name
from picolab.record.outcomes import Outcome

LEDGER_FILE = "ledger.jsonl"
LARGEST_LEDGER_BYTES = 64 * MIB
_LONGEST_LINE_BYTES = MIB
LONGEST_WORKER = 400
"""Of the address and the host of a worker, in characters."""
MOST_ATTEMPTS = 1_000_000
"""At one trial, in what others may have written: the next attempt needs a number, too."""
_MOST_DAMAGED_LINES = 20
"""That are listed one by one."""


_ENDINGS = re.compile(r"(\.attempt\d{1,10})?(\.ipynb|\.record\.json)$", re.ASCII)
"""Of the name of a trial's file, behind the name of the trial."""


def _place(text: str) -> str:
    """Return the place of a trial's file, if it is one: `trials/<name>` or `faults/<name>`."""
    folder, _, name = text.partition("/")
    if folder not in ("trials", "faults"):
        raise ValueError(f"{text[:60]!r} is no place of a trial's file")
    file_name(_ENDINGS.sub("", name))
    return text


_Place = Annotated[str, AfterValidator(_place)]


class LedgerEntry(BaseModel):
    """How one attempt at one trial ended. Paths are relative to the campaign's folder."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    trial_id: Annotated[str, AfterValidator(file_name)]
    attempt: Annotated[int, Field(ge=1, lt=1 << 31)]
    outcome: Outcome
    outcome_detail: str
    started_at: str | None
    ended_at: str
    duration_s: Annotated[float, Field(ge=0)] | None
    notebook: _Place | None
    record: _Place | None
    worker: Annotated[str, Field(max_length=LONGEST_WORKER)] | None = None
    """That was lost while it ran this attempt; its end is not known. None: none was."""


DamagedLine = tuple[int, Literal["torn", "damaged"], str]
"""Number of the line from 1, whether a crash may have torn it, and what is wrong with it."""


def read_ledger(path: Path) -> tuple[list[LedgerEntry], list[DamagedLine], int]:
    """Return the entries of a ledger, the lines that are none (the first of them), and how many of those there are.

    Raises:
        UnreadableFile: it cannot be read as a whole; one that is not there has no entries.
    """
    try:
        data = read_bounded(path, LARGEST_LEDGER_BYTES)
    except FileNotFoundError:
        return [], [], 0
    entries: list[LedgerEntry] = []
    damaged: list[DamagedLine] = []
    count = 0
    # Not splitlines(): it also splits at characters that may stand inside a JSON text, such as U+2028.
    for number, line in enumerate(io.BytesIO(data), start=1):
        if not line.strip():
            continue
        try:
            if len(line) > _LONGEST_LINE_BYTES:
                raise ValueError("it is longer than any line of picolab's")
            entry = LedgerEntry.model_validate_json(line)
            if entry.attempt > MOST_ATTEMPTS:
                raise ValueError(f"attempt {entry.attempt} is more than anybody makes")
            entries.append(entry)
        except ValueError as error:
            count += 1
            if count <= _MOST_DAMAGED_LINES:
                damaged.append((number, "damaged" if line.endswith(b"\n") else "torn", _why(error)))
    return entries, damaged, count


def _why(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"


class Ledger:
    """All attempts of a campaign, kept in memory and on disk.

    Only `picolab.results.standing` decides whether the result that an entry names exists.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER_FILE
        self._entries: list[LedgerEntry] = []
        self._seen: tuple[int, ...] | None = None

    def entries(self) -> list[LedgerEntry]:
        """Return all entries; other lines are ignored (`picolab status` and the report list it)."""
        seen = self._signature()
        if seen != self._seen:
            try:
                self._entries = read_ledger(self._path)[0]
            except UnreadableFile:
                self._entries = []
            self._seen = seen
        return self._entries

    def append(self, entry: LedgerEntry) -> None:
        """Write an entry so that it is on disk when this returns."""
        entries = self.entries()
        # Without a lost worker as an older picolab reads it.
        line = json.dumps(entry.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)
        append_line(self._path, line)
        entries.append(entry)
        self._seen = self._signature()

    def _signature(self) -> tuple[int, ...] | None:
        """Return what changes when somebody else writes to the file; None when it is not there."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return (status.st_ino, status.st_size, status.st_mtime_ns)

    def results(self) -> dict[str, LedgerEntry]:
        """Return the trials for which some entry names a result, by trial_id; the last such entry of each."""
        return {entry.trial_id: entry for entry in self.entries() if not entry.outcome.is_fault}

    def attempts(self, trial_id: str) -> int:
        """Return the number of the last attempt at a trial that has ended, 0 when there was none."""
        return max((entry.attempt for entry in self.entries() if entry.trial_id == trial_id), default=0)
