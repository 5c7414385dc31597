"""Results, attempts and times of a running campaign: read once, then kept up to date in memory."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from picolab.config.plan import PlannedTrial
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.results.ledger import LedgerEntry
from picolab.results.rows import record_row
from picolab.results.standing import Standing


@dataclass
class _Timed:
    """How long trials of a case took, so far."""

    count: int = 0
    total_s: float = 0.0


class Tally:
    """Results, attempts and times of a campaign. Every question takes at most as many steps as there are cases."""

    def __init__(self, standing: Standing) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.lost: dict[str, Outcome] = dict(standing.lost)
        self.last_attempt: dict[str, int] = standing.last_attempts()
        self._trials = {trial.trial_id: trial for trial in (standing.plan.trials if standing.plan else ())}
        self._timed: dict[str, _Timed] = {}
        self._timed_bytes = 0
        self.ran_s = 0.0
        self._left: Counter[str] = Counter()
        self._bytes_of = {trial.case: trial.parameters.file_size_bytes for trial in self._trials.values()}
        machines = standing.plan.machines if standing.plan else 1
        self._at_once = {trial.case: 1 if trial.parameters.runs_alone else machines for trial in self._trials.values()}
        self.need(standing.needed)
        durations = standing.durations_s()
        for trial_id, record in standing.results.items():
            self._add(trial_id, record, durations.get(trial_id))

    def need(self, needed: Sequence[PlannedTrial]) -> None:
        """Set which trials the campaign needs: all of its plan, or those up to a block."""
        self.total = len(needed)
        self.needed = {trial.trial_id for trial in needed}
        self._left = Counter(trial.case for trial in needed if trial.trial_id not in self.rows)

    def plan(self, trial: PlannedTrial) -> None:
        """Add a trial that a search has planned."""
        self._trials[trial.trial_id] = trial
        self._bytes_of[trial.case] = trial.parameters.file_size_bytes
        self._at_once[trial.case] = 1
        self.need(list(self._trials.values()))

    @property
    def done(self) -> int:
        return len(self.rows)

    @property
    def outcomes(self) -> dict[str, Outcome]:
        return {trial_id: Outcome(row["outcome"]) for trial_id, row in self.rows.items()}

    def add(self, entry: LedgerEntry, record: Record | None) -> None:
        """Add an attempt that has ended.

        Args:
            record: of a result; None for a fault.
        """
        self.last_attempt[entry.trial_id] = max(entry.attempt, self.last_attempt.get(entry.trial_id, 0))
        if record is not None:
            self._add(entry.trial_id, record, entry.duration_s)
            self.lost.pop(entry.trial_id, None)

    def _add(self, trial_id: str, record: Record, duration_s: float | None) -> None:
        trial = self._trials.get(trial_id)
        if trial is not None and trial_id not in self.rows and trial_id in self.needed:
            self._left[trial.case] -= 1
        self.rows[trial_id] = record_row(record)
        if trial is not None and duration_s is not None:
            timed = self._timed.setdefault(trial.case, _Timed())
            timed.count += 1
            timed.total_s += duration_s
            self.ran_s += duration_s
            self._timed_bytes += trial.parameters.file_size_bytes

    def left_s(self) -> float | None:
        """Return the expected seconds until all trials have ended; None while none was timed.

        Each takes as long as its case so far, or as its size. Several machines share those that do not run alone.
        """
        if not self._timed:
            return None
        per_byte_s = self.ran_s / max(1, self._timed_bytes)
        left_s = 0.0
        for case, count in self._left.items():
            timed = self._timed.get(case)
            each_s = timed.total_s / timed.count if timed is not None else per_byte_s * self._bytes_of[case]
            left_s += count * each_s / self._at_once[case]
        return left_s
