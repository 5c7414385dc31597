"""The command that runs campaigns by itself: when a build changes, a release appears, or at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from picolab.host.stop_request import StopRequest

if TYPE_CHECKING:
    from picolab.campaign.runner import Campaign
    from picolab.exit_codes import ExitCode


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Run what there is a reason for now, and end: for cron or a timer.")
def watch(config: Path, once: bool) -> ExitCode:
    """Run a campaign whenever a build file changes, a release appears, or at a time.

    CONFIG names the parameter file of the campaigns, what begins one, what follows it, and how many to keep. One
    campaign runs at a time, with copies of the build files. After a crash or a reboot, start the command again: it
    completes the campaign that was running, and finds changes that came meanwhile. Ctrl-C and SIGTERM end it after
    cleaning up.

    Exits with 0 when it ends between two campaigns, with 130 in one; with --once, as `picolab matrix` does.

    \b
    Examples:
      picolab watch watch.yaml
      picolab watch watch.yaml --once
    """
    from picolab.cli.campaign_view import print_begin, print_end
    from picolab.cli.progress import campaign_watcher
    from picolab.cli.terminal import console
    from picolab.text.foreign import one_line
    from picolab.watch.watch import Watch

    stop = StopRequest().install()

    def note(line: str) -> None:
        console.print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC  {one_line(line)}")

    shown: set[Path] = set()

    def run_campaign(campaign: Campaign) -> ExitCode:
        with campaign_watcher(lambda: stop.requested) as campaign.watcher:
            if campaign.folder not in shown:
                print_begin(campaign)
            elif not console.is_terminal:
                # It could not go on at the last look, and what it waits for has been said.
                campaign.watcher.waiting = lambda line: None
            shown.add(campaign.folder)
            code = campaign.run()
        print_end(campaign, code)
        return code

    found = Watch(config, run_campaign, note, lambda: stop.requested)
    note(f"Watch {found.wanted.name}: a campaign begins with {found.reasons_in_words()}.")
    return found.run(once)
