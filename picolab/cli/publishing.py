"""The command that publishes the reports of a project."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from picolab.cli.echo import echo
from picolab.exit_codes import ExitCode
from picolab.text.foreign import one_line


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--render", is_flag=True, help="First render pages that are missing or older than the newest trial.")
def publish(folder: Path, render: bool) -> ExitCode:
    """Write a static site of all reports of this project.

    DIR gets index.html, which searches campaigns by build, host, date and outcome, and a copy of each page: report,
    comparison, memory floor, answer. The site needs no server and no network. Running it again replaces the site; after
    a kill the former site is still whole. Other files in DIR stay.

    Names campaigns without a report; --render makes it. Exits with 3 when a page could not be rendered.

    \b
    Examples:
      picolab publish public
      picolab publish public --render
    """
    from picolab.publish.site import publish as publish_site
    from picolab.results.folders import all_campaigns
    from picolab.text.wording import counted, listed_few

    published = publish_site(all_campaigns(), folder, render, lambda line: echo(one_line(line)))
    pages, campaigns = counted(published.pages, "page"), counted(len(published.campaigns), "campaign")
    echo(one_line(f"Published {pages} of {campaigns}: {published.index}"))
    hint = "" if render else f"; render with: picolab publish {shlex.quote(str(folder))} --render"
    if published.without_report:
        echo(one_line(f"Without a report or another page: {listed_few(published.without_report)}{hint}"))
    if published.stale:
        echo(one_line(f"With a page older than the newest trial: {listed_few(published.stale)}{hint}"))
    for name, why in published.failed:
        echo(one_line(f"{name}: {why}"), err=True)
    return ExitCode.INSTRUMENT_FAULT if published.failed else ExitCode.OK
