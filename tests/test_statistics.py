"""Statistics against literal numbers."""

import pytest

from picolab.statistics import Interval, median, median_interval, order_statistic_coverage


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


@pytest.mark.parametrize(("n", "rank"), [(3, 0), (3, 2), (1, 1), (0, 1)])
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


def test_many_values_give_the_narrowest_interval_that_is_sure_enough() -> None:
    assert median_interval([float(value) for value in range(6)]) == Interval(0.0, 5.0, 0.96875)
    assert median_interval([float(value) for value in range(9)]) == Interval(1.0, 7.0, 0.9609375)
    interval = median_interval([float(value) for value in range(20)])
    assert interval is not None
    assert (interval.low, interval.high) == (5.0, 14.0)
    assert interval.coverage == pytest.approx(0.95861, abs=1e-5)


def test_confidence_may_be_chosen() -> None:
    values = [float(value) for value in range(9)]
    assert median_interval(values, confidence=0.8) == Interval(2.0, 6.0, 0.8203125)
