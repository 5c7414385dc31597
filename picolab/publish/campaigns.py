"""The campaigns of a site: their pages, builds, hosts and outcomes, and the values of each case in order of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picolab.config.plan import Plan
from picolab.errors import PicolabError
from picolab.record.metric import Metric
from picolab.record.metrics import shown_metrics
from picolab.report.render import render_answer, render_comparison, render_floor, render_report
from picolab.results.labels import build_label
from picolab.results.ledger import LEDGER_FILE
from picolab.results.rows import counting_values, record_row, trial_rows
from picolab.results.standing import read_standing
from picolab.text.wording import counted


@dataclass(frozen=True)
class PageKind:
    """A page that a campaign can have."""

    file: str
    """Its name in the folder of the campaign."""
    title: str
    render: Callable[[Path], Path]
    wanted: Callable[[Plan], bool]
    """Whether a campaign with this plan should have it."""


PAGES = (
    PageKind("report.html", "report", render_report, lambda plan: True),
    PageKind("compare.html", "comparison", render_comparison, lambda plan: plan.compares),
    PageKind("floor.html", "memory floor", render_floor, lambda plan: plan.floor is not None),
    PageKind("answer.html", "answer", render_answer, lambda plan: plan.answer is not None),
)


@dataclass(frozen=True)
class CaseLine:
    """A case of a campaign: its metric and the values that count, in the order in which they were measured."""

    name: str
    metric: Metric
    values: tuple[float, ...]
    outcomes: dict[str, int]


@dataclass
class SiteCampaign:
    """A campaign as the index shows it.

    Attributes:
        pages: those that exist, the report first.
        missing: titles of the pages that it should have and has not.
        stale: titles of the pages that are older than the newest trial.
        problem: why it cannot be read, one sentence; empty when it can.
    """

    folder: Path
    description: str = ""
    begun: str = ""
    builds: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    trials_in_words: str = ""
    cases: list[CaseLine] = field(default_factory=list)
    pages: list[PageKind] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    problem: str = ""

    @property
    def name(self) -> str:
        return self.folder.name


def read_site_campaign(folder: Path) -> SiteCampaign:
    """Read what the index shows of a campaign; one that cannot be read has a `problem`."""
    found = SiteCampaign(folder)
    found.pages = [kind for kind in PAGES if (folder / kind.file).is_file()]
    try:
        standing = read_standing(folder)
    except (PicolabError, OSError) as error:
        found.problem = str(error)
        return found
    records = list(standing.results.values())
    rows = trial_rows(map(record_row, records))
    plan = standing.plan
    if plan is not None:
        found.description, found.begun = plan.description, plan.created_at
        found.missing = [kind.title for kind in PAGES if kind.wanted(plan) and kind not in found.pages]
        found.trials_in_words = f"{len(records)} of {counted(len(standing.needed), 'trial')}"
    else:
        found.problem = "; ".join(problem.problem for problem in standing.problems[:1])
        found.begun = min((record.identity.started_at for record in records), default="")
        found.trials_in_words = counted(len(records), "trial")
    found.stale = [kind.title for kind in found.pages if is_stale(folder, kind)]
    found.builds = sorted({build_label(str(row["build"]), row["build_kind"]) for row in rows})
    found.hosts = sorted({str(row["hostname"] or "unknown") for row in rows})
    found.outcomes = dict(Counter(str(row["outcome"]) for row in rows))
    found.cases = _cases(rows)
    return found


def is_stale(folder: Path, kind: PageKind) -> bool:
    """Return whether a page is older than the newest trial of its campaign."""
    try:
        return (folder / kind.file).stat().st_mtime_ns < (folder / LEDGER_FILE).stat().st_mtime_ns
    except OSError:
        return False


def _cases(rows: Sequence[dict[str, Any]]) -> list[CaseLine]:
    """Return each case with the first metric of the console that it has values of."""
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault(str(row["case"]), []).append(row)
    return [_case(name, sorted(same, key=lambda row: str(row["started_at"]))) for name, same in sorted(cases.items())]


def _case(name: str, rows: Sequence[dict[str, Any]]) -> CaseLine:
    having = [(metric, counting_values(metric, rows)) for metric in shown_metrics("console")]
    metric, values = next((pair for pair in having if pair[1]), having[0])
    shown = tuple(float(value) for value in map(metric.in_unit, values) if value is not None)
    return CaseLine(name, metric, shown, dict(Counter(str(row["outcome"]) for row in rows)))
