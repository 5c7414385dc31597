"""The answer to a question about an upload: survival, time, memory and downloads, measured or predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from picolab.analysis.floor import proven_share
from picolab.analysis.prediction import (
    LIMIT_OF_EXTRAPOLATION,
    Prediction,
    SizeFit,
    TooFewTrials,
    fit_sizes,
)
from picolab.analysis.scalability import Scalability, fit_scalability
from picolab.config.answer_request import AnswerRequest
from picolab.config.sizes import MIB, format_size
from picolab.config.trial_parameters import DISK_FACTOR
from picolab.record.factors import fact_factors
from picolab.record.metric import Metric
from picolab.record.metrics import METRICS
from picolab.record.outcomes import STEPS, Step
from picolab.results.rows import counting_values, step_ok

_ENOUGH_RAM = 0.9
"""A peak whose interval ends below this share of the RAM leaves room for page tables and a little page cache."""
Kind = Literal["time", "memory", "disk"]
_ASKED: dict[Step, dict[Kind, str]] = {
    "upload": {"time": "duration_s", "memory": "peak_anon_bytes", "disk": "peak_disk_bytes"},
    "download": {"time": "download_s", "memory": "download_peak_anon_bytes"},
}
"""The metrics that answer for a measured step."""

Verdict = Literal["yes", "likely", "uncertain", "unlikely", "no", "refused", "unknown"]


@dataclass(frozen=True)
class SizeSurvival:
    """How many trials of a size survived all measured steps."""

    size_bytes: int
    survived: int
    trials: int
    outcomes: Mapping[str, int]

    @property
    def proven(self) -> float:
        """The share of such uploads that survive at least, exact one-sided bound."""
        return proven_share(self.survived, self.trials)


@dataclass(frozen=True)
class Quantity:
    """A number that was asked for.

    Attributes:
        kind: what it is an amount of.
        here: values of the trials of exactly the size that was asked for.
        fit: None without enough trials.
        prediction: at the size that was asked for, in the stored unit; None: see `missing`.
        missing: why there is no prediction, one sentence without a full stop; empty when there is one.
    """

    metric: Metric
    kind: Kind
    here: tuple[float, ...] = ()
    fit: SizeFit | None = None
    prediction: Prediction | None = None
    missing: str = ""


@dataclass(frozen=True)
class Answer:
    """Everything that is known about the upload of a question.

    Attributes:
        rows: the trials that were used.
        unused: trials that were left out since a fact of their machine differs.
        scalability: None: see `scalability_missing`; empty when it was not asked for.
    """

    request: AnswerRequest
    rows: list[dict[str, Any]]
    unused: int
    survival: list[SizeSurvival]
    quantities: list[Quantity]
    verdict: Verdict
    scalability: Scalability | None = None
    scalability_missing: str = ""
    parallel_size: str = ""
    """File size at which several uploads at the same time were measured; empty without any."""
    levels: dict[int, list[float]] = field(default_factory=dict)
    """By number of uploads at the same time, the throughput of each trial, MiB/s."""

    @property
    def asked_bytes(self) -> int:
        return self.request.parameters.file_size_bytes

    @property
    def ram_bytes(self) -> float:
        return self.request.parameters.ram_mb * MIB

    @property
    def limited(self) -> bool:
        """Whether RAM was limited at all."""
        return self.request.parameters.memory_limit != "none"

    @property
    def survived(self) -> int:
        return sum(size.survived for size in self.survival)

    @property
    def trials(self) -> int:
        return sum(size.trials for size in self.survival)

    @property
    def largest_bytes(self) -> int | None:
        """The largest size with a survivor; None without one."""
        return max((size.size_bytes for size in self.survival if size.survived), default=None)

    @property
    def asked_survival(self) -> SizeSurvival | None:
        """The trials of exactly the size that was asked for."""
        return next((size for size in self.survival if size.size_bytes == self.asked_bytes), None)

    @property
    def disk_bytes(self) -> float:
        """The disk space that an upload needs while it is stored, by the rule of the preflight check."""
        return DISK_FACTOR * self.asked_bytes

    def quantity(self, name: str) -> Quantity | None:
        """Return a quantity by the name of its metric; None when it was not asked for."""
        return next((quantity for quantity in self.quantities if quantity.metric.name == name), None)


def answer(request: AnswerRequest, rows: Sequence[dict[str, Any]]) -> Answer:
    """Return the answer from rows of `record_row`, in the order in which the trials ran."""
    used = _of_one_machine(rows)
    alone = [row for row in used if row["parallel_uploads"] == 1]
    survival = _survival(alone, request)
    quantities = [
        _quantity(METRICS[name], kind, alone, request)
        for step in _steps(request)
        for kind, name in _ASKED[step].items()
    ]
    parallel_size = request.parallel_size or next(
        (str(row["file_size"]) for row in reversed(used) if row["parallel_uploads"] > 1), ""
    )
    scalability, missing, levels = _scalability(used, request, parallel_size)
    return Answer(
        request,
        used,
        len(rows) - len(used),
        survival,
        quantities,
        _verdict(request, survival, quantities),
        scalability,
        missing,
        parallel_size,
        levels,
    )


def _steps(request: AnswerRequest) -> list[Step]:
    direction = request.parameters.direction
    return [step for step in STEPS if direction in (step, "both")]


def _of_one_machine(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that have the facts of the last one: another box or way to limit memory is another case."""
    facts = [factor.name for factor in fact_factors()]

    def facts_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in facts)

    return [row for row in rows if facts_of(row) == facts_of(rows[-1])]


def _survival(rows: Sequence[dict[str, Any]], request: AnswerRequest) -> list[SizeSurvival]:
    found = []
    for size in sorted({row["file_size_bytes"] for row in rows}):
        here = [row for row in rows if row["file_size_bytes"] == size]
        survived = sum(all(step_ok(row, step) for step in _steps(request)) for row in here)
        found.append(SizeSurvival(size, survived, len(here), Counter(row["outcome"] for row in here)))
    return found


def _quantity(metric: Metric, kind: Kind, rows: Sequence[dict[str, Any]], request: AnswerRequest) -> Quantity:
    asked = request.parameters.file_size_bytes
    counting = [row for row in rows if counting_values(metric, [row]) and row[metric.name] > 0]
    here = tuple(float(row[metric.name]) for row in counting if row["file_size_bytes"] == asked)
    try:
        fit = fit_sizes([(float(row["file_size_bytes"]), float(row[metric.name])) for row in counting])
    except TooFewTrials as problem:
        return Quantity(metric, kind, here, missing=str(problem))
    if asked > LIMIT_OF_EXTRAPOLATION * fit.sizes[-1]:
        largest = format_size(int(fit.sizes[-1]))
        beyond = f"{request.parameters.file_size} is more than {LIMIT_OF_EXTRAPOLATION:g} times {largest}"
        return Quantity(metric, kind, here, fit, missing=f"{beyond}, the largest size that gave a value")
    return Quantity(metric, kind, here, fit, fit.predict(float(asked)))


def _verdict(request: AnswerRequest, survival: Sequence[SizeSurvival], quantities: Sequence[Quantity]) -> Verdict:
    asked = request.parameters.file_size_bytes
    if not survival:
        return "unknown"
    here = next((size for size in survival if size.size_bytes == asked), None)
    if here is not None:
        return "yes" if here.survived == here.trials else "no" if here.survived == 0 else "uncertain"
    smaller = [size for size in survival if size.size_bytes < asked]
    if any(size.survived == 0 for size in smaller):
        # A server that no trial of a smaller file survives will not survive a larger one.
        return "unlikely"
    if any(size.survived < size.trials for size in survival):
        return "uncertain"
    if asked > LIMIT_OF_EXTRAPOLATION * survival[-1].size_bytes:
        return "refused"
    if request.parameters.memory_limit == "none":
        return "likely"
    ram = request.parameters.ram_mb * MIB
    peaks = [quantity for quantity in quantities if quantity.kind == "memory"]
    known = [quantity.prediction for quantity in peaks if quantity.prediction is not None]
    if any(peak.low > ram for peak in known):
        return "unlikely"
    return (
        "likely" if len(known) == len(peaks) and all(peak.high < _ENOUGH_RAM * ram for peak in known) else "uncertain"
    )


def _scalability(
    rows: Sequence[dict[str, Any]], request: AnswerRequest, parallel_size: str
) -> tuple[Scalability | None, str, dict[int, list[float]]]:
    if request.parallel == [1]:
        return None, "", {}
    metric = METRICS["throughput_mib_s"]
    levels: dict[int, list[float]] = {}
    for row in rows:
        if row["file_size"] == parallel_size and (values := counting_values(metric, [row])):
            levels.setdefault(row["parallel_uploads"], []).append(float(values[0]))
    levels = dict(sorted(levels.items()))
    try:
        return fit_scalability([(level, rate) for level, rates in levels.items() for rate in rates]), "", levels
    except TooFewTrials as problem:
        return None, str(problem), levels
