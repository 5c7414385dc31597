"""How the throughput of a server grows with uploads at the same time: the universal scalability law.

X(n) = rate * n / (1 + contention * (n - 1) + coherency * n * (n - 1)). `contention` is the share of work that only one
upload does at a time, `coherency` the cost of each pair of uploads; with such a cost, throughput has a peak. Source:
N. J. Gunther, "Guerrilla Capacity Planning", 2007, chapter 4. n / X(n) is a sum of three terms: `robust_line` fits it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from picolab.analysis.prediction import (
    LIMIT_OF_EXTRAPOLATION,
    PREDICTION_CONFIDENCE,
    Prediction,
    TooFewTrials,
)
from picolab.analysis.robust_line import RobustLine, robust_line
from picolab.text.wording import counted

LEAST_LEVELS, LEAST_LEVEL_TRIALS = 4, 8
_NO_COST = 1e-9


@dataclass(frozen=True)
class Scalability:
    """A fitted law.

    Attributes:
        rate: throughput of one upload alone, in the unit of the measured throughput.
        contention: usually called alpha or sigma; 0 means none.
        coherency: usually called beta or kappa; 0 means none.
        points: (uploads at the same time, throughput) of each trial.
    """

    rate: float
    contention: float
    coherency: float
    points: tuple[tuple[int, float], ...]
    _line: RobustLine

    @property
    def most(self) -> int:
        """The largest measured number of uploads."""
        return max(uploads for uploads, _ in self.points)

    @property
    def peak(self) -> float | None:
        """The number of uploads with the highest throughput; None when throughput never falls."""
        return math.sqrt(max(0.0, 1 - self.contention) / self.coherency) if self.coherency > _NO_COST else None

    def predict(self, uploads: float, confidence: float = PREDICTION_CONFIDENCE) -> Prediction:
        """Return the throughput of so many uploads together.

        Raises:
            ValueError: fewer than 1, or beyond `LIMIT_OF_EXTRAPOLATION` times the largest measured number.
        """
        if not 1 <= uploads <= LIMIT_OF_EXTRAPOLATION * self.most:
            raise ValueError(f"{uploads:g} uploads are not between 1 and {LIMIT_OF_EXTRAPOLATION:g} times {self.most}")
        terms = _terms(uploads)
        slow, fast = self._line.interval(terms, confidence)
        middle = uploads / self._line.at(terms)
        return Prediction(uploads, middle, uploads / fast, uploads / slow, confidence, uploads > self.most)


def _terms(uploads: float) -> list[float]:
    return [1.0, uploads - 1, uploads * (uploads - 1)]


def fit_scalability(points: Sequence[tuple[int, float]]) -> Scalability:
    """Return the law through (uploads at the same time, throughput) of each trial.

    Raises:
        TooFewTrials: fewer than `LEAST_LEVELS` numbers of uploads or `LEAST_LEVEL_TRIALS` trials.
        ValueError: a number is below 1, or a throughput is not positive.
    """
    levels = {uploads for uploads, _ in points}
    if len(levels) < LEAST_LEVELS or len(points) < LEAST_LEVEL_TRIALS:
        raise TooFewTrials(
            f"{counted(len(points), 'trial')} with {counted(len(levels), 'number')} of uploads are too few for a law, "
            f"which needs {LEAST_LEVEL_TRIALS} trials with {LEAST_LEVELS} numbers"
        )
    line = robust_line([_terms(uploads) for uploads, _ in points], [uploads / rate for uploads, rate in points])
    alone = max(line.factors[0], 1e-300)
    return Scalability(1 / alone, line.factors[1] / alone, line.factors[2] / alone, tuple(points), line)
