"""The page of an answer: everything that its notebook shows besides what every campaign has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from picolab.analysis.answer import Answer, answer
from picolab.analysis.prediction import PREDICTION_CONFIDENCE
from picolab.charts import answer as charts
from picolab.charts.figure import Figure
from picolab.config.plan import Plan
from picolab.config.sizes import format_size
from picolab.errors import ParameterError
from picolab.report import campaign_page
from picolab.report.answer_lines import (
    facts,
    headline,
    interval_only,
    notes,
    reason,
    scaling_words,
    title,
    value_words,
)
from picolab.report.campaign_page import figure
from picolab.report.markup import Column, definitions, paragraph, table
from picolab.results.load import CampaignData
from picolab.results.other_campaigns import read_earlier
from picolab.results.rows import record_row, trial_frame
from picolab.text.markup import Html, escape, unbroken
from picolab.text.wording import counted, percent


@dataclass(frozen=True)
class Answered:
    """An answer with the campaign behind it.

    Attributes:
        data: the campaign with the earlier trials that were used too; their names begin with their campaign's.
    """

    plan: Plan
    found: Answer
    data: CampaignData


def read(data: CampaignData) -> Answered:
    """Return the answer of a campaign.

    Raises:
        ParameterError: the campaign answers no question.
    """
    if not data.plan.get("answer"):
        raise ParameterError(f"{data.folder}: this campaign answers no question; picolab answer makes one that does")
    plan = Plan.model_validate(data.plan)
    assert plan.answer is not None
    earlier = read_earlier(data.folder.parent, plan.answer)
    rows = [record_row(record) for record in (*earlier.records.values(), *data.records.values())]
    found = answer(plan.answer, sorted(rows, key=lambda row: str(row["started_at"])))
    named = [row | {"trial_id": _name(row, plan)} for row in found.rows]
    gone = [{"path": name, "problem": "an earlier trial that is not there any more: not used"} for name in earlier.gone]
    pooled = replace(
        data,
        trials=trial_frame(named),
        records={**earlier.records, **data.records},
        problems=pd.concat([data.problems, pd.DataFrame(gone, columns=["path", "problem"])], ignore_index=True),
    )
    return Answered(plan, found, pooled)


def _name(row: dict[str, Any], plan: Plan) -> str:
    return str(row["trial_id"]) if row["campaign"] == plan.campaign else f"{row['campaign']}/{row['trial_id']}"


def lines(answered: Answered) -> Html:
    """Show the answer in plain words, what it is known from, and each part of it."""
    found = answered.found
    parts = [
        (name[0].upper() + name[1:], Html(f"<strong>{unbroken(value)}</strong><br>{_quiet(note)}", value))
        for name, value, note in facts(found, answered.data.folder)
    ]
    rest = "".join(f'<p class="note">{escape(line)}</p>' for line in notes(found, answered.data.folder))
    return Html(
        f'<p class="headline">{unbroken(headline(found))}</p><p class="lead">{unbroken(reason(found))}</p>'
        f"{definitions(parts).markup}{rest}{campaign_page.notices(answered.data)}",
        f"{headline(found)} {reason(found)}",
    )


def _quiet(text: str) -> str:
    return f'<span class="quiet">{unbroken(text)}</span>'


def numbers(answered: Answered) -> Html:
    """Show each number: its prediction, how it is known, and how it grows with the file size."""
    found = answered.found
    rows = [
        {
            "what": title(shown),
            "value": value_words(shown, shown.prediction.middle) if shown.prediction else None,
            "interval": interval_only(shown) if shown.prediction else None,
            "scaling": scaling_words(shown),
            "spread": percent(shown.fit.spread, 1) if shown.fit else None,
            "error": percent(shown.fit.errors[shown.fit.law], 1) if shown.fit else None,
            "missing": shown.missing or None,
        }
        for shown in found.quantities
    ]
    columns = [
        Column("", "what"),
        Column(f"for {found.request.parameters.file_size}", "value", 0),
        Column(f"{percent(PREDICTION_CONFIDENCE)} interval", "interval", 0),
        Column("one trial varies by", "spread", 0),
        Column("error at a size left out", "error", 0),
        Column("with the file size", "scaling"),
    ]
    if any(row["missing"] for row in rows):
        columns.append(Column("why there is no prediction", "missing"))
    return table(rows, columns)


def scaling(answered: Answered) -> Figure | Html:
    """Show time and memory against file size."""
    found = answered.found
    panels = [charts.quantity(found, shown, title(shown).capitalize()) for shown in found.quantities]
    return figure(
        [panel for panel in panels if panel is not None],
        "Each point is a trial. The line is the fitted law, the band holds 90 % of further trials, and the diamond is "
        "the size that was asked for. What is orange and dashed is extrapolated: nothing was measured there.",
        empty="Too few trials have a result for a line: it needs 6 trials of 3 sizes.",
    )


def parallel(answered: Answered) -> Figure | Html:
    """Show how throughput grows with uploads at the same time."""
    found = answered.found
    if found.scalability is None:
        why = found.scalability_missing or "it was not asked for; picolab answer --parallel 8 measures it"
        return paragraph(f"There is no law: {why}.", "empty")
    return figure(
        [charts.parallel(found.scalability)],
        f"Each point is a trial of {found.parallel_size} for each upload. The line is the universal "
        "scalability law with its 90 % band.",
        empty="",
    )


def survival(answered: Answered) -> Html:
    """Show each measured size with its survivors, and the share that they prove."""
    found = answered.found
    if not found.survival:
        return paragraph("No trial has a result yet.", "empty")
    rows = [
        {
            "size": format_size(size.size_bytes),
            "survived": size.survived,
            "trials": size.trials,
            "proven": percent(size.proven, 0),
            "outcomes": ", ".join(f"{count} {name}" for name, count in sorted(size.outcomes.items())),
        }
        for size in found.survival
    ]
    columns = (
        Column("file", "size"),
        Column("survived", "survived", 0),
        Column("trials", "trials", 0),
        Column("proves at least, 95 % confidence", "proven", 0),
        Column("outcomes", "outcomes"),
    )
    return table(rows, columns, caption=f"{counted(found.trials, 'trial')} with one upload at a time")
