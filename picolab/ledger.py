"""The ledger of a campaign: one line of JSON an attempt, appended and synced, never rewritten."""

import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from picolab.record import Outcome

LEDGER_FILE = "ledger.jsonl"


class LedgerEntry(BaseModel):
    """How one attempt at one trial ended. Paths are relative to the campaign's folder."""

    model_config = ConfigDict(extra="forbid")

    trial_id: str
    attempt: int
    outcome: Outcome
    outcome_detail: str
    started_at: str | None
    ended_at: str
    duration_s: float | None
    notebook: str | None
    record: str | None


class Ledger:
    """What has been done in a campaign."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER_FILE

    def entries(self) -> list[LedgerEntry]:
        """Return all entries; a line that was torn by a crash is passed over (the report lists it)."""
        if not self._path.exists():
            return []
        entries = []
        # Not splitlines(): it also splits at characters that may stand inside a JSON text, such as U+2028.
        for line in self._path.read_bytes().split(b"\n"):
            try:
                entries.append(LedgerEntry.model_validate_json(line))
            except ValueError:
                continue
        return entries

    def append(self, entry: LedgerEntry) -> None:
        """Write an entry so that it is on disk when this returns."""
        line = json.dumps(entry.model_dump(mode="json"), ensure_ascii=False) + "\n"
        with self._path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    # A crash tore the last line: the new one must not be glued to its rest.
                    line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def results(self) -> dict[str, LedgerEntry]:
        """Return the trials that have a result, by trial_id."""
        return {entry.trial_id: entry for entry in self.entries() if not entry.outcome.is_fault}

    def attempts(self, trial_id: str) -> int:
        """Return how many attempts at a trial have ended."""
        return sum(1 for entry in self.entries() if entry.trial_id == trial_id)
