"""The turn of a trial among those that run at the same time: when it may measure, and what the others do meanwhile.

The trials of a campaign with several machines share a folder. Its lock is held from the start of a server to the end
of the last measured step; the kernel frees it when its holder dies, and whoever waits for it sleeps. Each machine has
a file with a line for everything that its trials begin. From the files of the others a trial knows what ran during
its own measured section.
"""

import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from picolab.config.trial_parameters import TrialParameters
from picolab.record.outcomes import STAGES, Stage
from picolab.record.timeline import Neighbour, StageSpan, Timeline

BEGINS, ENDS = "begins", "ends"
"""What a trial does before its first stage and after its last one."""
NEIGHBOUR_TIMES = ("others_worked_s", "others_measured_s", "others_s")
"""The fields of a timeline that are null when it is not known what others did."""
_SLEEPS, _IDLE = "sleeps", "idle"
_MEASURES, _WORKS = "measures", "works"
_LOCK_FILE = "measured.lock"
_SUFFIX = ".lines"
_FIRST_READ_BYTES = 1 << 16
_MOST_NEIGHBOURS = 100


@dataclass(frozen=True)
class Activity:
    """Something that a trial did; `until_s` is None while it lasts. Times are on the host's monotonic clock."""

    trial_id: str
    machine: str
    doing: str
    measured: bool
    from_s: float
    until_s: float | None


class Board:
    """Notes about everything that the trials of a campaign do, in a file for each machine.

    A note that cannot be written, such as on a full disk, costs no trial its result. The file is emptied then: what a
    machine did before the first line of its file is unknown.

    Args:
        folder: that all of them share.
        machine: whose file is written.
    """

    def __init__(self, folder: Path, machine: str) -> None:
        self.folder = folder
        self._path = folder / f"{machine}{_SUFFIX}"

    def works(self, trial_id: str, doing: str) -> None:
        """Note that a trial begins something that is not measured."""
        self._write(_WORKS, trial_id, doing)

    def measures(self, trial_id: str, stage: Stage) -> None:
        """Note that a trial begins a stage of its measured section."""
        self._write(_MEASURES, trial_id, stage)

    def sleeps(self, trial_id: str) -> None:
        """Note that a trial waits for its turn."""
        self._write(_SLEEPS, trial_id, _SLEEPS)

    def idle(self, trial_id: str) -> None:
        """Note that nothing is left of a trial on its machine."""
        self._write(_IDLE, trial_id, _IDLE)

    def _write(self, how: str, trial_id: str, doing: str) -> None:
        line = f"{time.monotonic():.6f} {how} {doing} {trial_id}\n".encode()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with suppress(OSError), os.fdopen(os.open(self._path, flags, 0o600), "ab", buffering=0) as file:
            written = 0
            try:
                written = file.write(line)
            finally:
                if written < len(line):
                    file.truncate(0)

    def at_work(self) -> set[str]:
        """Return the names of the machines that have a trial now, as far as that is known."""
        found = set()
        for path in self.folder.glob(f"*{_SUFFIX}"):
            lines = _last_lines(path, time.monotonic())
            if lines and lines[-1][1] != _IDLE:
                found.add(path.name.removesuffix(_SUFFIX))
        return found

    def others(self, from_s: float, until_s: float) -> list[Activity]:
        """Return what trials on other machines did between two moments; waiting is nothing.

        Raises:
            OSError, ValueError: it is not known.
        """
        found = []
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            if path == self._path:
                continue
            machine = path.name.removesuffix(_SUFFIX)
            lines = _last_lines(path, from_s)
            if not lines or lines[0][0] > from_s:
                raise ValueError(f"a note about the machine {machine} could not be written")
            for index, (begun_s, how, doing, trial_id) in enumerate(lines):
                ended_s = lines[index + 1][0] if index + 1 < len(lines) else None
                if how in (_WORKS, _MEASURES) and begun_s < until_s and (ended_s is None or ended_s > from_s):
                    found.append(Activity(trial_id, machine, doing, how == _MEASURES, begun_s, ended_s))
        return found


def _last_lines(path: Path, from_s: float) -> list[tuple[float, str, str, str]]:
    """Return the lines of a file from the last one before a moment on; a long file is read from its end."""
    size = path.stat().st_size
    read = _FIRST_READ_BYTES
    while True:
        with path.open("rb") as file:
            file.seek(max(0, size - read))
            text = file.read(read).decode()
        # The first line may have been cut, and the last one is being written.
        found = text.split("\n")[0 if read >= size else 1 : -1]
        lines = []
        for line in found:
            moment, how, doing, trial_id = line.split(" ", 3)
            lines.append((float(moment), how, doing, trial_id))
        if read >= size or (lines and lines[0][0] <= from_s):
            return lines
        read *= 8


class Turn:
    """A trial's times, and its turn to measure.

    Args:
        parameters: of the trial.
        trial_id: of the trial.
        timeline: of its record, which is filled in.
        folder: that the trials which run at the same time share; None: this one runs alone.
        machine: name of its machine.

    Attributes:
        why_unknown: why it is not known what ran during the measured section; empty when it is, or did not end.
    """

    def __init__(
        self, parameters: TrialParameters, trial_id: str, timeline: Timeline, folder: Path | None, machine: str
    ) -> None:
        self._parameters = parameters
        self._trial_id = trial_id
        self._timeline = timeline
        self._board = Board(folder, machine) if folder is not None else None
        self._lock: IO[bytes] | None = None
        self._begun_s: float | None = None
        self.why_unknown = ""

    def begin(self, stage: Stage) -> None:
        """Note that a stage begins; the first one of the measured section sleeps until its turn has come."""
        if stage in measured_section(self._parameters):
            if self._lock is None and self._board is not None:
                self._wait(self._board)
            if self._timeline.measured_from_s is None or stage == "start":
                self._timeline.measured_from_s = time.monotonic()
            if self._board is not None:
                self._board.measures(self._trial_id, stage)
        elif self._board is not None:
            self._board.works(self._trial_id, stage)
        self._begun_s = time.monotonic()

    def end(self, stage: Stage, over: bool) -> None:
        """Note that a stage has ended.

        Args:
            over: no further stage of the measured section will have something to do.
        """
        now_s = time.monotonic()
        if self._begun_s is None:
            # It was interrupted while it waited for its turn.
            return
        self._timeline.stages.append(StageSpan(stage=stage, begun_monotonic_s=self._begun_s, ended_monotonic_s=now_s))
        self._begun_s = None
        section = measured_section(self._parameters)
        if stage not in section or not (over or stage == section[-1]):
            return
        self._timeline.measured_until_s = now_s
        if self._board is None:
            note_neighbours(self._timeline, ())
            return
        self._board.works(self._trial_id, ENDS)
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._timeline.measured_from_s is not None:
            self.why_unknown = ""
            try:
                note_neighbours(self._timeline, self._board.others(self._timeline.measured_from_s, now_s))
            except (OSError, ValueError) as error:
                self.why_unknown = str(error)
                self._timeline.neighbours = []
                for name in NEIGHBOUR_TIMES:
                    setattr(self._timeline, name, None)

    def siblings(self) -> set[str]:
        """Return the names of the machines on which trials of the same campaign run now."""
        return self._board.at_work() if self._board is not None else set()

    def _wait(self, board: Board) -> None:
        lock = (board.folder / _LOCK_FILE).open("ab")
        begun_s = time.monotonic()
        try:
            together = self._parameters.overlap == "measurements"
            board.sleeps(self._trial_id)
            fcntl.flock(lock, fcntl.LOCK_SH if together else fcntl.LOCK_EX)
        except BaseException:
            lock.close()
            raise
        self._lock = lock
        self._timeline.waited_s += time.monotonic() - begun_s


def measured_section(parameters: TrialParameters) -> tuple[Stage, ...]:
    """Return the stages from the server's start to the last step that is measured.

    They are one section: a server that waits for its turn between start and upload would be another one.
    """
    last: Stage = "upload" if parameters.direction == "upload" else "verify"
    return STAGES[STAGES.index("start") : STAGES.index(last) + 1]


def note_neighbours(timeline: Timeline, others: Iterable[Activity]) -> None:
    """Fill in what ran during the measured section, which must have ended."""
    from_s, until_s = timeline.measured_from_s, timeline.measured_until_s
    assert from_s is not None and until_s is not None
    overlaps: dict[tuple[str, str, str, bool], float] = defaultdict(float)
    spans: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for one in others:
        span = max(from_s, one.from_s), min(until_s, until_s if one.until_s is None else one.until_s)
        if span[1] > span[0]:
            overlaps[one.trial_id, one.machine, one.doing, one.measured] += span[1] - span[0]
            spans[one.measured].append(span)
    longest = sorted(overlaps.items(), key=lambda item: -item[1])[:_MOST_NEIGHBOURS]
    timeline.neighbours = [
        Neighbour(trial_id=trial_id, machine=machine, doing=doing, measured=measured, overlap_s=overlap_s)
        for (trial_id, machine, doing, measured), overlap_s in longest
    ]
    timeline.others_worked_s, timeline.others_measured_s = (covered_s(spans[measured]) for measured in (False, True))
    timeline.others_s = covered_s([*spans[False], *spans[True]])


def covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return the seconds that at least one of some spans covers."""
    total_s, reached_s = 0.0, float("-inf")
    for from_s, until_s in sorted(spans):
        total_s += max(0.0, until_s - max(from_s, reached_s))
        reached_s = max(reached_s, until_s)
    return total_s
