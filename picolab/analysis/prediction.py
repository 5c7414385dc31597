"""A measured number against file size: constant or linear, with prediction intervals for sizes that were not measured.

The model is fixed + per_unit * size with relative errors, fitted by `robust_line`. docs/answer.md has the coverage that
the intervals keep in simulations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from picolab.analysis.robust_line import RobustLine, robust_line
from picolab.text.wording import counted

LIMIT_OF_EXTRAPOLATION = 4.0
"""A prediction reaches at most this far beyond the largest measured size."""
LEAST_SIZES, LEAST_TRIALS = 3, 6
PREDICTION_CONFIDENCE = 0.9
_SAME = 1e-9

Law = Literal["constant", "linear"]
_TERMS: dict[Law, int] = {"constant": 1, "linear": 2}


class TooFewTrials(ValueError):
    """There are not enough trials or levels for a fit."""


@dataclass(frozen=True)
class Prediction:
    """A number at a place, with an interval that one more trial falls into with `confidence`."""

    at: float
    middle: float
    low: float
    high: float
    confidence: float
    extrapolated: bool
    """The place is beyond each measured one."""


@dataclass(frozen=True)
class SizeFit:
    """The line of one number against file size.

    Attributes:
        law: the model that was chosen.
        errors: of each law, the error of predicting every size from all others: root mean square of ln(value /
            predicted).
        points: (size, value) of each trial.
    """

    law: Law
    errors: dict[Law, float]
    points: tuple[tuple[float, float], ...]
    _lines: dict[Law, RobustLine]

    @property
    def fixed(self) -> float:
        """The part that does not depend on the size."""
        return self._lines[self.law].factors[0]

    @property
    def per_unit(self) -> float:
        """The part per unit of size; 0 for a constant."""
        return self._lines[self.law].factors[1] if self.law == "linear" else 0.0

    @property
    def spread(self) -> float:
        """The relative standard deviation of one trial around the line."""
        return self._lines[self.law].spread

    @property
    def sizes(self) -> list[float]:
        """The measured sizes, ascending."""
        return sorted({size for size, _ in self.points})

    def predict(self, size: float, confidence: float = PREDICTION_CONFIDENCE) -> Prediction:
        """Return the number at a size.

        Where the constant was chosen, the interval also covers that of the linear law: a slope that is too small to be
        seen in the measured sizes must not be denied four sizes further.

        Raises:
            ValueError: the size is not positive, or beyond `LIMIT_OF_EXTRAPOLATION` times the largest measured one.
        """
        largest = self.sizes[-1]
        if not 0 < size <= LIMIT_OF_EXTRAPOLATION * largest * (1 + _SAME):
            raise ValueError(f"size {size:g} is not between 0 and {LIMIT_OF_EXTRAPOLATION:g} times {largest:g}")
        laws: tuple[Law, ...] = ("linear",) if self.law == "linear" else ("constant", "linear")
        ends = [self._lines[law].interval(_terms(law, size), confidence) for law in laws]
        return Prediction(
            size,
            self._lines[self.law].at(_terms(self.law, size)),
            min(low for low, _ in ends),
            max(high for _, high in ends),
            confidence,
            size > largest * (1 + _SAME),
        )


def _terms(law: Law, size: float) -> list[float]:
    return [1.0, size][: _TERMS[law]]


def fit_sizes(points: Sequence[tuple[float, float]]) -> SizeFit:
    """Return the line through (size, value) of each trial.

    The law is linear where the linear law predicts each size from all others better than the constant does.

    Raises:
        TooFewTrials: fewer than `LEAST_SIZES` sizes or `LEAST_TRIALS` trials.
        ValueError: a size or a value is not positive.
    """
    sizes = {size for size, _ in points}
    if len(sizes) < LEAST_SIZES or len(points) < LEAST_TRIALS:
        raise TooFewTrials(
            f"a line needs {LEAST_TRIALS} trials of {LEAST_SIZES} sizes, and there "
            f"{'is' if len(points) == 1 else 'are'} {counted(len(points), 'trial')} of {counted(len(sizes), 'size')}"
        )
    lines = {law: _line(law, points) for law in _TERMS}
    errors = {law: _error_of_held_out(law, points) for law in _TERMS}
    law: Law = "linear" if errors["linear"] < errors["constant"] else "constant"
    return SizeFit(law, errors, tuple(points), lines)


def _line(law: Law, points: Sequence[tuple[float, float]]) -> RobustLine:
    return robust_line([_terms(law, size) for size, _ in points], [value for _, value in points])


def _error_of_held_out(law: Law, points: Sequence[tuple[float, float]]) -> float:
    squares = []
    for held in {size for size, _ in points}:
        others = [point for point in points if point[0] != held]
        predicted = _line(law, others).at(_terms(law, held))
        squares += [math.log(value / predicted) ** 2 for size, value in points if size == held]
    return math.sqrt(sum(squares) / len(squares))
