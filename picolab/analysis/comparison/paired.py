"""A campaign with its baseline chosen and its trials paired: what every part of a comparison computes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from picolab.analysis import statistics
from picolab.analysis.comparison.pairing import Pairing, pair_up
from picolab.analysis.comparison.trials import ComparedCampaign, ComparedTrial, way_of_starting
from picolab.config.invalid_input import unknown_name
from picolab.errors import ParameterError

if TYPE_CHECKING:
    from picolab.record.metric import Metric


@dataclass(frozen=True)
class Series:
    """Values of one build in one scenario and metric, in order of time."""

    trials: tuple[ComparedTrial, ...]
    values: tuple[float, ...]

    def residuals(self) -> list[tuple[ComparedTrial, float]]:
        """Return the values relative to their median, with their trials."""
        middle = statistics.median(self.values) if self.values else 1.0
        return [(trial, value / middle) for trial, value in zip(self.trials, self.values, strict=True)]


class PairedCampaign:
    """The trials of a campaign, and for each scenario and candidate the pairs with the baseline."""

    def __init__(self, campaign: ComparedCampaign, baseline: str | None, not_comparable: str | None = None) -> None:
        """Pair the trials.

        Args:
            baseline: label of the build that others are compared with; default: the plan's, or the first build.
            not_comparable: why nothing is comparable in time, when that is known beforehand.

        Raises:
            ParameterError: there is only one build, or none with this label.
        """
        self.campaign = campaign
        self.builds = _baseline_first(campaign, baseline)
        self.baseline, *self.candidates = self.builds
        self.scenarios = campaign.scenarios()
        self.pairings = {
            (scenario, candidate): Pairing((), (), not_comparable)
            if not_comparable
            else pair_up(campaign, scenario, self.baseline, candidate)
            for scenario, candidate in self._scenarios_of_candidates()
        }

    @cached_property
    def measured(self) -> dict[str, list[str]]:
        """The builds of each scenario, measured or planned, the baseline first."""
        here = {(trial.scenario, trial.build) for trial in self.campaign.trials}
        here |= {(trial.scenario, trial.build) for trial in self.campaign.planned}
        return {scenario: [b for b in self.builds if (scenario, b) in here] for scenario in self.scenarios}

    def _scenarios_of_candidates(self) -> Iterator[tuple[str, str]]:
        """Yield (scenario, candidate) wherever there is a baseline too."""
        for scenario, builds in self.measured.items():
            if self.baseline in builds:
                yield from ((scenario, build) for build in builds if build != self.baseline)

    def series(self, scenario: str, build: str, metric: Metric) -> Series:
        """Return the values of a metric that a build has in a scenario."""
        found = [(trial, trial.value(metric)) for trial in self.campaign.of(scenario, build)]
        having = [(trial, value) for trial, value in found if value is not None]
        return Series(tuple(trial for trial, _ in having), tuple(value for _, value in having))

    def gates(self, scenario: str, metric: Metric) -> bool:
        """Return whether the gate depends on a metric: where its step is measured, and where it can get worse."""
        if not self.campaign.directions(scenario) & metric.gates:
            return False
        baseline = self.campaign.of(scenario, self.baseline)
        return len(baseline) < statistics.LEAST_PAIRS or any(trial.step_ok(metric) for trial in baseline)

    def is_same_build(self, scenario: str, candidate: str) -> bool:
        """Return whether a candidate is the baseline's executable, started in the same way."""
        ways = [
            {(trial.row["build_sha256"], way_of_starting(trial.record.parameters)) for trial in trials}
            for trials in (self.campaign.of(scenario, self.baseline), self.campaign.of(scenario, candidate))
        ]
        return len(ways[0]) == 1 and ways[0] == ways[1] and None not in {sha for sha, _ in ways[0]}

    @property
    def is_self_comparison(self) -> bool:
        """True when every candidate is the baseline under another label (A/A)."""
        return bool(self.pairings) and all(self.is_same_build(*key) for key in self.pairings)

    @property
    def comparable(self) -> bool:
        """False when no pairing is comparable in time."""
        return not self.pairings or any(pairing.not_comparable is None for pairing in self.pairings.values())

    @property
    def not_comparable_reason(self) -> str | None:
        """Why nothing is comparable in time; None when anything is."""
        if self.comparable:
            return None
        return "; ".join(sorted({pairing.not_comparable or "" for pairing in self.pairings.values()}))


def _baseline_first(campaign: ComparedCampaign, baseline: str | None) -> list[str]:
    builds = campaign.builds
    if len(builds) < 2:
        found = f"only one build, {builds[0]}" if builds else "no build"
        raise ParameterError(
            f"{campaign.name}: has {found}, and a comparison needs two; run `picolab compare` with two builds"
        )
    if baseline is not None and baseline not in builds:
        raise ParameterError(f"{campaign.name}: baseline: {unknown_name(baseline, sorted(builds))}")
    first = baseline or campaign.planned_baseline or builds[0]
    return [first, *(build for build in builds if build != first)]
