"""Where the files of a trial go when it has ended, and what a killed campaign left of them."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from picolab.campaign.salvage import LOST_NOTEBOOK_FILE, salvage_notebook
from picolab.config.plan import PlannedTrial
from picolab.errors import RecordError, UnreadableFile
from picolab.files.foreign import read_text, remove_tree_inside
from picolab.files.set_aside import set_aside
from picolab.jupyter.notebook_process import NOTEBOOK_FILE, PROCESS_LOG_FILE, last_words
from picolab.record.record import SAMPLES_SCRAP, Record
from picolab.results.ledger import LONGEST_WORKER
from picolab.results.standing import Standing, difference_from_plan
from picolab.results.trial_files import read_scraps, read_side_file, record_of
from picolab.text.foreign import one_line
from picolab.trial.state import (
    DOWNLOAD_SAMPLES_FILE,
    RECORD_FILE,
    SAMPLES_FILE,
    SERVER_LOG_FILE,
    VAGRANT_LOG_FILE,
)

RUNNING, TRIALS, FAULTS = "running", "trials", "faults"
_WORKER_FILE = "worker"
"""In the folder of a trial that runs elsewhere: which worker runs it."""
_FIRST = (
    (SAMPLES_FILE, ".samples.jsonl"),
    (DOWNLOAD_SAMPLES_FILE, ".download-samples.jsonl"),
    (SERVER_LOG_FILE, ".server.log"),
    (VAGRANT_LOG_FILE, ".vagrant.log"),
)
_OF_TROUBLE = ((PROCESS_LOG_FILE, ".papermill.log"), (LOST_NOTEBOOK_FILE, ".lost.ipynb.txt"))
_LAST = ((RECORD_FILE, ".record.json"), (NOTEBOOK_FILE, ".ipynb"))
"""The files of a trial and their suffixes next to those of other trials, in the order in which they move."""
_EARLIER_SAMPLES = re.compile(r"(download-)?samples\.attempt\d{1,10}\.jsonl", re.ASCII)


def is_trial_file(name: str) -> bool:
    """Return whether a trial may have a file of this name in the folder in which it runs."""
    return name in dict((*_FIRST, *_OF_TROUBLE, *_LAST)) or _EARLIER_SAMPLES.fullmatch(name) is not None


def stored_files(folder: Path, trial_id: str, fault_attempt: int | None) -> Iterator[tuple[str, Path]]:
    """Yield the files of a trial that `Filing.file` has put into a folder, each with its name before."""
    stem = trial_id if fault_attempt is None else f"{trial_id}.attempt{fault_attempt}"
    for name, suffix in (*_FIRST, *_OF_TROUBLE, *_LAST):
        if (folder / f"{stem}{suffix}").is_file():
            yield name, folder / f"{stem}{suffix}"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = path.name.removeprefix(f"{stem}.")
        if name != path.name and _EARLIER_SAMPLES.fullmatch(name):
            yield name, path


class Filing:
    """The files of a campaign's trials.

    Args:
        folder: of the campaign.
        campaign: its name.

    Attributes:
        running: the folder in which trials run.
    """

    def __init__(self, folder: Path, campaign: str) -> None:
        self._folder = folder
        self._campaign = campaign
        self.running = folder / RUNNING

    def running_folder(self, trial: PlannedTrial) -> Path:
        """Return the folder in which a trial runs; a link in its place is removed."""
        folder = self.running / trial.trial_id
        if folder.is_symlink():
            remove_tree_inside(self._folder, folder)
        return folder

    def note_worker(self, trial: PlannedTrial, worker: str) -> None:
        """Note in its folder that a trial begins to run at a worker: a campaign that is killed finds it there."""
        folder = self.running_folder(trial)
        # It only counts attempts: a full disk stops no campaign.
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _WORKER_FILE).write_text(worker)

    def worker_of(self, trial: PlannedTrial) -> str | None:
        """Return at which worker a trial was running when its campaign was killed; None when it ran here."""
        try:
            words = one_line(read_text(self.running / trial.trial_id / _WORKER_FILE, 4 * LONGEST_WORKER))
        except (FileNotFoundError, UnreadableFile):
            return None
        # Empty after a full disk.
        return words[:LONGEST_WORKER] or "an unknown worker"

    def read_record(self, trial: PlannedTrial, killed: str) -> tuple[Record | None, str]:
        """Return the record of an ended trial, or why it has none. A lost notebook is written again.

        Args:
            killed: which of the trial's processes a signal has ended, in words.
        """
        folder = self.running / trial.trial_id
        try:
            record = read_side_file(folder / RECORD_FILE)
        except FileNotFoundError:
            words = killed or last_words(folder)
            return None, f"the trial's process ended without a record{': ' + words if words else ''}"
        except (UnreadableFile, RecordError) as error:
            return None, f"{error}{'; ' + killed if killed else ''}"
        difference = difference_from_plan(record, trial, self._campaign)
        if difference:
            return None, f"the record {difference}"
        try:
            scraps = read_scraps(folder / NOTEBOOK_FILE)
            # The record is glued first: a kernel that dies then leaves a notebook without samples.
            has_samples = SAMPLES_SCRAP in scraps or not (folder / SAMPLES_FILE).exists()
            whole = has_samples and record_of(scraps, folder / NOTEBOOK_FILE) == record
        except RecordError:
            whole = False
        if not whole:
            # The kernel or papermill was killed after the measurement.
            salvage_notebook(folder, record)
        return record, ""

    def file(self, trial: PlannedTrial, fault_attempt: int | None) -> dict[str, str]:
        """Move a trial's files to `trials/`, or those of a fault to `faults/`; return the new place of each."""
        folder = self.running / trial.trial_id
        target = self._folder / (TRIALS if fault_attempt is None else FAULTS)
        target.mkdir(exist_ok=True)
        stem = trial.trial_id if fault_attempt is None else f"{trial.trial_id}.attempt{fault_attempt}"
        troubled = fault_attempt is not None or (folder / LOST_NOTEBOOK_FILE).exists()
        places = {}
        for name, suffix in (*_FIRST, *(_OF_TROUBLE if troubled else ()), *_LAST):
            if (folder / name).exists():
                self._put(folder / name, target / f"{stem}{suffix}")
                places[name] = f"{target.name}/{stem}{suffix}"
        for extra in folder.glob("*samples.attempt*.jsonl") if folder.is_dir() else ():
            self._put(extra, target / f"{stem}.{extra.name}")
        return places

    def remove_running_folder(self, trial: PlannedTrial) -> None:
        """Remove the folder in which a trial ran, with what was not filed."""
        remove_tree_inside(self._folder, self.running / trial.trial_id)

    def _put(self, source: Path, target: Path) -> None:
        """Rename a file; an older one of that name is set aside."""
        if target.exists() or target.is_symlink():
            set_aside(self._folder, target)
        source.rename(target)

    def unfinished(self, needed: Iterable[PlannedTrial], standing: Standing) -> Iterator[PlannedTrial]:
        """Yield the trials that a killed campaign left running or half filed, their files back in one folder.

        What is left of a result that the ledger names and that is gone is set aside.
        """
        named = {entry.trial_id for entry in standing.entries if not entry.outcome.is_fault}
        for trial in needed:
            folder = self.running_folder(trial)
            measured, listed = trial.trial_id in standing.results, trial.trial_id in named
            if measured and listed:
                continue
            was_being_filed = not listed and (measured or folder.is_dir())
            for name, suffix in (*_FIRST, *_OF_TROUBLE, *_LAST):
                path = self._folder / TRIALS / f"{trial.trial_id}{suffix}"
                if not path.exists() and not path.is_symlink():
                    continue
                if was_being_filed and not (folder / name).exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    path.rename(folder / name)
                else:
                    set_aside(self._folder, path)
            if folder.is_dir():
                yield trial

    def clear_running(self) -> None:
        """Empty `running/`: a folder with a record or a notebook is set aside, any other is removed."""
        for left in sorted(self.running.iterdir()) if self.running.is_dir() else ():
            if not left.is_symlink() and any((left / name).exists() for name in (RECORD_FILE, NOTEBOOK_FILE)):
                set_aside(self._folder, left)
            else:
                remove_tree_inside(self._folder, left)
