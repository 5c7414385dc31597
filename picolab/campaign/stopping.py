"""When a campaign with `repeats: auto` has enough blocks. It looks at widths of intervals, never at who is ahead."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from picolab.analysis import decisions, statistics
from picolab.config.plan import Plan
from picolab.record.metric import Metric
from picolab.record.metrics import compared_metrics
from picolab.results.rows import step_ok
from picolab.text.wording import duration, listed


@dataclass(frozen=True)
class Width:
    """How well one metric of one build is known in one scenario."""

    scenario: str
    build: str
    metric: str
    """Its name, as in `picolab.record.metrics.METRICS`."""
    n: int
    """Pairs with the baseline; trials when there is none."""
    reach: float | None
    """How far the interval reaches from its middle, relative; None when there is none."""
    enough: bool
    """True when the rule needs no more of it: it was narrow often enough, or there is nothing to wait for."""


def watched_metrics(plan: Plan) -> dict[str, list[Metric]]:
    """Return for each scenario of a plan the metrics that decide the verdict there: the rule watches all of them."""
    directions = {trial.scenario: trial.parameters.direction for trial in plan.trials}
    return {
        scenario: [metric for metric in compared_metrics() if direction in metric.gates]
        for scenario, direction in directions.items()
    }


def watched_in_words(plan: Plan) -> str:
    """Return what the rule of a plan watches and when it has enough, one sentence; empty without a rule."""
    if plan.stopping is None:
        return ""
    metrics = dict.fromkeys(metric.title for found in watched_metrics(plan).values() for metric in found)
    of_what = "ratios" if plan.compares else "medians"
    return (
        f"Stops when the intervals of the {of_what} of {listed(metrics)} are all within "
        f"{plan.stopping.target_percent:g} % of their middle, in every scenario."
    )


def why_enough(plan: Plan, rows: Sequence[dict[str, Any]], block: int, running_s: float) -> str | None:
    """Return why no block is needed after this one, one sentence; None when one is, or when the plan has no rule.

    Args:
        rows: of `record_row`, results up to this block.
        running_s: of the campaign so far, as `picolab.campaign.running_time` counts them.
    """
    rule = plan.stopping
    if rule is None:
        return None
    if rule.time_limit_h is not None and running_s > rule.time_limit_h * 3600:
        return f"the time limit of {rule.time_limit_h:g} h was reached, whatever the intervals"
    if block < rule.least_blocks:
        return None
    widths = interval_widths(plan, rows)
    if not all(width.enough for width in widths):
        return None
    if all(width.n == 0 for width in widths):
        return f"no trial of {block} blocks gave a value, and more of them would not"
    return f"every interval was within {rule.target_percent:g} % of its middle"


def why_over_budget(plan: Plan, block: int, ran_s: float, left_s: float | None) -> str | None:
    """Return why no block may follow this one, one sentence; None when the budget allows it, or there is none.

    Args:
        ran_s: seconds that the trials so far took.
        left_s: expected seconds of all trials that are left.
    """
    if plan.answer is None or left_s is None or block >= plan.repeats:
        return None
    of_next_s = left_s / (plan.repeats - block)
    if ran_s + of_next_s <= plan.answer.budget_s:
        return None
    return (
        f"the trials took {duration(ran_s)}, and another block of about {duration(of_next_s)} would exceed the budget "
        f"of {duration(plan.answer.budget_s)}"
    )


def interval_widths(plan: Plan, rows: Sequence[dict[str, Any]]) -> list[Width]:
    """Return how well each metric that decides is known, of each build in each scenario.

    Args:
        rows: as of `why_enough`.
    """
    assert plan.stopping is not None
    target = plan.stopping.target_percent / 100
    widths = []
    for scenario, metrics in watched_metrics(plan).items():
        here = [row for row in rows if row["scenario"] == scenario]
        labels = list(dict.fromkeys(t.parameters.build_label for t in plan.trials if t.scenario == scenario))
        for metric in metrics:
            by_build: dict[str, dict[int, float]] = {label: {} for label in labels}
            for row in here:
                if row["build"] in by_build and row.get(metric.name) and step_ok(row, metric.step):
                    by_build[row["build"]][row["block"]] = row[metric.name]
            if plan.baseline is None or plan.baseline not in labels or len(labels) == 1:
                widths += [
                    _of_median(scenario, label, metric, list(values.values()), target)
                    for label, values in by_build.items()
                ]
            else:
                widths += [
                    _of_ratio(scenario, label, metric, by_build[plan.baseline], by_build[label], target)
                    for label in labels
                    if label != plan.baseline
                ]
    return widths


def _of_ratio(
    scenario: str, label: str, metric: Metric, old: dict[int, float], new: dict[int, float], target: float
) -> Width:
    common = sorted(set(old) & set(new))
    values = [old[block] for block in common], [new[block] for block in common]
    paired = statistics.paired_ratio(*values)
    reach = None if paired is None else math.sqrt(paired.high / paired.low) - 1
    # What has never given a value never will.
    return Width(
        scenario, label, metric.name, len(common), reach, not common or decisions.enough_pairs(*values, target)
    )


def _of_median(scenario: str, label: str, metric: Metric, values: Sequence[float], target: float) -> Width:
    interval = statistics.median_interval(values)
    reach = None if interval is None else (interval.high - interval.low) / 2 / statistics.median(values)
    return Width(
        scenario, label, metric.name, len(values), reach, not values or (reach is not None and reach <= target)
    )
