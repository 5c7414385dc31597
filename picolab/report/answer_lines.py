"""An answer in plain words: lines for the terminal and the page, and the content of `answer.json`."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from picolab.analysis.answer import Answer, Quantity
from picolab.analysis.floor import proven_share, trials_to_prove
from picolab.analysis.prediction import LIMIT_OF_EXTRAPOLATION
from picolab.analysis.statistics import CONFIDENCE
from picolab.config.plan import Plan
from picolab.config.sizes import GIB, MIB, format_size
from picolab.config.trial_parameters import DISK_FACTOR, SCENARIO_PARAMETERS, TrialParameters
from picolab.errors import PicolabError
from picolab.exit_codes import ExitCode
from picolab.files.foreign import read_json
from picolab.machines.kinds import kind_of
from picolab.report.floor_lines import FLOOR_FILE, ram
from picolab.results.begun_file import read_beginning
from picolab.results.folders import all_campaigns
from picolab.results.other_campaigns import is_alike
from picolab.results.stop_file import why_stopped
from picolab.text.foreign import one_line
from picolab.text.wording import counted, duration, listed, percent

ANSWER_FILE = "answer.json"
_LARGEST_FLOOR_BYTES = 4 * MIB
_RULE = f"a rule: {DISK_FACTOR:g} times the file, for temp file, database and log while it is stored"
_BUSY = {"busy_host", "host_busy_during_trial"}
"""Codes of caveats."""
_KINDS = {"time": "time", "memory": "peak memory", "disk": "disk space"}
_CODES = {"yes": ExitCode.OK, "likely": ExitCode.OK, "unlikely": ExitCode.TRIALS_FAILED, "no": ExitCode.TRIALS_FAILED}


def exit_code(found: Answer) -> ExitCode:
    """Return 0 for yes and likely, 1 for no and unlikely, 2 when the trials do not answer it."""
    return _CODES.get(found.verdict, ExitCode.UNDECIDED)


def size_words(size_bytes: float) -> str:
    """Return a size such as `21.4 MiB` or `11.0 GiB`."""
    if size_bytes >= GIB:
        return f"{size_bytes / GIB:,.1f} GiB"
    return f"{size_bytes / MIB:,.0f} MiB" if size_bytes >= 100 * MIB else f"{size_bytes / MIB:,.3g} MiB"


def value_words(quantity: Quantity, value: float) -> str:
    """Return a value of a quantity: bytes as MiB, seconds as a duration."""
    if quantity.metric.unit == "bytes":
        return size_words(value)
    return f"{value:.3g} s" if value < 10 else duration(value)


def sizes_words(found: Answer) -> str:
    """Return the measured sizes, such as `256M, 1G and 5G`."""
    return listed(format_size(size.size_bytes) for size in found.survival)


def headline(found: Answer) -> str:
    """Return whether the upload survives, one sentence."""
    asked = found.request.parameters
    what = f"{asked.file_size} with {f'{asked.ram_mb:.10g} MiB of RAM' if found.limited else 'unlimited memory'}"
    match found.verdict:
        case "yes":
            return f"Yes: {what} worked each time."
        case "no":
            return f"No: {what} does not work."
        case "likely":
            return f"Very likely: {what} should work."
        case "unlikely":
            return f"Very likely not: {what} should fail."
        case "uncertain":
            return f"Not reliably: {what} sometimes fails." if found.asked_survival else f"Unsure: {what} may fail."
        case _:
            return f"No answer for {what}."


def reason(found: Answer) -> str:
    """Return how that is known: what was measured, or the predicted peak memory of a size that was not."""
    asked, here = found.request.parameters.file_size, found.asked_survival
    if found.verdict == "unknown":
        return "No trial has a result yet."
    if here is not None:
        return f"{here.survived} of {counted(here.trials, 'trial')} of {asked} survived. Nothing is extrapolated."
    of_others = f"{found.survived} of {counted(found.trials, 'trial')} of {sizes_words(found)} survived"
    words = f"{asked} was not measured. {of_others}"
    dead = next((size for size in found.survival if size.survived == 0), None)
    if found.verdict == "unlikely" and dead is not None:
        return f"{words}, but none of {counted(dead.trials, 'trial')} of {format_size(dead.size_bytes)}."
    if found.verdict == "refused":
        return (
            f"{words}, and {asked} is more than {LIMIT_OF_EXTRAPOLATION:g} times the largest of them, so nothing is "
            f"predicted. Measure larger files: give a larger --budget."
        )
    return f"{words}{_peak(found)}."


def _peak(found: Answer) -> str:
    """Return the predicted peak against the RAM, as the rest of a sentence; empty without a prediction."""
    peaks = [quantity for quantity in found.quantities if quantity.kind == "memory" and quantity.prediction]
    if not peaks:
        return ", and peak memory could not be predicted"
    worst = max(peaks, key=lambda quantity: quantity.prediction.high if quantity.prediction else 0)
    limit = f", of {ram(found.request.parameters.ram_mb)} of RAM" if found.limited else ""
    return f", and the predicted peak memory is {interval_words(worst)}{limit}"


def interval_only(quantity: Quantity) -> str:
    """Return the interval of a prediction, such as `19 MiB to 24 MiB`."""
    one = quantity.prediction
    assert one is not None
    return f"{value_words(quantity, one.low)} to {value_words(quantity, one.high)}"


def interval_words(quantity: Quantity) -> str:
    """Return a prediction with its interval, such as `21 MiB (90 %: 19 MiB to 24 MiB)`."""
    one = quantity.prediction
    assert one is not None
    return f"{value_words(quantity, one.middle)} ({percent(one.confidence)}: {interval_only(quantity)})"


def how_known(found: Answer, quantity: Quantity) -> str:
    """Return whether a prediction is for a measured size, between measured sizes, or beyond them."""
    one = quantity.prediction
    if one is None or quantity.fit is None:
        return "not predicted"
    if quantity.here:
        return f"measured: {counted(len(quantity.here), 'trial')}"
    if not one.extrapolated:
        return "between measured sizes"
    return f"extrapolated {one.at / quantity.fit.sizes[-1]:.3g} times beyond {format_size(int(quantity.fit.sizes[-1]))}"


def scaling_words(quantity: Quantity) -> str:
    """Return how a quantity grows with the file size."""
    fit = quantity.fit
    if fit is None:
        return "unknown"
    if fit.law == "constant":
        return "constant"
    if quantity.metric.unit == "bytes":
        slope = f"{fit.per_unit:.3g} MiB for each MiB"
    else:
        slope = f"{fit.per_unit * GIB:.3g} s for each GiB"
    if fit.fixed < 1e-3 * fit.per_unit * fit.sizes[-1]:
        return slope
    return f"{value_words(quantity, fit.fixed)} plus {slope}"


def title(quantity: Quantity) -> str:
    """Return the name of a quantity, such as `time of the upload`."""
    return f"{_KINDS[quantity.kind]} of the {quantity.metric.step}"


Fact = tuple[str, str, str]
"""A name, its value, and where the value comes from."""


def facts(found: Answer, folder: Path) -> list[Fact]:
    """Return the answer in parts: survival, times, memory, disk, floor, and what was measured.

    Args:
        folder: of the answer's campaign.
    """
    rows = [_survival(found)] if found.trials else []
    for quantity in found.quantities:
        if quantity.prediction is None and quantity.kind == "disk":
            rows.append((title(quantity), size_words(found.disk_bytes), f"{_RULE}, since {quantity.missing}"))
        elif quantity.prediction is None:
            rows.append((title(quantity), "no prediction", quantity.missing))
        else:
            rows.append((title(quantity), interval_words(quantity), how_known(found, quantity)))
    rows.append(_floor(found, folder))
    if found.request.parallel != [1]:
        rows.append(_parallel(found))
    return [*rows, _measured(found)]


def notes(found: Answer, folder: Path) -> list[str]:
    """Return what limits the answer, a sentence each.

    Args:
        folder: of the answer's campaign.
    """
    lines = []
    stopped = why_stopped(folder)
    if stopped:
        lines.append(f"Not everything was measured: {stopped}.")
    if found.request.parameters.build == "calibration":
        lines.append("The server was picolab's own calibration server, a test instrument, not PicoShare.")
    busy = sum(bool(_BUSY & set(str(row["caveats"]).split())) for row in found.rows)
    if busy:
        lines.append(
            f"{busy} of {counted(len(found.rows), 'trial')} ran on a busy host: on an idle one they vary less and are "
            f"often faster."
        )
    emulated = sum(row["acceleration"] == "emulation" for row in found.rows)
    if emulated:
        lines.append(
            f"{emulated} of {counted(len(found.rows), 'trial')} ran in a virtual machine that was emulated by "
            f"software: times say little about a real machine."
        )
    if kind_of(found.request.parameters.machine).is_virtual:
        lines.append("RAM is that of the whole virtual machine, so the guest's own system is included.")
    if found.unused:
        were = "was" if found.unused == 1 else "were"
        lines.append(
            f"{counted(found.unused, 'trial')} with another box, memory limit or network than the last one {were} not "
            f"used."
        )
    return lines


def _survival(found: Answer) -> Fact:
    here = found.asked_survival
    survived, trials = (here.survived, here.trials) if here is not None else (found.survived, found.trials)
    sizes = found.request.parameters.file_size if here is not None else "the measured sizes"
    share = percent(proven_share(survived, trials), 0)
    proof = f"proves that at least {share} of such uploads survive, with {percent(CONFIDENCE)} confidence"
    died = Counter({name: count for one in found.survival for name, count in one.outcomes.items() if name != "ok"})
    if died:
        rest = f"the others: {', '.join(f'{count} {name}' for name, count in sorted(died.items()))}"
        if here is None:
            # Sizes that differ in their survivors are no sample of one kind of upload.
            return "survival", f"{survived} of {counted(trials, 'trial')} of {sizes}", rest
    else:
        rest = f"{trials_to_prove(0.95)} of {trials_to_prove(0.95)} would prove 95 %"
    return "survival", f"{survived} of {counted(trials, 'trial')} of {sizes}", f"{proof}; {rest}"


def _measured(found: Answer) -> Fact:
    if not found.rows:
        return "measured", "nothing yet", ""
    days = sorted(str(row["started_at"])[:10] for row in found.rows)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    campaigns = len({row["campaign"] for row in found.rows})
    several = f", in {campaigns} campaigns" if campaigns > 1 else ""
    largest = found.survival[-1].size_bytes if found.survival else 0
    beyond = f"; nothing beyond {format_size(largest)} was measured" if largest < found.asked_bytes else ""
    return "measured", f"{counted(len(found.rows), 'trial')} of {sizes_words(found)}", f"{when}{several}{beyond}"


def _parallel(found: Answer) -> Fact:
    law, name = found.scalability, "uploads at the same time"
    if law is None:
        return name, "no law", found.scalability_missing
    value = f"{law.most} reach {law.predict(law.most).middle:.3g} MiB/s together, 1 alone {law.rate:.3g} MiB/s"
    peak = (
        f"highest throughput with about {law.peak:.2g}"
        if law.peak is not None and law.peak <= LIMIT_OF_EXTRAPOLATION * law.most
        else f"no peak up to {LIMIT_OF_EXTRAPOLATION * law.most:.0f} uploads"
    )
    how = f"files of {found.parallel_size}; contention {law.contention:.3g}, coherency {law.coherency:.3g}"
    return name, value, f"{peak}; {how}"


_IN_FLOOR_COMMAND = ("file_size", "ram_mb", "direction", "parallel_uploads")
"""Parameters that the command states in its own words, searches itself, or has always at one level."""


def floor_command(found: Answer) -> str:
    """Return the command that finds the memory floor of this upload."""
    asked = found.request.parameters
    words = ["picolab", "floor", found.request.build, "--file-size", asked.file_size, "--step", asked.direction]
    values = asked.model_dump(mode="json")
    for name in (*SCENARIO_PARAMETERS, "environment", "calibration"):
        default = TrialParameters.model_fields[name].get_default(call_default_factory=True)
        if name in _IN_FLOOR_COMMAND or getattr(asked, name) == default:
            continue
        if name in ("machine", "server"):
            words += [f"--{name}", values[name]]
        else:
            words += ["-p", name, values[name] if isinstance(values[name], str) else json.dumps(values[name])]
    return shlex.join(words)


def known_floor(found: Answer, folder: Path) -> dict[str, Any] | None:
    """Return `headline`, `floor_mb`, `state` and `campaign` of the newest floor search of this build and size.

    None without one.

    Args:
        folder: of the answer's campaign.
    """
    for other in reversed([one for one in all_campaigns() if one.parent == folder.parent]):
        try:
            data = read_json(other / FLOOR_FILE, _LARGEST_FLOOR_BYTES)
            label = _searched_label(other, found)
        except (PicolabError, OSError):
            continue
        builds = data.get("builds") if isinstance(data, dict) else None
        for build in builds if isinstance(builds, list) else ():
            if isinstance(build, dict) and build.get("build") == label and isinstance(build.get("headline"), str):
                floor_mb = _number(build.get("floor_mb"))
                state = str(build.get("state"))
                return {"headline": build["headline"], "floor_mb": floor_mb, "state": state, "campaign": other.name}
    return None


def _searched_label(search: Path, found: Answer) -> str | None:
    """Return the label that a search has for the build of an answer; None when it searched for another upload."""
    asked, begun = found.request.parameters, read_beginning(search).known
    for trial in Plan.load(search).trials if begun is not None else ():
        one = trial.parameters
        like = one.model_copy(update={"ram_mb": asked.ram_mb})
        is_same = is_alike(like, asked) and one.file_size == asked.file_size
        if begun is not None and is_same and begun.builds.get(one.build) == found.request.build_sha256:
            return one.build_label
    return None


def _number(value: Any) -> float | None:
    """Return a finite number of a file, or None."""
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _floor(found: Answer, folder: Path) -> Fact:
    known = known_floor(found, folder)
    if known is not None:
        return "RAM floor", one_line(known["headline"]), f"campaign {known['campaign']}"
    return "RAM floor", "not searched yet", f"find it with: {floor_command(found)}"


def as_json(plan: Plan, found: Answer, folder: Path) -> dict[str, Any]:
    """Return everything about an answer as an object of JSON; what is missing is null with a reason."""
    asked, law = found.request.parameters, found.scalability
    floor = known_floor(found, folder)
    return {
        "campaign": plan.campaign,
        "build": asked.build_label,
        "build_sha256": found.request.build_sha256,
        "machine": asked.machine,
        "ram_mb": asked.ram_mb,
        "file_size": asked.file_size,
        "verdict": found.verdict,
        "headline": headline(found),
        "reason": reason(found),
        "survival": [
            {
                "file_size": format_size(size.size_bytes),
                "survived": size.survived,
                "trials": size.trials,
                "proven_share": size.proven,
                "outcomes": dict(size.outcomes),
            }
            for size in found.survival
        ],
        "quantities": {quantity.metric.name: _quantity_json(found, quantity) for quantity in found.quantities},
        "disk_rule_bytes": found.disk_bytes,
        "floor_mb": None if floor is None else floor["floor_mb"],
        "floor_campaign": None if floor is None else floor["campaign"],
        "floor_missing": f"run: {floor_command(found)}" if floor is None else None,
        "parallel": None
        if law is None
        else {
            "file_size": found.parallel_size,
            "rate_mib_s": law.rate,
            "contention": law.contention,
            "coherency": law.coherency,
            "peak_uploads": law.peak,
        },
        "parallel_missing": None if law else found.scalability_missing or "not asked for; give --parallel 8",
        "trials": [f"{row['campaign']}/{row['trial_id']}" for row in found.rows],
    }


def _quantity_json(found: Answer, quantity: Quantity) -> dict[str, Any]:
    one, fit = quantity.prediction, quantity.fit
    return {
        "unit": quantity.metric.unit,
        "predicted": one and one.middle,
        "low": one and one.low,
        "high": one and one.high,
        "confidence": one and one.confidence,
        "missing": quantity.missing or None,
        "basis": how_known(found, quantity),
        "measured_here": list(quantity.here),
        "law": fit and fit.law,
        "fixed": fit and fit.fixed,
        "per_byte": fit and fit.per_unit,
        "spread": fit and fit.spread,
        "measured_sizes_bytes": [int(size) for size in fit.sizes] if fit else [],
    }
