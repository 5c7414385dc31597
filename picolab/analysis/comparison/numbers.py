"""The ratio of two builds in one metric, its interval and its verdict."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from picolab.analysis import decisions, statistics
from picolab.analysis.comparison.models import UNDECIDED, UNSTABLE, MetricComparison, Pair
from picolab.text.wording import counted

if TYPE_CHECKING:
    from picolab.analysis.comparison.paired import PairedCampaign
    from picolab.analysis.comparison.pairing import Pairing
    from picolab.analysis.comparison.trials import ComparedTrial
    from picolab.record.metric import Metric


def compare_metric(paired: PairedCampaign, metric: Metric, margin: float) -> list[MetricComparison]:
    """Return all comparisons of one metric: a family, whose p-values are adjusted together.

    Args:
        margin: relative change that does not matter.
    """
    found = []
    for (scenario, candidate), pairing in paired.pairings.items():
        gates = paired.gates(scenario, metric)
        if gates or any(paired.series(scenario, build, metric).values for build in (paired.baseline, candidate)):
            found.append(_numbers(paired, scenario, candidate, metric, pairing, gates))
    adjusted = iter(statistics.holm([ratio.p_value for _, ratio in found if ratio is not None]))
    family = sum(ratio is not None for _, ratio in found)
    return [
        draft if ratio is None else _with_verdict(draft, ratio, next(adjusted), family, margin)
        for draft, ratio in found
    ]


def _numbers(
    paired: PairedCampaign, scenario: str, candidate: str, metric: Metric, pairing: Pairing, gates: bool
) -> tuple[MetricComparison, statistics.PairedRatio | None]:
    """Return a comparison without its verdict, and the ratio to judge: None when there can be no verdict."""
    pairs, incomplete = _pairs(paired, metric, pairing)
    found = statistics.paired_ratio([p.baseline_value for p in pairs], [p.candidate_value for p in pairs])
    ratio = found.ratio if found else None
    reason = ""
    if pairing.not_comparable:
        # Values measured far apart have no meaningful interval.
        old, new = (paired.series(scenario, build, metric).values for build in (paired.baseline, candidate))
        ratio = statistics.median(new) / statistics.median(old) if old and new else None
        reason = f"not comparable in time: {pairing.not_comparable}"
    elif len(pairs) < statistics.LEAST_PAIRS:
        reason = _too_few(len(pairs), len(incomplete))
    draft = MetricComparison(
        scenario=scenario,
        metric=metric,
        baseline=paired.baseline,
        candidate=candidate,
        verdict=None,
        reason=reason,
        gates=gates,
        no_regression=False,
        ratio=ratio,
        low=found.low if found else None,
        high=found.high if found else None,
        coverage=found.coverage if found else None,
        p_value=found.p_value if found else None,
        adjusted_p_value=None,
        spread=found.spread if found else None,
        minimum_detectable=found.minimum_detectable if found else None,
        pairs=pairs,
        incomplete=incomplete,
    )
    return draft, None if reason else found


def _pairs(paired: PairedCampaign, metric: Metric, pairing: Pairing) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Return the pairs that have a metric, and a sentence for each block that has none."""
    pairs, incomplete = [], list(pairing.incomplete)
    for old, new in pairing.together:
        old_value, new_value = old.value(metric), new.value(metric)
        if old_value is None or new_value is None:
            incomplete.append(_why_no_value(metric, old, new))
            continue
        begun = paired.campaign.trials[0].started
        pairs.append(
            Pair(
                block=old.block,
                hours=(min(old.started, new.started) - begun).total_seconds() / 3600,
                baseline_first=(old.started, old.position) < (new.started, new.position),
                baseline_trial=old.trial_id,
                candidate_trial=new.trial_id,
                baseline_value=old_value,
                candidate_value=new_value,
                ratio=new_value / old_value,
            )
        )
    return tuple(pairs), tuple(incomplete)


def _why_no_value(metric: Metric, old: ComparedTrial, new: ComparedTrial) -> str:
    words = []
    for trial in (old, new):
        if not trial.ok and not trial.step_ok(metric):
            words.append(f"{trial.build} ended {trial.outcome}")
        elif trial.value(metric) is None:
            words.append(f"{trial.build} has no {metric.name}")
    return f"block {old.block}: {' and '.join(words)}"


def _with_verdict(
    draft: MetricComparison, ratio: statistics.PairedRatio, adjusted_p: float, family: int, margin: float
) -> MetricComparison:
    metric = draft.metric
    judgement, reason = decisions.judge(ratio, adjusted_p, margin)
    words = {
        "higher": metric.better if metric.higher_is_better else metric.worse,
        "lower": metric.worse if metric.higher_is_better else metric.better,
    }
    verdict = words.get(judgement, str(judgement))
    if verdict in (UNDECIDED, UNSTABLE):
        reason += _too_few_for_significance(len(draft.pairs), family)
    return replace(
        draft,
        adjusted_p_value=adjusted_p,
        verdict=verdict,
        reason=reason,
        no_regression=decisions.no_regression(ratio, margin, metric.higher_is_better),
    )


def _too_few(pairs: int, incomplete: int) -> str:
    lost = f" ({counted(incomplete, 'block')} without one)" if incomplete else ""
    return f"{counted(pairs, 'pair')}{lost}; at least {statistics.LEAST_PAIRS} are needed for any test to find a change"


def _too_few_for_significance(pairs: int, family: int) -> str:
    """Return words about a comparison in which nothing could have become significant; empty when it could have."""
    if 2.0 ** (1 - pairs) * family <= statistics.SIGNIFICANCE:
        return ""
    needed = math.ceil(1 + math.log2(family / statistics.SIGNIFICANCE))
    return (
        f"; with {pairs} pairs and {family} comparisons of this metric no difference could have become significant: "
        f"{needed} pairs are needed"
    )
