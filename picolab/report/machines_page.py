"""The section of a campaign's report about several machines at the same time: what overlapped, and what it changed."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from picolab.analysis.overlap import overlap_ratios, quiet_trials
from picolab.charts.style import labelled
from picolab.record.record import Record
from picolab.report.markup import Column, joined, paragraph, table
from picolab.results.load import CampaignData
from picolab.text.markup import Html
from picolab.text.wording import counted

_TITLE = "Machines at the same time"
_HEADING = Html(f'<h2 id="{_TITLE.replace(" ", "-")}">{_TITLE}</h2>', _TITLE)
_LEAD = (
    "Trials of this campaign ran on several machines of this host. The measured section of a trial lasts from the "
    "server's start to the end of its last measured step. The times are those in the records, not those of the plan."
)
_ALLOWED = {
    "none": "nothing (alone)",
    "preparation": "boots, verification, clean-up",
    "measurements": "everything, measured steps too",
}
_OVERLAPS = (
    Column("allowed meanwhile", "allowed"),
    Column("trials", "trials", 0),
    Column("with others at work", "with_work", 0),
    Column("with others measuring", "with_measured", 0),
    Column("median share of the section with others, %", "share", 0),
    Column("median wait for its turn, s", "waited_s", 2),
)
_RATIOS = (
    Column("case", "case"),
    Column("allowed meanwhile", "allowed"),
    Column("metric", "metric"),
    Column("ratio to alone", "ratio", 3),
    Column("interval", "interval"),
    Column("coverage", "coverage"),
    Column("pairs", "pairs", 0),
    Column("without a pair", "unpaired", 0),
)


def at_the_same_time(data: CampaignData) -> Html | None:
    """Show what ran at the same time and the paired check, with a heading; None when trials ran one by one."""
    if data.plan.get("machines", 1) == 1 and all(record.parameters.runs_alone for record in data.records.values()):
        return None
    machines = {record.parameters.machine_name for record in data.records.values()}
    return joined(
        [
            _HEADING,
            paragraph(f"{_LEAD} {counted(len(machines), 'machine')} did so."),
            table(_overlaps(list(data.records.values())), _OVERLAPS),
            *_check(data),
        ]
    )


def _overlaps(records: Sequence[Record]) -> list[dict[str, Any]]:
    rows = []
    for level, allowed in _ALLOWED.items():
        found = [one.timeline for one in records if one.parameters.overlap == level and one.timeline is not None]
        if not found:
            continue
        shares = []
        for one in found:
            section_s = (one.measured_until_s or 0.0) - (one.measured_from_s or 0.0)
            if section_s > 0 and one.others_s is not None:
                shares.append(100.0 * one.others_s / section_s)
        rows.append(
            {
                "allowed": allowed,
                "trials": len(found),
                "with_work": sum(bool(one.others_worked_s) for one in found),
                "with_measured": sum(bool(one.others_measured_s) for one in found),
                "share": median(shares) if shares else None,
                "waited_s": median(one.waited_s for one in found),
            }
        )
    return rows


def _check(data: CampaignData) -> list[Html]:
    """Return the paired check of the same cases alone and next to others."""
    found = overlap_ratios(labelled(data.trials), quiet_trials(data.records))
    if not found:
        return [
            paragraph(
                "No case ran both alone and next to others, so what the overlap changed was not measured; "
                "--check-overlap measures it."
            )
        ]
    rows = [
        {
            "case": " · ".join(filter(None, (one.alone["group"], one.alone["ram"], one.alone["file_size"]))),
            "allowed": _ALLOWED[one.level],
            "metric": one.metric.heading,
            "ratio": one.ratio.ratio,
            "interval": f"{one.ratio.low:.3f} to {one.ratio.high:.3f}",
            "coverage": f"{one.ratio.coverage:.0%}",
            "pairs": one.ratio.n,
            "unpaired": one.unpaired,
        }
        for one in found
    ]
    words = (
        "The same cases next to others and alone, in pairs of one block: 0.9 is a value that is 10 % lower next to "
        "others. An interval that does not contain 1 is an effect of the overlap."
    )
    return [paragraph(words), table(rows, _RATIOS)]
