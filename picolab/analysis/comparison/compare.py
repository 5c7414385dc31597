"""Compare the builds of a campaign: which is faster, which needs more memory, which fails more often.

A comparison is made of **pairs**: the baseline's and the candidate's trial of one scenario in one block, which ran back
to back. What drifts over hours affects both alike and leaves their ratio unchanged. This module puts the parts
together: trials, pairing, numbers, outcomes, caveats, gate. The statistics are in `analysis.statistics`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from picolab.analysis.comparison import gate
from picolab.analysis.comparison.builds import each_build
from picolab.analysis.comparison.caveats import find_caveats
from picolab.analysis.comparison.independence import independent_unit
from picolab.analysis.comparison.models import Comparison
from picolab.analysis.comparison.numbers import compare_metric
from picolab.analysis.comparison.outcomes import compare_outcomes
from picolab.analysis.comparison.paired import PairedCampaign
from picolab.analysis.comparison.trials import read_trials, side_by_side
from picolab.errors import ParameterError
from picolab.record.metrics import compared_metrics
from picolab.text.foreign import shown

if TYPE_CHECKING:
    from picolab.results.load import CampaignData

DEFAULT_MARGIN = 0.05


def compare(data: CampaignData, margin: float | None = None, baseline: str | None = None) -> Comparison:
    """Compare the builds of a campaign.

    Args:
        data: of one campaign, from `picolab.results.load.read_campaign`.
        margin: relative change that does not matter, such as 0.05; default: the plan's.
        baseline: label of the build that the others are compared with; default: the plan's, or its first build.

    Raises:
        ParameterError: the campaign has only one build, or none with this label, or the margin is out of range; or it
            searched memory floors, so that its builds ran at different RAM.
    """
    if data.plan.get("floor"):
        raise ParameterError(
            f"{data.folder}: this campaign searched memory floors, so its builds ran at different RAM; floor.html in "
            f"it compares the floors"
        )
    paired = PairedCampaign(read_trials(data), baseline)
    return _compared(paired, _margin(margin, data), _randomised(data), plan_is_known=bool(data.plan))


def compare_campaigns(
    campaigns: list[CampaignData], margin: float | None = None, baseline: str | None = None
) -> Comparison:
    """Put builds of separate campaigns side by side: these are never comparable in time, so there are no verdicts.

    Args:
        campaigns: at least two; the baseline is taken from the first.
        margin: as in `compare`; default: the first plan's.
        baseline: as in `compare`.

    Raises:
        ParameterError: as in `compare`, or there is only one campaign.
    """
    if len(campaigns) < 2:
        raise ParameterError("one campaign cannot be compared with others; name two, or compare the builds inside it")
    campaign = side_by_side([read_trials(data) for data in campaigns])
    reason = (
        f"the builds were measured in separate campaigns ({campaign.name}), so changes in between cannot be separated "
        "from a difference of the builds"
    )
    randomised = "Nothing was randomised between the builds: they were measured in separate campaigns."
    paired = PairedCampaign(campaign, baseline, reason)
    plan_is_known = all(data.plan for data in campaigns)
    return _compared(paired, _margin(margin, campaigns[0]), randomised, plan_is_known)


def _compared(paired: PairedCampaign, margin: float, randomised: str, plan_is_known: bool) -> Comparison:
    metrics = tuple(
        comparison for metric in compared_metrics() for comparison in compare_metric(paired, metric, margin)
    )
    outcomes = tuple(compare_outcomes(paired))
    caveats = tuple(find_caveats(paired, metrics))
    decision, reason = gate.decide(metrics, outcomes, caveats, margin)
    return Comparison(
        campaign=paired.campaign.name,
        baseline=paired.baseline,
        candidates=tuple(paired.candidates),
        scenarios=paired.scenarios,
        margin=margin,
        gate=decision,
        gate_reason=reason,
        plan_is_known=plan_is_known,
        unmeasured=len(paired.campaign.no_result),
        comparable=paired.comparable,
        not_comparable_reason=paired.not_comparable_reason,
        self_comparison=paired.is_self_comparison,
        independence=independent_unit(paired.campaign.trials),
        randomised=randomised,
        metrics=metrics,
        outcomes=outcomes,
        builds=tuple(each_build(paired, compared_metrics())),
        caveats=caveats,
    )


def _margin(margin: float | None, data: CampaignData) -> float:
    if margin is None:
        percent = data.plan.get("margin_percent")
        return float(percent) / 100 if isinstance(percent, int | float) and percent > 0 else DEFAULT_MARGIN
    if not 0 < margin <= 1:
        raise ParameterError(f"margin = {shown(margin)} should be above 0 and at most 1: 0.05 stands for 5 %")
    return margin


def _randomised(data: CampaignData) -> str:
    if not data.plan:
        return "Randomisation is unknown: the plan cannot be read."
    return f"{data.plan.get('order') or 'The plan does not say what was randomised.'} Seed {data.plan.get('seed')}."
