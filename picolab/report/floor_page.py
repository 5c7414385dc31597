"""The page of a memory floor: everything that its notebook shows besides what every campaign has."""

from picolab.analysis.floor_search import Floor, floor_of
from picolab.charts import floor as charts
from picolab.charts.figure import Figure
from picolab.config.plan import Plan
from picolab.errors import ParameterError
from picolab.report.campaign_page import figure
from picolab.report.floor_lines import as_lines
from picolab.report.markup import Column, paragraph, table
from picolab.results.load import CampaignData
from picolab.results.rows import plain_rows
from picolab.text.markup import Html, escape
from picolab.text.wording import counted


def read(data: CampaignData) -> tuple[Plan, Floor]:
    """Return the plan of a search and what it has found.

    Raises:
        ParameterError: the campaign searched no floor.
    """
    if not data.plan.get("floor"):
        raise ParameterError(
            f"{data.folder}: this campaign searched no memory floor; picolab floor makes one that does"
        )
    plan = Plan.model_validate(data.plan)
    return plan, floor_of(plan, {row["trial_id"]: row for row in plain_rows(data.trials)})


def answer(data: CampaignData) -> Html:
    """Show the floor, what proves it and what limits it."""
    headline, *rest = as_lines(*read(data))
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in rest)
    return Html(f'<p class="headline">{escape(headline)}</p>{paragraphs}', headline)


def survival(data: CampaignData) -> Figure | Html:
    """Show survival against RAM."""
    _, found = read(data)
    return figure(
        charts.survival(found),
        f"{counted(len(found.trials), 'trial')}: survivors above, the others below. The blue line is the fitted curve "
        "with its 95 % band, the solid line the floor with its interval, the dashed line the recommended RAM.",
        empty="No trial has a result yet, so there is no curve to show.",
    )


def levels(data: CampaignData) -> Html:
    """Show each RAM that was tried with its survivors, in the search and in the confirmation."""
    _, found = read(data)
    if not found.trials:
        return paragraph("No trial has a result yet.", "empty")
    rows = []
    for ram in sorted({trial.ram_mb for trial in found.trials}):
        here = [trial for trial in found.trials if trial.ram_mb == ram]
        died = ", ".join(dict.fromkeys(trial.outcome for trial in here if not trial.survived))
        rows.append(
            {
                "ram": f"{ram:.10g}",
                "survived": sum(trial.survived for trial in here),
                "trials": len(here),
                "confirmation": sum(trial.purpose == "confirmation" for trial in here),
                "died": died or None,
            }
        )
    columns = (
        Column("RAM, MiB", "ram"),
        Column("survived", "survived", 0),
        Column("trials", "trials", 0),
        Column("of these to confirm", "confirmation", 0),
        Column("outcomes of the others", "died"),
    )
    return table(rows, columns)
