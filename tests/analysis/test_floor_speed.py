"""The RAM of full speed: simulated searches with a known slow-down, noise, and servers that are never fast."""

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from picolab.analysis.floor_comparison import exit_code, ratios
from picolab.analysis.floor_search import Floor, look
from picolab.analysis.floor_speed import SpeedFloor
from picolab.analysis.floor_trials import FloorTrial
from picolab.config.floor_search import FloorSearch
from picolab.exit_codes import ExitCode
from picolab.report.floor_lines import ratio_line

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


def test_full_speed_of_two_builds_gives_a_verdict_of_its_own() -> None:
    # Both survive from 30 MiB on, and one of them runs at full speed much earlier.
    floors = {
        name: searched(lambda ram, f=full: None if ram < SURVIVES_FROM else max(1.0, f / ram) ** 8)  # type: ignore[misc]
        for name, full in (("early", 50), ("late", 90), ("late too", 90))
    }
    survival, speed = ratios({name: floors[name] for name in ("early", "late")}, 0.2)
    assert (survival.subject, survival.verdict) == ("survival", "equivalent")
    assert (speed.subject, speed.verdict) == ("full speed", "needs more")
    assert speed.ratio is not None and speed.ratio.low < 1.8 < speed.ratio.high < 1.4 * speed.ratio.low
    assert ratio_line(speed).endswith("of early's RAM for full speed (needs more).")
    pair = {name: floors[name] for name in ("late", "late too")}
    assert [one.verdict for one in ratios(pair, 0.2)] == ["equivalent", "equivalent"]
    codes = [
        exit_code({name: floors[name] for name in names}, 0.2)
        for names in (("early", "late"), ("late", "early"), ("late", "late too"))
    ]
    assert codes == [ExitCode.REGRESSION, ExitCode.OK, ExitCode.OK]


def test_uncertain_references_widen_the_ratio() -> None:
    chance = random.Random(3)
    exact = searched(lambda ram: thrashing(ram, 4, 0.0, chance))
    vague = searched(lambda ram: thrashing(ram, 4, 0.05, chance), SEARCH.model_copy(update={"limit": 20}))
    assert exact.speed is not None and vague.speed is not None
    assert exact.speed.widened == (1.0, 1.0) and min(vague.speed.widened) >= 1.0 < max(vague.speed.widened)
    ratio = ratios({"exact": exact, "vague": vague}, 0.2)[1].ratio
    assert ratio is not None and vague.speed.posterior is not None and exact.speed.posterior is not None
    own = vague.speed.posterior.ratio_to(exact.speed.posterior)
    assert (own.low / ratio.low, ratio.high / own.high) == pytest.approx(vague.speed.widened)


def test_full_speed_that_is_not_in_the_range_has_a_verdict_without_a_ratio() -> None:
    inside = searched(lambda ram: thrashing(ram, 4, 0.0, random.Random(1)))
    below = searched(lambda ram: 1.0)
    never = searched(lambda ram: None)
    noisy = replace(inside, speed=SpeedFloor("above"))
    early = replace(inside, speed=None)
    for candidate, verdict, words in (
        (below, "needs less", "full speed of b begins below the searched range, that of a inside of it"),
        (never, "needs more", "too few trials of b survive in the searched range"),
        (noisy, "undecided", "or its times vary too much"),
        (early, "undecided", "full speed of b is not searched yet"),
    ):
        found = ratios({"a": inside, "b": candidate}, 0.2)[1]
        assert (found.subject, found.ratio, found.verdict) == ("full speed", None, verdict)
        assert words in found.reason and words in ratio_line(found)
    # The other build has no full speed either, as far as is known.
    for alive in (noisy, early):
        for pair in ({"a": alive, "b": never}, {"a": never, "b": alive}):
            assert ratios(pair, 0.2)[1].verdict == "undecided"


def test_no_speed_is_searched_above_the_range_or_unasked() -> None:
    assert searched(lambda ram: None).speed is None
    assert searched(lambda ram: 1.0 if ram > 30 else None, SEARCH.model_copy(update={"slowdown": None})).speed is None
