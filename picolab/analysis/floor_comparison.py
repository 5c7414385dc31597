"""Floors of several builds compared: the ratio to the baseline's floor, a verdict, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from picolab.analysis.floor import FloorInterval
from picolab.analysis.floor_search import Floor
from picolab.exit_codes import ExitCode

Verdict = Literal["needs more", "needs less", "equivalent", "undecided"]
Subject = Literal["survival", "full speed"]


@dataclass(frozen=True)
class FloorRatio:
    """The floor of a candidate against that of the baseline.

    Attributes:
        subject: the RAM from which trials survive, or from which they run at full speed.
        ratio: with its interval; None when a floor is outside of the searched range.
        reason: of the verdict, one phrase.
        no_regression: the interval excludes that the candidate needs more than the margin allows.
    """

    baseline: str
    candidate: str
    subject: Subject
    ratio: FloorInterval | None
    verdict: Verdict
    reason: str
    no_regression: bool


def ratios(floors: Mapping[str, Floor], margin: float) -> list[FloorRatio]:
    """Compare the floors of each build with those of the first; the intervals of one subject hold together.

    Args:
        floors: by label of the build; those of full speed are compared when they were searched.
        margin: relative change that does not matter, such as 0.2.

    Returns:
        The ratios of survival, then those of full speed.
    """
    baseline, *candidates = floors
    subjects: list[Subject] = ["survival"]
    if any(floor.search.slowdown is not None for floor in floors.values()):
        subjects.append("full speed")
    compare = {"survival": _of_survival, "full speed": _of_speed}
    return [
        _judged(baseline, name, subject, compare[subject](name, baseline, floors, len(candidates)), margin)
        for subject in subjects
        for name in candidates
    ]


_Compared = FloorInterval | tuple[Verdict, str]
"""A ratio, or where there is none a verdict with its reason."""


def _of_survival(candidate: str, baseline: str, floors: Mapping[str, Floor], comparisons: int) -> _Compared:
    ours, theirs = floors[candidate], floors[baseline]
    if not ours.trials or not theirs.trials:
        return "undecided", "a build has no result yet"
    outside = {"below": 0, "above": 2}
    places = outside.get(ours.state, 1), outside.get(theirs.state, 1)
    if places != (1, 1):
        reason = f"the floor of {candidate} is {_where(ours.state)}, that of {baseline} {_where(theirs.state)}"
        return _by_place(*places), reason
    return ours.posterior.ratio_to(theirs.posterior, comparisons)


def _of_speed(candidate: str, baseline: str, floors: Mapping[str, Floor], comparisons: int) -> _Compared:
    """Return the ratio of full speed.

    Its interval is that of both posteriors with the references as they are, and wider by as much as the uncertainty
    of the references widens the interval of each floor.
    """
    ours, theirs = floors[candidate].speed, floors[baseline].speed
    above = floors[candidate].state == "above", floors[baseline].state == "above"
    if any(above):
        which = candidate if above[0] else baseline
        other = theirs if above[0] else ours
        # A build that survives without full speed in the range is no better known than one that does not survive.
        is_inside = other is not None and other.state in ("found", "limit", "below")
        verdict = _by_place(*map(int, above)) if is_inside else "undecided"
        return verdict, f"too few trials of {which} survive in the searched range"
    for label, speed in ((candidate, ours), (baseline, theirs)):
        if speed is None or (speed.posterior is None and speed.state == "unfinished"):
            return "undecided", f"full speed of {label} is not searched yet"
        if speed.state == "above":
            # Times that vary much look the same, so this is no proof that it needs more.
            return "undecided", f"{label} has no full speed in the searched range, or its times vary too much"
    assert ours is not None and theirs is not None
    places = int(ours.state != "below"), int(theirs.state != "below")
    if places != (1, 1):
        reason = f"full speed of {candidate} begins {_where(ours.state)}, that of {baseline} {_where(theirs.state)}"
        return _by_place(*places), reason
    assert ours.posterior is not None and theirs.posterior is not None
    ratio = ours.posterior.ratio_to(theirs.posterior, comparisons)
    (our_low, our_high), (their_low, their_high) = ours.widened, theirs.widened
    return replace(ratio, low=ratio.low / our_low / their_high, high=ratio.high * our_high * their_low)


def _by_place(ours: int, theirs: int) -> Verdict:
    """Return the verdict where a floor is outside of the range: 0 is below it, 1 inside, 2 above."""
    if ours == theirs:
        return "undecided"
    return "needs more" if ours > theirs else "needs less"


def _where(state: str) -> str:
    return f"{state} the searched range" if state in ("above", "below") else "inside of it"


def _judged(baseline: str, candidate: str, subject: Subject, found: _Compared, margin: float) -> FloorRatio:
    if isinstance(found, FloorInterval):
        verdict, reason = _verdict(found, margin)
        return FloorRatio(baseline, candidate, subject, found, verdict, reason, found.high <= 1.0 + margin)
    verdict, reason = found
    return FloorRatio(baseline, candidate, subject, None, verdict, reason, verdict == "needs less")


def _verdict(found: FloorInterval, margin: float) -> tuple[Verdict, str]:
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
    `picolab compare`: 1 when a candidate needs more than the baseline, for survival or for full speed, 0 when more
    than the margin is excluded for all and for both, else 2. Without an end it is 3.
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
