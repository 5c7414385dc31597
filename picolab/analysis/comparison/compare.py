"""Two builds and more in one campaign: which is faster, which needs more memory, which fails, and what cannot be told.

A comparison is made of **pairs**: the baseline's and the candidate's trial of one scenario in one block, which ran back
to back. What drifts over hours hits both alike and leaves their ratio alone. The statistics are in `statistics`; this
module says what is compared with what, what it means, and what may not be concluded from it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from picolab.analysis import statistics
from picolab.analysis.comparison import caveats as comparison_caveats
from picolab.analysis.comparison.pairing import (
    ComparedTrial,
    Pairing,
    Place,
    Subject,
    pair_up,
    read_subject,
    side_by_side,
    way_of_starting,
)
from picolab.config.parameters import unknown_name
from picolab.errors import ParameterError
from picolab.exit_codes import ExitCode
from picolab.machines.kinds import kind_of
from picolab.record.models import STEPS, Caveat
from picolab.text.foreign import shown

if TYPE_CHECKING:
    from picolab.record.models import Step
    from picolab.results.load import CampaignData

EQUIVALENT = "equivalent"
UNDECIDED = "undecided"
UNSTABLE = "unstable"
MORE_FAILURES = "more failures"
FEWER_FAILURES = "fewer failures"
NO_DIFFERENCE_SEEN = "no difference seen"
DEFAULT_MARGIN = 0.05
CAVEAT_SIGNIFICANCE = 0.01
"""Of the trend tests behind caveats: stricter, since a warning that comes without cause is soon not read."""
LEAST_DRIFT = 0.02
"""A smaller change over a whole campaign is no news, however sure it is."""


@dataclass(frozen=True)
class Metric:
    """A number of a trial in which builds are compared."""

    name: str
    """A column of `CampaignData.trials`."""
    title: str
    unit: str
    """Of the values in the column: `MiB/s` or `bytes`."""
    higher_is_better: bool
    better: str
    """The verdict for a candidate that is better, such as `faster`."""
    worse: str
    gates: frozenset[str]
    """The directions (`upload`, `download`, `both`) in whose scenarios it decides the gate; elsewhere it is shown."""


_UPLOAD = frozenset({"upload", "both"})
_DOWNLOAD = frozenset({"download", "both"})
_NEVER: frozenset[str] = frozenset()


def _rate(name: str, title: str, gates: frozenset[str] = _NEVER) -> Metric:
    return Metric(name, title, "MiB/s", True, "faster", "slower", gates)


def _memory(name: str, title: str, gates: frozenset[str]) -> Metric:
    return Metric(name, title, "bytes", False, "less memory", "more memory", gates)


METRICS = (
    _rate("throughput_mib_s", "upload", _UPLOAD),
    _rate("transfer_mib_s", "transfer"),
    _rate("commit_mib_s", "commit"),
    _rate("durable_mib_s", "upload to disk"),
    _rate("download_mib_s", "download", _DOWNLOAD),
    _memory("peak_anon_bytes", "peak memory", _UPLOAD),
    _memory("download_peak_anon_bytes", "peak memory of the download", _DOWNLOAD),
)
"""In the order in which they are shown."""


@dataclass(frozen=True)
class Pair:
    """The baseline's and the candidate's ok trial of one scenario in one block."""

    block: int
    baseline_value: float
    candidate_value: float
    ratio: float
    """Candidate over baseline."""
    baseline_trial: str
    """Its trial_id."""
    candidate_trial: str
    baseline_first: bool
    """True when the baseline's trial ran before the candidate's."""
    hours: float
    """From the start of the campaign's first trial to the start of the pair's first."""


@dataclass(frozen=True)
class MetricComparison:
    """Two builds in one scenario and one metric."""

    scenario: str
    metric: Metric
    baseline: str
    """Label of the build."""
    candidate: str
    pairs: tuple[Pair, ...]
    """In order of time."""
    incomplete: tuple[str, ...]
    """One sentence for each block that gives no pair."""
    ratio: float | None
    """Candidate over baseline; None without pairs, and so are the numbers below."""
    low: float | None
    high: float | None
    coverage: float | None
    """What the interval from `low` to `high` promises."""
    p_value: float | None
    adjusted_p_value: float | None
    """After Holm, across all scenarios and candidates of this metric."""
    spread: float | None
    """Of the ratios, relative and robust."""
    minimum_detectable: float | None
    """Relative change that a comparison of this size and spread finds four times in five."""
    verdict: str | None
    """`metric.better`, `metric.worse`, `equivalent`, `undecided`, `unstable`, or None: no verdict."""
    reason: str
    """Why this verdict or none, one sentence."""
    no_regression: bool
    """True when the interval excludes a change for the worse beyond the margin."""
    gates: bool
    """True when the gate looks at it."""


@dataclass(frozen=True)
class OutcomeComparison:
    """How often two builds failed in one scenario."""

    scenario: str
    baseline: str
    candidate: str
    baseline_outcomes: dict[str, int]
    """Outcome -> number of trials."""
    candidate_outcomes: dict[str, int]
    p_value: float | None
    adjusted_p_value: float | None
    verdict: str | None
    """`more failures`, `fewer failures`, `no difference seen`, or None: no verdict."""
    reason: str
    step: Step | None = None
    """Which measured step, where a scenario has two: they fail each by itself. None: there is but one."""

    @property
    def of_step(self) -> str:
        """The step for a text, such as ` (download)`; empty when there is but one."""
        return f" ({self.step})" if self.step else ""


@dataclass(frozen=True)
class OneBuild:
    """One build by itself, in one scenario and one metric."""

    scenario: str
    build: str
    metric: Metric
    n: int
    """Ok trials that have this metric."""
    median: float | None
    low: float | None
    high: float | None
    coverage: float | None
    spread: float | None
    """Relative and robust, of the single trials: drift is in it, other than in the spread of ratios."""
    drift: float | None
    """Relative change over the whole campaign by a robust line, whether or not it is significant."""
    drift_p_value: float | None
    first_effect: float | None
    """How far the first trial lies outside of the others, relative to their median; None: it does not."""


@dataclass(frozen=True)
class Comparison:
    """Everything that a campaign says about its builds against each other."""

    campaign: str
    baseline: str
    """Label of the build."""
    candidates: tuple[str, ...]
    scenarios: tuple[str, ...]
    margin: float
    """Relative change that does not matter."""
    metrics: tuple[MetricComparison, ...]
    outcomes: tuple[OutcomeComparison, ...]
    builds: tuple[OneBuild, ...]
    comparable: bool
    """False: not comparable in time, so that no verdict is given."""
    not_comparable_reason: str | None
    self_comparison: bool
    """True for one executable, started in one way, under two labels: it must find nothing."""
    independence: str
    """What the independent unit is, one sentence."""
    randomised: str
    """What was randomised and what was not, from the plan."""
    caveats: tuple[Caveat, ...]
    gate: ExitCode
    """What the trials that have a result say."""
    gate_reason: str
    unmeasured: int = 0
    """Trials of the plan that have no result."""
    plan_is_known: bool = True
    """False when the plan cannot be read: then baseline and margin may be others than it names."""

    @property
    def exit_code(self) -> ExitCode:
        """What a command ends with that shows this comparison: the one value that is printed and returned."""
        if not self.plan_is_known:
            return ExitCode.BAD_PARAMETERS
        return ExitCode.INSTRUMENT_FAULT if self.unmeasured else self.gate

    @property
    def exit_reason(self) -> str:
        """Why, one sentence."""
        if not self.plan_is_known:
            return (
                f"the plan cannot be read, so nobody can tell which trials are missing, nor the baseline and margin it "
                f"names; with {self.baseline} as baseline: {self.gate_reason}"
            )
        if not self.unmeasured:
            return self.gate_reason
        have = "1 planned trial has" if self.unmeasured == 1 else f"{self.unmeasured} planned trials have"
        return f"{have} no result; of the others: {self.gate_reason}"


def compare(data: CampaignData, margin: float | None = None, baseline: str | None = None) -> Comparison:
    """Compare the builds of a campaign.

    Args:
        data: of one campaign, from `picolab.results.load.read_campaign`.
        margin: relative change that does not matter; default: the plan's.
        baseline: label of the build that the others are compared with; default: the plan's, or its first build.

    Raises:
        ParameterError: the campaign has one build only, or none with this label, or the margin makes no sense.
    """
    subject = read_subject(data)
    found = _Comparing(subject, _margin(margin, data), baseline, _randomised(data)).run()
    return replace(found, plan_is_known=bool(data.plan))


def compare_campaigns(
    campaigns: list[CampaignData], margin: float | None = None, baseline: str | None = None
) -> Comparison:
    """Put builds that were measured in separate campaigns side by side: never comparable in time, so no verdicts.

    Args:
        campaigns: at least two; the baseline is taken from the first.
        margin: as in `compare`; default: the first plan's.
        baseline: as in `compare`.

    Raises:
        ParameterError: as in `compare`, or there is one campaign only.
    """
    if len(campaigns) < 2:
        raise ParameterError("one campaign is not compared with others; name two, or compare the builds inside it")
    subject = side_by_side([read_subject(data) for data in campaigns])
    reason = (
        f"the builds were measured in separate campaigns ({subject.name}), so that what changed in between cannot be "
        "told from a difference of the builds"
    )
    randomised = "Nothing was randomised between the builds: they were measured in separate campaigns."
    found = _Comparing(subject, _margin(margin, campaigns[0]), baseline, randomised, reason).run()
    return replace(found, plan_is_known=all(data.plan for data in campaigns))


def _margin(margin: float | None, data: CampaignData) -> float:
    if margin is None:
        percent = data.plan.get("margin_percent")
        return float(percent) / 100 if isinstance(percent, int | float) and percent > 0 else DEFAULT_MARGIN
    if not 0 < margin <= 1:
        raise ParameterError(f"margin = {shown(margin)} should be above 0 and at most 1: 0.05 stands for 5 %")
    return margin


def _randomised(data: CampaignData) -> str:
    if not data.plan:
        return "What was randomised is not known: the plan cannot be read."
    return f"{data.plan.get('order') or 'The plan does not say what was randomised.'} Seed {data.plan.get('seed')}."


def percent(ratio: float) -> str:
    """Return a ratio as a change with its sign, such as `+5.2 %`."""
    change = 100 * (ratio - 1)
    return f"{round(change, 1) + 0.0:+.1f} %" if abs(change) < 99.95 else f"{change:+.0f} %"


def change_in_words(ratio: float | None, low: float | None, high: float | None) -> str:
    """Return a ratio and its interval as a change, such as `+5.2 % [+3.9, +6.6]`; a dash when there is none."""
    if ratio is None:
        return "–"
    if low is None or high is None:
        return percent(ratio)
    return f"{percent(ratio)} [{percent(low).removesuffix(' %')}, {percent(high).removesuffix(' %')}]"


@dataclass(frozen=True)
class _Series:
    """Values of one build in one scenario and metric, in order of time."""

    trials: tuple[ComparedTrial, ...]
    values: tuple[float, ...]

    def residuals(self) -> list[tuple[ComparedTrial, float]]:
        """Return the values relative to their median, with their trials."""
        middle = statistics.median(self.values) if self.values else 1.0
        return [(trial, value / middle) for trial, value in zip(self.trials, self.values, strict=True)]


class _Comparing:
    """The way from trials to a `Comparison`."""

    def __init__(
        self,
        subject: Subject,
        margin: float,
        baseline: str | None,
        randomised: str,
        not_comparable: str | None = None,
    ) -> None:
        """Take what is to be compared.

        Args:
            not_comparable: why nothing is comparable in time, when that is known beforehand.
        """
        self.subject = subject
        self.margin = margin
        self.randomised = randomised
        self.builds = _baseline_first(subject, baseline)
        self.baseline, *self.candidates = self.builds
        here = {(trial.scenario, trial.build) for trial in subject.trials}
        here |= {(place.scenario, place.build) for place in subject.places}
        self.scenarios = subject.scenarios()
        self.measured = {scenario: [b for b in self.builds if (scenario, b) in here] for scenario in self.scenarios}
        self.pairings = {
            (scenario, candidate): Pairing((), (), not_comparable)
            if not_comparable
            else pair_up(subject, scenario, self.baseline, candidate)
            for scenario, candidate in self._duels()
        }

    def _duels(self) -> Iterator[tuple[str, str]]:
        """Yield (scenario, candidate) of everything that has both builds."""
        for scenario, measured in self.measured.items():
            if self.baseline in measured:
                yield from ((scenario, build) for build in measured if build != self.baseline)

    def run(self) -> Comparison:
        metrics = tuple(comparison for metric in METRICS for comparison in self._metric(metric))
        outcomes = tuple(self._outcomes())
        reasons = {pairing.not_comparable for pairing in self.pairings.values()}
        comparable = None in reasons or not reasons
        gate, gate_reason = _gate(metrics, outcomes, self.margin)
        whole = Comparison(
            campaign=self.subject.name,
            baseline=self.baseline,
            candidates=tuple(self.candidates),
            scenarios=self.scenarios,
            margin=self.margin,
            metrics=metrics,
            outcomes=outcomes,
            builds=tuple(self._one_builds()),
            comparable=comparable,
            not_comparable_reason=None if comparable else "; ".join(sorted(reason for reason in reasons if reason)),
            self_comparison=self._is_self_comparison(),
            independence=_independence(self.subject.trials),
            randomised=self.randomised,
            caveats=(),
            gate=gate,
            gate_reason=gate_reason,
            unmeasured=len(self.subject.no_result),
        )
        whole = replace(whole, caveats=tuple(self._caveats(whole)))
        itself = [caveat for caveat in whole.caveats if caveat.code == "differs_from_itself"]
        if not itself:
            return whole
        return replace(whole, gate=ExitCode.REGRESSION, gate_reason=f"the instrument fails: {itself[0].message}")

    # One metric

    def series(self, scenario: str, build: str, metric: Metric) -> _Series:
        found = [(trial, trial.value(metric.name)) for trial in self.subject.of(scenario, build)]
        having = [(trial, value) for trial, value in found if value is not None]
        return _Series(tuple(trial for trial, _ in having), tuple(value for _, value in having))

    def _gates(self, scenario: str, metric: Metric) -> bool:
        """Tell whether the gate looks at a metric: where it is what was measured, and something can be lost."""
        # The plan counts as well: where no trial has a result, the gate must not take that for good news.
        measured: list[ComparedTrial | Place] = [*self.subject.trials, *self.subject.places]
        if not any(one.direction in metric.gates for one in measured if one.scenario == scenario):
            return False
        baseline = self.subject.of(scenario, self.baseline)
        return len(baseline) < statistics.LEAST_PAIRS or any(trial.step_ok(metric.name) for trial in baseline)

    def _metric(self, metric: Metric) -> list[MetricComparison]:
        """Return all comparisons of one metric: a family, whose p-values are adjusted together."""
        found = []
        for (scenario, candidate), pairing in self.pairings.items():
            gates = self._gates(scenario, metric)
            seen = any(self.series(scenario, build, metric).values for build in (self.baseline, candidate))
            if gates or seen:
                found.append(self._numbers(scenario, candidate, metric, pairing, gates))
        testable = [index for index, (comparison, _) in enumerate(found) if comparison.reason == ""]
        p_values = [comparison.p_value for comparison, _ in found]
        adjusted = statistics.holm([p for index in testable if (p := p_values[index]) is not None])
        finished = [comparison for comparison, _ in found]
        for index, adjusted_p in zip(testable, adjusted, strict=True):
            comparison, paired = found[index]
            assert paired is not None
            finished[index] = self._judged(comparison, paired, adjusted_p, len(testable))
        return finished

    def _numbers(
        self, scenario: str, candidate: str, metric: Metric, pairing: Pairing, gates: bool
    ) -> tuple[MetricComparison, statistics.PairedRatio | None]:
        """Return a comparison without its verdict; its reason is empty when there can be one."""
        pairs, incomplete = self._pairs(metric, pairing)
        paired = None
        if pairs:
            paired = statistics.paired_ratio(
                [pair.baseline_value for pair in pairs], [pair.candidate_value for pair in pairs]
            )
        ratio = paired.ratio if paired else None
        if pairing.not_comparable:
            # Nothing that was measured far apart has an interval that means anything.
            old, new = (self.series(scenario, build, metric).values for build in (self.baseline, candidate))
            ratio = statistics.median(new) / statistics.median(old) if old and new else None
            reason = f"not comparable in time: {pairing.not_comparable}"
        elif len(pairs) < statistics.LEAST_PAIRS:
            reason = _too_few(len(pairs), len(incomplete))
        else:
            reason = ""
        comparison = MetricComparison(
            scenario=scenario,
            metric=metric,
            baseline=self.baseline,
            candidate=candidate,
            pairs=pairs,
            incomplete=incomplete,
            ratio=ratio,
            low=paired.low if paired else None,
            high=paired.high if paired else None,
            coverage=paired.coverage if paired else None,
            p_value=paired.p_value if paired else None,
            adjusted_p_value=None,
            spread=paired.spread if paired else None,
            minimum_detectable=paired.minimum_detectable if paired else None,
            verdict=None,
            reason=reason,
            no_regression=False,
            gates=gates,
        )
        return comparison, paired

    def _judged(
        self, comparison: MetricComparison, paired: statistics.PairedRatio, adjusted_p: float, family: int
    ) -> MetricComparison:
        metric = comparison.metric
        judgement, reason = statistics.judge(paired, adjusted_p, self.margin)
        words = {
            "higher": metric.better if metric.higher_is_better else metric.worse,
            "lower": metric.worse if metric.higher_is_better else metric.better,
        }
        verdict = words.get(judgement, str(judgement))
        if verdict in (UNDECIDED, UNSTABLE):
            reason += _impossible(len(comparison.pairs), family)
        return replace(
            comparison,
            adjusted_p_value=adjusted_p,
            verdict=verdict,
            reason=reason,
            no_regression=statistics.no_regression(paired, self.margin, metric.higher_is_better),
        )

    def _pairs(self, metric: Metric, pairing: Pairing) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
        pairs, incomplete = [], list(pairing.incomplete)
        for old, new in pairing.together:
            old_value, new_value = old.value(metric.name), new.value(metric.name)
            if old_value is None or new_value is None:
                incomplete.append(_why_no_value(metric, old, new))
                continue
            pairs.append(
                Pair(
                    block=old.block,
                    baseline_value=old_value,
                    candidate_value=new_value,
                    ratio=new_value / old_value,
                    baseline_trial=old.trial_id,
                    candidate_trial=new.trial_id,
                    baseline_first=(old.started, old.position) < (new.started, new.position),
                    hours=(min(old.started, new.started) - self.subject.trials[0].started).total_seconds() / 3600,
                )
            )
        return tuple(pairs), tuple(incomplete)

    # Outcomes and single builds

    def _outcomes(self) -> list[OutcomeComparison]:
        drafts = []
        for (scenario, candidate), step in self._failing_steps():
            pairing = self.pairings[scenario, candidate]
            old, new = (
                Counter(found for trial in self.subject.of(scenario, build) if (found := trial.found(step)) is not None)
                for build in (self.baseline, candidate)
            )
            if step == "download" and not old and not new and self.subject.of(scenario, self.baseline):
                # No upload has left anything to download: that is said of the upload.
                continue
            p_value = None
            if old and new and not pairing.not_comparable:
                p_value = statistics.outcome_test(_failures(old), old.total(), _failures(new), new.total())
            drafts.append(
                OutcomeComparison(
                    scenario=scenario,
                    baseline=self.baseline,
                    candidate=candidate,
                    baseline_outcomes=dict(old.most_common()),
                    candidate_outcomes=dict(new.most_common()),
                    p_value=p_value,
                    adjusted_p_value=p_value,
                    verdict=None,
                    reason=f"not comparable in time: {pairing.not_comparable}" if pairing.not_comparable else "",
                    step=step,
                )
            )
        # Where all or none failed no difference could be found, so they cost the others nothing (R. E. Tarone,
        # A modified Bonferroni method for discrete data, Biometrics 46, 1990).
        mixed = [index for index, draft in enumerate(drafts) if draft.p_value is not None and _is_mixed(draft)]
        adjusted = statistics.holm([p for index in mixed if (p := drafts[index].p_value) is not None])
        for index, adjusted_p in zip(mixed, adjusted, strict=True):
            drafts[index] = replace(drafts[index], adjusted_p_value=adjusted_p)
        return [_outcome_verdict(draft) for draft in drafts]

    def _failing_steps(self) -> Iterator[tuple[tuple[str, str], Step | None]]:
        """Yield (scenario, candidate) with each of its measured steps, or with None when there is but one."""
        measured: list[ComparedTrial | Place] = [*self.subject.trials, *self.subject.places]
        both = {one.scenario for one in measured if one.direction == "both"}
        for scenario, candidate in self.pairings:
            steps: tuple[Step | None, ...] = STEPS if scenario in both else (None,)
            yield from (((scenario, candidate), step) for step in steps)

    def _one_builds(self) -> Iterator[OneBuild]:
        for metric in METRICS:
            for scenario, measured in self.measured.items():
                for build in measured:
                    series = self.series(scenario, build, metric)
                    if series.values:
                        yield _one_build(scenario, build, metric, list(series.values))

    def _is_self_comparison(self) -> bool:
        return (
            bool(self.candidates)
            and all(self._same(scenario, candidate) is True for scenario, candidate in self.pairings)
            and bool(self.pairings)
        )

    def _same(self, scenario: str, candidate: str) -> bool:
        """Tell whether two builds are one executable that is started in one way."""
        ways = [
            {(trial.row["build_sha256"], way_of_starting(trial.record.parameters)) for trial in trials}
            for trials in (self.subject.of(scenario, self.baseline), self.subject.of(scenario, candidate))
        ]
        return len(ways[0]) == 1 and ways[0] == ways[1] and None not in {sha for sha, _ in ways[0]}

    # Caveats

    def _caveats(self, whole: Comparison) -> list[Caveat]:
        catalogue = comparison_caveats
        apart = {
            f"{candidate} in {scenario}": pairing.not_comparable
            for (scenario, candidate), pairing in self.pairings.items()
            if pairing.not_comparable
        }
        if not whole.comparable:
            apart = {"everything": whole.not_comparable_reason or ""}
        comparable = [c for c in whole.metrics if not self.pairings[c.scenario, c.candidate].not_comparable]
        few = {
            f"{c.metric.title} of {c.candidate} in {c.scenario}": len(c.pairs)
            for c in comparable
            if c.gates and len(c.pairs) < statistics.LEAST_PAIRS
        }
        lone = {
            scenario: comparison_caveats.listed(measured)
            for scenario, measured in self.measured.items()
            if set(measured) != set(self.builds)
        }
        found = [c for c in whole.metrics if c.verdict in (c.metric.better, c.metric.worse)]
        differs = [
            f"{c.metric.title} {change_in_words(c.ratio, c.low, c.high)} in {c.scenario}"
            for c in found
            # Of the metrics that decide alone: with each metric more, chance finds something more often.
            if c.gates and self._same(c.scenario, c.candidate)
        ]
        return [
            *catalogue.of_time(apart),
            *catalogue.of_self_comparison(differs),
            *catalogue.of_pairs(few),
            *catalogue.of_missing_trials(list(self.subject.no_result.values()), len(self.subject.places)),
            *catalogue.of_lone_builds(lone),
            *catalogue.of_order(_always_in_one_order(comparable)),
            *catalogue.of_drift(self._drifts(), whole.comparable),
            *catalogue.of_ratio_drift(self._ratio_drifts(comparable)),
            *self._first_trial(),
            *catalogue.of_starts(self.subject.busy_starts),
            *catalogue.of_hosts(_hosts(self.subject.trials)),
            *catalogue.of_boots(_scenarios_of_one_boot(self.subject.trials)),
            *catalogue.of_records([t for t in self.subject.trials if t.build in self.builds], self.builds),
        ]

    def _residuals(self, metric: Metric, builds: Sequence[str]) -> list[tuple[ComparedTrial, float]]:
        """Return values relative to the median of their build and scenario, of all scenarios, in order of time."""
        together = [
            residual
            for scenario in self.scenarios
            if self._gates(scenario, metric)
            for build in builds
            for residual in self.series(scenario, build, metric).residuals()
        ]
        return sorted(together, key=lambda residual: residual[0].started)

    def _drifts(self) -> dict[str, statistics.Trend]:
        residuals = {
            f"{metric.title} of {build}": [value for _, value in self._residuals(metric, [build])]
            for metric in METRICS
            for build in self.builds
        }
        return _significant({name: statistics.trend(values) for name, values in residuals.items()})

    def _ratio_drifts(self, comparisons: Sequence[MetricComparison]) -> dict[str, statistics.Trend]:
        ratios: dict[str, list[tuple[float, float]]] = {}
        for comparison in comparisons:
            if comparison.gates and comparison.pairs:
                middle = statistics.median([pair.ratio for pair in comparison.pairs])
                name = f"{comparison.metric.title} of {comparison.candidate}"
                ratios.setdefault(name, []).extend((pair.hours, pair.ratio / middle) for pair in comparison.pairs)
        return _significant(
            {name: statistics.trend([ratio for _, ratio in sorted(found)]) for name, found in ratios.items()}
        )

    def _first_trial(self) -> list[Caveat]:
        for metric in METRICS:
            residuals = self._residuals(metric, self.builds) if metric.higher_is_better else []
            if residuals and residuals[0][0] is self.subject.trials[0]:
                effect = statistics.first_effect([value for _, value in residuals])
                found = comparison_caveats.of_first_trial(residuals[0][0].trial_id, metric.title, effect)
                if found:
                    return found
        return []


def _baseline_first(subject: Subject, baseline: str | None) -> list[str]:
    """Return the builds with the baseline first.

    Raises:
        ParameterError: there is one build only, or none with this label.
    """
    if len(subject.builds) < 2:
        there = f"{subject.builds[0]} alone" if subject.builds else "no build"
        raise ParameterError(
            f"{subject.name}: has {there}, and a comparison needs two; run `picolab compare` with two builds"
        )
    if baseline is not None and baseline not in subject.builds:
        raise ParameterError(f"{subject.name}: baseline: {unknown_name(baseline, sorted(subject.builds))}")
    first = baseline or subject.planned_baseline or subject.builds[0]
    return [first, *(build for build in subject.builds if build != first)]


def _too_few(pairs: int, incomplete: int) -> str:
    lost = f" ({incomplete} blocks gave none)" if incomplete > 1 else " (1 block gave none)" if incomplete else ""
    have = f"{pairs} pairs" if pairs != 1 else "1 pair"
    return (
        f"there {'is' if pairs == 1 else 'are'} {have}{lost}, and at least {statistics.LEAST_PAIRS} are needed: with "
        f"fewer no test can find anything"
    )


def _impossible(pairs: int, family: int) -> str:
    """Return words about a comparison in which nothing could have become significant; empty when it could have."""
    if 2.0 ** (1 - pairs) * family <= statistics.SIGNIFICANCE:
        return ""
    needed = math.ceil(1 + math.log2(family / statistics.SIGNIFICANCE))
    return (
        f"; with {pairs} pairs and {family} comparisons of this metric no difference could have become significant, "
        f"{needed} pairs are needed"
    )


def _why_no_value(metric: Metric, old: ComparedTrial, new: ComparedTrial) -> str:
    words = []
    for trial in (old, new):
        if not trial.ok and not trial.step_ok(metric.name):
            words.append(f"{trial.build} ended {trial.outcome}")
        elif trial.value(metric.name) is None:
            words.append(f"{trial.build} has no {metric.name}")
    return f"block {old.block}: {' and '.join(words)}"


def _failures(outcomes: Counter[str]) -> int:
    return outcomes.total() - outcomes["ok"]


def _is_mixed(draft: OutcomeComparison) -> bool:
    both = Counter(draft.baseline_outcomes) + Counter(draft.candidate_outcomes)
    return 0 < _failures(both) < both.total()


def _outcome_verdict(draft: OutcomeComparison) -> OutcomeComparison:
    """Return the comparison with its verdict and what was seen."""
    if draft.reason:
        return draft
    old, new = Counter(draft.baseline_outcomes), Counter(draft.candidate_outcomes)
    if draft.adjusted_p_value is None:
        without = " and ".join(build for build, n in ((draft.baseline, old), (draft.candidate, new)) if not n)
        has = "have" if " and " in without else "has"
        nothing = f"has come to no {draft.step} that could fail" if draft.step == "download" else f"{has} no result yet"
        return replace(draft, reason=f"{without} {nothing}")
    kinds = sorted({outcome for outcome in (*old, *new) if outcome != "ok"})
    seen = [f"{kind} {new[kind]} of {new.total()} against {old[kind]} of {old.total()}" for kind in kinds]
    if len(kinds) > 1:
        seen.append(f"together {_failures(new)} of {new.total()} against {_failures(old)} of {old.total()}")
    if not kinds:
        seen = [f"all {old.total()} and {new.total()} trials ended ok"]
    verdict = NO_DIFFERENCE_SEEN
    if draft.adjusted_p_value < statistics.SIGNIFICANCE:
        more = _failures(new) / new.total() > _failures(old) / old.total()
        verdict = MORE_FAILURES if more else FEWER_FAILURES
    p_words = f" (exact test, p = {draft.adjusted_p_value:.2g})" if kinds else ""
    return replace(draft, verdict=verdict, reason=f"{', '.join(seen)}{p_words}")


def _one_build(scenario: str, build: str, metric: Metric, values: list[float]) -> OneBuild:
    interval = statistics.median_interval(values)
    trend = statistics.trend(values)
    return OneBuild(
        scenario=scenario,
        build=build,
        metric=metric,
        n=len(values),
        median=statistics.median(values),
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        coverage=interval.coverage if interval else None,
        spread=statistics.spread(values),
        drift=trend.change if trend else None,
        drift_p_value=trend.p_value if trend else None,
        first_effect=statistics.first_effect(values),
    )


def _significant(trends: dict[str, statistics.Trend | None]) -> dict[str, statistics.Trend]:
    """Return the trends that are no chance, tested together, and large enough to matter."""
    found = {name: trend for name, trend in trends.items() if trend is not None}
    adjusted = statistics.holm([trend.p_value for trend in found.values()])
    return {
        name: trend
        for (name, trend), p_value in zip(found.items(), adjusted, strict=True)
        if p_value < CAVEAT_SIGNIFICANCE and abs(trend.change) >= LEAST_DRIFT
    }


def _always_in_one_order(comparisons: Sequence[MetricComparison]) -> dict[str, int]:
    return {
        f"{c.baseline if c.pairs[0].baseline_first else c.candidate} before "
        f"{c.candidate if c.pairs[0].baseline_first else c.baseline} in {c.scenario}": len(c.pairs)
        for c in comparisons
        if len(c.pairs) >= statistics.LEAST_PAIRS and len({pair.baseline_first for pair in c.pairs}) == 1
    }


def _hosts(trials: Sequence[ComparedTrial]) -> list[str]:
    """Return the different hosts with their kernels."""
    names = ("hostname", "kernel", "cpu_model")
    found = dict.fromkeys(tuple(str(trial.record.provenance.host.get(name)) for name in names) for trial in trials)
    return [f"{hostname} (kernel {kernel}, {cpu})" for hostname, kernel, cpu in found]


_BOOTS = ("created", "booted", "reloaded")


def _boots(trials: Sequence[ComparedTrial]) -> dict[str, set[tuple[str, int]]]:
    """Return the boots of virtual machines in which the trials of each scenario ran."""
    boots: dict[str, set[tuple[str, int]]] = {}
    number: Counter[str] = Counter()
    for trial in trials:
        machine = trial.record.machine
        if machine is None or machine.virtual_machine is None:
            continue
        # A snapshot holds the state after a boot: what it is restored to is that boot.
        number[machine.name] += machine.virtual_machine.reached_by in _BOOTS
        boots.setdefault(trial.scenario, set()).add((machine.name, number[machine.name]))
    return boots


def _scenarios_of_one_boot(trials: Sequence[ComparedTrial]) -> list[str]:
    several = Counter(trial.scenario for trial in trials)
    return [scenario for scenario, boots in _boots(trials).items() if len(boots) == 1 and several[scenario] > 1]


def _independence(trials: Sequence[ComparedTrial]) -> str:
    """Return what the independent unit is, one sentence."""
    unit = "The independent unit is a trial on a fresh server and a fresh data folder"
    virtual = [trial for trial in trials if kind_of(trial.record.parameters.machine).is_virtual]
    if not virtual:
        return f"{unit}."
    boots = len({boot for found in _boots(virtual).values() for boot in found})
    fresh = " and ".join(dict.fromkeys(trial.record.parameters.fresh_machine for trial in virtual))
    times = "1 boot" if boots == 1 else f"{boots} boots"
    meaning = (
        "what one boot did to all its trials cannot be seen" if boots == 1 else "trials of one boot share its luck"
    )
    return (
        f"{unit}; the {len(virtual)} trials in virtual machines ran in {times} (fresh_machine: {fresh}), which is a "
        f"level of its own: {meaning}."
    )


def _gate(
    metrics: Sequence[MetricComparison], outcomes: Sequence[OutcomeComparison], margin: float
) -> tuple[ExitCode, str]:
    """Return what a comparison means to a script that must let a candidate pass or not, and why.

    A candidate passes when every comparison that gates excludes a change for the worse beyond the margin and it
    failed no more often than the baseline.
    """
    gating = [comparison for comparison in metrics if comparison.gates]
    worse = [_outcome_words(outcome) for outcome in outcomes if outcome.verdict == MORE_FAILURES]
    worse += [_metric_words(c) for c in gating if c.verdict == c.metric.worse]
    if worse:
        return ExitCode.REGRESSION, f"regression: {worse[0]}{_and_more(worse)}"
    open_questions = [f"{_outcome_words(o)}, too few to tell" for o in outcomes if _failed_more(o)]
    open_questions += [_metric_words(c) for c in gating if not c.no_regression]
    limit = f"{100 * margin:g} %"
    if open_questions or not gating:
        first = open_questions[0] if open_questions else "nothing was measured that decides it"
        return (
            ExitCode.UNDECIDED,
            f"undecided: a change for the worse by {limit} or more is not excluded: {first}{_and_more(open_questions)}",
        )
    nearest = max(gating, key=_loss)
    return (
        ExitCode.OK,
        f"no regression: all {len(gating)} comparisons that decide exclude a change for the worse beyond {limit}; the "
        f"nearest to it is {_metric_words(nearest)}",
    )


def _and_more(found: Sequence[str]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""


def _loss(comparison: MetricComparison) -> float:
    """Return how much worse the candidate may be, as the logarithm of a ratio."""
    end = comparison.low if comparison.metric.higher_is_better else comparison.high
    if not end:
        return math.inf
    return -math.log(end) if comparison.metric.higher_is_better else math.log(end)


def _failed_more(outcome: OutcomeComparison) -> bool:
    old, new = Counter(outcome.baseline_outcomes), Counter(outcome.candidate_outcomes)
    if not old or not new or outcome.verdict != NO_DIFFERENCE_SEEN:
        return False
    return _failures(new) / new.total() > _failures(old) / old.total()


def _metric_words(comparison: MetricComparison) -> str:
    what = f"{comparison.metric.title} of {comparison.candidate} in {comparison.scenario}"
    if comparison.verdict is None:
        return f"{what}: no verdict, {comparison.reason}"
    return (
        f"{what}: {change_in_words(comparison.ratio, comparison.low, comparison.high)} against {comparison.baseline}, "
        f"{comparison.verdict}, {len(comparison.pairs)} pairs"
    )


def _outcome_words(outcome: OutcomeComparison) -> str:
    where = f"{outcome.scenario}{outcome.of_step}"
    return f"{outcome.candidate} in {where} fails more often than {outcome.baseline}: {outcome.reason}"
