"""Caveats of a comparison: when its numbers come with a warning. The catalogue of those, each with its condition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from picolab.analysis import statistics
from picolab.analysis.comparison import drift, independence
from picolab.record.record import Caveat
from picolab.text.wording import change_and_interval, listed, listed_few

if TYPE_CHECKING:
    from picolab.analysis.comparison.models import MetricComparison
    from picolab.analysis.comparison.paired import PairedCampaign
    from picolab.analysis.comparison.trials import ComparedTrial

_UNEQUAL_P = 0.05


def find_caveats(paired: PairedCampaign, metrics: Sequence[MetricComparison]) -> list[Caveat]:
    """Return every caveat of a comparison, those that matter most first."""
    comparable = [c for c in metrics if not paired.pairings[c.scenario, c.candidate].not_comparable]
    return [
        *_of_time(paired),
        *_of_self_comparison(paired, metrics),
        *_of_pairs(comparable),
        *_of_missing_trials(paired),
        *_of_missing_builds(paired),
        *_of_order(comparable),
        *drift.caveats(paired, comparable),
        *_of_starts(paired.campaign.busy_starts),
        *_of_hosts(paired.campaign.trials),
        *independence.caveats(paired.campaign.trials),
        *_of_records(paired.campaign.trials, paired.builds),
    ]


def _of_time(paired: PairedCampaign) -> list[Caveat]:
    """Builds were not measured close together."""
    apart = {
        f"{candidate} in {scenario}": pairing.not_comparable
        for (scenario, candidate), pairing in paired.pairings.items()
        if pairing.not_comparable
    }
    if not paired.comparable:
        apart = {"everything": paired.not_comparable_reason or ""}
    if not apart:
        return []
    return [
        Caveat(
            code="not_comparable_in_time",
            value=len(apart),
            message="Not comparable in time, so there is no verdict: "
            f"{listed_few(f'{name} ({reason})' for name, reason in apart.items())}.",
            advice="Measure the builds in one campaign: `picolab compare` runs them back to back in every block.",
        )
    ]


def _of_self_comparison(paired: PairedCampaign, metrics: Sequence[MetricComparison]) -> list[Caveat]:
    """A build seems to differ from itself."""
    differences = [
        f"{c.metric.title} {change_and_interval(c.ratio, c.low, c.high)} in {c.scenario}"
        for c in metrics
        # Only the metrics that gate: with every further metric, chance alone finds a difference more often.
        if c.differs and c.gates and paired.is_same_build(c.scenario, c.candidate)
    ]
    if not differences:
        return []
    return [
        Caveat(
            code="differs_from_itself",
            value=len(differences),
            message=f"A build was compared with itself and seems to differ: {listed_few(differences)}. "
            "For each metric, chance alone causes this once in twenty campaigns.",
            advice="Repeat the campaign. If the difference stays, do not trust comparisons made on this host in its "
            "current state.",
        )
    ]


def _of_pairs(comparisons: Sequence[MetricComparison]) -> list[Caveat]:
    """There are too few pairs."""
    few = {
        f"{c.metric.title} of {c.candidate} in {c.scenario}": len(c.pairs)
        for c in comparisons
        if c.gates and len(c.pairs) < statistics.LEAST_PAIRS
    }
    if not few:
        return []
    return [
        Caveat(
            code="too_few_pairs",
            value=min(few.values()),
            message=f"With fewer than {statistics.LEAST_PAIRS} pairs there is no verdict, since no test could find a "
            f"difference: {listed_few(f'{name} has {n}' for name, n in few.items())}.",
            advice=f"Run at least {statistics.LEAST_PAIRS} blocks, better 10: --repeats 10.",
        )
    ]


def _of_missing_trials(paired: PairedCampaign) -> list[Caveat]:
    """Planned trials have no result."""
    reasons = Counter(paired.campaign.no_result.values())
    if not reasons:
        return []
    planned = len(paired.campaign.planned)
    return [
        Caveat(
            code="unfinished",
            value=reasons.total(),
            message=f"{reasons.total()} of {planned} planned trials have no result: "
            f"{listed_few(f'{n} {reason}' for reason, n in reasons.most_common())}.",
            advice="Run `picolab resume`, then compare again. Checking verdicts on the way and stopping at a welcome "
            "one makes them worthless.",
        )
    ]


def _of_missing_builds(paired: PairedCampaign) -> list[Caveat]:
    """A scenario lacks the baseline or a candidate."""
    lone = [
        f"{scenario} ({listed(builds)} only)"
        for scenario, builds in paired.measured.items()
        if set(builds) != set(paired.builds)
    ]
    if not lone:
        return []
    return [
        Caveat(
            code="build_missing",
            value=len(lone),
            message=f"Not all builds were measured in every scenario: {listed_few(lone)}.",
            advice="Measure every build in every scenario, or look these scenarios up in the campaign's report.",
        )
    ]


def _of_order(comparisons: Sequence[MetricComparison]) -> list[Caveat]:
    """One build ran first in every pair."""
    same = {
        f"{c.baseline if c.pairs[0].baseline_first else c.candidate} before "
        f"{c.candidate if c.pairs[0].baseline_first else c.baseline} in {c.scenario}": len(c.pairs)
        for c in comparisons
        if len(c.pairs) >= statistics.LEAST_PAIRS and len({pair.baseline_first for pair in c.pairs}) == 1
    }
    if not same:
        return []
    return [
        Caveat(
            code="same_order",
            value=max(same.values()),
            message=f"The same build ran first in every pair: {listed_few(same)}. "
            "The effect of one trial on the next then looks like a difference between the builds.",
            advice="Let picolab plan the campaign: each build then runs first equally often.",
        )
    ]


def _of_starts(busy: Sequence[str]) -> list[Caveat]:
    """A campaign began although the host was not idle."""
    if not busy:
        return []
    return [
        Caveat(
            code="host_never_idle",
            value=len(busy),
            message=f"The campaign began on a busy host: {busy[0]}.",
            advice="End other programs and repeat the campaign; `busy_host: refuse` begins on an idle host only.",
        )
    ]


def _of_hosts(trials: Sequence[ComparedTrial]) -> list[Caveat]:
    """Trials ran on more than one host or kernel."""
    found = dict.fromkeys(trial.host for trial in trials)
    if len(found) < 2:
        return []
    hosts = [f"{hostname} (kernel {kernel}, {cpu})" for hostname, kernel, cpu in found]
    return [
        Caveat(
            code="mixed_hosts",
            value=len(hosts),
            message=f"The trials ran on more than one host or kernel: {listed_few(hosts)}. The two trials of a pair "
            f"always ran on the same one; the medians of single builds mix them.",
            advice="Look at the ratios, not at the medians; or compare builds on one host with one kernel.",
        )
    ]


def _of_records(trials: Sequence[ComparedTrial], builds: Sequence[str]) -> list[Caveat]:
    """Single trials have caveats: each code once, with the number of trials of each build."""
    first = {caveat.code: caveat for trial in reversed(trials) for caveat in trial.record.caveats}
    totals = Counter(trial.build for trial in trials)
    caveats = []
    for code in sorted(first):
        having = Counter(trial.build for trial in trials if code in {caveat.code for caveat in trial.record.caveats})
        shares = listed_few(f"{having[build]} of {totals[build]} of {build}" for build in builds if totals[build])
        message = f"Of the trials, {shares} have the caveat {code}: {first[code].message}"
        if _unequal(having, totals, builds):
            message += " The builds were not measured under the same conditions."
        caveats.append(Caveat(code=code, value=shares, message=message, advice=first[code].advice))
    return caveats


def _unequal(having: Mapping[str, int], totals: Mapping[str, int], builds: Sequence[str]) -> bool:
    """Return whether a build has a caveat significantly more often, or less often, than the first."""
    first, *others = [build for build in builds if totals[build]] or [""]
    return any(
        statistics.outcome_test(having[first], totals[first], having[build], totals[build]) < _UNEQUAL_P
        for build in others
    )
