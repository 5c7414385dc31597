"""Statistics as pure functions on plain numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """An interval of a median, and how sure it is."""

    low: float
    high: float
    coverage: float
    """Probability with which such an interval contains the true median; may be below what one wishes for."""


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two middle ones.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values have no median")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def order_statistic_coverage(n: int, rank: int) -> float:
    """Return how often the rank-th smallest to the rank-th largest of n values enclose the true median.

    Each of n independent values lies below the median with probability 1/2 whatever their (continuous)
    distribution, so the number below is binomial(n, 1/2), and the interval misses only when fewer than `rank`
    values lie on one side: 1 - 2 P(B < rank). Source: H. A. David and H. N. Nagaraja, Order Statistics, 3rd
    edition, 2003, section 7.1. For values with ties it is a lower bound.

    Args:
        rank: 1 means the whole range, minimum to maximum; at most n / 2.

    Raises:
        ValueError: no such rank.
    """
    if not 1 <= rank <= n / 2:
        raise ValueError(f"rank {rank} does not leave an interval of {n} values")
    return 1.0 - 2.0 * sum(math.comb(n, below) for below in range(rank)) / float(2**n)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Return a distribution-free interval of the median.

    The narrowest interval from the r-th smallest to the r-th largest value that covers the true median with
    at least `confidence`; when even minimum to maximum does not (n < 6 for 95 %), that range with the
    coverage that it really has.

    Returns:
        None for fewer than two values: one value says nothing about spread.
    """
    n = len(values)
    if n < 2:
        return None
    sufficient = [r for r in range(1, n // 2 + 1) if order_statistic_coverage(n, r) >= confidence]
    rank = max(sufficient, default=1)
    ordered = sorted(values)
    return Interval(ordered[rank - 1], ordered[n - rank], order_statistic_coverage(n, rank))
