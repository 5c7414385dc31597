"""The section of a campaign's report with the findings of `picolab examine` in the same builds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from picolab.examine.check import Severity
from picolab.examine.stored import Dated, in_state, newest, of_build
from picolab.report.markup import Column, code, folding, joined, paragraph, table
from picolab.results.labels import build_label
from picolab.results.load import CampaignData
from picolab.results.rows import plain_rows
from picolab.text.markup import Html, escape
from picolab.text.wording import counted, listed, moment

_LEAD = (
    "What picolab examine found in the builds of this campaign. Each check starts the server with fresh folders and "
    "does one thing to it; these are not measurements of the campaign."
)
_HEADING = Html('<h2 id="Findings-in-the-builds">Findings in the builds</h2>', "Findings in the builds")
_COLUMNS = (
    Column("severity", "severity"),
    Column("finding", "title"),
    Column("check", "check"),
    Column("seen", "seen"),
)


def findings(data: CampaignData) -> Html | None:
    """Show the findings in the campaign's builds, with a heading; None when none of them was examined."""
    builds = {row["build_sha256"]: row for row in plain_rows(data.trials) if row["build_sha256"]}
    parts: list[Html] = []
    for sha256, row in builds.items():
        examinations, problems = of_build(sha256)
        if examinations:
            parts += _of_build(build_label(row["build"], row["build_kind"]), newest(examinations))
        parts += [paragraph(problem, "warning") for problem in problems]
    return joined([_HEADING, paragraph(_LEAD), *parts]) if parts else None


def _of_build(label: str, results: Sequence[Dated]) -> list[Html]:
    found = sorted(in_state(results, "found"), key=lambda one: -Severity[one.result.severity.upper()])
    skipped = in_state(results, "not_examined")
    counts = Counter(one.result.severity for one in found)
    severities = ", ".join(f"{counts[name]} {name}" for name in ("high", "medium", "low") if counts[name])
    words = f"{counted(len(found), 'finding')}{f' ({severities})' if found else ''} in {counted(len(results), 'check')}"
    parts = [Html(f"<h3>{escape(label)}: {escape(words)}</h3>", f"{label}: {words}"), paragraph(_origin(results))]
    if found:
        rows = [
            {
                "severity": one.result.severity,
                "title": folding(one.result.title),
                "check": code(one.result.id),
                "seen": one.result.seen,
            }
            for one in found
        ]
        parts += [table(rows, _COLUMNS), _issues(found)]
    if skipped:
        rows = [{"check": code(one.result.id), "seen": one.result.seen} for one in skipped]
        parts += [
            paragraph(f"{counted(len(skipped), 'check')} could not be made, which says nothing about the server."),
            table(rows, (Column("check", "check"), Column("reason", "seen"))),
        ]
    return parts


def _origin(results: Sequence[Dated]) -> str:
    """Return when the results were taken, and by which picolab."""
    times = sorted({one.examination.begun_at for one in results})
    versions = listed(sorted({one.examination.picolab_version for one in results}))
    machines = listed(sorted({one.examination.machine for one in results}))
    when = moment(times[0]) if len(times) == 1 else f"between {moment(times[0])} and {moment(times[-1])}"
    several = "" if len(times) == 1 else f", in {len(times)} examinations; the newest result of each check counts"
    return f"Examined {when} by picolab {versions} on the machine {machines}{several}."


def _issues(found: Sequence[Dated]) -> Html:
    """Return the paragraphs for issues, folded away."""
    items = "".join(
        f"<li><code>{escape(one.result.id)}</code> {escape(one.result.issue)}</li>" for one in found if one.result.issue
    )
    return Html(
        f'<details class="words"><summary>Each finding as a paragraph for an issue</summary><ul>{items}</ul></details>',
        f"{counted(len(found), 'paragraph')} for issues",
    )
