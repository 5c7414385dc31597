"""Floors of several builds compared: the ratio to the baseline's floor, a verdict, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from picolab.analysis.floor import FloorInterval
from picolab.analysis.floor_search import Floor
from picolab.exit_codes import ExitCode

Verdict = Literal["needs more", "needs less", "equivalent", "undecided"]


@dataclass(frozen=True)
class FloorRatio:
    """The floor of a candidate against that of the baseline.

    Attributes:
        ratio: with its interval; None when a floor is outside of the searched range.
        reason: of the verdict, one phrase.
        no_regression: the interval excludes that the candidate needs more than the margin allows.
    """

    baseline: str
    candidate: str
    ratio: FloorInterval | None
    verdict: Verdict
    reason: str
    no_regression: bool


def ratios(floors: Mapping[str, Floor], margin: float) -> list[FloorRatio]:
    """Compare the floor of each build with that of the first; the intervals hold together.

    Args:
        floors: by label of the build.
        margin: relative change that does not matter, such as 0.2.
    """
    baseline, *candidates = floors
    return [_ratio(baseline, name, floors, margin, len(candidates)) for name in candidates]


def _ratio(baseline: str, candidate: str, floors: Mapping[str, Floor], margin: float, comparisons: int) -> FloorRatio:
    ours, theirs = floors[candidate], floors[baseline]
    outside = {"below": 0, "above": 2}
    places = outside.get(ours.state, 1), outside.get(theirs.state, 1)
    if not ours.trials or not theirs.trials:
        return FloorRatio(baseline, candidate, None, "undecided", "a build has no result yet", False)
    if places != (1, 1):
        reason = f"the floor of {candidate} is {_where(ours)}, that of {baseline} {_where(theirs)}"
        verdict: Verdict = "undecided"
        if places[0] != places[1]:
            verdict = "needs more" if places[0] > places[1] else "needs less"
        return FloorRatio(baseline, candidate, None, verdict, reason, verdict == "needs less")
    found = ours.posterior.ratio_to(theirs.posterior, comparisons)
    verdict, reason = _judged(found, margin)
    return FloorRatio(baseline, candidate, found, verdict, reason, found.high <= 1.0 + margin)


def _where(floor: Floor) -> str:
    if floor.state in ("above", "below"):
        return f"{floor.state} the searched range"
    return "inside of it"


def _judged(found: FloorInterval, margin: float) -> tuple[Verdict, str]:
    if 1.0 / (1.0 + margin) <= found.low and found.high <= 1.0 + margin:
        return "equivalent", "the interval lies within the margin"
    if found.low > 1.0:
        return "needs more", "the interval lies above 1"
    if found.high < 1.0:
        return "needs less", "the interval lies below 1"
    return "undecided", "the interval holds 1 and reaches beyond the margin"


def exit_code(floors: Mapping[str, Floor], margin: float) -> ExitCode:
    """Return the exit code of a search.

    Of one build: 0 when its floor was found as precisely as asked for and confirmed, and so was that of full
    speed if it was searched, else 2. Of several, as
    `picolab compare`: 1 when a candidate needs more than the baseline, 0 when more than the margin is excluded for
    all, else 2. Without an end it is 3.
    """
    if any(floor.next_mb is not None for floor in floors.values()):
        return ExitCode.INSTRUMENT_FAULT
    compared = ratios(floors, margin)
    if not compared:
        (floor,) = floors.values()
        fast = floor.speed is None or floor.speed.state in ("found", "below")
        return ExitCode.OK if floor.state == "found" and fast else ExitCode.UNDECIDED
    if any(one.verdict == "needs more" for one in compared):
        return ExitCode.REGRESSION
    return ExitCode.OK if all(one.no_regression for one in compared) else ExitCode.UNDECIDED
