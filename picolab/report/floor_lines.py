"""Memory floors in lines for the terminal, and as the content of `floor.json`."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from picolab.analysis.floor_comparison import FloorRatio, exit_code, ratios
from picolab.analysis.floor_search import Floor
from picolab.analysis.floor_speed import SHARE, SpeedFloor
from picolab.analysis.floor_trials import FloorTrial
from picolab.config.plan import Plan
from picolab.config.sizes import MIB
from picolab.machines.kinds import kind_of
from picolab.text.foreign import one_line
from picolab.text.wording import counted, listed, percent

FLOOR_FILE = "floor.json"
_GUEST = "RAM is that of the whole virtual machine, so the guest's own system is included."

Floors = Mapping[str, Floor]


def ram(mib: float) -> str:
    """Return an amount of RAM in MiB with three significant digits or a whole number, such as `12.5 MiB`."""
    return f"{mib:,.0f} MiB" if mib >= 100 else f"{mib:.3g} MiB"


def margin_of(plan: Plan) -> float:
    """Return the change of the floor that does not matter, relative."""
    return plan.margin_percent / 100


def headline(plan: Plan, floors: Floors) -> str:
    """Return the answer in one sentence: the floor of one build, or the comparison of several."""
    compared = ratios(floors, margin_of(plan))
    if not compared:
        return _floor_line(plan, *floors.values())
    begin = "So far: " if any(floor.next_mb is not None for floor in floors.values()) else ""
    return begin + " ".join(ratio_line(one) for one in compared)


def ratio_line(found: FloorRatio) -> str:
    """Return the comparison of two floors in one sentence."""
    candidate, baseline = one_line(found.candidate), one_line(found.baseline)
    subject = "" if found.subject == "survival" else f" for {found.subject}"
    if found.ratio is None:
        return f"{candidate} against {baseline}{subject}: {found.verdict}, since {one_line(found.reason)}."
    ratio = found.ratio
    return (
        f"{candidate} needs {ratio.middle:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] of {baseline}'s RAM{subject} "
        f"({found.verdict})."
    )


def as_lines(plan: Plan, floors: Floors) -> list[str]:
    """Return the answer, its proof and its limits, a sentence each."""
    lines = [headline(plan, floors)]
    several = len(floors) > 1
    if several:
        lines.append(
            f"A change of the floor within {percent(margin_of(plan))} does not matter. The intervals of "
            f"{percent(floors[plan.baseline or next(iter(floors))].interval.confidence)} come from the trials of both "
            f"builds, which alternated."
        )
    for label, floor in floors.items():
        begin = f"{one_line(label)}: " if several else ""
        own = [_floor_line(plan, floor)] if several else []
        lines += [begin + line for line in (*own, *_speed_lines(floor), *_details(floor))]
    if kind_of(plan.trials[0].parameters.machine).is_virtual:
        lines.append(_GUEST)
    return lines


def _floor_line(plan: Plan, found: Floor) -> str:
    search, interval = found.search, found.interval
    step = "upload and download" if search.step == "both" else search.step
    file = plan.trials[0].parameters.file_size
    if not found.trials:
        return f"No trial of the {step} of {file} has a result yet."
    if found.state == "above":
        return f"The floor is above {ram(search.high_mb)}: too few trials of the {step} of {file} survive there."
    if found.state == "below":
        return f"The floor is at most {ram(search.low_mb)}, the least that was tried: the {step} of {file} survives it."
    begin = "So far: at" if found.state == "unfinished" else "At"
    line = (
        f"{begin} {ram(interval.middle)} {percent(search.share)} of trials survive the {step} of {file}; "
        f"the {percent(interval.confidence)} interval is {ram(interval.low)} to {ram(interval.high)}."
    )
    least = min(trial.ram_mb for trial in found.trials)
    if interval.low >= least:
        return line
    what = "It is estimated" if interval.middle < least else "The interval reaches"
    lowest = kind_of(plan.trials[0].parameters.machine).smallest_ram_mb
    lower = " Lower --from to measure it." if lowest < least <= search.low_mb else ""
    return f"{line} {what} below {ram(least)}, the least that was tried.{lower}"


def _speed_lines(found: Floor) -> list[str]:
    """Return from which RAM on the server runs at full speed; empty when that was not searched."""
    search, speed = found.search, found.speed
    if search.slowdown is None or (speed is None and found.state == "above"):
        return []
    within = f"within {percent(search.slowdown)} of full speed"
    if speed is None or (speed.reference_s is None and speed.state == "unfinished"):
        return [f"The RAM from which it runs {within} is not searched yet."]
    if speed.reference_s is None:
        return [f"Too few trials survive at {ram(search.high_mb)}, so there is no full speed to compare with."]
    full = (
        f"Full speed is {speed.reference_s:.3g} s, the median of {counted(speed.references, 'trial')} at "
        f"{ram(search.high_mb)}."
    )
    if speed.state == "above":
        return [
            f"Fewer than half of the trials run {within} even near {ram(search.high_mb)}: their times vary too much. "
            f"Raise --slowdown. {full}"
        ]
    if speed.state == "below":
        return [f"Half of the trials run {within} at {ram(search.low_mb)} already, the least that was tried. {full}"]
    assert speed.interval is not None
    interval = speed.interval
    begin = "So far: from" if speed.state == "unfinished" else "From"
    lines = [
        f"{begin} {ram(interval.middle)} on at least half of the trials run {within}; the "
        f"{percent(interval.confidence)} interval is {ram(interval.low)} to {ram(interval.high)}. {full}"
    ]
    if interval.low <= found.interval.high and speed.state != "unfinished":
        lines.append("The two intervals overlap: no difference between full speed and survival was found.")
    if speed.state == "limit":
        lines.append(
            f"The limit of {counted(search.limit, 'trial')} for full speed came before an interval of "
            f"{percent(search.precision)}."
        )
    return lines


def _details(found: Floor) -> list[str]:
    """Return what proves a floor, and what limits it."""
    search = found.search
    lines = []
    if found.failed_sizes:
        lines.append(_failed_line(found))
    survived, tried = found.confirmed
    if found.recommended_mb is not None and found.proven is not None:
        alone = " That is proven for this size alone, after a smaller one failed." if found.failed_sizes else ""
        lines.append(
            f"Recommended: {ram(found.recommended_mb)}. {survived} of {tried} confirmation trials survived there, "
            f"which proves that at least {percent(found.proven, 1)} do, at "
            f"{percent(found.interval.confidence)} confidence.{alone}"
        )
    elif found.recommended_mb is not None:
        lines.append(f"Recommended: {ram(found.recommended_mb)}. No trial has confirmed it.")
    if found.state in ("unconfirmed", "limit") and found.recommended_mb is None and not found.failed_sizes:
        lines.append(
            f"No size is recommended: the interval reaches the end of the range, {ram(search.high_mb)}. Raise --to."
        )
    if found.state == "limit":
        lines.append(
            f"The limit of {counted(search.limit, 'search trial')} came before an interval of "
            f"{percent(search.precision)}. Raise --limit for a narrower one; a soft border takes many trials."
        )
    died = Counter(trial.outcome for trial in found.trials if not trial.survived)
    how = f" ({', '.join(f'{count} {outcome}' for outcome, count in died.items())})" if died else ""
    lines.append(f"{counted(len(found.trials), 'trial')}, of which {sum(died.values())} did not survive{how}.")
    return lines


def _failed_line(found: Floor) -> str:
    """Return how many confirmation trials survived at each size that failed, and what that means."""
    sizes = []
    for size in found.failed_sizes:
        here = [one.survived for one in found.trials if one.purpose == "confirmation" and one.ram_mb == size]
        sizes.append(f"{ram(size)} ({sum(here)} of {len(here)} survived)")
    if found.state == "unconfirmed":
        then = "so no size is recommended"
    elif found.recommended_mb is None:
        then = "so the search continues"
    else:
        then = "so a larger size was chosen"
    return f"The confirmation failed at {listed(sizes)}, {then}."


def as_json(plan: Plan, floors: Floors) -> dict[str, Any]:
    """Return everything about the floors as an object of JSON; RAM is in MiB."""
    parameters = plan.trials[0].parameters
    margin = margin_of(plan)
    return {
        "campaign": plan.campaign,
        "machine": parameters.machine,
        "file_size": parameters.file_size,
        "file_size_mib": parameters.file_size_bytes / MIB,
        "search": plan.floor.model_dump(mode="json") if plan.floor is not None else None,
        "headline": headline(plan, floors),
        "exit_code": int(exit_code(floors, margin)),
        "guest_included": kind_of(parameters.machine).is_virtual,
        "builds": [{"build": label, **_build_json(plan, floor)} for label, floor in floors.items()],
        "baseline": plan.baseline,
        "margin": margin if len(floors) > 1 else None,
        "ratios": [_ratio_json(one) for one in ratios(floors, margin)],
    }


def _build_json(plan: Plan, found: Floor) -> dict[str, Any]:
    interval = found.interval
    missing = None
    if not found.trials:
        missing = "no trial has a result"
    elif found.state in ("above", "below"):
        missing = f"the floor is {found.state} the searched range"
    return {
        "state": found.state,
        "headline": _floor_line(plan, found),
        "floor_mb": None if missing else interval.middle,
        "floor_low_mb": None if missing else interval.low,
        "floor_high_mb": None if missing else interval.high,
        "floor_missing": missing,
        "confidence": interval.confidence,
        "recommended_mb": found.recommended_mb,
        "confirmation_survived": found.confirmed[0],
        "confirmation_trials": found.confirmed[1],
        "proven_share": found.proven,
        "failed_sizes_mb": list(found.failed_sizes),
        "speed": None if found.speed is None else _speed_json(found.speed),
        "trials": [_trial_json(trial) for trial in found.trials],
    }


def _speed_json(found: SpeedFloor) -> dict[str, Any]:
    interval = None if found.state in ("above", "below") else found.interval
    return {
        "state": found.state,
        "floor_mb": None if interval is None else interval.middle,
        "floor_low_mb": None if interval is None else interval.low,
        "floor_high_mb": None if interval is None else interval.high,
        "share": SHARE,
        "full_speed_s": found.reference_s,
        "full_speed_trials": found.references,
        "limit_s": found.limit_s,
    }


def _trial_json(trial: FloorTrial) -> dict[str, Any]:
    return {
        "trial_id": trial.trial_id,
        "ram_mb": trial.ram_mb,
        "purpose": trial.purpose,
        "survived": trial.survived,
        "outcome": trial.outcome,
        "duration_s": trial.duration_s,
    }


def _ratio_json(found: FloorRatio) -> dict[str, Any]:
    ratio = found.ratio
    return {
        "baseline": found.baseline,
        "candidate": found.candidate,
        "subject": found.subject,
        "ratio": None if ratio is None else ratio.middle,
        "low": None if ratio is None else ratio.low,
        "high": None if ratio is None else ratio.high,
        "confidence": None if ratio is None else ratio.confidence,
        "verdict": found.verdict,
        "reason": found.reason,
    }
