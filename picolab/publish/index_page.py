"""The index of a site: one card a campaign, searched by a script of its own, readable without it."""

from __future__ import annotations

import base64
import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from picolab import __version__
from picolab.charts.style import OUTCOME_LABELS
from picolab.publish.campaigns import CaseLine, SiteCampaign
from picolab.publish.sparkline import sparkline
from picolab.record.outcomes import Outcome
from picolab.report.markup import badge
from picolab.text.foreign import visible
from picolab.text.markup import escape
from picolab.text.wording import counted, listed, moment

GENERATOR = '<meta name="generator" content="picolab publish">'
TEMPLATE_DIR = Path(__file__).with_name("template")
_OPEN_CASES = 6
"""More cases of a campaign are folded until somebody asks for them."""


@dataclass(frozen=True)
class Link:
    """A page of a campaign in the site."""

    href: str
    """Relative; made of letters, digits, dots, dashes and underscores."""
    title: str
    is_stale: bool


def index_page(campaigns: Sequence[SiteCampaign], links: Mapping[str, Sequence[Link]]) -> str:
    """Return the page.

    Args:
        campaigns: in the order of the page.
        links: the pages of each campaign, by its name.
    """
    script = (TEMPLATE_DIR / "index.js").read_text(encoding="utf-8")
    style = (TEMPLATE_DIR / "index.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    cards = "\n".join(_card(number, campaign, links[campaign.name]) for number, campaign in enumerate(campaigns))
    empty = "" if campaigns else '<p class="empty">No campaign was run yet: picolab matrix runs one.</p>'
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{GENERATOR}
<title>picolab reports</title>
<style>{style}</style>
</head>
<body>
<main>
<p class="kicker">picolab {escape(__version__)}</p>
<h1>Reports</h1>
<p class="note">Numbers of different campaigns are not comparable: each was measured at its own time.</p>
{_search(campaigns)}
<p id="count" class="note" role="status">{counted(len(campaigns), "campaign")}</p>
{empty}
{cards}
</main>
<script>{script}</script>
</body>
</html>
"""


def _search(campaigns: Sequence[SiteCampaign]) -> str:
    builds = {build for campaign in campaigns for build in campaign.builds}
    hosts = {host for campaign in campaigns for host in campaign.hosts}
    outcomes = {outcome for campaign in campaigns for outcome in campaign.outcomes}
    in_order = [outcome for outcome in Outcome if outcome in outcomes]
    return f"""<form id="search" hidden>
<label>Text<input type="search" name="text" placeholder="campaign, case, description"></label>
<label>Build{_select("build", [(name, name) for name in sorted(builds)])}</label>
<label>Host{_select("host", [(name, name) for name in sorted(hosts)])}</label>
<label>Outcome{_select("outcome", [(name, OUTCOME_LABELS[name]) for name in in_order])}</label>
<label>From<input type="date" name="from"></label>
<label>To<input type="date" name="to"></label>
<button type="reset">Clear</button>
</form>"""


def _select(name: str, options: Iterable[tuple[str, str]]) -> str:
    shown = "".join(f'<option value="{escape(value)}">{escape(words)}</option>' for value, words in options)
    return f'<select name="{name}"><option value="">any</option>{shown}</select>'


def _card(number: int, campaign: SiteCampaign, links: Sequence[Link]) -> str:
    data = {
        "builds": json.dumps(list(map(visible, campaign.builds))),
        "hosts": json.dumps(list(map(visible, campaign.hosts))),
        "outcomes": json.dumps(sorted(campaign.outcomes)),
        "date": campaign.begun[:10],
    }
    attributes = "".join(f' data-{name}="{escape(value)}"' for name, value in data.items())
    title = escape(campaign.name)
    if links:
        title = f'<a href="{links[0].href}">{title}</a>'
    facts = [moment(campaign.begun or None), campaign.trials_in_words]
    facts += [f"host {listed(campaign.hosts)}"] if campaign.hosts else []
    return "\n".join(
        filter(
            None,
            [
                f'<article class="card" id="campaign-{number}"{attributes}>',
                f"<h2>{title}</h2>",
                f'<p class="byline">{escape(" · ".join(filter(None, facts)))}</p>',
                f"<p>{escape(campaign.description)}</p>" if campaign.description else "",
                _notes(campaign, links),
                _pages(links),
                _facts(campaign),
                _cases(campaign.cases),
                "</article>",
            ],
        )
    )


def _notes(campaign: SiteCampaign, links: Sequence[Link]) -> str:
    notes = []
    if campaign.problem:
        notes.append(f"Cannot be read as a whole: {campaign.problem}")
    if campaign.missing:
        notes.append(f"Without {listed(f'its {title}' for title in campaign.missing)}.")
    stale = [link.title for link in links if link.is_stale]
    if stale:
        notes.append(f"Older than the newest trial: {listed(stale)}.")
    return "".join(f'<p class="warning">{escape(note)}</p>' for note in notes)


def _pages(links: Sequence[Link]) -> str:
    if not links:
        return ""
    shown = "".join(f'<li><a href="{link.href}">{escape(link.title)}</a></li>' for link in links)
    return f'<ul class="pages">{shown}</ul>'


def _facts(campaign: SiteCampaign) -> str:
    builds = "".join(f'<span class="build">{escape(build)}</span>' for build in campaign.builds)
    outcomes = "".join(
        f"{badge(outcome)} {number:,} " for outcome, number in sorted(campaign.outcomes.items(), key=_most_first)
    )
    return f'<p class="facts">{builds} {outcomes}</p>' if builds or outcomes else ""


def _most_first(pair: tuple[str, int]) -> tuple[int, str]:
    return -pair[1], pair[0]


def _cases(cases: Sequence[CaseLine]) -> str:
    if not cases:
        return ""
    rows = "".join(map(_case, cases))
    shown = "" if len(cases) > _OPEN_CASES else " open"
    return f'<details{shown}><summary>{counted(len(cases), "case")}</summary><ul class="cases">{rows}</ul></details>'


def _case(case: CaseLine) -> str:
    metric = case.metric
    failed = {outcome: number for outcome, number in case.outcomes.items() if outcome != Outcome.OK}
    others = "".join(f" {badge(outcome)} {number:,}" for outcome, number in sorted(failed.items()))
    if not case.values:
        return f'<li><span class="case">{escape(case.name)}</span><span class="value">no value{others}</span></li>'
    middle = statistics.median(case.values)
    words = f"{metric.title} median {middle:,.{metric.decimals}f} {metric.shown_unit}".rstrip()
    drawn = sparkline(case.values, escape(f"{words}, {counted(len(case.values), 'trial')} in order of time"))
    return (
        f'<li><span class="case">{escape(case.name)}</span>{drawn}'
        f'<span class="value">{escape(words)}{others}</span></li>'
    )
