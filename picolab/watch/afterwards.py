"""The steps after a campaign of a watch: pages, history and site. Each of them may fail, and the others follow."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from picolab.analysis.comparison.compare import compare as compare_builds
from picolab.config.plan import Plan
from picolab.config.project import in_command
from picolab.config.watch_parameters import WatchParameters
from picolab.errors import PicolabError
from picolab.history.add import add_campaign
from picolab.history.store import open_store
from picolab.publish.site import Published, publish
from picolab.report.comparison_words import gate_line, headline
from picolab.report.render import render_comparison, render_report
from picolab.results.folders import all_campaigns
from picolab.results.load import read_campaign
from picolab.text.wording import counted
from picolab.watch.state import Made

_FAILURES = (PicolabError, OSError)
Note = Callable[[str], None]


def write_pages(folder: Path, wanted: WatchParameters, note: Note) -> None:
    """Write the report of a campaign, and of several builds the comparison with its gate."""
    if wanted.report:
        try:
            note(f"Report: {render_report(folder)}")
        except _FAILURES as error:
            note(f"Report of {folder.name} was not written: {error}")
    try:
        if not (wanted.compare and Plan.load(folder).compares):
            return
        note(f"Comparison: {render_comparison(folder)}")
    except _FAILURES as error:
        note(f"Comparison of {folder.name} was not written: {error}")
    try:
        found = compare_builds(read_campaign(folder))
        note(f"{headline(found)}: {gate_line(found)}")
    except _FAILURES as error:
        note(f"The builds of {folder.name} were not compared: {error}")


def add_to_history(campaigns: Sequence[Made], place: str, note: Note) -> None:
    """Add campaigns to a history, and note of each complete one that it is there."""
    for made in campaigns:
        try:
            store = open_store(place)
            added = add_campaign(store, made.folder)
        except _FAILURES as error:
            what = "it is tried again after the next campaign" if made.complete else f"try {adding(made, place)}"
            note(f"Campaign {made.campaign} was not added to the history: {error}; {what}")
            continue
        made.in_history = place if made.complete else ""
        note(f"History {store.place}: {counted(added.new, 'trial')} of {made.campaign} added.")


def adding(made: Made, place: str) -> str:
    """Return the command that adds a campaign to a history."""
    return f"picolab history add {in_command(made.folder)} --history {shlex.quote(place)}"


def publish_site(campaigns: Sequence[Made], wanted: WatchParameters, note: Note) -> None:
    """Publish the site of all campaigns of the project, and note which of these campaigns are on it."""
    try:
        published = publish(all_campaigns(), Path(wanted.publish))
    except _FAILURES as error:
        note(f"The site was not published: {error}")
        return
    pages, shown = counted(published.pages, "page"), counted(len(published.campaigns), "campaign")
    note(f"Site: {pages} of {shown}: {published.index}")
    for name, why in published.failed:
        note(f"Site: {name}: {why}")
    whole = _whole(published, wanted)
    for made in campaigns:
        made.on_site = wanted.publish if made.folder in whole else ""


def _whole(published: Published, wanted: WatchParameters) -> set[Path]:
    """Return the folders of the campaigns that are on a site with all pages that the watch should have written."""
    failed = {name for name, _ in published.failed}
    titles = {"report"} if wanted.report else set()
    titles |= {"comparison"} if wanted.compare else set()
    return {
        campaign.folder
        for campaign in published.campaigns
        if campaign.name not in failed and not campaign.problem and not titles & set(campaign.missing)
    }
