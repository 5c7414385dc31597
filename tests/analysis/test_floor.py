"""The memory floor: seeded searches on a simulator with a known floor, the end of a search, and what is proven."""

import itertools
import math
import random
import statistics
from collections.abc import Callable

import numpy as np
import psignifit
import pytest
from scipy.special import ndtri

from picolab.analysis.floor import LAPSE, FloorPosterior, posterior_of, proven_share, trials_to_prove
from picolab.analysis.floor_comparison import exit_code, ratios
from picolab.analysis.floor_search import Floor, look
from picolab.analysis.floor_trials import FloorTrial
from picolab.config.floor_search import FloorSearch, as_ram_mb
from picolab.exit_codes import ExitCode

SEARCH = FloorSearch(low_mb=4, high_mb=1024, confirm=0)


def searched(seed: int, softness: float, limit: int) -> tuple[int, bool, float]:
    """Return the trials of a simulated search, whether its interval has the floor, and the error of its middle."""
    chance = random.Random(seed)
    need = math.exp(chance.uniform(math.log(10), math.log(500)))
    floor = need * math.exp(softness * ndtri(SEARCH.share))
    found, levels = FloorPosterior(4, 1024, SEARCH.share, SEARCH.precision), SEARCH.levels()
    count = 0
    while count < limit and found.interval().reach > SEARCH.precision:
        count += 1
        ram = found.next_level(levels)
        found.add(ram, ram >= need * math.exp(chance.gauss(0, softness)))
    interval = found.interval()
    return count, interval.low <= floor <= interval.high, abs(interval.middle / floor - 1)


def test_interval_holds_a_sharp_floor_after_few_trials() -> None:
    found = [searched(seed, 0.01, 80) for seed in range(40)]

    assert sum(holds for _, holds, _ in found) >= 0.93 * len(found)
    assert statistics.median(error for _, _, error in found) <= 0.05
    assert statistics.median(count for count, _, _ in found) <= 22


def test_interval_holds_a_soft_floor() -> None:
    found = [searched(seed, 0.1, 50) for seed in range(15)]

    assert sum(holds for _, holds, _ in found) >= 0.93 * len(found) - 1
    assert statistics.median(error for _, _, error in found) <= 0.05


def test_exact_bound_of_a_survival_share() -> None:
    assert proven_share(20, 20) == pytest.approx(0.861, abs=0.001)
    assert proven_share(59, 59) == pytest.approx(0.9505, abs=0.001)
    assert trials_to_prove(0.95) == 59
    assert proven_share(0, 5) == 0
    with pytest.raises(ValueError, match="3 of 2 trials"):
        proven_share(3, 2)


def test_curve_rises_inside_its_band() -> None:
    found = posterior_of([(16, False), (32, True), (24, True), (20, False)], 4, 1024, 0.95, 0.1)
    curve = found.curve([8, 16, 24, 32, 64])

    assert [mean for _, mean, _ in curve] == sorted(mean for _, mean, _ in curve)
    assert all(low <= mean <= high for low, mean, high in curve)


def test_levels_are_readable_and_close() -> None:
    levels = SEARCH.levels()

    assert levels[0] == 4
    assert levels[-1] == 1024
    assert all(one < other <= one * 1.06 for one, other in itertools.pairwise(levels))
    assert all(float(as_ram_mb(level)) == level for level in levels)
    assert type(as_ram_mb(64.0)) is int
    assert all(level.is_integer() for level in FloorSearch(low_mb=96, high_mb=512, step_mb=1).levels())


def ended(survives: Callable[[float], bool], **changes: float) -> Floor:
    """Return the end of a whole search, its confirmation included."""
    search = FloorSearch.model_validate(SEARCH.model_dump() | changes)
    trials: list[FloorTrial] = []
    while (found := look(search, trials)).next_mb is not None:
        assert len(trials) < 200
        lives = survives(found.next_mb)
        trials.append(FloorTrial(str(len(trials)), found.next_mb, found.next_purpose, lives, "ok" if lives else "oom"))
    return found


def test_search_ends_with_confirmation() -> None:
    found = ended(lambda ram: ram >= 50, confirm=20)

    assert found.state == "found"
    assert found.interval.low <= 50 <= found.interval.high <= (found.recommended_mb or 0) <= 60
    assert found.confirmed == (20, 20)
    assert found.proven == pytest.approx(0.861, abs=0.001)


def test_floor_outside_the_range_is_told_apart() -> None:
    assert ended(lambda ram: False, confirm=3).state == "above"
    below = ended(lambda ram: True, confirm=3)
    assert below.state == "below"
    assert below.recommended_mb is not None
    assert below.recommended_mb < 6


def test_interval_at_the_end_of_the_range_leaves_no_recommendation() -> None:
    found = ended(lambda ram: ram >= 50, high_mb=52, low_mb=40, confirm=1)

    assert (found.state, found.recommended_mb) == ("unconfirmed", None)


def test_death_in_a_confirmation_moves_it_up() -> None:
    seen: list[float] = []

    def survives(ram: float) -> bool:
        seen.append(ram)
        return ram >= 50 and seen.count(ram) != 6 if ram >= 54 else ram >= 50

    found = ended(survives, confirm=10)

    assert found.failed_sizes
    assert all(size < (found.recommended_mb or math.inf) for size in found.failed_sizes)
    assert found.state in ("limit", "found", "unconfirmed")


def test_limit_ends_a_search() -> None:
    chance = random.Random(3)
    found = ended(lambda ram: ram >= 50 * math.exp(chance.gauss(0, 0.3)), limit=12)

    assert found.state == "limit"
    assert len(found.trials) == 12


def trials_at(need: float) -> list[FloorTrial]:
    """Return the trials of a finished search whose server survives from this RAM on."""
    return ended(lambda ram: ram >= need).trials


def test_floors_of_two_builds_give_a_verdict() -> None:
    floors = {name: look(SEARCH, trials_at(need)) for name, need in (("old", 50), ("same", 50.5), ("new", 70))}

    pair = {name: {"old": floors["old"], name: floors[name]} for name in ("same", "new")}
    (same,), (more,) = ratios(pair["same"], 0.2), ratios(pair["new"], 0.2)

    assert same.verdict == "equivalent"
    assert same.no_regression
    assert more.verdict == "needs more"
    assert more.ratio is not None
    assert more.ratio.low < 1.4 < more.ratio.high < more.ratio.low * 1.35
    assert exit_code(pair["same"], 0.2) is ExitCode.OK
    assert exit_code(pair["same"], 0.01) is ExitCode.UNDECIDED
    assert exit_code(pair["new"], 0.2) is ExitCode.REGRESSION
    assert exit_code(dict(reversed(pair["new"].items())), 0.2) is ExitCode.OK
    together = ratios(floors, 0.2)[0].ratio
    assert together is not None
    assert same.ratio is not None
    assert together.low < same.ratio.low < same.ratio.high < together.high


def test_floor_outside_the_range_has_a_verdict_without_a_ratio() -> None:
    floors = {"old": look(SEARCH, trials_at(50)), "new": look(SEARCH, trials_at(1e6))}

    (found,) = ratios(floors, 0.2)

    assert (found.ratio, found.verdict) == (None, "needs more")
    assert "above the searched range" in found.reason
    assert exit_code(dict(reversed(floors.items())), 0.2) is ExitCode.OK
    assert exit_code({"one": floors["new"], "other": floors["new"]}, 0.2) is ExitCode.UNDECIDED


def test_interval_of_a_ratio_holds_it() -> None:
    held = 0
    for seed in range(6):
        chance = random.Random(seed)
        found = []
        for need in (50.0, 65.0):
            posterior = FloorPosterior(4, 1024, 0.95, 0.1)
            for _ in range(16):
                ram = posterior.next_level(SEARCH.levels())
                posterior.add(ram, ram >= need * math.exp(chance.gauss(0, 0.02)))
            found.append(posterior)
        ratio = found[1].ratio_to(found[0])
        held += ratio.low <= 1.3 <= ratio.high
    assert held >= 5


def test_threshold_agrees_with_that_of_psignifit() -> None:
    # Survivors of 20 trials at each RAM, drawn once with a need of 50 MiB and a spread of 20 %.
    survivors = {30: 0, 35: 1, 40: 0, 45: 4, 50: 9, 55: 14, 60: 13, 70: 19, 80: 19, 100: 20}
    trials = [(float(ram), place < count) for ram, count in survivors.items() for place in range(20)]
    fixed = {"lambda": LAPSE, "gamma": LAPSE, "eta": 0.0}
    oracle = psignifit.psignifit(
        np.array([(math.log(ram), count, 20) for ram, count in survivors.items()]),
        sigmoid="norm",
        experiment_type="yes/no",
        fixed_parameters=fixed,
    )
    for share in (0.95, 0.5):
        threshold, intervals = oracle.threshold(share)
        low, high = intervals["0.95"]
        found = posterior_of(trials, 4, 1024, share, 0.1).interval()
        assert math.log(found.middle) == pytest.approx(threshold, abs=0.03)
        assert math.log(found.low) == pytest.approx(low, abs=0.05)
        assert math.log(found.high) == pytest.approx(high, abs=0.05)
