"""Plans that grow while their campaign runs: a search for the memory floor, and an answer about an unknown server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picolab.analysis.floor_search import floors_of
from picolab.campaign.answer_growth import next_step
from picolab.campaign.floor import with_next_round
from picolab.config.plan import Plan
from picolab.text.wording import counted, listed


@dataclass(frozen=True)
class Growth:
    """A plan that grows, with its next trials.

    Attributes:
        plan: with the next trials; the same trials as before when nothing follows.
        left: trials that are still expected, the next ones included.
        left_s: their expected seconds; None: like the trials so far.
        why_over: why nothing follows although trials are missing, without a full stop; empty otherwise.
    """

    plan: Plan
    left: int
    left_s: float | None = None
    why_over: str = ""


def grow(plan: Plan, rows: Mapping[str, Mapping[str, Any]], ran_s: float, folder: Path) -> Growth:
    """Return the plan with its next trials, when each of its trials has a result.

    Args:
        rows: results, by trial_id.
        ran_s: seconds that they took.
        folder: of the campaign.
    """
    if plan.floor is not None:
        grown, floors = with_next_round(plan, rows)
        return Growth(grown, sum(floor.expected_left for floor in floors.values()))
    step = next_step(plan, rows, ran_s, folder.parent)
    grown = plan.model_copy(update={"trials": [*plan.trials, *step.trials]})
    return Growth(grown, step.left, step.left_s, step.why_over)


def unfinished_words(plan: Plan, rows: Mapping[str, Mapping[str, Any]], ran_s: float, folder: Path) -> str:
    """Return that a plan that grows has not ended, one sentence; empty when it has.

    Args: as of `grow`, and not every trial needs a result.
    """
    if plan.floor is not None:
        floors = floors_of(plan, rows)
        left = {label: floor.expected_left for label, floor in floors.items() if floor.next_mb is not None}
        of_builds = f" of {listed(left)}" if len(floors) > 1 else ""
        trials = counted(sum(left.values()), "trial")
        return f"The search for the memory floor{of_builds} is unfinished; about {trials} more." if left else ""
    if any(trial.trial_id not in rows for trial in plan.trials):
        return ""
    found = grow(plan, rows, ran_s, folder)
    more = len(found.plan.trials) > len(plan.trials)
    return f"The answer is unfinished; about {counted(found.left, 'trial')} more." if more else ""
