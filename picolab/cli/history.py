"""Commands about the history: all campaigns of a site in one store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from picolab.cli.echo import echo
from picolab.errors import ParameterError
from picolab.exit_codes import ExitCode
from picolab.text.foreign import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from picolab.history.series import Point, Series
    from picolab.record.metric import Metric


def history_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that says where the history is."""
    option = click.option(
        "--history",
        "place",
        metavar="FOLDER",
        help="Folder, or s3://BUCKET/FOLDER; default: PICOLAB_HISTORY, or outputs/_history.",
    )
    return option(command)


def part_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose metrics, builds and hosts."""
    for option in (
        click.option("--host", "hosts", multiple=True, help="This host alone, by name; may be repeated."),
        click.option(
            "--build",
            "builds",
            multiple=True,
            help="This build alone, by label or begin of its SHA-256; may be repeated.",
        ),
        click.option("--metric", "metrics", multiple=True, help="Column of docs/record.md; may be repeated."),
    ):
        command = option(command)
    return command


@click.group()
def history() -> None:
    """Follow builds over time: all campaigns in one store."""


@history.command()
@click.argument("campaigns", nargs=-1, metavar="[CAMPAIGN]...")
@history_option
def add(campaigns: tuple[str, ...], place: str | None) -> ExitCode:
    """Add campaigns to the history.

    Without CAMPAIGN all campaigns of this project. A trial is added once, however often its campaign is; several
    processes may add at the same time. Exits with 3 when a campaign cannot be read.

    \b
    Examples:
      picolab history add
      picolab history add quick-20260101T120000
      picolab history add quick-20260101T120000 --history s3://bench/history
    """
    from picolab.errors import CampaignNotFound, FileNotWritten, HostUnfit, PicolabError
    from picolab.history.add import add_campaign
    from picolab.history.database import Database
    from picolab.history.store import open_store
    from picolab.results.folders import all_campaigns, find_campaign
    from picolab.text.wording import counted

    store = open_store(place)
    Database(store).rows("SELECT count(*) FROM trials")  # a history that cannot be read ends the command here
    failed = 0
    for folder in [find_campaign(name) for name in campaigns] or all_campaigns():
        try:
            added = add_campaign(store, folder)
        except (FileNotWritten, HostUnfit):
            raise  # of the store: no other campaign would fare better
        except (PicolabError, OSError) as error:
            if isinstance(error, CampaignNotFound) and not campaigns:
                continue  # it was removed since it was listed
            failed += 1
            echo(one_line(f"{folder.name}: not added: {error}"), err=True)
            continue
        known = f", {added.known} were there already" if added.known else ""
        echo(one_line(f"{added.campaign}: {counted(added.new, 'trial')} added{known}"))
    echo(one_line(f"History: {store.place}"))
    return ExitCode.INSTRUMENT_FAULT if failed else ExitCode.OK


@history.command()
@part_options
@click.option("--last", type=click.IntRange(min=1), default=20, show_default=True, help="Rows of each series at most.")
@history_option
def show(
    metrics: tuple[str, ...], builds: tuple[str, ...], hosts: tuple[str, ...], last: int, place: str | None
) -> None:
    """Show metrics by build over time, with the points at which their level changed.

    A series is one case on one host: hosts, kernels and cases are never pooled. Each row is a build in one campaign.
    Changes are searched along the newest build of each campaign. One counts as a change of the build only if the build
    changed there, and no build that was measured before and after moved with it.

    \b
    Examples:
      picolab history show
      picolab history show --metric throughput_mib_s --host bench
      picolab history show --metric floor_bytes --last 50
      picolab history show --build 1.5.4 --history s3://bench/history
    """
    from picolab.cli.terminal import console
    from picolab.history.changes import changes

    chosen, series = _series(metrics, builds, hosts, place)
    # Other builds are the controls of a change, also where they are not shown.
    whole = {(one.host, one.key): one for one in _series(metrics, (), hosts, place)[1]} if builds else {}
    host = ""
    for one in series:
        if one.host_words != host:
            host = one.host_words
            console.print(f"\nHost {one_line(host)}")
        console.print(f"\n{one_line(one.case)}")
        shown = [metric for metric in chosen if one.of(metric)]
        _print_points(one.points[-last:], shown)
        if len(one.points) > last:
            console.print(f"{len(one.points) - last} earlier rows are not shown; see --last.")
        kept = {point.identity for point in one.points}
        for change in [change for metric in shown for change in changes(whole.get((one.host, one.key), one), metric)]:
            if {change.before.identity, change.after.identity} & kept:
                console.print(one_line(f"Change: {change.in_words()}"))


def _series(
    metrics: Sequence[str], builds: tuple[str, ...], hosts: tuple[str, ...], place: str | None
) -> tuple[list[Metric], list[Series]]:
    """Return the chosen metrics, and the series that have one of them.

    Raises:
        ParameterError: there is no such metric, or nothing in the history fits.
    """
    from picolab.history.database import Database
    from picolab.history.series import Wanted, chosen_metrics, read_series
    from picolab.history.store import open_store

    chosen = chosen_metrics(metrics)
    store = open_store(place)
    series = read_series(Database(store), chosen, Wanted(builds, hosts))
    if not series:
        part = " of this build, host and metric" if metrics or builds or hosts else ""
        raise ParameterError(f"{store.place}: the history has no value{part}; add campaigns with picolab history add")
    return chosen, series


def _print_points(points: Sequence[Point], metrics: Sequence[Metric]) -> None:
    from rich.table import Table

    from picolab.cli.terminal import print_table
    from picolab.text.wording import NOTHING

    table = Table(box=None, pad_edge=False)
    for heading in ("begun", "build", "sha256", "campaign"):
        table.add_column(heading)
    table.add_column("ok", justify="right")
    for metric in metrics:
        table.add_column(metric.heading, justify="right")
    for point in points:
        values = [(metric, metric.in_unit(point.values.get(metric.name))) for metric in metrics]
        table.add_row(
            f"{point.started:%Y-%m-%d %H:%M}",
            one_line(point.build),
            point.sha256[:8] or NOTHING,
            one_line(point.campaign),
            f"{point.ok} of {point.trials}",
            *(NOTHING if value is None else f"{value:,.{metric.decimals}f}" for metric, value in values),
        )
    print_table(table)


@history.command()
@history_option
def compact(place: str | None) -> None:
    """Merge the small files of the history into larger ones, so that queries are faster.

    Each campaign that was added is two files, and hundreds of files take longer to read than their rows. Nothing is
    lost or counted twice, whenever this is ended and whoever adds or reads meanwhile. A damaged file is refused. An
    older picolab refuses merged files.

    \b
    Examples:
      picolab history compact
      picolab history compact --history s3://bench/history
    """
    from picolab.history.compact import compact as merge_files
    from picolab.history.store import open_store
    from picolab.text.wording import counted

    store = open_store(place)
    parts = []
    for kind, found in merge_files(store).items():
        done = f" merged into {found.after}" if found.after < found.before else " written anew, with checksums"
        parts.append(f"{counted(found.before, 'file')} of {kind}{done if found.written else ', none to merge'}")
    echo(one_line(f"History: {store.place}: {', '.join(parts)}"))


@history.command()
@history_option
def check(place: str | None) -> ExitCode:
    """Read every file of the history and verify its checksum.

    The other commands read what they need, and do not notice a bit that changed on the disk. Exits with 1 when a file
    is damaged; each is named with the remedy. Nothing is changed.

    \b
    Examples:
      picolab history check
      picolab history check --history s3://bench/history
    """
    from picolab.history.check import check as verify
    from picolab.history.store import open_store
    from picolab.text.wording import counted

    store = open_store(place)
    found = verify(store)
    for sentence in found.damaged:
        echo(one_line(sentence), err=True)
    files, damaged = counted(found.files, "file"), len(found.damaged)
    if found.without_checksum:
        echo(
            f"Without a checksum, from an older picolab: {found.without_checksum} of {files}. A changed value there is "
            f"not noticed; picolab history compact writes them anew, with checksums."
        )
    if found.damaged:
        echo(one_line(f"History: {store.place}: {damaged} of {files} {'is' if damaged == 1 else 'are'} damaged"))
        return ExitCode.FINDINGS
    intact = found.files - found.without_checksum
    words = "1 file is as it was written" if intact == 1 else f"{intact} files are as they were written"
    echo(one_line(f"History: {store.place}: {words}"))
    return ExitCode.OK


@history.command()
@click.argument("baseline")
@click.argument("candidate")
@click.option("--margin", type=float, help="Change in percent that does not matter; default: that of each plan.")
@history_option
def compare(baseline: str, candidate: str, margin: float | None, place: str | None) -> ExitCode:
    """Compare two builds wherever campaigns of the history paired them on one host.

    BASELINE and CANDIDATE are labels of builds, or the first six or more digits of their SHA-256. Each campaign that
    ran both back to back gets the verdicts of `picolab verdict`, the newest first; campaigns are never pooled. Refuses
    when the two were never paired. The exit code is that of the newest such campaign, as in `picolab compare`.

    \b
    Examples:
      picolab history compare 1.4.4 1.5.4
      picolab history compare 0a1b2c3d 4e5f6a7b --margin 3
    """
    from picolab.cli.terminal import print_lines
    from picolab.history.compare import compare_from_history
    from picolab.history.database import Database
    from picolab.history.store import open_store
    from picolab.report.comparison_lines import as_lines

    if margin is not None and not 0 < margin <= 50:
        raise ParameterError(f"--margin {margin:g} should be a change in percent, above 0 and at most 50")
    share = None if margin is None else margin / 100
    found = compare_from_history(Database(open_store(place)), baseline, candidate, share)
    for comparison in found.comparisons:
        print_lines([f"Campaign {one_line(comparison.campaign)}", *as_lines(comparison), ""])
    print_lines([f"Left out: {one_line(reason)}" for reason in found.refused])
    return found.comparisons[0].exit_code


@history.command()
@click.option("--format", "form", type=click.Choice(["otava"]), default="otava", show_default=True, help="The format.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the files.")
@part_options
@history_option
def export(
    form: str,
    output: Path,
    metrics: tuple[str, ...],
    builds: tuple[str, ...],
    hosts: tuple[str, ...],
    place: str | None,
) -> None:
    """Write the history for another program: Apache Otava reads CSV files and their otava.yaml.

    \b
    Examples:
      picolab history export --format otava --output otava
      picolab history export --output otava --metric throughput_mib_s --host bench
    """
    from picolab.history.otava import export_otava

    chosen, series = _series(metrics, builds, hosts, place)
    config, *files = export_otava(series, chosen, output)
    echo(one_line(f"{len(files)} tests in {config}"))
