"""A search for the memory floor: the posterior of its trials, the next trial, and the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from picolab.analysis.floor import SURE, FloorInterval, FloorPosterior, posterior_of, proven_share
from picolab.analysis.floor_speed import SpeedFloor, look_at_speed
from picolab.analysis.floor_trials import FloorTrial, trials_of
from picolab.config.floor_search import FloorSearch
from picolab.config.plan import Plan, Purpose

MOST_SIZES = 3
"""Sizes at which a confirmation is tried before the search ends without one."""

State = Literal["unfinished", "found", "limit", "above", "below", "unconfirmed"]


@dataclass(frozen=True)
class Floor:
    """The state of a search.

    Attributes:
        state: `found`: interval narrow and confirmed; `limit`: the limit of trials came first; `above`, `below`: the
            floor is outside the searched range; `unconfirmed`: trials died at
            each recommended RAM, or the range has none above the interval.
        next_mb: RAM of the next trial; None when the search has ended.
        next_purpose: of the next trial.
        recommended_mb: RAM of the confirmation; None while the search continues or without an answer.
        confirmed: survivors and trials of the confirmation at the recommended RAM.
        failed_sizes: recommended sizes at which a confirmation trial died.
        proven: share that survives at least at the recommended RAM, from its confirmation alone; None without one.
        speed: what is known of the RAM from which trials run at full speed; None before that search, or without one.
    """

    search: FloorSearch
    trials: list[FloorTrial]
    posterior: FloorPosterior
    interval: FloorInterval
    state: State
    next_mb: float | None = None
    next_purpose: Purpose = "search"
    recommended_mb: float | None = None
    confirmed: tuple[int, int] = (0, 0)
    failed_sizes: tuple[float, ...] = ()
    proven: float | None = None
    speed: SpeedFloor | None = None

    @property
    def expected_left(self) -> int:
        """Trials that are still to come, as far as it can be guessed."""
        if self.next_mb is None:
            return 0
        if self.next_purpose == "confirmation":
            return self.search.confirm - self.confirmed[0]
        if self.speed is not None:
            return self.speed.expected_left
        halvings = math.log2(max(1.0, self.interval.reach / self.search.precision))
        left = self.search.limit - sum(trial.purpose == "search" for trial in self.trials)
        speed = 0 if self.search.slowdown is None else 2 * self.search.references
        return max(1, min(left, math.ceil(2 * halvings) + 1)) + self.search.confirm + speed


def look(search: FloorSearch, trials: Sequence[FloorTrial]) -> Floor:
    """Return what is known after these trials, and which one comes next.

    The search for full speed begins when that for survival has ended inside of the range.

    Args:
        trials: in the order in which they ran.
    """
    found = _look_at_survival(search, trials)
    if search.slowdown is None or found.next_mb is not None or found.state == "above":
        return found
    speed = look_at_speed(search, trials)
    return replace(found, speed=speed, next_mb=speed.next_mb, next_purpose=speed.next_purpose)


def _look_at_survival(search: FloorSearch, trials: Sequence[FloorTrial]) -> Floor:
    posterior = posterior_of(
        [(trial.ram_mb, trial.survived) for trial in trials],
        search.low_mb,
        search.high_mb,
        search.share,
        search.precision,
    )
    interval = posterior.interval()
    seeking = [trial for trial in trials if trial.purpose == "search"]
    confirming = [trial for trial in trials if trial.purpose == "confirmation"]

    def floor(state: State, **rest: Any) -> Floor:
        return Floor(search, list(trials), posterior, interval, state, **rest)

    below = posterior.chance_below(search.low_mb), posterior.chance_below(search.high_mb)
    narrow = interval.reach <= search.precision
    failed = tuple(dict.fromkeys(trial.ram_mb for trial in confirming if not trial.survived))
    last = confirming[-1].ram_mb if confirming else None
    # A death at the recommended size is evidence like any other: the search continues if the interval is too wide now.
    if last is None or (last in failed and len(failed) < MOST_SIZES):
        if not confirming and below[1] < SURE:
            return floor("above")
        if not narrow and below[0] <= 1 - SURE and len(seeking) < search.limit:
            return floor("unfinished", next_mb=posterior.next_level(search.levels()), failed_sizes=failed)
    if last is not None and last not in failed:
        recommended: float | None = last
    else:
        least = max([interval.high, *failed])
        levels = search.levels()
        recommended = next((level for level in levels if level >= least and level not in failed), None)
    ended: State = (
        "below" if below[0] > 1 - SURE else "limit" if not narrow and len(seeking) >= search.limit else "found"
    )
    if recommended is None or len(failed) >= MOST_SIZES:
        unconfirmed = failed or (search.confirm and ended == "found")
        return floor("unconfirmed" if unconfirmed else ended, failed_sizes=failed)
    here = [trial.survived for trial in confirming if trial.ram_mb == recommended]
    rest: dict[str, Any] = {
        "recommended_mb": recommended,
        "confirmed": (sum(here), len(here)),
        "failed_sizes": failed,
        "proven": proven_share(sum(here), len(here)) if here else None,
    }
    if len(here) < search.confirm:
        return floor("unfinished", next_mb=recommended, next_purpose="confirmation", **rest)
    return floor(ended, **rest)


def floors_of(plan: Plan, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Floor]:
    """Return what a campaign knows of the floor of each build, by label, in the order of the command.

    Args:
        rows: of `record_row`, by trial_id.
    """
    assert plan.floor is not None
    return {label: look(plan.floor, trials) for label, trials in trials_of(plan, rows).items()}
