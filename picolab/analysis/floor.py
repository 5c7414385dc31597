"""The memory floor: the smallest RAM at which a share of all trials survives, estimated from as few as possible.

The survival curve is a cumulative normal in the logarithm of RAM: P(survives | ram) = Phi(ln(ram / floor) / softness +
Phi^-1(share)). Its two unknowns, floor and softness, have a posterior on a grid; the next RAM is the one after whose
outcome the entropy of the floor is expected to be least. Source: Kontsevich and Tyler, "Bayesian adaptive estimation of
psychometric slope and threshold", Vision Research 39 (1999).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from picolab.analysis.statistics import CONFIDENCE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

LAPSE = 0.002
"""Share of trials that end the unlikely way whatever the RAM: one odd trial must not rule a floor out for good."""
_MASS = 0.98
"""Of the posterior in an interval of 95 % confidence: with exactly 95 % the interval of a soft curve held the floor in
84 % of simulated searches that reached their limit."""
SURE = 0.025
"""A floor is outside of a range when the probability that it is inside is less than this."""
_SOFTEST, _SHARPEST, _SOFTNESSES = 0.5, 0.0025, 17
"""Softnesses on the grid are a factor of 1.4 apart. With a factor of 1.9 soft floors converged to a value 11 % off:
after at most 240 trials 62 % of the intervals held the floor."""
_MARGIN = math.log(2)
"""How far the grid reaches beyond the searched range, in logarithms."""
_MOST_POINTS = 1200
_POINTS_IN_PRECISION = 6
_NOTHING = 1e-7
_TAIL = 1e-4
"""Levels with less of the posterior than this below or above them are not looked at, since both outcomes are known."""


@dataclass(frozen=True)
class FloorInterval:
    """The floor and its credible interval, in the unit of RAM."""

    low: float
    middle: float
    high: float
    confidence: float

    @property
    def reach(self) -> float:
        """How far the interval reaches from its middle, relative."""
        return math.sqrt(self.high / self.low) - 1.0


class FloorPosterior:
    """The posterior of floor and softness after some trials.

    Args:
        low, high: RAM between which is searched; the floor may lie outside of it.
        share: of the trials that must survive at the floor, such as 0.95.
        precision: reach of the interval that is wanted, such as 0.1; the grid is several times finer.
        misses: shares of trials that may fail however much RAM there is, each as likely as the others beforehand.

    Raises:
        ValueError: no range, or a share or precision outside 0 to 1.
    """

    def __init__(
        self, low: float, high: float, share: float, precision: float, misses: tuple[float, ...] = (LAPSE,)
    ) -> None:
        import numpy as np

        if not 0 < low < high:
            raise ValueError(f"RAM from {low:g} to {high:g} is no range")
        if not 0 < share < 1 or not 0 < precision < 1:
            raise ValueError(f"share {share:g} and precision {precision:g} should be between 0 and 1")
        self.low, self.high, self.share, self.precision = low, high, share, precision
        width = math.log(high / low) + 2 * _MARGIN
        points = min(_MOST_POINTS, math.ceil(width / math.log1p(precision) * _POINTS_IN_PRECISION))
        self._floors: Values = np.linspace(math.log(low) - _MARGIN, math.log(high) + _MARGIN, points)
        self._misses = misses
        shapes = _SOFTNESSES * len(misses)
        self._weights: Values = np.full((points, shapes), 1.0 / (points * shapes))

    def _survival(self, levels: Sequence[float], inside: slice = slice(None)) -> Values:
        """Return P(survives) by level, floor and shape: a softness and a share of misses.

        Args:
            inside: of the floors on the grid.
        """
        import numpy as np

        place = float(self._floors[0]), float(self._floors[-1]), len(self._floors), self.share, self._misses
        return np.stack([_survival_at(level, *place)[inside] for level in levels])

    def add(self, ram: float, survived: bool) -> None:
        """Add the outcome of a trial."""
        likely = self._survival([ram])[0]
        self._weights = self._weights * (likely if survived else 1.0 - likely)
        self._weights /= self._weights.sum()

    def interval(self) -> FloorInterval:
        """Return the floor with its interval: `CONFIDENCE` is what simulated searches keep, see docs/floor.md.

        It is a little wider than the posterior says, as trials lie on levels with a distance of their own.
        """
        low, middle, high = self._quantiles((1.0 - _MASS) / 2)
        wider = 1.0 + self.precision / 8
        return FloorInterval(low / wider, middle, high * wider, CONFIDENCE)

    def _quantiles(self, tail: float) -> tuple[float, float, float]:
        """Return the floor below which lie this share of the posterior, half of it, and all but this share."""
        return _quantiles(self._floors, self._weights.sum(axis=1), tail)

    def ratio_to(self, baseline: FloorPosterior, comparisons: int = 1) -> FloorInterval:
        """Return how many times the floor of a baseline this floor is, with its interval.

        Both posteriors are independent, since no trial is in both.

        Args:
            baseline: of a search over the same range.
            comparisons: how many ratios are looked at together; their intervals hold together (Bonferroni).
        """
        import numpy as np

        step = self._floors[1] - self._floors[0]
        ours, theirs = self._weights.sum(axis=1), baseline._weights.sum(axis=1)
        if len(ours) != len(theirs):
            raise ValueError(f"grids of {len(ours)} and {len(theirs)} floors have no ratio")
        differences: Values = step * np.arange(1 - len(theirs), len(ours))
        low, middle, high = _quantiles(differences, np.convolve(ours, theirs[::-1]), (1.0 - _MASS) / 2 / comparisons)
        wider = 1.0 + self.precision / 8
        return FloorInterval(low / wider, middle, high * wider, CONFIDENCE)

    def chance_below(self, ram: float) -> float:
        """Return the probability that the floor is at most this RAM."""
        return float(self._weights[self._floors <= math.log(ram)].sum())

    def next_level(self, levels: Sequence[float]) -> float:
        """Return the level after whose outcome the entropy of the floor is expected to be least.

        Args:
            levels: RAM that a trial may have, ascending.

        Raises:
            ValueError: no levels.
        """
        import numpy as np

        if not levels:
            raise ValueError("no levels to choose from")
        low, _, high = self._quantiles(_TAIL)
        # A soft curve is learned beside the floor, up to a few softnesses of it.
        near = [level for level in levels if low / 1.5 <= level <= high * 1.2] or list(levels)
        # Floors that are as good as impossible cost time and change nothing.
        likely = np.flatnonzero(self._weights.sum(axis=1) > _NOTHING)
        inside = slice(int(likely[0]), int(likely[-1]) + 1)
        weights = self._weights[inside]
        survives = self._survival(near, inside) * weights
        dies = weights - survives
        entropy = np.zeros(len(near))
        for outcome in (survives, dies):
            joint = outcome.sum(axis=2)
            chance = joint.sum(axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                entropy -= np.where(joint > 0, joint * np.log(joint / chance[:, None]), 0.0).sum(axis=1)
        return float(near[int(np.argmin(entropy))])

    def curve(self, levels: Sequence[float], confidence: float = CONFIDENCE) -> list[tuple[float, float, float]]:
        """Return for each level the low end, the mean and the high end of P(survives)."""
        import numpy as np

        weights = self._weights.ravel()
        bands = []
        for survival in self._survival(levels):
            values = survival.ravel()
            order = np.argsort(values)
            below = np.cumsum(weights[order])
            tail = (1.0 - confidence) / 2
            low, high = (values[order][min(len(order) - 1, int(np.searchsorted(below, p)))] for p in (tail, 1 - tail))
            bands.append((float(low), float(values @ weights), float(high)))
        return bands


def _quantiles(logarithms: Values, weights: Values, tail: float) -> tuple[float, float, float]:
    """Return the value below which lie a share of a distribution on a grid, half of it, and all but this share."""
    import numpy as np

    below = np.concatenate([[0.0], np.cumsum(weights)])
    step = logarithms[1] - logarithms[0]
    edges = np.concatenate([logarithms - step / 2, [logarithms[-1] + step / 2]])
    low, middle, high = np.exp(np.interp([tail, 0.5, 1.0 - tail], below, edges))
    return float(low), float(middle), float(high)


@lru_cache(maxsize=512)
def _survival_at(
    level: float, first: float, last: float, points: int, share: float, misses: tuple[float, ...]
) -> Values:
    """Return P(survives) at a level by floor and shape; a search asks for the same levels again and again.

    Args:
        first, last, points: the grid of ln floor.
        share: of the trials that survive at the floor.
        misses: see `FloorPosterior`.
    """
    import numpy as np
    from scipy.special import ndtr, ndtri

    distance = math.log(level) - np.linspace(first, last, points)
    softnesses = np.geomspace(_SHARPEST, _SOFTEST, _SOFTNESSES)
    # Standard deviations from the middle of the curve to the floor; with misses the floor is higher up on it.
    offsets = ndtri(share / (1.0 + LAPSE - np.asarray(misses)))
    spots = distance[:, None, None] / softnesses[:, None] + offsets
    survival: Values = LAPSE + (1.0 - LAPSE - np.asarray(misses)) * ndtr(spots)
    return survival.reshape(points, -1)


def posterior_of(
    trials: Iterable[tuple[float, bool]], low: float, high: float, share: float, precision: float
) -> FloorPosterior:
    """Return the posterior after trials of (RAM, survived)."""
    found = FloorPosterior(low, high, share, precision)
    for ram, survived in trials:
        found.add(ram, survived)
    return found


def proven_share(survived: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """Return the share of all trials that survive at least, from an exact one-sided bound.

    20 of 20 prove 0.861, 59 of 59 prove 0.950. Source: Clopper and Pearson (1934).

    Raises:
        ValueError: more survivors than trials, or no trials.
    """
    from scipy.special import betaincinv

    if not 0 <= survived <= trials or trials < 1:
        raise ValueError(f"{survived} of {trials} trials is no share")
    return float(betaincinv(survived, trials - survived + 1, 1.0 - confidence)) if survived else 0.0


def trials_to_prove(share: float, confidence: float = CONFIDENCE) -> int:
    """Return how many trials prove a share if all of them survive."""
    return math.ceil(math.log(1.0 - confidence) / math.log(share))
