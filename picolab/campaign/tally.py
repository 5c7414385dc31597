"""Results, attempts and times of a running campaign: read once, then kept up to date in memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from picolab.campaign.running_time import RunningTime
from picolab.campaign.together import Share, together_s
from picolab.config.plan import PlannedTrial
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.results.ledger import LedgerEntry
from picolab.results.rows import record_row
from picolab.results.standing import Standing


@dataclass
class _Timed:
    """How long trials of a case, or all of them, took so far, without waits for their turns."""

    count: int = 0
    total_s: float = 0.0
    measured_s: float = 0.0
    sent_bytes: int = 0

    def add(self, trial: PlannedTrial, duration_s: float, row: Mapping[str, Any]) -> None:
        self.count += 1
        self.total_s += max(0.0, duration_s - (row["waited_s"] or 0.0))
        self.measured_s += row["measured_section_s"] or 0.0
        self.sent_bytes += trial.parameters.file_size_bytes


class Tally:
    """Results, attempts and times of a campaign. Every question takes at most as many steps as there are cases."""

    def __init__(self, standing: Standing) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.lost: dict[str, Outcome] = dict(standing.lost)
        self.last_attempt: dict[str, int] = standing.last_attempts()
        self._trials = {trial.trial_id: trial for trial in (standing.plan.trials if standing.plan else ())}
        self._timed: dict[str, _Timed] = {}
        self._all = _Timed()
        self.running = RunningTime()
        self.ran_s = 0.0
        self._left: Counter[str] = Counter()  # of each case that has any, how many trials
        self._left_s: dict[int, float] = {}  # `left_s` by hosts, until another trial has ended: cases may be 10,000
        self._one_of = {trial.case: trial.parameters for trial in self._trials.values()}
        self._machines = standing.plan.machines if standing.plan else 1
        self._in_blocks = standing.plan is not None and standing.plan.baseline is not None
        self.need(standing.needed)
        for entry in standing.entries:
            self.running.add(entry)
        durations = standing.durations_s()
        for trial_id, record in standing.results.items():
            self._add(trial_id, record, durations.get(trial_id))

    def need(self, needed: Sequence[PlannedTrial]) -> None:
        """Set which trials the campaign needs: all of its plan, or those up to a block."""
        self.total = len(needed)
        self.needed = {trial.trial_id for trial in needed}
        self._left = Counter(trial.case for trial in needed if trial.trial_id not in self.rows)
        self._left_s.clear()

    def plan(self, trial: PlannedTrial) -> None:
        """Add a trial that a search has planned."""
        self._trials[trial.trial_id] = trial
        self._one_of[trial.case] = trial.parameters
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
        self.running.add(entry)
        self.last_attempt[entry.trial_id] = max(entry.attempt, self.last_attempt.get(entry.trial_id, 0))
        if record is not None:
            self._add(entry.trial_id, record, entry.duration_s)
            self.lost.pop(entry.trial_id, None)

    def _add(self, trial_id: str, record: Record, duration_s: float | None) -> None:
        trial = self._trials.get(trial_id)
        self._left_s.clear()
        if trial is not None and trial_id not in self.rows and trial_id in self.needed:
            self._left[trial.case] -= 1
            if not self._left[trial.case]:
                del self._left[trial.case]
        self.rows[trial_id] = record_row(record)
        if trial is not None and duration_s is not None:
            self.ran_s += duration_s
            for timed in (self._timed.setdefault(trial.case, _Timed()), self._all):
                timed.add(trial, duration_s, self.rows[trial_id])

    def left_s(self, hosts: int = 0) -> float | None:
        """Return the expected seconds until all trials have ended; None while none was timed.

        Each takes as long as its case so far, or as its size.

        Args:
            hosts: how many machines on hosts of their own share them; 0: those of the plan, on this host.
        """
        if not self._timed or hosts in self._left_s:
            return self._left_s.get(hosts)
        shares = []
        for case, count in self._left.items():
            one = self._one_of[case]
            timed = self._timed.get(case)
            scale = 1 / timed.count if timed is not None else one.file_size_bytes / max(1, self._all.sent_bytes)
            like = timed or self._all
            overlap = "measurements" if hosts else one.overlap
            shares.append(Share(overlap, scale * like.total_s, scale * like.measured_s, count))
        shared_s = [share.each_s for share in shares if share.overlap != "none"]
        longest_s = sum(shared_s) if self._in_blocks else max(shared_s, default=0.0)
        self._left_s[hosts] = together_s(shares, hosts or self._machines, longest_s)
        return self._left_s[hosts]
