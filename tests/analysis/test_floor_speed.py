"""The RAM of full speed: simulated searches with a known slow-down, noise, and servers that are never fast."""

import math
import random
from collections.abc import Callable

from picolab.analysis.floor_search import Floor, look
from picolab.analysis.floor_trials import FloorTrial
from picolab.config.floor_search import FloorSearch

SEARCH = FloorSearch(low_mb=16, high_mb=256, confirm=2, slowdown=0.1)
SURVIVES_FROM, FULL_SPEED_FROM = 30, 80


def searched(seconds: Callable[[float], float | None], search: FloorSearch = SEARCH) -> Floor:
    """Return the end of a search; `seconds` gives the time of a trial at a RAM, None when it does not survive."""
    trials: list[FloorTrial] = []
    while (found := look(search, trials)).next_mb is not None:
        assert len(trials) < 200
        took_s = seconds(found.next_mb)
        outcome = "timed_out" if took_s is None else "ok"
        trials.append(
            FloorTrial(str(len(trials)), found.next_mb, found.next_purpose, took_s is not None, outcome, took_s)
        )
    return found


def thrashing(ram: float, power: float, noise: float, chance: random.Random) -> float | None:
    if ram < SURVIVES_FROM:
        return None
    return max(1.0, FULL_SPEED_FROM / ram) ** power * math.exp(chance.gauss(0, noise))


def test_interval_holds_the_ram_of_full_speed() -> None:
    held = 0
    for seed, (power, noise) in enumerate([(4, 0.0), (4, 0.01), (2, 0.02), (8, 0.03), (30, 0.08)]):
        chance = random.Random(seed)
        found = searched(lambda ram, p=power, n=noise, c=chance: thrashing(ram, p, n, c))  # type: ignore[misc]
        assert found.speed is not None
        assert found.speed.interval is not None
        assert found.speed.state in ("found", "limit")
        truth = FULL_SPEED_FROM / 1.1 ** (1 / power)
        held += found.speed.interval.low <= truth <= found.speed.interval.high
        assert found.interval.low <= SURVIVES_FROM <= found.interval.high
    assert held == 5


def test_timeouts_are_slower_than_anything() -> None:
    found = searched(lambda ram: 1.0 if ram >= 60 else None)

    assert found.speed is not None
    assert found.speed.interval is not None
    assert found.speed.state == "found"
    assert found.speed.interval.low <= 60 <= found.speed.interval.high
    assert found.speed.interval.low <= found.interval.high


def test_times_that_vary_much_leave_a_wide_interval() -> None:
    chance = random.Random(1)
    found = searched(lambda ram: thrashing(ram, 4, 0.5, chance), SEARCH.model_copy(update={"limit": 20}))

    assert found.speed is not None
    assert found.speed.interval is not None
    assert found.speed.state == "limit"
    assert found.speed.interval.reach > 2 * SEARCH.precision
    assert found.speed.interval.low <= FULL_SPEED_FROM / 1.1**0.25 <= found.speed.interval.high


def test_drift_is_met_by_further_references() -> None:
    found = searched(lambda ram: thrashing(ram, 4, 0.03, random.Random(f"{ram}")))

    speed = [trial for trial in found.trials if trial.purpose == "speed"]
    references = [trial for trial in found.trials if trial.purpose == "reference"]
    assert len(references) >= 5 + (len(speed) - 1) // 4
    assert {trial.ram_mb for trial in references} == {256}


def test_no_speed_is_searched_above_the_range_or_unasked() -> None:
    assert searched(lambda ram: None).speed is None
    assert searched(lambda ram: 1.0 if ram > 30 else None, SEARCH.model_copy(update={"slowdown": None})).speed is None
