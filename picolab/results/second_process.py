"""Reads some trials of a large campaign in a process of its own, while this one reads the others.

What it finds comes back through a pipe. If anything goes wrong there, this process reads those trials too.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEWEST_TRIALS = 2000
"""Fewer are read before another process has imported what it needs."""
_SHARE = 0.45
"""It reads fewer trials than this process does, because it also has to start, and to hand over what it found."""


class TrialRead(NamedTuple):
    """Everything that reading a trial found.

    Attributes:
        problems: rows of `picolab.results.standing.Problem`.
        record: as JSON; None when nothing counts.
        samples: names of columns, and an array with a row for each.
    """

    problems: list[Any]
    record: str | None
    row: dict[str, Any] | None
    samples: tuple[list[str], NDArray[np.float64]] | None


class SecondProcess:
    """The process that reads some trials. A context manager.

    Args:
        folder: of the campaign.
        trial_ids: all that are to be read; it reads the last of them, or none when they are few.
    """

    def __init__(self, folder: Path, trial_ids: list[str]) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._found: dict[str, TrialRead] | None = {}
        wanted = trial_ids[round(len(trial_ids) * (1 - _SHARE)) :]
        self._names = set(wanted)
        if len(trial_ids) < FEWEST_TRIALS or len(os.sched_getaffinity(0)) < 2:
            return
        # -P: a folder called picolab in the current folder is not this package.
        command = [sys.executable, "-P", "-m", "picolab.results.part_reader", str(folder.resolve())]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError:
            return
        self._found = None
        self._output = self._pool.submit(self._process.communicate, json.dumps(wanted).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self._pool.shutdown()

    def read(self, trial_id: str) -> TrialRead | None:
        """Return what it found of a trial, as soon as it has read all; None when this process has to read it."""
        if trial_id not in self._names:
            return None
        if self._found is None:
            assert self._process is not None
            output, _ = self._output.result()
            self._found = pickle.loads(output) if self._process.returncode == 0 and output else {}
        return self._found.get(trial_id)
