"""Statistics against literal numbers, enumeration, scipy where it is exact, and simulated truth with a fixed seed."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from picolab.analysis.decisions import (
    LEAST_PAIRS_TO_STOP,
    LOOKS_TO_STOP,
    enough_pairs,
    judge,
    narrow_enough,
    no_regression,
)
from picolab.analysis.statistics import (
    LEAST_PAIRS,
    Interval,
    PairedRatio,
    first_effect,
    holm,
    median,
    median_interval,
    order_statistic_coverage,
    outcome_test,
    paired_ratio,
    spread,
    trend,
)


def log_normal(seed: int, *shape: int, sigma: float = 0.05) -> Any:
    """Random values around 1 whose logarithms have this standard deviation, as lists."""
    return np.exp(sigma * np.random.default_rng(seed).standard_normal(shape)).tolist()


def of_differences(differences: list[float]) -> PairedRatio:
    """The comparison of pairs whose logarithms differ by these."""
    paired = paired_ratio([1.0] * len(differences), [math.exp(value) for value in differences])
    assert paired is not None
    return paired


def verdict_on(low: float, high: float, n: int = 10, spread: float = 0.05) -> PairedRatio:
    return PairedRatio(n, math.sqrt(low * high), low, high, 0.95, 0.01, spread, 0.05)


# One build


def test_median_of_odd_even_and_one() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert median([7.0]) == 7.0


def test_median_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        median([])


@pytest.mark.parametrize(
    ("n", "rank", "coverage"),
    [
        (2, 1, 0.5),
        (3, 1, 0.75),
        (3, 2, 0.0),
        (4, 1, 0.875),
        (5, 1, 0.9375),
        (6, 1, 0.96875),
        (8, 2, 0.9296875),
        (9, 2, 0.9609375),
        (10, 2, 0.978515625),
        (20, 6, 0.9586105346679688),
    ],
)
def test_coverage_of_order_statistics(n: int, rank: int, coverage: float) -> None:
    assert order_statistic_coverage(n, rank) == pytest.approx(coverage, abs=1e-12)


@pytest.mark.parametrize(("n", "rank"), [(3, 0), (3, 3), (4, 3), (1, 1), (0, 1)])
def test_rank_that_leaves_no_interval(n: int, rank: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        order_statistic_coverage(n, rank)


def test_one_value_has_no_interval() -> None:
    assert median_interval([5.0]) is None
    assert median_interval([]) is None


def test_few_values_give_their_range_and_its_true_coverage() -> None:
    assert median_interval([12.0, 10.0, 11.0]) == Interval(10.0, 12.0, 0.75)
    assert median_interval([1.0, 2.0]) == Interval(1.0, 2.0, 0.5)
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == Interval(1.0, 5.0, 0.9375)


def test_ends_are_interpolated_between_order_statistics() -> None:
    interval = median_interval([float(value) for value in range(1, 11)])

    # By hand: ranks 2 and 3 of ten cover with 1002/1024 and 912/1024; the share of the excess is
    # (1002 - 972.8) / (1002 - 912) = 0.32444, the weight (10 - 2) 0.32444 / (2 + (10 - 4) 0.32444) = 0.657657...
    assert interval is not None
    weight = 8 * (29.2 / 90) / (2 + 6 * (29.2 / 90))
    assert (interval.low, interval.high) == (pytest.approx(2 + weight), pytest.approx(9 - weight))
    assert weight == pytest.approx(0.65766, abs=1e-5)
    assert interval.coverage == 0.95


@pytest.mark.parametrize("draw", ["normal", "exponential", "heavy"])
@pytest.mark.parametrize("n", [5, 6, 7, 10, 20, 30])
def test_interval_of_the_median_covers_it_as_promised(n: int, draw: str) -> None:
    random = np.random.default_rng(n)
    values = {
        "normal": lambda: random.standard_normal((4000, n)),
        "exponential": lambda: random.exponential(size=(4000, n)) - math.log(2),
        "heavy": lambda: random.standard_t(2, (4000, n)),
    }[draw]()

    intervals = [median_interval(row) for row in values.tolist()]

    covered = sum(interval is not None and interval.low <= 0 <= interval.high for interval in intervals) / 4000
    promised = 0.9375 if n == 5 else 0.95
    assert covered == pytest.approx(promised, abs=0.0125)


def test_confidence_may_be_chosen() -> None:
    values = [float(value) for value in range(9)]

    assert median_interval(values, confidence=0.8203125) == Interval(2.0, 6.0, 0.8203125)
    assert median_interval([1.0, 2.0], confidence=0.3) == Interval(1.0, 2.0, 0.5)


def test_values_that_are_all_the_same_are_their_own_interval() -> None:
    assert median_interval([3.0] * 12) == Interval(3.0, 3.0, 0.95)
    assert spread([3.0] * 12) == 0.0
    assert first_effect([3.0] * 12) is None
    flat = trend([3.0] * 12)
    assert flat is not None and (flat.change, flat.p_value) == (0.0, 1.0)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 9, 10, 15, 30])
def test_spread_finds_the_known_one(n: int) -> None:
    found = [spread(row) for row in log_normal(n, 3000, n)]

    assert np.mean([math.log1p(value) for value in found if value is not None]) == pytest.approx(0.05, rel=0.05)


def test_spread_by_hand() -> None:
    # Qn of four: the third of the six distances, 1 2 3 3 5 6, times 2.2219 and 0.512.
    assert spread([math.exp(value) for value in (0, 1, 3, 6)]) == pytest.approx(math.expm1(3 * 2.2219 * 0.512))


def test_a_wild_value_does_not_ruin_the_spread() -> None:
    quiet = log_normal(1, 20)[:20]
    assert spread([*quiet[:-1], 100.0]) == pytest.approx(spread(quiet), rel=0.35)


def test_two_values_have_no_spread_trend_or_first_effect() -> None:
    assert spread([1.0, 2.0]) is None
    assert trend([1.0, 2.0]) is None
    assert first_effect([1.0, 2.0]) is None


@pytest.mark.parametrize("function", [spread, trend, first_effect])
@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_values_without_a_ratio_are_refused(function: object, bad: float) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match="positive, finite"):
        function([1.0, 2.0, bad, 3.0])


def test_a_median_interval_needs_finite_values_of_any_sign() -> None:
    with pytest.raises(ValueError, match="finite"):
        median_interval([1.0, math.nan, 2.0])
    assert median_interval([-1.0, 0.0]) == Interval(-1.0, 0.0, 0.5)


# Over time


def test_trend_finds_the_change_over_the_whole_series() -> None:
    slower = [1.1**step for step in range(10)]

    found = trend(slower)

    assert found is not None
    assert found.change == pytest.approx(1.1**9 - 1)
    assert found.p_value == pytest.approx(2 / math.factorial(10))
    back = trend(slower[::-1])
    assert back is not None
    assert back.change == pytest.approx(1.1**-9 - 1)
    assert back.p_value == found.p_value


def test_trend_without_ties_is_scipys() -> None:
    random = np.random.default_rng(3)
    for n in (3, 4, 7, 12, 30, 50):
        values = random.permutation(n) + 1.0
        found = trend(values.tolist())
        assert found is not None
        assert found.p_value == pytest.approx(stats.kendalltau(range(n), values).pvalue)


@pytest.mark.parametrize("values", [[1, 1, 2, 2, 3], [2, 1, 1, 3, 3, 3], [5, 4, 4, 1, 1, 1, 1], [1, 2, 2, 3] * 20])
def test_trend_with_ties_is_scipys(values: list[int]) -> None:
    found = trend([float(value) for value in values])
    assert found is not None
    assert found.p_value == pytest.approx(stats.kendalltau(range(len(values)), values).pvalue)


def test_values_that_are_all_the_same_have_no_trend() -> None:
    for n in (3, 60):
        flat = trend([2.0] * n)
        assert flat is not None and (flat.change, flat.p_value) == (0.0, 1.0)


def test_trend_has_the_size_that_it_promises() -> None:
    found = [trend(row) for row in log_normal(11, 2000, 12)]
    assert sum(one is not None and one.p_value < 0.05 for one in found) / 2000 == pytest.approx(0.045, abs=0.012)


def test_one_wild_value_makes_no_trend() -> None:
    values = [1.0, 1.02, 0.99, 1.01, 0.98, 1.03, 1.0, 0.97, 1.01, 9.0]
    found = trend(values)
    assert found is not None
    assert abs(found.change) < 0.05 and found.p_value > 0.3


def test_first_effect_is_told_relative_to_the_others() -> None:
    assert first_effect([1.5, 1.0, 1.01, 0.99, 1.02, 0.98]) == pytest.approx(0.5)
    assert first_effect([0.5, 1.0, 1.01, 0.99, 1.02, 0.98]) == pytest.approx(-0.5)
    assert first_effect([1.03, 1.0, 1.01, 0.99, 1.02, 0.98]) is None
    assert first_effect([1.0, 1.5, 1.01, 0.99, 1.02, 0.98]) is None
    assert first_effect([1.2, 1.0, 1.0, 1.0]) == pytest.approx(0.2)


def test_first_effect_is_the_prediction_interval_of_the_others() -> None:
    others = [0.0, 0.1, -0.1, 0.05, -0.05]
    # t of 4 degrees of freedom at 99.5 % is 4.604 in the tables.
    reach = 4.604 * math.sqrt(0.025 / 4) * math.sqrt(1 + 1 / 5)

    def found(first: float) -> float | None:
        return first_effect([math.exp(value) for value in (first, *others)])

    assert found(reach - 0.001) is None
    assert found(reach + 0.001) == pytest.approx(math.expm1(reach + 0.001))


@pytest.mark.parametrize("n", [5, 20])
def test_first_effect_has_the_size_that_it_promises(n: int) -> None:
    found = [first_effect(row) for row in log_normal(13 + n, 5000, n)]
    assert 0.004 < sum(one is not None for one in found) / 5000 < 0.014


# Two builds


def test_hand_calculation_of_a_paired_ratio() -> None:
    # Walsh averages of -1 2 3: -1 0.5 1 2 2.5 3; positive ranks 2 + 3, P(T >= 5) = 2/8.
    paired = of_differences([2.0, -1.0, 3.0])

    assert paired.n == 3
    assert paired.ratio == pytest.approx(math.exp(1.5))
    assert paired.p_value == pytest.approx(0.5)
    assert (paired.low, paired.high) == (pytest.approx(math.exp(-1)), pytest.approx(math.exp(3)))
    assert paired.coverage == 0.75
    assert paired.minimum_detectable is None


@pytest.mark.parametrize(
    ("n", "outside", "coverage"),
    # Number of Walsh averages outside on each side and P(T <= number), from tables of the signed-rank distribution.
    [
        (5, 0, 1 - 2 / 32),
        (6, 0, 1 - 2 / 64),
        (7, 2, 1 - 6 / 128),
        (8, 3, 1 - 10 / 256),
        (9, 5, 0.9609),
        (10, 8, 0.9512),
        (15, 25, 0.9521),
        (20, 52, 0.9516),
        (30, 137, 0.9503),
    ],
)
def test_interval_is_that_of_the_tables(n: int, outside: int, coverage: float) -> None:
    differences = log_normal(n, n)[:n]
    walsh = sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(differences, 2))

    paired = of_differences(differences)

    assert math.log(paired.low) == pytest.approx(walsh[outside])
    assert math.log(paired.high) == pytest.approx(walsh[-1 - outside])
    assert paired.coverage == pytest.approx(coverage, abs=1e-4)


def test_signed_rank_test_without_ties_is_scipys() -> None:
    random = np.random.default_rng(17)
    for n in (1, 2, 5, 6, 10, 20, 40):
        for shift in (0.0, 0.5):
            differences = random.standard_normal(n) + shift
            paired = of_differences(differences.tolist())
            assert paired.p_value == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue, abs=1e-12)


@pytest.mark.parametrize(
    "differences",
    [[1, 1, 2, -2, 3], [0, 0, 1, 2, 3, -4], [0, 1, 1, 1, 1, 1, 1], [-1, 1, 0, 2, 2, 2, -3, 0], [1, 1, 1, 1, 1, 1]],
)
def test_signed_ranks_with_ties_and_zeros_count_all_signs(differences: list[int]) -> None:
    ranks = stats.rankdata(np.abs(differences))
    signed = ranks[np.array(differences) != 0]
    sums = [float(np.dot(signed, signs)) for signs in itertools.product((0, 1), repeat=len(signed))]
    positive = sum(rank for rank, value in zip(ranks, differences, strict=True) if value > 0)
    smaller = min(positive, sum(signed) - positive)
    expected = min(1.0, 2 * sum(value <= smaller for value in sums) / len(sums))

    # Powers of two, so that equal differences stay equal in floating point.
    paired = paired_ratio([1.0] * len(differences), [2.0**value for value in differences])

    assert paired is not None
    assert paired.p_value == pytest.approx(expected)


def test_test_and_interval_say_the_same() -> None:
    for row in log_normal(19, 300, 12):
        paired = of_differences([math.log(value) + 0.03 for value in row])
        # p <= 1 - coverage: beyond the interval. Between that and 5 % no value of p exists.
        assert (paired.p_value < 0.05) == (not paired.low <= 1.0 <= paired.high)


def test_swapped_builds_give_the_inverse() -> None:
    baseline, candidate = log_normal(23, 2, 11)

    one, other = paired_ratio(baseline, candidate), paired_ratio(candidate, baseline)

    assert one is not None and other is not None
    assert one.ratio * other.ratio == pytest.approx(1.0)
    assert one.low * other.high == pytest.approx(1.0)
    assert (one.p_value, one.spread) == (other.p_value, pytest.approx(other.spread))


def test_what_slows_both_down_alike_cancels() -> None:
    host = [1.0 + 2.4 * step / 11 for step in range(12)]
    noise = log_normal(29, 2, 12)
    steady = paired_ratio(noise[0], noise[1])
    drifting = paired_ratio(*[[a * b for a, b in zip(host, row, strict=True)] for row in noise])
    assert steady is not None and drifting is not None
    assert drifting.ratio == pytest.approx(steady.ratio)
    assert drifting.p_value == steady.p_value


def test_identical_values_are_no_difference() -> None:
    paired = paired_ratio([5e7] * 10, [5e7] * 10)

    assert paired is not None
    assert (paired.ratio, paired.low, paired.high, paired.p_value) == (1.0, 1.0, 1.0, 1.0)
    assert (paired.spread, paired.minimum_detectable) == (0.0, 0.0)
    assert judge(paired, 1.0, 0.05)[0] == "equivalent"


def test_a_constant_ratio_is_found_by_six_pairs_and_not_by_five() -> None:
    six = paired_ratio([1.0] * 6, [2.0] * 6)
    five = paired_ratio([1.0] * 5, [2.0] * 5)
    assert six is not None and five is not None
    assert (six.ratio, six.low, six.high) == (pytest.approx(2.0), pytest.approx(2.0), pytest.approx(2.0))
    assert six.p_value == pytest.approx(2 / 64)
    assert five.p_value == pytest.approx(2 / 32)
    assert LEAST_PAIRS == 6


def test_pairs_without_partner_or_value_are_refused() -> None:
    assert paired_ratio([], []) is None
    with pytest.raises(ValueError, match="2 values of the baseline and 1 of the candidate"):
        paired_ratio([1.0, 2.0], [1.0])
    for bad in (0.0, -2.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="positive, finite"):
            paired_ratio([1.0, 2.0], [1.0, bad])


def test_one_pair_promises_nothing() -> None:
    paired = paired_ratio([1.0], [2.0])
    assert paired is not None
    assert (paired.coverage, paired.p_value, paired.spread) == (0.0, 1.0, None)


@pytest.mark.parametrize("n", [7, 10, 20])
def test_minimum_detectable_change_is_found_four_times_in_five(n: int) -> None:
    exactly = of_differences([0.05 * stats.norm.ppf((place + 0.5) / 1000) for place in range(1000)])
    assert exactly.spread == pytest.approx(math.expm1(0.05), rel=0.01)
    rows = log_normal(31, 2000, n)
    # The change for the true spread, from the ratio of the reported one to the reported spread.
    first = of_differences([math.log(value) for value in rows[0]])
    assert first.minimum_detectable is not None and first.spread is not None
    change = 0.05 * math.log1p(first.minimum_detectable) / math.log1p(first.spread)

    found = sum(of_differences([math.log(value) + change for value in row]).p_value < 0.05 for row in rows) / 2000

    assert found == pytest.approx(0.80, abs=0.035)


@pytest.mark.parametrize(("n", "coverage"), [(5, 0.9375), (10, 0.9512), (20, 0.9516)])
def test_interval_of_the_ratio_covers_it_as_promised(n: int, coverage: float) -> None:
    rows = [of_differences([math.log(value) + math.log(1.05) for value in row]) for row in log_normal(37, 3000, n)]

    assert sum(paired.low <= 1.05 <= paired.high for paired in rows) / 3000 == pytest.approx(coverage, abs=0.014)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_holm_takes_probabilities_only(bad: float) -> None:
    with pytest.raises(ValueError, match="p-value"):
        holm([0.5, bad])


def test_outcomes_by_hand() -> None:
    assert outcome_test(7, 10, 0, 10) == pytest.approx(2 * math.comb(10, 7) / math.comb(20, 7))
    assert outcome_test(0, 10, 0, 10) == 1.0
    # Lady tasting tea: 3 of 4 cups right, on both sides.
    assert outcome_test(3, 4, 1, 4) == pytest.approx(34 / 70)
    assert outcome_test(0, 0, 3, 5) == 1.0


@pytest.mark.parametrize(("failed", "n"), [(-1, 5), (6, 5)])
def test_counts_that_cannot_be_are_refused(failed: int, n: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        outcome_test(failed, n, 1, 5)
    with pytest.raises(ValueError, match="cannot be"):
        outcome_test(1, 5, failed, n)


# Verdicts


@pytest.mark.parametrize(
    ("low", "high", "adjusted_p", "spread", "judgement"),
    [
        (0.97, 1.03, 1.0, 0.05, "equivalent"),
        (1.01, 1.04, 0.001, 0.05, "equivalent"),
        (1 / 1.05, 1.05, 1.0, 0.05, "equivalent"),
        (1.01, 1.06, 0.001, 0.05, "higher"),
        (0.85, 0.95, 0.049, 0.05, "lower"),
        (0.80, 0.90, 0.01, 0.5, "lower"),
        (0.94, 1.02, 0.3, 0.05, "undecided"),
        (1.01, 1.09, 0.05, 0.05, "undecided"),
        (0.80, 1.30, 0.8, 0.21, "unstable"),
        (0.80, 1.30, 0.8, 0.20, "undecided"),
    ],
)
def test_verdict(low: float, high: float, adjusted_p: float, spread: float, judgement: str) -> None:
    word, reason = judge(verdict_on(low, high, spread=spread), adjusted_p, 0.05)

    assert word == judgement
    assert reason and "\n" not in reason


def test_reasons_carry_the_numbers() -> None:
    assert judge(verdict_on(1.10, 1.30), 0.002, 0.05)[1] == "higher by 19.6 %, adjusted p = 0.002"
    assert judge(verdict_on(0.70, 0.80), 0.002, 0.05)[1] == "lower by 25.2 %, adjusted p = 0.002"
    assert "0.970 to 1.030" in judge(verdict_on(0.97, 1.03), 1.0, 0.05)[1]
    assert "30 %" in judge(verdict_on(0.7, 1.6, spread=0.3), 1.0, 0.05)[1]


def test_five_pairs_allow_no_verdict() -> None:
    with pytest.raises(ValueError, match="5 pairs allow no verdict; 6 are needed"):
        judge(verdict_on(1.1, 1.2, n=5), 0.01, 0.05)


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "safe"),
    [(0.96, 1.20, True, True), (0.94, 1.20, True, False), (0.80, 1.04, False, True), (0.80, 1.06, False, False)],
)
def test_regression_is_excluded_by_the_interval(low: float, high: float, higher_is_better: bool, safe: bool) -> None:
    assert no_regression(verdict_on(low, high), 0.05, higher_is_better) is safe
    assert no_regression(verdict_on(low, high, n=5), 0.05, higher_is_better) is False


def test_stopping_looks_at_the_width_alone() -> None:
    for middle in (0.5, 1.0, 3.0):
        assert narrow_enough(verdict_on(middle / 1.03, middle * 1.0299), 0.03)
        assert not narrow_enough(verdict_on(middle / 1.03, middle * 1.0301), 0.03)
    assert not narrow_enough(verdict_on(1.0, 1.0, n=9), 0.03)


def test_stopping_needs_several_narrow_looks_in_a_row() -> None:
    differences = [0.01 * (-1) ** step for step in range(LEAST_PAIRS_TO_STOP + LOOKS_TO_STOP)]

    def enough(values: list[float], target: float = 0.03) -> bool:
        return enough_pairs([1.0] * len(values), [math.exp(value) for value in values], target)

    assert not enough(differences[: LEAST_PAIRS_TO_STOP + LOOKS_TO_STOP - 2])
    assert enough(differences[: LEAST_PAIRS_TO_STOP + LOOKS_TO_STOP - 1])
    assert not enough(differences, target=0.001)
    assert not enough([])
    # Wide at first, narrow only now: not enough yet.
    wide_at_first = [0.3 * (-1) ** step for step in range(10)] + [0.0] * 200
    narrow = next(n for n in range(10, 210) if narrow_enough(of_differences(wide_at_first[:n]), 0.03))
    assert not enough(wide_at_first[:narrow])
    assert enough(wide_at_first[: narrow + LOOKS_TO_STOP - 1])
