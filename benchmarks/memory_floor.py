"""How often the interval of a floor search holds the floor, and how many trials the search takes, on a simulator.

    python benchmarks/memory_floor.py
    python benchmarks/memory_floor.py --first-seed 2000 --searches 40 --softness 0.2 --limit 160

Each search has a known floor between 10 and 500 MiB. A simulated trial survives when its RAM is at least the need of
that trial: lognormal, with the spread of the row. docs/floor.md has the results.
"""

import argparse
import math
import random
import statistics
from typing import NamedTuple

from scipy.special import ndtri

from picolab.analysis.floor import FloorPosterior
from picolab.config.floor_search import FloorSearch

SOFTNESSES = (0.0, 0.01, 0.1, 0.2)


class Simulated(NamedTuple):
    """A simulated search: its trials, whether its interval holds the floor, and the relative error of its middle."""

    trials: int
    holds: bool
    error: float


def simulated(seed: int, softness: float, search: FloorSearch) -> Simulated:
    """Return a search on a simulated server whose need varies by `softness` (standard deviation of its logarithm)."""
    chance = random.Random(seed)
    need = math.exp(chance.uniform(math.log(10), math.log(500)))
    floor = need * math.exp(softness * float(ndtri(search.share)))
    found, levels = FloorPosterior(search.low_mb, search.high_mb, search.share, search.precision), search.levels()
    count = 0
    while count < search.limit and found.interval().reach > search.precision:
        count += 1
        ram = found.next_level(levels)
        found.add(ram, ram >= need * math.exp(chance.gauss(0, softness)))
    interval = found.interval()
    return Simulated(count, interval.low <= floor <= interval.high, abs(interval.middle / floor - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--searches", type=int, default=100, help="for each row")
    parser.add_argument("--softness", type=float, action="append", help="spread of the need; may be repeated")
    parser.add_argument("--limit", type=int, default=80)
    parser.add_argument("--precision", type=float, default=0.1)
    parser.add_argument("--share", type=float, default=0.95)
    given = parser.parse_args()
    search = FloorSearch(
        low_mb=4, high_mb=1024, confirm=0, limit=given.limit, precision=given.precision, share=given.share
    )
    seeds = range(given.first_seed, given.first_seed + given.searches)
    for softness in given.softness or SOFTNESSES:
        found = [simulated(seed, softness, search) for seed in seeds]
        print(
            f"spread {softness:4.0%}: {sum(one.holds for one in found)} of {len(found)} intervals hold the floor, "
            f"median error {statistics.median(one.error for one in found):.1%}, "
            f"trials: median {statistics.median(one.trials for one in found):g}, "
            f"most {max(one.trials for one in found)}, at the limit {sum(one.trials == search.limit for one in found)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
