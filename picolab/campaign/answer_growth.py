"""An answer whose plan grows: nothing was known of the server's speed, so larger files follow smaller ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picolab.campaign.answer import (
    STEP,
    BudgetTooLittle,
    Case,
    Question,
    counts_of,
    missing_cases,
    power_of_two,
    seconds_per_byte,
    sizes_below,
    sizes_within,
    trial_s,
    trials_of,
)
from picolab.config.answer_request import AnswerRequest
from picolab.config.plan import Plan, PlannedTrial
from picolab.config.sizes import format_size, parse_size
from picolab.results.other_campaigns import read_earlier
from picolab.results.rows import record_row
from picolab.text.wording import duration, in_seconds

_CLIMB = 16
"""The next file of a server whose speed is known from small files alone, as a multiple, at most."""
_CLIMB_SHARE = 0.25
"""Of the budget that is left, what such a file may take where the estimate says that nothing else fits."""


@dataclass(frozen=True)
class Step:
    """The next trials of an answer whose plan grows.

    Attributes:
        trials: the next ones; none when the answer ends.
        left: trials that are expected in all, these included.
        left_s: their expected seconds.
        why_over: why it ends although trials are missing, one sentence without a full stop; empty otherwise.
    """

    trials: list[PlannedTrial]
    left: int = 0
    left_s: float = 0.0
    why_over: str = ""


def next_step(plan: Plan, rows: Mapping[str, Mapping[str, Any]], ran_s: float, outputs: Path) -> Step:
    """Return the next trials of an answer whose plan grows.

    Larger and larger files, one trial each, until the largest that the budget allows at the measured speed. Then the
    other repeats in blocks of random order, as far as the budget allows. What is expected to exceed it is not begun.

    Args:
        rows: results of the trials so far, by trial_id.
        ran_s: seconds that they took.
        outputs: the folder that holds the campaigns of earlier trials.
    """
    request = plan.answer
    assert request is not None
    known = [*map(record_row, read_earlier(outputs, request).records.values()), *rows.values()]
    counts, s_per_byte = counts_of(known), seconds_per_byte(known)
    lost_s, lost_from = _lost(request, rows, ran_s, s_per_byte)
    left_s = max(0.0, request.budget_s - ran_s)
    largest_bytes = parse_size(request.largest) if request.largest else None
    question = Question(request.parameters, request.build, request.build_sha256, left_s, request.repeats, largest_bytes)

    def cost_s(cases: Mapping[Case, int]) -> float:
        return sum(
            count * max(lost_s if case[0] >= lost_from else 0.0, trial_s(request.parameters, case, s_per_byte))
            for case, count in cases.items()
        )

    def step(cases: Sequence[Case], missing: Mapping[Case, int]) -> Step:
        return Step(_more_trials(plan, cases), sum(missing.values()), cost_s(missing))

    most = min(request.parameters.file_size_bytes, largest_bytes or request.parameters.file_size_bytes)
    # The first trial is always among them. Earlier trials may be of larger files than these may be.
    largest = max(size for size, _ in counts if size <= most)
    try:
        sizes, too_little = sizes_within(question, request.parallel, counts, s_per_byte), None
    except BudgetTooLittle as problem:
        sizes, too_little = sizes_below(problem.least_bytes, between=False), problem
    if largest < sizes[-1]:
        size = next(size for size in sizes if size > largest)
        size = size if size <= _CLIMB * largest else power_of_two(_CLIMB * largest)
        share = 1.0 if too_little is None else _CLIMB_SHARE
        if cost_s({(size, 1): 1}) <= share * left_s and (too_little is None or size < sizes[-1]):
            return step([(size, 1)], missing_cases(sizes, request.parallel, request.repeats, counts))
        return Step([], why_over=_why_too_little(request, sizes[-1], cost_s, counts, s_per_byte, largest))
    kept = {size for size, uploads in counts if uploads == 1 and size <= largest <= 2 * STEP**2 * size}
    sizes = sorted(kept | set(sizes_below(largest, between=False)))
    missing = missing_cases(sizes, request.parallel, request.repeats, counts)
    block, block_s = [], 0.0
    for case in sorted(missing, key=math.prod):
        block_s += cost_s({case: 1})
        if block_s <= left_s:
            block.append(case)
    if block or not missing:
        random.Random(f"{plan.seed} {len(plan.trials)}").shuffle(block)
        return step(block, missing)
    (size, _), took = min(missing, key=math.prod), duration(ran_s)
    return Step(
        [],
        why_over=f"the trials took {took}, and another of {format_size(size)} would exceed the budget of "
        f"{duration(request.budget_s)}",
    )


def _lost(
    request: AnswerRequest, rows: Mapping[str, Mapping[str, Any]], ran_s: float, s_per_byte: float | None
) -> tuple[float, int]:
    """Return the seconds of a trial that gives no speed, since the server dies or stalls, and the least such size.

    Such a trial takes as long as it takes, whatever the speed of smaller files: as long as those so far, in the mean.
    """
    silent = [row for row in rows.values() if row["duration_s"] is None or row["download_s"] is None]
    if not silent:
        return 0.0, 0
    timed = counts_of(row for row in rows.values() if row["duration_s"] is not None and row["download_s"] is not None)
    timed_s = sum(count * trial_s(request.parameters, case, s_per_byte) for case, count in timed.items())
    return max(0.0, ran_s - timed_s) / len(silent), min(row["file_size_bytes"] for row in silent)


def _why_too_little(
    request: AnswerRequest,
    top: int,
    cost_s: Callable[[Mapping[Case, int]], float],
    counts: Mapping[Case, int],
    s_per_byte: float | None,
    largest: int,
) -> str:
    missing = missing_cases(sizes_below(top, between=False), request.parallel, request.repeats, counts)
    since = ""
    if s_per_byte is not None:
        since = f", as upload and download of {format_size(largest)} take about {in_seconds(s_per_byte * largest)}"
    return (
        f"the budget of {duration(request.budget_s)} for these trials is too little for this server: files of up to "
        f"{format_size(top)}, "
        f"the least for {request.parameters.file_size}, would take about {duration(cost_s(missing))} more{since}"
    )


def _more_trials(plan: Plan, cases: Sequence[Case]) -> list[PlannedTrial]:
    """Return trials that continue a plan, in this order."""
    assert plan.answer is not None
    block, position = max((trial.block for trial in plan.trials), default=0) + 1, len(plan.trials)
    return [
        trial.model_copy(
            update={
                "block": block,
                "position": position + trial.position,
                "trial_id": trial_id,
                "parameters": parameters,
            }
        )
        for trial in trials_of(plan.answer, [cases], plan.source, plan.seed)
        for trial_id in [f"{position + trial.position:03d}-{trial.case}"]
        for parameters in [
            trial.parameters.model_copy(update={"seed": plan.seed * 1_000_000 + position + trial.position})
        ]
    ]
