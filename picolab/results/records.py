"""Valid records of a campaign, each parsed when somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from picolab.record.record import Record


class Records(Mapping[str, Record]):
    """Valid records by trial_id, in the order of the plan."""

    def __init__(self, found: Mapping[str, Record | str]) -> None:
        """Take records, and JSON of others that were found valid before."""
        self._found = dict(found)

    def __getitem__(self, trial_id: str) -> Record:
        found = self._found[trial_id]
        if isinstance(found, str):
            found = self._found[trial_id] = Record.model_validate_json(found)
        return found

    def __contains__(self, trial_id: object) -> bool:
        # That of a Mapping would parse the record.
        return trial_id in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def text(self, trial_id: str) -> str:
        """Return a record as JSON."""
        found = self._found[trial_id]
        return found if isinstance(found, str) else found.model_dump_json()
