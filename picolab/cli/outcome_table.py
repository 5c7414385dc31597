"""The table of a campaign's cases: their outcomes and the metrics that the console shows."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rich.table import Table

from picolab.campaign.runner import Campaign
from picolab.cli.terminal import Text, colour
from picolab.record.metric import Metric
from picolab.record.metrics import metrics_of, shown_metrics
from picolab.record.outcomes import STEPS, Outcome
from picolab.results import labels
from picolab.results.rows import case_value, measured_outcomes

_WIDEST_HEADING_CELLS = 12


def outcome_table(campaign: Campaign, rows: Iterable[dict[str, Any]]) -> Table:
    """Return a table with a row a case: outcomes with their counts, and the metrics of the case.

    Numbers of a step count only if the step was measured. Metrics of the download are left out if no trial has one.

    Args:
        rows: the campaign's trials, as `trial_rows` returns them.
    """
    trials = [row | dict.fromkeys(_unmeasured(row)) for row in rows]
    metrics = shown_metrics("console", trials)
    table = Table(title=f"Campaign {campaign.plan.campaign}", title_justify="left", box=None, pad_edge=False)
    for heading in ("case", "outcomes"):
        table.add_column(heading)
    for metric in metrics:
        lines = [*textwrap.wrap(metric.title, _WIDEST_HEADING_CELLS), metric.shown_unit, metric.summary]
        table.add_column("\n".join(filter(None, lines)), justify="right")
    case_of = {trial.trial_id: trial.case for trial in campaign.needed}
    for case in campaign.plan.cases:
        planned = {name for name, its_case in case_of.items() if its_case == case}
        its_trials = [row for row in trials if row["trial_id"] in planned]
        # What was asked for is equal in a case of the plan; the build's file and the machine may not be.
        for place, (others, part) in enumerate(labels.split(its_trials) or [("", its_trials)]):
            outcomes = Counter((_outcome_words(row), Outcome(row["outcome"])) for row in part)
            words = Text(", ").join(
                Text(f"{n} {word}", style=colour(outcome)) for (word, outcome), n in outcomes.most_common()
            )
            left = len(planned) - len(its_trials)
            if left > 0 and place == 0:
                words = Text(", ").join([*([words] if outcomes else []), Text(f"{left} not run")])
            cells = [_cell(metric, metric.in_unit(case_value(metric, part))) for metric in metrics]
            emulated = " (emulated)" if any(row["acceleration"] == "emulation" for row in part) else ""
            label = f"{case}{emulated}{' · ' if others else ''}{others}"
            table.add_row(Text(label), words, *cells)
    return table


def _unmeasured(row: dict[str, Any]) -> list[str]:
    """Return the metrics of the steps that were not measured in a trial."""
    return [metric.name for step in set(STEPS) - set(measured_outcomes(row)) for metric in metrics_of(step)]


def _cell(metric: Metric, value: float | None) -> str:
    return "-" if value is None else f"{value:,.{metric.decimals}f}"


def _outcome_words(row: dict[str, Any]) -> str:
    """Return the outcome of a trial; of both measured steps where they differ."""
    found = measured_outcomes(row)
    if len(set(found.values())) < 2:
        return str(row["outcome"])
    return f"upload {found['upload']} but download {found['download']}"
