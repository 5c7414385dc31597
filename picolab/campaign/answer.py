"""The plan of an answer: which sizes are measured within a budget, less what earlier campaigns have measured.

Where nothing is known of the server's speed, the plan begins with one small file, and `answer_growth` continues it.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from picolab.analysis.prediction import LIMIT_OF_EXTRAPOLATION
from picolab.campaign.estimate import ASSUMED_MIB_S
from picolab.config.answer_request import AnswerRequest
from picolab.config.invalid_input import validate
from picolab.config.names import ScenarioNames, case_labels
from picolab.config.order import order_in_words, order_of_blocks
from picolab.config.plan import Plan, PlannedTrial, planned_trials
from picolab.config.sizes import KIB, MIB, format_size, parse_size
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import ParameterError
from picolab.machines.kinds import kind_of
from picolab.results.other_campaigns import earlier_trials
from picolab.results.rows import record_row
from picolab.text.wording import duration, listed

SMALLEST_BYTES = MIB
"""That can be asked about: below it, sizes of a sixteenth would say nothing."""
FIRST_BYTES = 4 * MIB
"""The first file of a server whose speed is unknown, at most."""
STEP = 4
"""Between two measured sizes."""
_GROWS = (
    "Nothing is known of this server's speed: a small file comes first, then larger ones as far as the budget allows. "
    "At {speed:g} MiB/s these would be {repeats} each of {sizes}."
)
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
        budget_share: of the budget on the command line, which `budget_s` is.
    """

    parameters: TrialParameters
    build: str
    build_sha256: str
    budget_s: float
    repeats: int = 3
    largest_bytes: int | None = None
    parallel: int = 1
    budget_share: float = 1.0


class BudgetTooLittle(ParameterError):
    """No choice of sizes fits into the budget.

    Attributes:
        needed_s: seconds of the least choice.
        least_bytes: its largest file.
    """

    def __init__(self, message: str, needed_s: float, least_bytes: int) -> None:
        super().__init__(message)
        self.needed_s, self.least_bytes = needed_s, least_bytes


def make_answer_plan(question: Question, campaign: str, source: str, seed: int, idle_limit_s: float) -> Plan:
    """Return the plan of an answer; it has no trials when nothing is missing, and grows when the speed is unknown.

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
    known = [record_row(record) for _, record in earlier]
    counts, s_per_byte = counts_of(known), seconds_per_byte(known)
    levels = _levels(question.parallel)
    if question.budget_s:
        sizes = sizes_within(question, levels, counts, s_per_byte)
    else:
        sizes = sorted({size for size, uploads in counts if uploads == 1})
        if not sizes:
            raise ParameterError(
                f"--budget 0: no finished trial of this build has {asked.ram_mb:.10g} MiB of RAM and the same other "
                f"parameters on this host; give a budget, such as --budget 20min"
            )
    missing = missing_cases(sizes, levels, question.repeats, counts) if question.budget_s else {}
    grows = bool(missing) and s_per_byte is None
    request = AnswerRequest(
        parameters=asked,
        build=question.build,
        build_sha256=question.build_sha256,
        sizes=[format_size(size) for size in sizes],
        parallel=levels,
        parallel_size=format_size(sizes[0]) if len(levels) > 1 and not grows else "",
        repeats=question.repeats,
        budget_s=question.budget_s,
        largest=format_size(question.largest_bytes) if question.largest_bytes is not None else "",
        grows=grows,
        earlier=[trial for trial, _ in earlier],
    )
    return _plan(request, missing, campaign, source, seed, idle_limit_s)


def _levels(most: int) -> list[int]:
    """Return the numbers of uploads at the same time: powers of two and the largest, four of them where possible."""
    found = {1, most} | {1 << power for power in range(most.bit_length()) if 1 << power < most}
    return sorted(found | {3} if most == STEP else found)


def power_of_two(size: float) -> int:
    return 1 << math.floor(math.log2(size))


def sizes_below(top: int, between: bool) -> list[int]:
    """Return a size with a quarter and a sixteenth of it, ascending, as powers of two that other questions share.

    Args:
        between: a half too.
    """
    parts = (2, STEP, STEP**2) if between else (STEP, STEP**2)
    return sorted({top, *(power_of_two(top / part) for part in parts)})


def sizes_within(
    question: Question, levels: Sequence[int], counts: Mapping[Case, int], s_per_byte: float | None
) -> list[int]:
    """Return the sizes up to the largest that the budget allows, ascending.

    Raises:
        BudgetTooLittle: none fits.
        ParameterError: the largest size that may be measured is too small.
    """
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
    tops = {most, least, *(power_of_two(asked) >> shift for shift in range(3))}
    needed_s = math.inf
    for top in sorted((top for top in tops if least <= top <= most), reverse=True):
        for between in (True, False) if top < asked else (False,):
            sizes = sizes_below(top, between)
            missing = missing_cases(sizes, levels, question.repeats, counts)
            needed_s = sum(count * trial_s(question.parameters, case, s_per_byte) for case, count in missing.items())
            if needed_s <= question.budget_s:
                return sizes
    share = question.budget_share
    raise BudgetTooLittle(
        f"--budget {duration(question.budget_s / share)} is too little: the least for {question.parameters.file_size} "
        f"is about {duration(needed_s / share)}, with files of up to {format_size(least)}; give --budget "
        f"{_as_budget(needed_s / share)}",
        needed_s,
        least,
    )


def _as_budget(seconds: float) -> str:
    """Return a time as `--budget` takes it, rounded up."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes}min" if minutes < 120 else f"{math.ceil(minutes / 60)}h"


def missing_cases(
    sizes: Sequence[int], levels: Sequence[int], repeats: int, counts: Mapping[Case, int]
) -> dict[Case, int]:
    cases: list[Case] = [*((size, 1) for size in sizes), *((sizes[0], uploads) for uploads in levels if uploads > 1)]
    lacking = {case: repeats - counts.get(case, 0) for case in cases}
    return {case: count for case, count in lacking.items() if count > 0}


def counts_of(rows: Iterable[Mapping[str, Any]]) -> dict[Case, int]:
    """Return how many trials there are of each case."""
    return Counter((row["file_size_bytes"], row["parallel_uploads"]) for row in rows)


def seconds_per_byte(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the seconds for upload and download of a byte, as the largest trials took them; None without any."""
    found = [
        (row["file_size_bytes"] * row["parallel_uploads"], row["duration_s"] + row["download_s"])
        for row in rows
        if row["duration_s"] is not None and row["download_s"] is not None
    ]
    largest = max((size for size, _ in found), default=0)
    rates = [seconds / size for size, seconds in found if size >= largest / STEP]
    return statistics.median(rates) if rates else None


def trial_s(parameters: TrialParameters, case: Case, s_per_byte: float | None) -> float:
    size, uploads = case
    each_s = 2 / (ASSUMED_MIB_S * MIB) if s_per_byte is None else s_per_byte
    return kind_of(parameters.machine).assumed_overhead_s + size * uploads * each_s


def _plan(
    request: AnswerRequest, missing: Mapping[Case, int], campaign: str, source: str, seed: int, idle_limit_s: float
) -> Plan:
    if not missing:
        trials, order = [], _NOTHING_MISSING
    elif request.grows:
        first = min(FIRST_BYTES, parse_size(request.sizes[0]))
        trials = trials_of(request, [[(first, 1)]], source, seed)
        order = _GROWS.format(speed=ASSUMED_MIB_S, repeats=request.repeats, sizes=listed(request.sizes))
    else:
        trials, order = _trials(request, missing, source, seed)
    asked = request.parameters
    return Plan(
        campaign=campaign,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
        description=f"Does an upload of {asked.file_size} survive with {asked.ram_mb:.10g} MiB of RAM? "
        "How long does it take?",
        seed=seed,
        repeats=request.repeats if request.grows else max(missing.values(), default=1),
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
    cases = list(missing)
    parameters = [_parameters(request, case, source) for case in cases]
    scenarios = [ScenarioNames(parameters).of(one) for one in parameters]
    blocks = order_of_blocks(parameters, scenarios, max(missing.values()), random.Random(seed))
    # A case that earlier campaigns have measured needs fewer blocks.
    order = [
        [cases[index] for index in block if number <= missing[cases[index]]]
        for number, block in enumerate(blocks, start=1)
    ]
    return trials_of(request, order, source, seed), order_in_words(parameters, scenarios)


def trials_of(request: AnswerRequest, order: Sequence[Sequence[Case]], source: str, seed: int) -> list[PlannedTrial]:
    """Return a trial for each case of each block, in this order; a case always has the same label."""
    cases = list(dict.fromkeys(case for block in order for case in block))
    # With the question's own cases, so that it does not depend on the block which parameters vary.
    others = [(request.parameters.file_size_bytes, uploads) for uploads in request.parallel]
    everything = [_parameters(request, case, source) for case in dict.fromkeys([*cases, *others])]
    labels, names = case_labels(everything, source), ScenarioNames(everything)
    return planned_trials(
        everything,
        labels,
        [names.of(one) for one in everything],
        [[cases.index(case) for case in block] for block in order],
        seed,
    )


def _parameters(request: AnswerRequest, case: Case, source: str) -> TrialParameters:
    size, uploads = case
    values = request.parameters.model_dump() | {"file_size": format_size(size), "parallel_uploads": uploads}
    found: TrialParameters = validate(TrialParameters, values, source)
    return found
