"""A memory floor in lines for the terminal, and as the content of `floor.json`."""

from collections import Counter
from typing import Any

from picolab.analysis.floor_search import Floor
from picolab.config.plan import Plan
from picolab.config.sizes import MIB
from picolab.exit_codes import ExitCode
from picolab.machines.kinds import kind_of
from picolab.text.wording import counted, percent

FLOOR_FILE = "floor.json"
_GUEST = "RAM is that of the whole virtual machine, so the guest's own system is included."


def ram(mib: float) -> str:
    """Return an amount of RAM in MiB with three significant digits or a whole number, such as `12.5 MiB`."""
    return f"{mib:,.0f} MiB" if mib >= 100 else f"{mib:.3g} MiB"


def exit_code(found: Floor) -> ExitCode:
    """Return 0 for a floor that was found as precisely as asked for and confirmed, 3 without an end, else 2."""
    if found.state == "unfinished":
        return ExitCode.INSTRUMENT_FAULT
    return ExitCode.OK if found.state == "found" else ExitCode.UNDECIDED


def headline(plan: Plan, found: Floor) -> str:
    """Return the answer in one sentence."""
    search, interval = found.search, found.interval
    step = "upload and download" if search.step == "both" else search.step
    file = plan.trials[0].parameters.file_size
    if found.state == "above":
        return f"The floor is above {ram(search.high_mb)}: too few trials of the {step} of {file} survive there."
    if found.state == "below":
        return f"The floor is at most {ram(search.low_mb)}, the least that was tried: the {step} of {file} survives it."
    begin = "So far: at" if found.state == "unfinished" else "At"
    return (
        f"{begin} {ram(interval.middle)} {percent(search.share)} of trials survive the {step} of {file}; "
        f"the {percent(interval.confidence)} interval is {ram(interval.low)} to {ram(interval.high)}."
    )


def as_lines(plan: Plan, found: Floor) -> list[str]:
    """Return the answer, its proof and its limits, a sentence each."""
    search = found.search
    lines = [headline(plan, found)]
    survived, tried = found.confirmed
    if found.recommended_mb is not None and found.proven is not None:
        lines.append(
            f"Recommended: {ram(found.recommended_mb)}. {survived} of {tried} confirmation trials survived there, "
            f"which proves that at least {percent(found.proven, 1)} do, at "
            f"{percent(found.interval.confidence)} confidence."
        )
    elif found.recommended_mb is not None:
        lines.append(f"Recommended: {ram(found.recommended_mb)}. No trial has confirmed it.")
    if found.failed_sizes:
        sizes = ", ".join(map(ram, found.failed_sizes))
        lines.append(f"A confirmation trial died at {sizes}, so a larger size was tried or none is recommended.")
    if found.state == "limit":
        lines.append(
            f"The limit of {counted(search.limit, 'search trial')} came before an interval of "
            f"{percent(search.precision)}: the border is soft. Raise --limit for a narrower one."
        )
    died = Counter(trial.outcome for trial in found.trials if not trial.survived)
    how = f" ({', '.join(f'{count} {outcome}' for outcome, count in died.items())})" if died else ""
    lines.append(f"{counted(len(found.trials), 'trial')}, of which {sum(died.values())} did not survive{how}.")
    if kind_of(plan.trials[0].parameters.machine).is_virtual:
        lines.append(_GUEST)
    return lines


def as_json(plan: Plan, found: Floor) -> dict[str, Any]:
    """Return everything about a floor as an object of JSON; RAM is in MiB."""
    interval = found.interval
    outside = found.state in ("above", "below")
    parameters = plan.trials[0].parameters
    return {
        "campaign": plan.campaign,
        "build": parameters.build_label,
        "machine": parameters.machine,
        "file_size": parameters.file_size,
        "file_size_mib": parameters.file_size_bytes / MIB,
        "search": found.search.model_dump(mode="json"),
        "state": found.state,
        "headline": headline(plan, found),
        "floor_mb": None if outside else interval.middle,
        "floor_low_mb": None if outside else interval.low,
        "floor_high_mb": None if outside else interval.high,
        "floor_missing": f"the floor is {found.state} the searched range" if outside else None,
        "confidence": interval.confidence,
        "recommended_mb": found.recommended_mb,
        "confirmation_survived": found.confirmed[0],
        "confirmation_trials": found.confirmed[1],
        "proven_share": found.proven,
        "failed_sizes_mb": list(found.failed_sizes),
        "guest_included": kind_of(parameters.machine).is_virtual,
        "trials": [
            {
                "trial_id": trial.trial_id,
                "ram_mb": trial.ram_mb,
                "purpose": trial.purpose,
                "survived": trial.survived,
                "outcome": trial.outcome,
            }
            for trial in found.trials
        ],
    }
