"""The page of a memory floor: everything that its notebook shows besides what every campaign has."""

from typing import Any

from picolab.analysis.floor import FloorInterval
from picolab.analysis.floor_comparison import Subject, ratios
from picolab.analysis.floor_search import Floor, floors_of
from picolab.charts import floor as charts
from picolab.charts.figure import Figure
from picolab.config.plan import Plan
from picolab.errors import ParameterError
from picolab.report import campaign_page
from picolab.report.campaign_page import figure
from picolab.report.floor_lines import as_lines, margin_of
from picolab.report.markup import Column, paragraph, table
from picolab.results.load import CampaignData
from picolab.results.rows import plain_rows
from picolab.text.markup import Html, unbroken
from picolab.text.wording import counted


def read(data: CampaignData) -> tuple[Plan, dict[str, Floor]]:
    """Return the plan of a search and the floor of each build, by label.

    Raises:
        ParameterError: the campaign searched no floor.
    """
    if not data.plan.get("floor"):
        raise ParameterError(
            f"{data.folder}: this campaign searched no memory floor; picolab floor makes one that does"
        )
    plan = Plan.model_validate(data.plan)
    return plan, floors_of(plan, {row["trial_id"]: row for row in plain_rows(data.trials)})


def answer(data: CampaignData) -> Html:
    """Show the floor or the comparison of floors, what proves it and what limits it."""
    plan, floors = read(data)
    headline, *rest = as_lines(plan, floors)
    paragraphs = "".join(f"<p>{unbroken(line)}</p>" for line in rest)
    several = _comparison(plan, floors).markup if len(floors) > 1 else ""
    notices = campaign_page.notices(data)
    return Html(f'<p class="headline">{unbroken(headline)}</p>{several}{paragraphs}{notices}', headline)


def _comparison(plan: Plan, floors: dict[str, Floor]) -> Html:
    """Return a table with the floors of each build and their ratios to the baseline's."""
    compared = ratios(floors, margin_of(plan))
    subjects = dict.fromkeys(one.subject for one in compared)
    rows = []
    for subject in subjects:
        found = {one.candidate: one for one in compared if one.subject == subject}
        for label, floor in floors.items():
            one = found.get(label)
            interval, why_none = _floor_of(floor, subject)
            ratio = one.ratio if one is not None else None
            rows.append(
                {
                    "subject": subject,
                    "build": label,
                    "floor": None if interval is None else f"{interval.middle:.4g}",
                    "interval": why_none if interval is None else f"{interval.low:.4g} to {interval.high:.4g}",
                    "trials": len(floor.trials),
                    "ratio": None if ratio is None else f"{ratio.middle:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
                    "verdict": "baseline" if one is None else f"{one.verdict}: {one.reason}",
                }
            )
    columns = (
        *([Column("RAM for", "subject")] if len(subjects) > 1 else []),
        Column("build", "build"),
        Column("floor, MiB", "floor"),
        Column("interval, MiB", "interval"),
        Column("trials", "trials", 0),
        Column("ratio to the baseline", "ratio"),
        Column("verdict", "verdict"),
    )
    return table(rows, columns)


def _floor_of(floor: Floor, subject: Subject) -> tuple[FloorInterval | None, str]:
    """Return the floor of a build with its interval, or None and why there is none."""
    if subject == "survival":
        known = floor.trials and floor.state not in ("above", "below")
        return (floor.interval if known else None), floor.state
    speed = floor.speed
    if speed is None:
        return None, "not searched"
    return (None if speed.state in ("above", "below") else speed.interval), speed.state


def survival(data: CampaignData) -> Figure | Html:
    """Show survival against RAM, a panel for each build."""
    _, floors = read(data)
    trials = sum(len(floor.trials) for floor in floors.values())
    return figure(
        charts.survival(floors),
        f"{counted(trials, 'trial')}: survivors above, the others below. The curve is fitted and has its 95 % band, "
        "the solid line is the floor with its interval, the dashed line the recommended RAM.",
        empty="No trial has a result yet, so there is no curve to show.",
    )


def speed(data: CampaignData) -> Figure | Html:
    """Show the time of each trial against RAM, a panel for each build; a sentence when speed was not searched."""
    plan, floors = read(data)
    if plan.floor is None or plan.floor.slowdown is None:
        return paragraph("This search looked at survival alone. --slowdown 10% searches for full speed too.", "empty")
    return figure(
        charts.speed(floors),
        "Each point is a trial that survived. The dashed line is the longest time within the allowed slow-down of full "
        "speed, the solid line the RAM from which at least half of the trials are below it, with its interval.",
        empty="No trial at full speed has a result yet, so there is nothing to compare with.",
    )


def levels(data: CampaignData) -> Html:
    """Show each RAM that was tried with its survivors, in the search and in the confirmation."""
    _, floors = read(data)
    rows = [row | {"build": label} for label, floor in floors.items() for row in _levels(floor)]
    if not rows:
        return paragraph("No trial has a result yet.", "empty")
    columns = (
        *([Column("build", "build")] if len(floors) > 1 else []),
        Column("RAM, MiB", "ram"),
        Column("survived", "survived", 0),
        Column("trials", "trials", 0),
        Column("of these to confirm", "confirmation", 0),
        *([Column("within the slow-down", "fast", 0)] if any(row["fast"] is not None for row in rows) else []),
        Column("outcomes of the others", "died"),
    )
    return table(rows, columns)


def _levels(found: Floor) -> list[dict[str, Any]]:
    rows, speed = [], found.speed
    for ram in sorted({trial.ram_mb for trial in found.trials}):
        here = [trial for trial in found.trials if trial.ram_mb == ram]
        died = ", ".join(dict.fromkeys(trial.outcome for trial in here if not trial.survived))
        rows.append(
            {
                "ram": f"{ram:.10g}",
                "survived": sum(trial.survived for trial in here),
                "trials": len(here),
                "confirmation": sum(trial.purpose == "confirmation" for trial in here),
                "fast": None if speed is None or not speed.limit_s else sum(map(speed.is_fast, here)),
                "died": died or None,
            }
        )
    return rows
