"""How often the intervals of a floor search hold the truth, and how many trials a search takes, on a simulator.

    python benchmarks/memory_floor.py
    python benchmarks/memory_floor.py floor --first-seed 3000 --searches 40 --spread 0.2 --limit 160
    python benchmarks/memory_floor.py speed --spread 0.05
    python benchmarks/memory_floor.py ratio
    python benchmarks/memory_floor.py real
    python benchmarks/memory_floor.py real 100M 500M

Each search has a known floor between 10 and 500 MiB.

- `floor`: a trial survives when its RAM is at least its need: lognormal, with the spread of the row.
- `speed`: below three times its need a server takes (3 x need / RAM)^4 as long; times vary by the spread of the row.
- `ratio`: two builds, of which the second needs 1.3 times as much, with the spread of the row.
- `real`: three searches on this host with the calibration server, whose floor is known (minutes).
- `real SIZE...`: the trials and the minutes of a search with the defaults of `picolab floor --file-size SIZE`, for a
  calibration server at full speed that survives from 60 MiB on; at most --minutes each.

docs/floor.md has the results.
"""

import argparse
import math
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from scipy.special import ndtri

from picolab.analysis.floor import FloorInterval
from picolab.analysis.floor_search import Floor, look
from picolab.analysis.floor_trials import FloorTrial
from picolab.campaign.floor import make_floor_plan, make_search
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.floor_search import FloorSearch
from picolab.config.trial_parameters import TrialParameters

SPREADS = {"floor": (0.0, 0.01, 0.1, 0.2), "speed": (0.0, 0.02, 0.05, 0.1), "ratio": (0.0, 0.05, 0.1)}
RATIO = 1.3
FULL_SPEED, POWER, SLOWDOWN = 3.0, 4.0, 0.1
REAL_NEEDS_MIB = (40, 60, 90)
COST_NEED_MIB = 60


class Simulated(NamedTuple):
    """A simulated search: its trials, whether its interval holds the truth, and the relative error of its middle."""

    trials: int
    holds: bool
    error: float
    reached_limit: bool


def judged(trials: int, interval: FloorInterval, truth: float, reached_limit: bool) -> Simulated:
    holds = interval.low <= truth <= interval.high
    return Simulated(trials, holds, abs(interval.middle / truth - 1), reached_limit)


def searched(search: FloorSearch, trial: Callable[[float], float | None]) -> Floor:
    """Return the end of a search; `trial` gives the time of a trial at a RAM, None when it does not survive."""
    trials: list[FloorTrial] = []
    while (found := look(search, trials)).next_mb is not None:
        took_s = trial(found.next_mb)
        outcome = "oom_killed" if took_s is None else "ok"
        trials.append(FloorTrial("", found.next_mb, found.next_purpose, took_s is not None, outcome, took_s))
    return found


def floor_of(need: float, spread: float, search: FloorSearch) -> float:
    return need * math.exp(spread * float(ndtri(search.share)))


def simulated_floor(seed: int, spread: float, search: FloorSearch) -> Simulated:
    chance = random.Random(seed)
    need = math.exp(chance.uniform(math.log(10), math.log(500)))
    found = searched(search, lambda ram: 1.0 if ram >= need * math.exp(chance.gauss(0, spread)) else None)
    return judged(len(found.trials), found.interval, floor_of(need, spread, search), found.state == "limit")


def simulated_speed(seed: int, spread: float, search: FloorSearch) -> Simulated:
    chance = random.Random(seed)
    need = math.exp(chance.uniform(math.log(10), math.log(150)))
    full = FULL_SPEED * need
    search = search.model_copy(update={"slowdown": SLOWDOWN})

    def trial(ram: float) -> float | None:
        slower = max(1.0, full / ram) ** POWER
        return slower * math.exp(chance.gauss(0, spread)) if ram >= need else None

    found = searched(search, trial)
    assert found.speed is not None and found.speed.interval is not None
    count = sum(one.purpose in ("speed", "reference") for one in found.trials)
    truth = full / (1 + SLOWDOWN) ** (1 / POWER)
    return judged(count, found.speed.interval, truth, found.speed.state == "limit")


def simulated_ratio(seed: int, spread: float, search: FloorSearch) -> Simulated:
    chance = random.Random(seed)
    need = math.exp(chance.uniform(math.log(10), math.log(350)))

    def build(need: float) -> Floor:
        return searched(search, lambda ram: 1.0 if ram >= need * math.exp(chance.gauss(0, spread)) else None)

    one, other = build(need), build(RATIO * need)
    ratio = other.posterior.ratio_to(one.posterior)
    return judged(len(one.trials) + len(other.trials), ratio, RATIO, "limit" in (one.state, other.state))


def real() -> None:
    for need_mib in REAL_NEEDS_MIB:
        with tempfile.TemporaryDirectory(prefix="picolab-floor-", dir="/var/tmp") as folder:
            os.environ |= {"PICOLAB_STATE_DIR": f"{folder}/state", "PICOLAB_OUTPUTS_DIR": f"{folder}/outputs"}
            knobs = {"memory_need_mib": need_mib, "full_speed_mib": 2 * need_mib, "full_speed_power": 2}
            knobs |= {"transfer_mib_s": 8, "commit_mib_s": 8}
            parameters = TrialParameters.model_validate(
                {"file_size": "2M", "keep_machine": "never", "calibration": knobs}
            )
            search = make_search({"low_mb": 24, "high_mb": 512, "confirm": 5, "slowdown": SLOWDOWN}, "local", "real")
            campaign = Campaign.create(make_floor_plan([parameters], search, "real", "real", 1, 0), Watcher())
            campaign.run()
            found = look(search, searched_trials(campaign))
            speed = found.speed.interval if found.speed is not None else None
            full = 2 * need_mib / math.sqrt(1 + SLOWDOWN)
            print(f"need {need_mib} MiB: {words(found.interval, need_mib)}", flush=True)
            if speed is not None:
                print(f"  full speed from {full:.1f} MiB: {words(speed, full)}, {len(found.trials)} trials", flush=True)


def cost(file_size: str, minutes: float) -> None:
    """Print the trials and the minutes of a search as `picolab floor` runs it."""
    with tempfile.TemporaryDirectory(prefix="picolab-floor-", dir="/var/tmp") as folder:
        os.environ |= {"PICOLAB_STATE_DIR": f"{folder}/state", "PICOLAB_OUTPUTS_DIR": f"{folder}/outputs"}
        parameters = TrialParameters.model_validate(
            {"file_size": file_size, "keep_machine": "never", "calibration": {"memory_need_mib": COST_NEED_MIB}}
        )
        search = make_search({}, "local", "real")
        plan = make_floor_plan([parameters], search, "real", "real", 1, 0)
        campaign = Campaign.create(plan, Watcher(note=lambda line: print(f"  {line}", flush=True)))
        campaign.budget_s = minutes * 60
        begun_s, loads = time.monotonic(), [os.getloadavg()[0]]
        campaign.run()
        took_s = time.monotonic() - begun_s
        loads.append(os.getloadavg()[0])
        found = look(search, searched_trials(campaign))
        purposes = Counter(trial.purpose for trial in found.trials)
        done = ", ".join(f"{count} for the {purpose}" for purpose, count in purposes.items())
        died = sum(not trial.survived for trial in found.trials)
        recommended = "" if found.recommended_mb is None else f", recommended {found.recommended_mb:.4g} MiB"
        print(
            f"{file_size}: {found.state} after {len(found.trials)} trials ({done}; {died} died) in {took_s / 60:.1f} "
            f"minutes, {took_s / len(found.trials):.1f} s each; need {COST_NEED_MIB} MiB: "
            f"{words(found.interval, COST_NEED_MIB)}{recommended}; {os.cpu_count()} processors, load "
            f"{loads[0]:.1f} before and {loads[1]:.1f} after",
            flush=True,
        )


def searched_trials(campaign: Campaign) -> list[FloorTrial]:
    from picolab.analysis.floor_trials import trials_of

    (trials,) = trials_of(campaign.plan, campaign.tally.rows).values()
    return trials


def words(found: FloorInterval, truth: float) -> str:
    return f"found {found.middle:.1f} [{found.low:.1f}, {found.high:.1f}], off by {found.middle / truth - 1:+.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=[*SPREADS, "real"], default="floor")
    parser.add_argument("sizes", nargs="*", help="of `real`: file sizes whose search is timed")
    parser.add_argument("--minutes", type=float, default=10.0, help="of `real SIZE`, at most for each size")
    parser.add_argument("--first-seed", type=int, default=2000)
    parser.add_argument("--searches", type=int, default=100, help="for each row")
    parser.add_argument("--spread", type=float, action="append", help="of a row; may be repeated")
    parser.add_argument("--limit", type=int, default=80)
    parser.add_argument("--precision", type=float, default=0.1)
    parser.add_argument("--share", type=float, default=0.95)
    given = parser.parse_args()
    if given.what == "real":
        for size in given.sizes:
            cost(size, given.minutes)
        if not given.sizes:
            real()
        return
    search = FloorSearch(
        low_mb=4, high_mb=1024, confirm=0, limit=given.limit, precision=given.precision, share=given.share
    )
    simulated = {"floor": simulated_floor, "speed": simulated_speed, "ratio": simulated_ratio}[given.what]
    for spread in given.spread or SPREADS[given.what]:
        seeds = range(given.first_seed, given.first_seed + given.searches)
        found = [simulated(seed, spread, search) for seed in seeds]
        print(
            f"{given.what}, spread {spread:4.0%}: {sum(one.holds for one in found)} of {len(found)} intervals hold the "
            f"truth, median error {statistics.median(one.error for one in found):.1%}, "
            f"trials: median {statistics.median(one.trials for one in found):g}, "
            f"most {max(one.trials for one in found)}; {sum(one.reached_limit for one in found)} reached the limit",
            flush=True,
        )


if __name__ == "__main__":
    main()
