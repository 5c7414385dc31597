"""A whole campaign as tidy frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picolab.files.foreign import collection_paused
from picolab.record.record import Record
from picolab.results import cache
from picolab.results.rows import FAULT_COLUMNS, SampleColumns, joined_samples, record_row, sample_frame, trial_frame
from picolab.results.standing import read_standing
from picolab.results.trial_files import read_record, read_scraps

if TYPE_CHECKING:  # pandas takes half a second, and a trial that only reads a record does not need it.
    import pandas as pd

__all__ = ["CampaignData", "read_campaign", "read_record", "read_scraps", "record_row"]


@dataclass
class CampaignData:
    """A campaign as frames."""

    folder: Path
    plan: dict[str, Any]
    """The content of `plan.json`; empty when it cannot be read (then it is listed in `problems`)."""
    trials: pd.DataFrame
    """One row a trial whose outcome is a result, columns `row_columns()`."""
    faults: pd.DataFrame
    """One row an attempt that ended in a fault of the instrument, columns `FAULT_COLUMNS`."""
    samples: pd.DataFrame
    """One row a sample of the trials above: `trial_id`, `CASE_COLUMNS`, `picolab.agent.memory_probe.COLUMNS`."""
    problems: pd.DataFrame
    """Everything that is missing or could not be read: `path` (relative to the folder) and `problem`."""
    records: Mapping[str, Record] = field(default_factory=dict)
    """The records behind `trials`, by trial_id."""
    lost: dict[str, str] = field(default_factory=dict)
    """By trial_id, the results that the ledger names and that are not there any more."""
    accepted: list[str] = field(default_factory=list)
    """Accepted changes of plan, build or host since the campaign began, a sentence each."""


class _Later(CampaignData):
    """A campaign whose samples become a frame when somebody asks for them: of many trials they are millions of rows."""

    make: Callable[[], pd.DataFrame]
    _samples: pd.DataFrame | None

    @property
    def samples(self) -> pd.DataFrame:
        if self._samples is None:
            self._samples = self.make()
        return self._samples

    @samples.setter
    def samples(self, frame: pd.DataFrame | None) -> None:
        self._samples = frame


def read_campaign(folder: Path) -> CampaignData:
    """Read a campaign, as `picolab.results.standing` finds it, into frames.

    A campaign of many trials that was read before and is the same since comes from its cache, see
    `picolab.results.cache`.

    Raises:
        CampaignNotFound: no such folder, or one without a campaign in it.
    """
    with collection_paused():
        return _read_campaign(folder)


def _read_campaign(folder: Path) -> CampaignData:
    key, settled = cache.key_of(folder)
    parts = cache.read_cache(folder, key)
    if parts is not None:
        facts, trials, samples, records = (parts[name] for name in cache.PARTS)
        return _campaign(
            folder,
            cache.facts_of(facts),
            cache.frame_of(trials),
            lambda: cache.samples_of(samples),
            cache.records_of(records),
        )
    found = read_standing(folder, with_samples=True)
    plan: dict[str, Any] = {}
    if found.plan is not None:
        plan = found.plan.model_copy(update={"trials": found.needed}).model_dump(mode="json")
    frame = trial_frame([found.rows[trial_id] for trial_id in found.results])
    told = {
        "plan": plan,
        "faults": found.faults,
        "problems": found.problems,
        "lost": {trial_id: outcome.value for trial_id, outcome in found.lost.items()},
        "accepted": found.accepted,
    }
    columns = joined_samples({name: found.samples.get(name, {}) for name in found.results})
    if settled and len(found.results) >= cache.FEWEST_TRIALS and cache.key_of(folder)[0] == key:
        cache.write_cache(folder, key, cache.parts_of(told, frame, columns, found.results))
    return _campaign(folder, told, frame, lambda: columns, found.results)


def _campaign(
    folder: Path,
    told: Mapping[str, Any],
    trials: pd.DataFrame,
    samples: Callable[[], SampleColumns],
    records: Mapping[str, Record],
) -> CampaignData:
    import pandas as pd

    data = _Later(
        folder=folder,
        plan=told["plan"],
        trials=trials,
        faults=pd.DataFrame(told["faults"], columns=list(FAULT_COLUMNS), dtype=object),
        samples=None,  # type: ignore[arg-type]
        problems=pd.DataFrame(told["problems"], columns=["path", "problem"], dtype=object),
        records=records,
        lost=told["lost"],
        accepted=told["accepted"],
    )
    # Whoever changes the frame of trials still gets all samples.
    as_read = trials.copy(deep=False)
    data.make = lambda: sample_frame(samples(), as_read)
    return data
