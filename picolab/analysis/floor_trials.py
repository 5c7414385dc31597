"""The trials of a search for the memory floor, as far as they have a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picolab.config.floor_search import FloorSearch
from picolab.config.plan import Plan, Purpose
from picolab.record.outcomes import Step
from picolab.results.rows import step_ok

_DURATIONS: dict[Step, str] = {"upload": "duration_s", "download": "download_s"}


@dataclass(frozen=True)
class FloorTrial:
    """A trial of a search that has a result.

    Attributes:
        duration_s: of the measured steps together; None when it has not survived.
    """

    trial_id: str
    ram_mb: float
    purpose: Purpose
    survived: bool
    outcome: str
    duration_s: float | None = None


def trials_of(plan: Plan, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[FloorTrial]]:
    """Return the trials of a search that have a result, in the order in which they ran, by the label of their build.

    Args:
        rows: of `record_row`, by trial_id.
    """
    assert plan.floor is not None
    found: dict[str, list[FloorTrial]] = {trial.parameters.build_label: [] for trial in plan.trials}
    steps = _steps(plan.floor)
    for trial in plan.trials:
        row = rows.get(trial.trial_id)
        if row is None:
            continue
        survived = all(step_ok(row, step) for step in steps)
        seconds = [row[_DURATIONS[step]] for step in steps]
        found[trial.parameters.build_label].append(
            FloorTrial(
                trial_id=trial.trial_id,
                ram_mb=float(trial.parameters.ram_mb),
                purpose=trial.purpose,
                survived=survived,
                outcome=str(row["outcome"]),
                duration_s=sum(seconds) if survived and None not in seconds else None,
            )
        )
    return found


def _steps(search: FloorSearch) -> tuple[Step, ...]:
    return ("upload", "download") if search.step == "both" else (search.step,)
