"""A whole campaign as tidy frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picolab.record.record import Record
from picolab.results.rows import FAULT_COLUMNS, record_row, sample_frame, trial_frame
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
    records: dict[str, Record] = field(default_factory=dict)
    """The records behind `trials`, by trial_id."""
    lost: dict[str, str] = field(default_factory=dict)
    """By trial_id, the results that the ledger names and that are not there any more."""
    accepted: list[str] = field(default_factory=list)
    """Accepted changes of plan, build or host since the campaign began, a sentence each."""


def read_campaign(folder: Path) -> CampaignData:
    """Read a campaign, as `picolab.results.standing` finds it, into frames.

    Raises:
        CampaignNotFound: no such folder, or one without a campaign in it.
    """
    import pandas as pd

    found = read_standing(folder, with_samples=True)
    plan: dict[str, Any] = {}
    if found.plan is not None:
        plan = found.plan.model_copy(update={"trials": found.needed}).model_dump(mode="json")
    trials = trial_frame([record_row(record) for record in found.results.values()])
    return CampaignData(
        folder=folder,
        plan=plan,
        trials=trials,
        faults=pd.DataFrame(found.faults, columns=list(FAULT_COLUMNS), dtype=object),
        samples=sample_frame({name: found.samples.get(name, {}) for name in found.results}, trials),
        problems=pd.DataFrame(found.problems, columns=["path", "problem"], dtype=object),
        records=found.results,
        lost={trial_id: outcome.value for trial_id, outcome in found.lost.items()},
        accepted=found.accepted,
    )
