"""Predictions: coverage on seeded simulations of known laws, the choice of a law, outliers, refusals, scalability."""

import random

import pytest

from picolab.analysis.prediction import SizeFit, TooFewTrials, fit_sizes
from picolab.analysis.robust_line import robust_line
from picolab.analysis.scalability import fit_scalability

SIZES = (1 / 16, 1 / 4, 1.0)


def points_of(fixed: float, slope: float, spread: float, chance: random.Random) -> list[tuple[float, float]]:
    return [(size, (fixed + slope * size) * chance.lognormvariate(0, spread)) for size in SIZES for _ in range(3)]


def fitted(fixed: float, slope: float, spread: float, seed: int = 1) -> SizeFit:
    return fit_sizes(points_of(fixed, slope, spread, random.Random(seed)))


@pytest.mark.parametrize(("fixed", "slope"), [(0.05, 1.0), (1.0, 0.0), (1.0, 0.2)])
def test_interval_of_90_percent_covers_an_unseen_size(fixed: float, slope: float) -> None:
    covered = 0
    for seed in range(60):
        chance = random.Random(seed)
        predicted = fit_sizes(points_of(fixed, slope, 0.1, chance)).predict(2.0)
        seen = (fixed + slope * 2) * chance.lognormvariate(0, 0.1)
        covered += predicted.low <= seen <= predicted.high
    assert covered >= 0.85 * 60


def test_law_is_constant_or_linear_as_the_sizes_say() -> None:
    assert fitted(0.1, 1.0, 0.02).law == "linear"
    assert fitted(1.0, 0.0, 0.0).law == "constant"
    linear = fitted(0.5, 2.0, 0.0)
    assert linear.fixed == pytest.approx(0.5, rel=1e-3)
    assert linear.per_unit == pytest.approx(2.0, rel=1e-3)
    assert linear.predict(4.0).middle == pytest.approx(8.5, rel=1e-3)


def test_constant_does_not_deny_a_slope_that_cannot_be_seen() -> None:
    fit = fitted(1.0, 0.0, 0.1, seed=3)
    near, far = fit.predict(1.0), fit.predict(4.0)

    assert fit.law == "constant"
    assert near.middle == far.middle
    assert far.high > near.high
    assert far.extrapolated
    assert not near.extrapolated


def test_an_outlier_moves_the_line_by_little() -> None:
    points = points_of(0.1, 1.0, 0.02, random.Random(1))
    spoilt = [*points[:-1], (points[-1][0], points[-1][1] * 5)]

    assert fit_sizes(spoilt).predict(2.0).middle == pytest.approx(fit_sizes(points).predict(2.0).middle, rel=0.2)


def test_nothing_is_predicted_beyond_four_times_the_largest_size() -> None:
    fit = fitted(0.1, 1.0, 0.02)

    assert fit.predict(4.0).middle == pytest.approx(4.1, rel=0.1)
    with pytest.raises(ValueError, match="not between 0 and 4 times 1"):
        fit.predict(4.01)


def test_too_few_trials_have_no_line() -> None:
    with pytest.raises(TooFewTrials, match="there are 6 trials of 2 sizes"):
        fit_sizes([(1, 1), (2, 2)] * 3)
    with pytest.raises(TooFewTrials, match="3 trials of 3 sizes"):
        fit_sizes([(1, 1), (2, 2), (3, 3)])
    with pytest.raises(ValueError, match="above 0"):
        fit_sizes([(1, 0), (2, 2), (3, 3)] * 2)
    with pytest.raises(ValueError, match="2 values are too few for 2 terms"):
        robust_line([[1, 1], [1, 2]], [1, 2])


def test_scalability_law_is_recovered_with_its_peak() -> None:
    chance = random.Random(1)
    points = [
        (n, 50 * n / (1 + 0.1 * (n - 1) + 0.02 * n * (n - 1)) * chance.lognormvariate(0, 0.01))
        for n in (1, 2, 4, 8)
        for _ in range(3)
    ]
    law = fit_scalability(points)

    assert law.rate == pytest.approx(50, rel=0.05)
    assert law.contention == pytest.approx(0.1, abs=0.04)
    assert law.coherency == pytest.approx(0.02, abs=0.01)
    assert law.peak == pytest.approx(6.7, rel=0.2)
    assert law.predict(4).low < 50 * 4 / 1.54 < law.predict(4).high
    with pytest.raises(ValueError, match="33 uploads are not between 1 and 4 times 8"):
        law.predict(33)
    assert fit_scalability([(n, 10.0 * n) for n in (1, 2, 4, 8)] * 2).peak is None
    with pytest.raises(TooFewTrials, match="4 numbers"):
        fit_scalability([(1, 1.0), (2, 2.0), (3, 3.0)] * 3)
