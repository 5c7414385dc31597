"""Statistics as pure functions on plain numbers: one build, two builds, and what may be said about them.

Values are compared by their ratios, so most functions work on logarithms and need positive values. Nothing is ever
dropped: an outlier, a tie and a zero difference all count. docs/statistics.md explains why these methods and no others.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Of intervals, where the number of values allows it."""
SIGNIFICANCE = 0.05
"""Below it an adjusted p-value is a finding."""
POWER = 0.8
"""With which the minimum detectable change is found."""
FIRST_EFFECT_SIZE = 0.01
"""How often a first trial that is like the others is taken for an outlier, at most."""
LEAST_PAIRS = 6
"""With five pairs, all of them in one direction, the signed-rank test still gives p = 0.0625."""


@dataclass(frozen=True)
class Interval:
    """An interval of a median, and how sure it is."""

    low: float
    high: float
    coverage: float
    """Probability with which such an interval contains the true median; may be below what one wishes for."""


@dataclass(frozen=True)
class Trend:
    """The trend of a series."""

    change: float
    """Relative change from the first to the last value along the robust line: 2.4 means 3.4 times as much."""
    p_value: float
    """Of no trend, two-sided."""


@dataclass(frozen=True)
class PairedRatio:
    """A candidate over its baseline, from pairs."""

    n: int
    """Pairs."""
    ratio: float
    low: float
    high: float
    coverage: float
    """Probability with which such an interval contains the true ratio; with ties it is a lower bound."""
    p_value: float
    """Of no difference, two-sided, exact."""
    spread: float | None
    """Of the pairs' ratios, relative and robust, as of `spread`."""
    minimum_detectable: float | None
    """Relative change that this many pairs of this spread find with 80 % power; None below `LEAST_PAIRS`."""


# One build


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
        rank: 1 means the whole range, minimum to maximum; at most (n + 1) / 2, the middle value alone.

    Raises:
        ValueError: no such rank.
    """
    if n < 2 or not 1 <= rank <= (n + 1) / 2:
        raise ValueError(f"rank {rank} does not leave an interval of {n} values")
    return 1.0 - 2.0 * sum(math.comb(n, below) for below in range(rank)) / float(2**n)


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Return an interval of the median that covers it with `confidence`, as nearly as the number of values allows.

    Of the intervals between order statistics one covers with a little more than `confidence`, and the next one inside
    of it with less; the ends are interpolated between the two. Which weight gives `confidence` depends very little on
    the distribution. Source: T. P. Hettmansperger and S. J. Sheather, "Confidence intervals based on interpolated
    order statistics", Statistics & Probability Letters 4 (1986), 75-79.

    When even minimum to maximum does not cover with `confidence` (n < 6 for 95 %), it is that range, with the
    coverage that it really has.

    Returns:
        None for fewer than two values: one value says nothing about spread.

    Raises:
        ValueError: a value is not finite.
    """
    _require_finite(values)
    n = len(values)
    if n < 2:
        return None
    ordered = sorted(values)
    coverages = [order_statistic_coverage(n, rank) for rank in range(1, (n + 1) // 2 + 1)]
    sufficient = sum(coverage >= confidence for coverage in coverages)
    if sufficient == 0 or sufficient == len(coverages):
        rank = max(1, sufficient)
        return Interval(ordered[rank - 1], ordered[n - rank], coverages[rank - 1])
    rank = sufficient
    excess = (coverages[rank - 1] - confidence) / (coverages[rank - 1] - coverages[rank])
    weight = (n - rank) * excess / (rank + (n - 2 * rank) * excess)
    low = (1.0 - weight) * ordered[rank - 1] + weight * ordered[rank]
    high = (1.0 - weight) * ordered[n - rank] + weight * ordered[n - rank - 1]
    return Interval(low, high, confidence)


def spread(values: Sequence[float]) -> float | None:
    """Return how much values vary around their middle, relative and robust: 0.05 means about 5 % up or down.

    The standard deviation of the logarithms, estimated by Qn, as a relative change. Up to half of the values may be
    wild without ruining it, and it wastes fewer of them than the median absolute deviation (efficiency 82 % instead
    of 37 % for normal values), which matters with ten of them.

    Returns:
        None for fewer than three values.

    Raises:
        ValueError: a value is not a positive, finite number.
    """
    return _relative_spread(_logarithms(values))


def trend(values: Sequence[float]) -> Trend | None:
    """Return whether values in order of time went up or down.

    The line is that of Theil and Sen (median of the slopes between all pairs), on logarithms; the test is that of
    Mann and Kendall as scipy has it: exact for few values without ties, else approximated, which is enough for a
    caveat. Outliers hardly move either. Sources: P. K. Sen,
    "Estimates of the regression coefficient based on Kendall's tau", JASA 63 (1968), 1379-1389; M. G. Kendall and
    J. D. Gibbons, Rank Correlation Methods, 5th edition, 1990.

    Returns:
        None for fewer than three values.

    Raises:
        ValueError: a value is not a positive, finite number.
    """
    logs = _logarithms(values)
    n = len(logs)
    if n < 3:
        return None
    from scipy.stats import theilslopes

    slope = float(theilslopes(logs, range(n)).slope)
    return Trend(math.expm1(slope * (n - 1)), _trend_p_value(logs))


def first_effect(values: Sequence[float]) -> float | None:
    """Return how far the first of values in order of time lies outside of the others, relative to their median.

    It does when it is the smallest or the largest of all and lies outside of the prediction interval that the others
    give for one more value: mean +- t s sqrt(1 + 1/m) of their m logarithms, with Student's t of m - 1 degrees of
    freedom. At most 1 % of series whose first value is like the others are taken for such (for log-normal values).
    Source: G. J. Hahn and W. Q. Meeker, Statistical Intervals, 1991, section 4.7.

    Returns:
        Such as 0.5: the first is half as large again as the median of the others. None when it does not lie outside,
        or for fewer than three values.

    Raises:
        ValueError: a value is not a positive, finite number.
    """
    logs = _logarithms(values)
    if len(logs) < 3:
        return None
    first, others = logs[0], logs[1:]
    if min(others) <= first <= max(others):
        return None
    m = len(others)
    mean = math.fsum(others) / m
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in others) / (m - 1))
    if abs(first - mean) <= _student_quantile(1.0 - FIRST_EFFECT_SIZE / 2.0, m - 1) * deviation * math.sqrt(1 + 1 / m):
        return None
    return math.expm1(first - median(others))


# Two builds


def paired_ratio(baseline: Sequence[float], candidate: Sequence[float]) -> PairedRatio | None:
    """Compare a candidate with its baseline by pairs of values that were measured back to back.

    Works on the differences of logarithms, so that what slows both down alike cancels. The ratio is the
    Hodges-Lehmann estimate: the median of all Walsh averages (of each difference with itself and each other). The test
    is Wilcoxon's signed-rank test: under "no difference" each difference could as well have the other sign, so all
    2^n signs are equally likely, and their distribution is computed without an approximation. Ties get middle ranks;
    zero differences are ranked too and count half (J. W. Pratt, JASA 54 (1959), 655-667), which is what a Walsh average
    of zero counts. The interval inverts the test: from the (k+1)-th smallest to the (k+1)-th largest Walsh average,
    with the largest k of P(T <= k) <= 2.5 %. Source: M. Hollander, D. A. Wolfe and E. Chicken, Nonparametric
    Statistical Methods, 3rd edition, 2014, sections 3.1 to 3.3.

    Args:
        baseline: a value of each pair.
        candidate: the other value of each pair, in the same order.

    Returns:
        None without pairs. With fewer than six the interval is the whole range, with the coverage that it really has.

    Raises:
        ValueError: a value is not a positive, finite number, or one has no partner.
    """
    if len(baseline) != len(candidate):
        raise ValueError(f"{len(baseline)} values of the baseline and {len(candidate)} of the candidate are no pairs")
    pairs = zip(_logarithms(baseline), _logarithms(candidate), strict=True)
    differences = [theirs - ours for ours, theirs in pairs]
    n = len(differences)
    if n == 0:
        return None
    walsh = _walsh_averages(differences)
    outside, coverage = _walsh_averages_outside(n)
    relative = _relative_spread(differences)
    return PairedRatio(
        n=n,
        ratio=math.exp(median(walsh)),
        low=math.exp(walsh[outside]),
        high=math.exp(walsh[-1 - outside]),
        coverage=coverage,
        p_value=_signed_rank_p_value(differences),
        spread=relative,
        minimum_detectable=None if relative is None else _minimum_detectable(n, relative),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that hold for all tests of a family together, in the same order.

    With "less than 0.05 is a finding", at most 5 % of families without any difference have a finding at all, however
    the tests depend on each other. Source: S. Holm, "A simple sequentially rejective multiple test procedure",
    Scandinavian Journal of Statistics 6 (1979), 65-70.

    Raises:
        ValueError: a value is no probability.
    """
    for p_value in p_values:
        if not 0.0 <= p_value <= 1.0:
            raise ValueError(f"{p_value} is no p-value; it should lie between 0 and 1")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def outcome_test(failed_a: int, n_a: int, failed_b: int, n_b: int) -> float:
    """Return the p-value of "both fail equally often": Fisher's exact test, two-sided.

    Args:
        failed_a: failures among n_a trials.
        failed_b: failures among n_b trials.

    Raises:
        ValueError: counts that cannot be.
    """
    for failed, n in ((failed_a, n_a), (failed_b, n_b)):
        if not 0 <= failed <= n:
            raise ValueError(f"{failed} failures of {n} trials cannot be")
    import numpy as np
    from scipy.stats import fisher_exact

    return float(fisher_exact(np.array([[failed_a, n_a - failed_a], [failed_b, n_b - failed_b]])).pvalue)


# Signed ranks


def _signed_rank_p_value(differences: Sequence[float]) -> float:
    """Return the exact two-sided p-value of the signed-rank test, with middle ranks and zeros that count half."""
    ordered = sorted(map(abs, differences))
    # Doubled, so that the middle rank of ties is a whole number: from left + 1 to right it is (left + 1 + right) / 2.
    ranks = [bisect_left(ordered, abs(one)) + bisect_right(ordered, abs(one)) + 1 for one in differences]
    positive = sum(rank for rank, one in zip(ranks, differences, strict=True) if one > 0)
    negative = sum(rank for rank, one in zip(ranks, differences, strict=True) if one < 0)
    # A zero adds half of its rank to both sides whatever its sign, so its rank has no part in the distribution.
    signed = tuple(sorted(rank for rank, one in zip(ranks, differences, strict=True) if one != 0))
    return min(1.0, 2.0 * float(_signed_rank_distribution(signed)[: min(positive, negative) + 1].sum()))


@lru_cache(maxsize=32)
def _signed_rank_distribution(ranks: tuple[int, ...]) -> "NDArray[np.float64]":
    """Return P(sum of the positive ranks = 0, 1, 2, ...) when each rank is positive with probability 1/2."""
    import numpy as np

    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1.0
    reached = 0
    for rank in ranks:
        chances[rank : reached + rank + 1] += chances[: reached + 1].copy()
        chances *= 0.5
        reached += rank
    return chances


def _walsh_averages(differences: Sequence[float]) -> list[float]:
    """Return the mean of each difference with itself and with each other, in ascending order."""
    import numpy as np

    values = np.asarray(differences)
    one, other = np.triu_indices(len(values))
    averages: list[float] = np.sort((values[one] + values[other]) / 2.0).tolist()
    return averages


@lru_cache
def _walsh_averages_outside(n: int) -> tuple[int, float]:
    """Return how many Walsh averages of n lie outside of the interval on each side, and the interval's coverage."""
    below = _signed_rank_distribution(tuple(range(1, n + 1))).cumsum()
    rejected = int((below <= (1.0 - CONFIDENCE) / 2.0).sum())
    # The interval up to the (k+1)-th Walsh average is missed when at most k of them lie beyond the truth.
    outside = max(0, rejected - 1)
    return outside, max(0.0, 1.0 - 2.0 * float(below[outside]))


def _minimum_detectable(n: int, relative: float) -> float | None:
    """Return the relative change that n pairs of a spread find with 80 % power at 5 % (one comparison, no Holm).

    That of the paired t-test, (t of the size + t of the power) s / sqrt(n), with the size that the exact test really
    has at n, and n times 3 / pi, which is what the signed-rank test makes of normal values. Sources: J. Cohen,
    Statistical Power Analysis, 2nd edition, 1988, section 2.3; J. L. Hodges and E. L. Lehmann, "The efficiency of some
    nonparametric competitors of the t-test", Annals of Mathematical Statistics 27 (1956), 324-335.
    """
    if n < LEAST_PAIRS:
        return None
    size = 1.0 - _walsh_averages_outside(n)[1]
    quantiles = _student_quantile(1.0 - size / 2.0, n - 1) + _student_quantile(POWER, n - 1)
    return math.expm1(quantiles * math.log1p(relative) / math.sqrt(n * 3.0 / math.pi))


# Spread and trend


def _relative_spread(logs: Sequence[float]) -> float | None:
    """Return Qn of logarithms as a relative change; None for fewer than three.

    2.2219 times the k-th smallest distance between two values, k = C(n // 2 + 1, 2), times a factor that makes it
    right on average for few normal values. Source: C. Croux and P. J. Rousseeuw, "Time-efficient algorithms for two
    highly robust estimators of scale", Computational Statistics 1 (1992), 411-428.
    """
    n = len(logs)
    if n < 3:
        return None
    import numpy as np

    values = np.asarray(logs)
    one, other = np.triu_indices(n, 1)
    place = math.comb(n // 2 + 1, 2) - 1
    distance = float(np.partition(abs(values[one] - values[other]), place)[place])
    factor = _QN_FACTORS.get(n, n / (n + 1.4) if n % 2 else n / (n + 3.8))
    return math.expm1(2.2219 * factor * distance)


_QN_FACTORS = {3: 0.994, 4: 0.512, 5: 0.844, 6: 0.611, 7: 0.857, 8: 0.669, 9: 0.872}


def _trend_p_value(logs: Sequence[float]) -> float:
    """Return the two-sided p-value of Kendall's tau against time; 1 when all values are equal."""
    if len(set(logs)) == 1:
        return 1.0
    from scipy.stats import kendalltau

    return float(kendalltau(range(len(logs)), logs).pvalue)


# What all of them need


def _require_finite(values: Sequence[float]) -> None:
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{value} is no measurement; statistics need finite numbers")


def _logarithms(values: Sequence[float]) -> list[float]:
    for value in values:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{value} has no ratio to anything; statistics of ratios need positive, finite numbers")
    return [math.log(value) for value in values]


@lru_cache
def _student_quantile(probability: float, degrees: int) -> float:
    # Not from scipy.stats, whose import takes longer than a whole comparison.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
