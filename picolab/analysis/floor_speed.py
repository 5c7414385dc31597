"""The RAM from which a server runs at full speed: a second curve after that of survival.

Full speed is the median time of trials at the largest RAM of the range. A trial is fast when it survives and takes at
most `slowdown` longer than that. At the floor of full speed half of all trials are fast: the median trial is as slow as
it may be. How much a host's times vary does not move that floor, as long as most trials at the largest RAM are fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from picolab.analysis.floor import LAPSE, SURE, FloorInterval, FloorPosterior
from picolab.analysis.floor_trials import FloorTrial
from picolab.analysis.statistics import median, median_interval
from picolab.config.floor_search import FloorSearch
from picolab.config.plan import Purpose

SHARE = 0.5
"""Of the trials, which are fast at the floor of full speed."""
_MISSES = (LAPSE, 0.1, 0.2, 0.3)
"""Shares of trials at full speed that take too long by chance."""
_TRIALS_OF_A_REFERENCE = 4
"""After each so many trials another one runs at the largest RAM, as the host may change meanwhile."""

SpeedState = Literal["unfinished", "found", "limit", "above", "below"]


@dataclass(frozen=True)
class SpeedFloor:
    """The estimate of the RAM from which trials are fast.

    Attributes:
        state: as of a search for survival; `above` also when too few trials at the largest RAM are fast or survive.
        reference_s: median time at full speed; None before its trials, or when they did not survive.
        references: trials at full speed that have a time.
        interval: covers the uncertainty of the reference too; None without a reference.
        posterior: with the reference as it is; None without one.
        limit_s: longest time of a fast trial.
    """

    state: SpeedState
    expected_left: int = 0
    next_mb: float | None = None
    next_purpose: Purpose = "speed"
    reference_s: float | None = None
    references: int = 0
    interval: FloorInterval | None = None
    posterior: FloorPosterior | None = None
    limit_s: float | None = None

    @property
    def widened(self) -> tuple[float, float]:
        """By which factors the uncertainty of the reference widens the interval, at its low and its high end."""
        if self.posterior is None or self.interval is None:
            return 1.0, 1.0
        own = self.posterior.interval()
        return own.low / self.interval.low, self.interval.high / own.high

    def is_fast(self, trial: FloorTrial) -> bool:
        """Return whether a trial survived and took no longer than it may."""
        return _is_fast(trial, self.limit_s or 0.0)


def _is_fast(trial: FloorTrial, limit_s: float) -> bool:
    return trial.duration_s is not None and trial.duration_s <= limit_s


def look_at_speed(search: FloorSearch, trials: Sequence[FloorTrial]) -> SpeedFloor:
    """Return what is known of the floor of full speed after these trials, and which one comes next.

    Args:
        trials: of one build, those of the search for survival among them, in the order in which they ran.
    """
    assert search.slowdown is not None
    tried = sum(trial.purpose == "speed" for trial in trials)
    # Also a search for survival may have tried the largest RAM: each of its trials is as good.
    full = [trial for trial in trials if trial.ram_mb == search.high_mb]
    seconds = [trial.duration_s for trial in full if trial.duration_s is not None]
    wanted = search.references + tried // _TRIALS_OF_A_REFERENCE
    if len(full) < wanted:
        left = wanted - len(full) + max(1, search.references - tried)
        return SpeedFloor("unfinished", left, search.high_mb, "reference")
    if 2 * len(seconds) <= len(full):
        return SpeedFloor("above")
    reference_s = median(seconds)
    spread = median_interval(seconds)
    ends = (reference_s, reference_s) if spread is None else (spread.low, spread.high)
    allowed = 1.0 + search.slowdown
    posterior = _posterior(search, trials, reference_s * allowed)
    own = posterior.interval()
    # A longer reference makes more trials fast, and the floor lower.
    interval = FloorInterval(
        min(own.low, _posterior(search, trials, ends[1] * allowed).interval().low),
        own.middle,
        max(own.high, _posterior(search, trials, ends[0] * allowed).interval().high),
        own.confidence,
    )

    def found(state: SpeedState, left: int = 0, ram: float | None = None, purpose: Purpose = "speed") -> SpeedFloor:
        limit_s = reference_s * allowed
        return SpeedFloor(state, left, ram, purpose, reference_s, len(seconds), interval, posterior, limit_s)

    if posterior.chance_below(search.high_mb) < SURE:
        return found("above")
    if posterior.chance_below(search.low_mb) > 1 - SURE:
        return found("below")
    if interval.reach <= search.precision:
        return found("found")
    spent = tried + max(0, len(full) - search.references)
    if spent >= search.limit:
        return found("limit")
    left = min(search.limit - spent, math.ceil(2 * math.log2(max(1.0, interval.reach / search.precision))) + 1)
    if own.reach <= search.precision:
        return found("unfinished", left, search.high_mb, "reference")
    return found("unfinished", left, posterior.next_level(search.levels()))


def _posterior(search: FloorSearch, trials: Sequence[FloorTrial], limit_s: float) -> FloorPosterior:
    posterior = FloorPosterior(search.low_mb, search.high_mb, SHARE, search.precision, _MISSES)
    for trial in trials:
        posterior.add(trial.ram_mb, _is_fast(trial, limit_s))
    return posterior
