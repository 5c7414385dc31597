"""Which of two builds fails more often: outcomes of each measured step, compared by an exact test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from picolab.analysis import statistics
from picolab.analysis.comparison.models import FEWER_FAILURES, MORE_FAILURES, NO_DIFFERENCE_SEEN, OutcomeComparison
from picolab.record.outcomes import STEPS
from picolab.text.wording import listed

if TYPE_CHECKING:
    from picolab.analysis.comparison.paired import PairedCampaign
    from picolab.record.outcomes import Step


def compare_outcomes(paired: PairedCampaign) -> list[OutcomeComparison]:
    """Return the outcomes of all scenarios, candidates and measured steps: a family, adjusted together."""
    drafts = [draft for key, step in _measured_steps(paired) if (draft := _counts(paired, key, step)) is not None]
    # Where all or none failed no difference could be found, so they cost the others nothing (R. E. Tarone,
    # A modified Bonferroni method for discrete data, Biometrics 46, 1990).
    mixed = [index for index, draft in enumerate(drafts) if draft.p_value is not None and _is_mixed(draft)]
    adjusted = statistics.holm([p for index in mixed if (p := drafts[index].p_value) is not None])
    for index, adjusted_p in zip(mixed, adjusted, strict=True):
        drafts[index] = replace(drafts[index], adjusted_p_value=adjusted_p)
    return [_with_verdict(draft) for draft in drafts]


def failed_more(outcome: OutcomeComparison) -> bool:
    """Return whether the candidate failed in a larger share of its trials, significantly or not."""
    old, new = outcome.baseline_outcomes, outcome.candidate_outcomes
    return bool(old and new) and _failures(new) / sum(new.values()) > _failures(old) / sum(old.values())


def _measured_steps(paired: PairedCampaign) -> Iterator[tuple[tuple[str, str], Step | None]]:
    """Yield (scenario, candidate) with each of its measured steps, or with None when there is only one."""
    for scenario, candidate in paired.pairings:
        steps: tuple[Step | None, ...] = STEPS if "both" in paired.campaign.directions(scenario) else (None,)
        yield from (((scenario, candidate), step) for step in steps)


def _counts(paired: PairedCampaign, key: tuple[str, str], step: Step | None) -> OutcomeComparison | None:
    """Return a comparison without its verdict; its reason is empty when there can be one."""
    scenario, candidate = key
    pairing = paired.pairings[key]
    old, new = (
        Counter(found for trial in paired.campaign.of(scenario, build) if (found := trial.outcome_of(step)) is not None)
        for build in (paired.baseline, candidate)
    )
    if step == "download" and not old and not new and paired.campaign.of(scenario, paired.baseline):
        # No upload left anything to download: the comparison of the uploads reports that.
        return None
    p_value = None
    if old and new and not pairing.not_comparable:
        p_value = statistics.outcome_test(_failures(old), old.total(), _failures(new), new.total())
    return OutcomeComparison(
        scenario=scenario,
        baseline=paired.baseline,
        candidate=candidate,
        verdict=None,
        reason=f"not comparable in time: {pairing.not_comparable}" if pairing.not_comparable else "",
        baseline_outcomes=dict(old.most_common()),
        candidate_outcomes=dict(new.most_common()),
        p_value=p_value,
        adjusted_p_value=p_value,
        step=step,
    )


def _failures(outcomes: Mapping[str, int]) -> int:
    return sum(count for outcome, count in outcomes.items() if outcome != "ok")


def _is_mixed(draft: OutcomeComparison) -> bool:
    both = Counter(draft.baseline_outcomes) + Counter(draft.candidate_outcomes)
    return 0 < _failures(both) < both.total()


def _with_verdict(draft: OutcomeComparison) -> OutcomeComparison:
    """Return the comparison with its verdict and the counts behind it."""
    if draft.reason:
        return draft
    old, new = Counter(draft.baseline_outcomes), Counter(draft.candidate_outcomes)
    if draft.adjusted_p_value is None:
        without = [build for build, n in ((draft.baseline, old), (draft.candidate, new)) if not n]
        has = "has" if len(without) == 1 else "have"
        nothing = "reached no download that could fail" if draft.step == "download" else f"{has} no result yet"
        return replace(draft, reason=f"{listed(without)} {nothing}")
    kinds = sorted({outcome for outcome in (*old, *new) if outcome != "ok"})
    seen = [f"{kind} {new[kind]} of {new.total()} against {old[kind]} of {old.total()}" for kind in kinds]
    if len(kinds) > 1:
        seen.append(f"together {_failures(new)} of {new.total()} against {_failures(old)} of {old.total()}")
    if not kinds:
        seen = [f"all {old.total()} and {new.total()} trials ended ok"]
    verdict = NO_DIFFERENCE_SEEN
    if draft.adjusted_p_value < statistics.SIGNIFICANCE:
        verdict = MORE_FAILURES if failed_more(draft) else FEWER_FAILURES
    p_words = f" (exact test, p = {draft.adjusted_p_value:.2g})" if kinds else ""
    return replace(draft, verdict=verdict, reason=f"{', '.join(seen)}{p_words}")
