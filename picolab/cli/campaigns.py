"""Commands about campaigns: run, resume, look at, export."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

import click

from picolab.cli.answer import end_of_answer
from picolab.cli.echo import echo
from picolab.cli.floor import end_of_search
from picolab.cli.running import PlanOptions, plan_of, plan_options, run, run_plan, scheduler_option, show_plan
from picolab.text.foreign import visible

if TYPE_CHECKING:
    from typing import Unpack

    from picolab.exit_codes import ExitCode


@click.command()
@click.argument("parameters", type=click.Path(path_type=Path))
@click.option("--build", "builds", multiple=True, help="Level of build instead of the file's; may be repeated.")
@click.option("--repeats", type=int, help="Trials per case instead of the file's number.")
@plan_options
def matrix(
    parameters: Path, builds: tuple[str, ...], repeats: int | None, **options: Unpack[PlanOptions]
) -> ExitCode | None:
    """Run a campaign: all cases of a matrix, in random order.

    A trial that fails does not stop it. Ctrl-C stops it after cleaning up; `picolab resume` continues.

    \b
    Examples:
      picolab matrix parameters/quick.yaml
      picolab matrix parameters/full.yaml --build 1.5.4 --campaign release-1.5.4
      picolab matrix parameters/quick.yaml --memory-limits 512,256 --file-sizes 100M --repeats 5
      picolab matrix parameters/quick.yaml --machine vagrant --memory-limits 256,128
      picolab matrix parameters/quick.yaml --server copyparty --server picoshare
      picolab matrix parameters/full.yaml --plan
      picolab matrix parameters/full.yaml --machines 2
      picolab matrix parameters/full.yaml --scheduler tcp://10.0.0.1:8786
    """
    from picolab.config.parameter_file import load_campaign_parameters

    wanted = load_campaign_parameters(parameters).model_dump()
    if builds:
        wanted["matrix"]["build"] = [_build(build, wanted["builds"]) for build in builds]
    if repeats is not None:
        wanted["repeats"] = repeats
    plan = plan_of(wanted, parameters, options)
    if options["only_plan"]:
        show_plan(plan, options["scheduler"])
        return None
    return run_plan(plan, options["scheduler"])[1]


def _build(build: str, labels: Container[str]) -> str:
    """Return a build of the command line: a label of the parameter file, a word, or an absolute path."""
    from picolab.config.given_paths import absolute_build

    return build if build in labels else absolute_build(build, Path.cwd(), "--build")


@click.command()
@click.argument("campaign")
@click.option(
    "--accept-changes",
    is_flag=True,
    help="Continue although the plan, a build or the host has changed; the report will name the change.",
)
@scheduler_option
def resume(campaign: str, accept_changes: bool, scheduler: str | None) -> ExitCode:
    """Continue a campaign that was stopped.

    No trial is repeated or lost. Trials that ended in a fault of the instrument run again, and so do trials whose
    results are gone. Refuses when the plan, a build (SHA-256) or the host has changed since the campaign began, and
    names each change. With --scheduler, a trial that has killed several workers runs again only with --accept-changes.

    \b
    Examples:
      picolab resume quick-20260101T120000
      picolab resume quick-20260101T120000 --accept-changes
      picolab resume quick-20260101T120000 --scheduler tcp://10.0.0.1:8786
    """
    from picolab.campaign.runner import Campaign
    from picolab.results.folders import find_campaign

    if scheduler is not None:
        from picolab.distributed.campaign import with_cluster
        from picolab.distributed.checks import check_distributed
        from picolab.distributed.cluster import Cluster

        folder = find_campaign(campaign)
        check_distributed(Campaign.load(folder).plan)
        with Cluster(scheduler) as cluster:
            return run(lambda watcher: with_cluster(Campaign.load(folder, watcher), cluster), accept_changes)[1]

    resumed, code = run(lambda watcher: Campaign.load(find_campaign(campaign), watcher), accept_changes)
    if resumed.plan.answer is not None:
        return end_of_answer(resumed, code)
    return code if resumed.plan.floor is None else end_of_search(resumed, code)


@click.command()
@click.argument("campaign", required=False)
def status(campaign: str | None) -> ExitCode | None:
    """Show a campaign's progress, or list all campaigns.

    Problems with files and results are listed too.

    Exits with 3 when results that the ledger names are gone, with 4 when the plan cannot be read, otherwise with 0.

    \b
    Examples:
      picolab status
      picolab status quick-20260101T120000
    """
    from picolab.cli.campaign_view import print_campaigns, print_status
    from picolab.results.folders import all_campaigns, find_campaign

    if campaign is None:
        print_campaigns(all_campaigns())
        return None
    return print_status(find_campaign(campaign))


@click.command()
@click.argument("campaign")
@click.option("--output", type=click.Path(path_type=Path), help="HTML file; default: report.html in the campaign.")
def report(campaign: str, output: Path | None) -> None:
    """Write the report of a campaign as one HTML file.

    The campaign need not be finished, and the file needs no network.

    \b
    Examples:
      picolab report quick-20260101T120000
      picolab report quick-20260101T120000 --output public/quick.html
    """
    from picolab.report.render import render_report
    from picolab.results.folders import find_campaign

    echo(visible(f"Report: {render_report(find_campaign(campaign), output)}"))


@click.command()
@click.argument("campaign")
@click.option("--output", type=click.Path(path_type=Path), help="Folder; default: export/ in the campaign.")
@click.option("--format", "formats", type=click.Choice(["csv", "parquet"]), multiple=True, help="Default: both.")
def export(campaign: str, output: Path | None, formats: tuple[str, ...]) -> None:
    """Write trials and samples as CSV and Parquet.

    \b
    Examples:
      picolab export quick-20260101T120000
      picolab export quick-20260101T120000 --format csv
    """
    from picolab.results.export import DEFAULT_FOLDER, export_campaign
    from picolab.results.folders import find_campaign

    folder = find_campaign(campaign)
    for path in export_campaign(folder, output or folder / DEFAULT_FOLDER, formats or ("csv", "parquet")):
        echo(visible(str(path)))
