"""The memory floor: seeded searches on a simulator with a known floor, the end of a search, and what is proven."""

import itertools
import math
import random
import statistics
from collections.abc import Callable

import pytest
from scipy.special import ndtri

from picolab.analysis.floor import FloorPosterior, posterior_of, proven_share, trials_to_prove
from picolab.analysis.floor_search import Floor, FloorTrial, look
from picolab.config.floor_search import FloorSearch, as_ram_mb

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
