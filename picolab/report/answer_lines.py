"""An answer in plain words: lines for the terminal and the page, and the content of `answer.json`."""

from __future__ import annotations

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
from picolab.config.trial_parameters import DISK_FACTOR
from picolab.errors import PicolabError
from picolab.exit_codes import ExitCode
from picolab.files.foreign import read_json
from picolab.machines.kinds import kind_of
from picolab.report.floor_lines import FLOOR_FILE, ram
from picolab.results.beginning import read_beginning
from picolab.results.earlier import is_alike
from picolab.results.folders import all_campaigns
from picolab.text.foreign import one_line
from picolab.text.wording import counted, duration, listed, percent

ANSWER_FILE = "answer.json"
_LARGEST_FLOOR_BYTES = 4 * MIB
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
    """Return whether the upload survives, one or two sentences that say how that is known."""
    asked = found.request.parameters
    memory = f"{asked.ram_mb:.10g} MiB of RAM" if found.limited else "unlimited memory"
    what = f"{asked.file_size} with {memory}"
    here, survived = found.asked_survival, f"{found.survived} of {found.trials} trials of {sizes_words(found)} survived"
    match found.verdict:
        case "yes" if here is not None:
            return f"Yes: {what} works. {here.survived} of {here.trials} trials of {asked.file_size} survived."
        case "no" if here is not None:
            return f"No: {what} does not work. None of {counted(here.trials, 'trial')} of {asked.file_size} survived."
        case "likely":
            return f"Very likely: {what} should work. It was not measured, but {survived}{_peak(found)}."
        case "unlikely":
            return f"Very likely not: {what} should fail. It was not measured, and {survived}{_peak(found)}."
        case "refused":
            return (
                f"No answer for {what}: it is more than {LIMIT_OF_EXTRAPOLATION:g} times the largest measured size, "
                f"{format_size(found.survival[-1].size_bytes)}. Measure larger files: give a larger --budget."
            )
        case "uncertain" if here is not None:
            return f"Not reliably: {what} sometimes fails. {here.survived} of {here.trials} trials of it survived."
        case "uncertain":
            return f"Unsure: {what} may fail. It was not measured; {survived}{_peak(found)}."
        case _:
            return f"No answer for {what}: no trial has a result yet."


def _peak(found: Answer) -> str:
    """Return the predicted peak against the RAM, as the rest of a sentence; empty without a prediction."""
    peaks = [quantity for quantity in found.quantities if quantity.metric.unit == "bytes" and quantity.prediction]
    if not peaks:
        return ", and peak memory could not be predicted"
    worst = max(peaks, key=lambda quantity: quantity.prediction.high if quantity.prediction else 0)
    assert worst.prediction is not None
    limit = f" of {ram(found.request.parameters.ram_mb)}" if found.limited else ""
    return f", and the predicted {worst.metric.title} is {interval_words(worst)}{limit}"


def interval_words(quantity: Quantity) -> str:
    """Return a prediction with its interval, such as `21 MiB (90 %: 19 MiB to 24 MiB)`."""
    one = quantity.prediction
    assert one is not None
    ends = f"{value_words(quantity, one.low)} to {value_words(quantity, one.high)}"
    return f"{value_words(quantity, one.middle)} ({percent(one.confidence)}: {ends})"


def how_known(found: Answer, quantity: Quantity) -> str:
    """Return whether a prediction is for a measured size, between measured sizes, or beyond them."""
    one = quantity.prediction
    if one is None or quantity.fit is None:
        return "not predicted"
    if quantity.here:
        return f"measured, {counted(len(quantity.here), 'trial')} of this size"
    if not one.extrapolated:
        return "between measured sizes"
    return f"extrapolated {one.at / quantity.fit.sizes[-1]:.3g} times beyond the largest measured size"


def scaling_words(quantity: Quantity) -> str:
    """Return how a quantity grows with the file size."""
    fit = quantity.fit
    if fit is None:
        return "unknown"
    if fit.law == "constant":
        return "constant"
    per = fit.per_unit * (MIB if quantity.metric.unit == "bytes" else GIB)
    slope = f"{per / MIB:.3g} MiB for each MiB" if quantity.metric.unit == "bytes" else f"{per:.3g} s for each GiB"
    if fit.fixed < 1e-6 * fit.per_unit * fit.sizes[-1]:
        return slope
    return f"{value_words(quantity, fit.fixed)} plus {slope}"


def as_lines(plan: Plan, found: Answer, folder: Path) -> list[str]:
    """Return the answer, a sentence or two each: survival, proof, time, memory, disk, floor, what was measured."""
    lines = [headline(found)]
    if found.trials:
        lines.append(_proof(found))
    lines += [_quantity_line(found, quantity) for quantity in found.quantities]
    lines.append(
        f"Disk: {size_words(found.disk_bytes)} while the file is stored. This is not measured: {DISK_FACTOR:g} times "
        f"the file, for a temp file, the database and its log."
    )
    lines.append(_floor_line(found, folder))
    lines.append(_measured(found))
    if found.request.parallel != [1]:
        lines.append(_parallel_line(found))
    if kind_of(found.request.parameters.machine).is_virtual:
        lines.append("RAM is that of the whole virtual machine, so the guest's own system is included.")
    if found.unused:
        lines.append(
            f"{counted(found.unused, 'trial')} with another box, memory limit or network than the last one "
            f"{'was' if found.unused == 1 else 'were'} not used."
        )
    return lines


def _proof(found: Answer) -> str:
    here = found.asked_survival
    what = f"of {found.request.parameters.file_size}" if here is not None else "of the measured sizes"
    survived, trials = (here.survived, here.trials) if here is not None else (found.survived, found.trials)
    words = (
        f"{survived} of {trials} trials {what} survived; that proves that at least "
        f"{percent(proven_share(survived, trials), 0)} of such uploads survive, with {percent(CONFIDENCE)} confidence."
    )
    died = Counter({name: count for one in found.survival for name, count in one.outcomes.items() if name != "ok"})
    if died:
        return f"{words} The others: {', '.join(f'{count} {name}' for name, count in sorted(died.items()))}."
    return f"{words} {trials_to_prove(0.95)} of {trials_to_prove(0.95)} would prove 95 %."


def _quantity_line(found: Answer, quantity: Quantity) -> str:
    title = quantity.metric.title if quantity.metric.unit == "bytes" else f"time of the {quantity.metric.title}"
    title = title[0].upper() + title[1:]
    if quantity.prediction is None:
        return f"{title}: no prediction, since {quantity.missing}."
    return f"{title}: {interval_words(quantity)}; {how_known(found, quantity)}. Scaling: {scaling_words(quantity)}."


def _measured(found: Answer) -> str:
    campaigns = Counter(row["campaign"] for row in found.rows)
    if not found.rows:
        return "Measured: nothing yet."
    days = sorted(str(row["started_at"])[:10] for row in found.rows)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    several = f", in {counted(len(campaigns), 'campaign')}" if len(campaigns) > 1 else ""
    largest = format_size(max(size.size_bytes for size in found.survival)) if found.survival else "nothing"
    beyond = (
        f" Everything beyond {largest} is extrapolated."
        if found.asked_survival is None
        else " Nothing is extrapolated."
    )
    return f"Measured: {counted(len(found.rows), 'trial')} of {sizes_words(found)}, {when}{several}.{beyond}"


def _parallel_line(found: Answer) -> str:
    size, law = found.request.parallel_size, found.scalability
    if law is None:
        return f"Uploads at the same time: no law, since {found.scalability_missing}."
    most = law.predict(law.most)
    growth = f"{law.most} uploads of {size} together reach {most.middle:.3g} MiB/s, one alone {law.rate:.3g} MiB/s"
    peak = (
        f"throughput is highest with about {law.peak:.2g}"
        if law.peak is not None and law.peak <= LIMIT_OF_EXTRAPOLATION * law.most
        else "throughput falls at no number of uploads that can be predicted"
    )
    return (
        f"Uploads at the same time: {growth}; {peak}. Universal scalability law: contention {law.contention:.3g}, "
        f"coherency {law.coherency:.3g}."
    )


def floor_command(found: Answer) -> str:
    """Return the command that finds the memory floor of this upload."""
    asked = found.request.parameters
    words = ["picolab", "floor", found.request.build, "--file-size", asked.file_size, "--step", asked.direction]
    return shlex.join(words)


def known_floor(found: Answer, folder: Path) -> dict[str, Any] | None:
    """Return the content of the newest `floor.json` for this build and size; None when no search has found one.

    Args:
        folder: of the answer's campaign.
    """
    asked = found.request.parameters
    for other in reversed([one for one in all_campaigns() if one.parent == folder.parent]):
        try:
            data = read_json(other / FLOOR_FILE, _LARGEST_FLOOR_BYTES)
            parameters = Plan.load(other).trials[0].parameters
            begun = read_beginning(other).known
        except (PicolabError, OSError, IndexError):
            continue
        like = parameters.model_copy(update={"ram_mb": asked.ram_mb, "direction": asked.direction})
        same = is_alike(like, asked) and parameters.file_size == asked.file_size
        built = begun is not None and found.request.build_sha256 in begun.builds.values()
        if same and built and isinstance(data, dict) and isinstance(data.get("headline"), str):
            return data | {"campaign": other.name}
    return None


def _floor_line(found: Answer, folder: Path) -> str:
    known = known_floor(found, folder)
    if known is not None:
        return one_line(f"RAM floor: {known['headline']} (campaign {known['campaign']})")
    return f"RAM floor: not searched yet. Find the least RAM with: {floor_command(found)}"


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
        "disk_bytes": None,
        "disk_missing": "the disk that a server uses is not measured",
        "disk_rule_bytes": found.disk_bytes,
        "floor_mb": None if floor is None else floor.get("floor_mb"),
        "floor_campaign": None if floor is None else floor["campaign"],
        "floor_missing": f"run: {floor_command(found)}" if floor is None else None,
        "parallel": None
        if law is None
        else {
            "file_size": found.request.parallel_size,
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
