"""Caveats of a comparison: when what a campaign says about builds comes with a warning. The one catalogue of those."""

from collections import Counter
from collections.abc import Mapping, Sequence

from picolab.analysis.comparison.pairing import ComparedTrial
from picolab.analysis.statistics import LEAST_PAIRS, Trend, outcome_test
from picolab.record.record import Caveat

_SHOWN = 6
_UNEQUAL_P = 0.05


def listed(names: Sequence[str]) -> str:
    """Return names in words, the first few when there are many."""
    shown = [*names[:_SHOWN], f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else list(names)
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def of_time(reasons: Mapping[str, str]) -> list[Caveat]:
    """Return what it means that builds were not measured near each other.

    Args:
        reasons: why, by what was to be compared.
    """
    if not reasons:
        return []
    what = listed([f"{name} ({reason})" for name, reason in reasons.items()])
    return [
        Caveat(
            code="not_comparable_in_time",
            value=len(reasons),
            message=f"Not comparable in time, so there is no verdict: {what}.",
            advice="Measure the builds in one campaign: `picolab compare` runs them back to back in every block.",
        )
    ]


def _largest_change(trends: Mapping[str, Trend]) -> float:
    largest = max((trend.change for trend in trends.values()), key=abs)
    return round(largest, 3)


def of_drift(trends: Mapping[str, Trend], protected: bool) -> list[Caveat]:
    """Return what it means that the values of builds have a trend over the campaign.

    Args:
        trends: the significant ones, by metric and build in words.
        protected: true when builds are compared in pairs.
    """
    if not trends:
        return []
    changes = [f"{name} {trend.change:+.0%}" for name, trend in trends.items()]
    meaning = (
        "The verdicts compare pairs that ran back to back, so a drift that all builds share does not touch them; the "
        "medians of single builds are worth less."
        if protected
        else "Nothing protects a comparison of builds that were measured one after the other from it."
    )
    return [
        Caveat(
            code="drift",
            value=_largest_change(trends),
            message=f"Values changed over the campaign: {listed(changes)}. {meaning}",
            advice="Look for what changed on the host (heat, other programs, a disk that fills up) before you quote a "
            "median of this campaign.",
        )
    ]


def of_ratio_drift(trends: Mapping[str, Trend]) -> list[Caveat]:
    """Return what it means that the ratio of two builds has a trend over the campaign itself.

    Args:
        trends: the significant ones, by metric and candidate in words.
    """
    if not trends:
        return []
    changes = [f"{name} {trend.change:+.0%}" for name, trend in trends.items()]
    return [
        Caveat(
            code="ratio_drifts",
            value=_largest_change(trends),
            message=f"The ratio of the builds itself changed over the campaign: {listed(changes)}. One number for the "
            "whole campaign hides that.",
            advice="Look at the pairs in order of time: something on the host slows one build down more than the "
            "other. Repeat the campaign when the host is steady.",
        )
    ]


def of_first_trial(trial_id: str, metric: str, effect: float | None) -> list[Caveat]:
    """Return what it means that the campaign's first trial lies outside of the others.

    Args:
        metric: what it is seen in, in words.
        effect: how far outside, relative; None or above zero when it is not slow.
    """
    if effect is None or effect >= 0:
        return []
    return [
        Caveat(
            code="first_trial_slow",
            value=round(effect, 3),
            message=f"The campaign's first trial ({trial_id}) was slower than all others: {metric} {effect:+.0%} "
            "beyond them. It counts like every other.",
            advice="Something was cold: caches, the processor's clock, the machine. More blocks make one trial matter "
            "less.",
        )
    ]


def of_pairs(few: Mapping[str, int]) -> list[Caveat]:
    """Return what it means that there are too few pairs.

    Args:
        few: number of pairs by what was to be compared.
    """
    if not few:
        return []
    return [
        Caveat(
            code="too_few_pairs",
            value=min(few.values()),
            message=f"Fewer than {LEAST_PAIRS} pairs give no verdict, since no test could find anything: "
            f"{listed([f'{name} has {n}' for name, n in few.items()])}.",
            advice=f"Run at least {LEAST_PAIRS} blocks, better 10: --repeats 10.",
        )
    ]


def of_order(same: Mapping[str, int]) -> list[Caveat]:
    """Return what it means that one build always ran first in a pair.

    Args:
        same: number of pairs by what was compared.
    """
    if not same:
        return []
    return [
        Caveat(
            code="same_order",
            value=max(same.values()),
            message=f"The same build ran first in every pair: {listed(list(same))}. What a trial does to the next one "
            "then looks like a difference of the builds.",
            advice="Let picolab plan the campaign: it gives each build each place equally often.",
        )
    ]


def of_lone_builds(scenarios: Mapping[str, str]) -> list[Caveat]:
    """Return what it means that a scenario was measured without the baseline or without a candidate.

    Args:
        scenarios: the builds that were measured there, in words, by scenario.
    """
    if not scenarios:
        return []
    return [
        Caveat(
            code="build_missing",
            value=len(scenarios),
            message="Scenarios that not all builds were measured in: "
            f"{listed([f'{scenario} ({builds} alone)' for scenario, builds in scenarios.items()])}.",
            advice="Give every build every scenario, or read these by themselves in the report of the campaign.",
        )
    ]


def of_hosts(hosts: Sequence[str]) -> list[Caveat]:
    """Return what it means that trials ran on more than one host or kernel.

    Args:
        hosts: the different ones, in words.
    """
    if len(hosts) < 2:
        return []
    return [
        Caveat(
            code="mixed_hosts",
            value=len(hosts),
            message=f"The trials ran on more than one host or kernel: {listed(hosts)}.",
            advice="Compare builds on one host with one kernel; start a new campaign after a change.",
        )
    ]


def of_missing_trials(reasons: Sequence[str], planned: int) -> list[Caveat]:
    """Return what it means that planned trials have no result.

    Args:
        reasons: why, for each of them.
        planned: number of trials in the plan.
    """
    if not reasons:
        return []
    counts = [f"{n} {reason}" for reason, n in Counter(reasons).most_common()]
    return [
        Caveat(
            code="unfinished",
            value=len(reasons),
            message=f"{len(reasons)} of {planned} planned trials have no result: {listed(counts)}.",
            advice="Go on with `picolab resume`, then compare again. To look at verdicts on the way and stop at one "
            "that pleases makes them worthless.",
        )
    ]


def of_starts(busy: Sequence[str]) -> list[Caveat]:
    """Return what it means that a campaign began although the host was not idle.

    Args:
        busy: what each such start found, one phrase each.
    """
    if not busy:
        return []
    return [
        Caveat(
            code="host_never_idle",
            value=len(busy),
            message=f"The campaign began on a busy host: {busy[0]}.",
            advice="End what runs beside, and repeat the campaign; `busy_host: refuse` begins on an idle host only.",
        )
    ]


def of_boots(scenarios: Sequence[str]) -> list[Caveat]:
    """Return what it means that all trials of a scenario ran in one boot of a virtual machine.

    Args:
        scenarios: those of which this is so.
    """
    if not scenarios:
        return []
    return [
        Caveat(
            code="one_boot",
            value=len(scenarios),
            message=f"All trials ran in one boot of the virtual machine, so the conclusions hold for that boot: "
            f"{listed(list(scenarios))}.",
            advice="Set fresh_machine to per_block, so that each block has a boot of its own.",
        )
    ]


def of_self_comparison(findings: Sequence[str]) -> list[Caveat]:
    """Return what it means that a build seems to differ from itself.

    Args:
        findings: the verdicts that say so, in words.
    """
    if not findings:
        return []
    return [
        Caveat(
            code="differs_from_itself",
            value=len(findings),
            message=f"A build was compared with itself, and a difference was found: {listed(findings)}. For each "
            "metric this is chance once in twenty such campaigns.",
            advice="Repeat it. If it stays, trust no comparison that was made on this host in this state.",
        )
    ]


def of_records(trials: Sequence[ComparedTrial], builds: Sequence[str]) -> list[Caveat]:
    """Return the caveats of single trials, each once, with the number of trials of each build that have it.

    Args:
        builds: in the order in which they are named.
    """
    first = {caveat.code: caveat for trial in reversed(trials) for caveat in trial.record.caveats}
    totals = Counter(trial.build for trial in trials)
    caveats = []
    for code in sorted(first):
        having = Counter(trial.build for trial in trials if code in {caveat.code for caveat in trial.record.caveats})
        shares = [f"{having[build]} of {totals[build]} of {build}" for build in builds if totals[build]]
        words = f"Of the trials, {listed(shares)} have the caveat {code}: {first[code].message}"
        if _unequal(having, totals, builds):
            words += " The builds were not measured under the same conditions."
        caveats.append(Caveat(code=code, value=listed(shares), message=words, advice=first[code].advice))
    return caveats


def _unequal(having: Counter[str], totals: Counter[str], builds: Sequence[str]) -> bool:
    """Tell whether a build has a caveat significantly more often, or less, than the first."""
    first, *others = [build for build in builds if totals[build]] or [""]
    return any(
        outcome_test(having[first], totals[first], having[build], totals[build]) < _UNEQUAL_P for build in others
    )
