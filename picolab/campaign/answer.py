"""The plan of an answer: which sizes are measured within a budget, less what earlier campaigns have measured."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from picolab.analysis.prediction import LIMIT_OF_EXTRAPOLATION
from picolab.campaign.estimate import ASSUMED_MIB_S
from picolab.config.answer_request import AnswerRequest, EarlierTrial
from picolab.config.invalid_input import validate
from picolab.config.names import ScenarioNames, case_labels
from picolab.config.order import order_in_words, order_of_blocks
from picolab.config.plan import Plan, PlannedTrial, planned_trials
from picolab.config.sizes import KIB, MIB, format_size
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import ParameterError
from picolab.machines.kinds import kind_of
from picolab.record.record import Record
from picolab.results.earlier import earlier_trials, sizes_counted
from picolab.text.wording import duration

SMALLEST_BYTES = MIB
"""That can be asked about: below it, sizes of a sixteenth would say nothing."""
_STEP = 4
"""Between two measured sizes."""
_NOTHING_MISSING = "No trial was planned: earlier campaigns have measured everything that is needed."
Case = tuple[int, int]
"""File size in bytes, and uploads at the same time."""


@dataclass(frozen=True)
class Question:
    """A question about an upload, and the trials that it may cost.

    Attributes:
        parameters: of the upload that is asked about.
        build: as it was named.
        largest_bytes: the largest file that may be measured; None: the size that is asked about.
        parallel: the largest number of uploads at the same time; 1: not asked.
        budget_s: seconds for trials; 0: run nothing, and use what has been measured.
    """

    parameters: TrialParameters
    build: str
    build_sha256: str
    budget_s: float
    repeats: int = 3
    largest_bytes: int | None = None
    parallel: int = 1


def make_answer_plan(question: Question, campaign: str, source: str, seed: int, idle_limit_s: float) -> Plan:
    """Return the plan of an answer; it has no trials when nothing is missing.

    Args:
        source: the command, for messages and the page.

    Raises:
        ParameterError: the size is too small, or the budget or the largest size leaves nothing to predict from.
    """
    asked = question.parameters
    if asked.file_size_bytes < SMALLEST_BYTES:
        raise ParameterError(
            f"--file-size {asked.file_size}: an answer predicts from smaller files; ask for at least "
            f"{format_size(SMALLEST_BYTES)}"
        )
    earlier = earlier_trials(asked, question.build_sha256)
    counts = sizes_counted(record for _, record in earlier)
    levels = _levels(question.parallel)
    if question.budget_s:
        sizes = _sizes(question, levels, counts, _seconds_per_byte(earlier))
    else:
        sizes = sorted({size for size, uploads in counts if uploads == 1})
        if not sizes:
            raise ParameterError(
                f"--budget 0: no finished trial of this build has {asked.ram_mb:.10g} MiB of RAM and the same other "
                f"parameters on this host; give a budget, such as --budget 20min"
            )
    request = AnswerRequest(
        parameters=asked,
        build=question.build,
        build_sha256=question.build_sha256,
        sizes=[format_size(size) for size in sizes],
        parallel=levels,
        parallel_size=format_size(sizes[0]) if len(levels) > 1 else "",
        repeats=question.repeats,
        budget_s=question.budget_s,
        earlier=[trial for trial, _ in earlier],
    )
    missing = _missing(sizes, levels, question.repeats, counts) if question.budget_s else {}
    return _plan(request, missing, campaign, source, seed, idle_limit_s)


def _levels(most: int) -> list[int]:
    """Return the numbers of uploads at the same time: powers of two and the largest, four of them where possible."""
    found = {1, most} | {1 << power for power in range(most.bit_length()) if 1 << power < most}
    return sorted(found | {3} if most == _STEP else found)


def _power_of_two(size: float) -> int:
    return 1 << math.floor(math.log2(size))


def _sizes_below(top: int, between: bool) -> list[int]:
    """Return a size with a quarter and a sixteenth of it, ascending, as powers of two that other questions share.

    Args:
        between: a half too.
    """
    parts = (2, _STEP, _STEP**2) if between else (_STEP, _STEP**2)
    return sorted({top, *(_power_of_two(top / part) for part in parts)})


def _sizes(question: Question, levels: Sequence[int], counts: Mapping[Case, int], s_per_byte: float) -> list[int]:
    """Return the sizes up to the largest that the budget allows, ascending."""
    asked = question.parameters.file_size_bytes
    unit = MIB if asked >= 64 * MIB else KIB
    least = math.ceil(asked / LIMIT_OF_EXTRAPOLATION / unit) * unit
    most = min(asked, question.largest_bytes or asked)
    if most < least:
        raise ParameterError(
            f"--largest {format_size(most)} is less than a quarter of {question.parameters.file_size}, and no "
            f"prediction reaches beyond {LIMIT_OF_EXTRAPOLATION:g} times the largest measured size; give at least "
            f"{format_size(least)}"
        )
    tops = {most, least, *(_power_of_two(asked) >> shift for shift in range(3))}
    needed_s = math.inf
    for top in sorted((top for top in tops if least <= top <= most), reverse=True):
        for between in (True, False) if top < asked else (False,):
            sizes = _sizes_below(top, between)
            missing = _missing(sizes, levels, question.repeats, counts)
            needed_s = sum(count * _trial_s(question.parameters, case, s_per_byte) for case, count in missing.items())
            if needed_s <= question.budget_s:
                return sizes
    raise ParameterError(
        f"--budget {duration(question.budget_s)} is too little: the least for {question.parameters.file_size} is about "
        f"{duration(needed_s)}, with files of up to {format_size(least)}; give --budget {math.ceil(needed_s / 60)}min"
    )


def _missing(sizes: Sequence[int], levels: Sequence[int], repeats: int, counts: Mapping[Case, int]) -> dict[Case, int]:
    cases: list[Case] = [*((size, 1) for size in sizes), *((sizes[0], uploads) for uploads in levels if uploads > 1)]
    lacking = {case: repeats - counts.get(case, 0) for case in cases}
    return {case: count for case, count in lacking.items() if count > 0}


def _seconds_per_byte(earlier: Sequence[tuple[EarlierTrial, Record]]) -> float:
    """Return the seconds for upload and download of a byte, as the largest earlier trials took them."""
    found = [
        (record.parameters.uploaded_bytes, record.upload.duration_s + record.verify.download_s)
        for _, record in earlier
        if record.upload is not None
        and record.upload.duration_s is not None
        and record.verify is not None
        and record.verify.download_s is not None
    ]
    largest = max((size for size, _ in found), default=0)
    rates = [seconds / size for size, seconds in found if size >= largest / _STEP]
    return statistics.median(rates) if rates else 2 / (ASSUMED_MIB_S * MIB)


def _trial_s(parameters: TrialParameters, case: Case, s_per_byte: float) -> float:
    size, uploads = case
    return kind_of(parameters.machine).assumed_overhead_s + size * uploads * s_per_byte


def _plan(
    request: AnswerRequest, missing: Mapping[Case, int], campaign: str, source: str, seed: int, idle_limit_s: float
) -> Plan:
    trials, order = _trials(request, missing, source, seed) if missing else ([], _NOTHING_MISSING)
    asked = request.parameters
    return Plan(
        campaign=campaign,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
        description=f"Does an upload of {asked.file_size} survive with {asked.ram_mb:.10g} MiB of RAM? "
        "How long does it take?",
        seed=seed,
        repeats=max(missing.values(), default=1),
        fault_retries=1,
        factors={"file_size": request.sizes, "parallel_uploads": request.parallel},
        order=order,
        idle_limit_s=idle_limit_s,
        answer=request,
        trials=trials,
    )


def _trials(
    request: AnswerRequest, missing: Mapping[Case, int], source: str, seed: int
) -> tuple[list[PlannedTrial], str]:
    """Return the missing trials in blocks, each in random order, and this order in words."""
    values = request.parameters.model_dump()
    cases = [
        validate(TrialParameters, values | {"file_size": format_size(size), "parallel_uploads": uploads}, source)
        for size, uploads in missing
    ]
    labels, names, counts = case_labels(cases, source), ScenarioNames(cases), list(missing.values())
    scenarios = [names.of(case) for case in cases]
    blocks = order_of_blocks(cases, scenarios, max(counts), random.Random(seed))
    # A case that earlier campaigns have measured needs fewer blocks.
    order = [[index for index in block if number <= counts[index]] for number, block in enumerate(blocks, start=1)]
    trials = planned_trials(cases, labels, scenarios, order, seed)
    return trials, order_in_words(cases, scenarios)
