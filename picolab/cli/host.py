"""Commands about this host: check it, measure the instrument on it, clean it up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from picolab.cli.echo import echo
from picolab.cli.group import print_error
from picolab.exit_codes import ExitCode
from picolab.host.stop_request import StopRequest
from picolab.machines.kinds import DEFAULT_KIND, KINDS
from picolab.text.foreign import one_line

if TYPE_CHECKING:
    from picolab.host.finding import Finding


@click.command()
def doctor() -> ExitCode:
    """Check this host, and show how to fix each gap.

    \b
    Example:
      picolab doctor
    """
    from picolab.doctor.diagnosis import examine

    findings = examine()
    print_findings(findings)
    return ExitCode.HOST_UNFIT if any(finding.blocks for finding in findings) else ExitCode.OK


def print_findings(findings: Sequence[Finding]) -> None:
    """Print what the doctor found, with the command that fixes each gap."""
    from picolab.cli.terminal import Text, console

    for finding in findings:
        mark, style = {"good": ("ok", "green"), "gap": ("--", "yellow"), "bad": ("!!", "red")}[finding.state]
        console.print(Text(f"{mark}  ", style=style) + Text(f"{finding.what}: ", style="bold") + Text(finding.text))
        if finding.remedy:
            console.print(f"      {finding.remedy}", style="cyan")


@click.command()
@click.option(
    "--machine",
    type=click.Choice(list(KINDS)),
    default=DEFAULT_KIND,
    show_default=True,
    help="The kind of machine to measure on.",
)
@click.option("--quick", is_flag=True, help="Small files and few rounds: a quick look, not numbers to rely on.")
@click.option("--work-dir", default="", help="Folder for data folder and TMPDIR, as in a trial.")
def calibrate(machine: str, quick: bool, work_dir: str) -> ExitCode:
    """Measure the limits of picolab itself on this host.

    These are the client's ceiling, the cost of the memory probe, the errors of what it measures, and the noise floor.
    Takes about three minutes. Later records refer to the result, and have a caveat when the client was the limit.

    \b
    Examples:
      picolab calibrate
      picolab calibrate --machine vagrant
    """
    from picolab.cli.progress import line_printer
    from picolab.cli.terminal import print_lines
    from picolab.config.given_paths import absolute_path
    from picolab.instrument.measure import calibrate_instrument
    from picolab.instrument.summary import summary_lines

    show = line_printer()
    stop = StopRequest().install()
    found = calibrate_instrument(
        machine,
        quick=quick,
        work_dir=absolute_path(work_dir, Path.cwd(), "--work-dir"),
        report=show,
        stop_requested=lambda: stop.requested,
    )
    show("")
    if found is None:
        return ExitCode.INTERRUPTED
    print_lines(summary_lines(found))
    return ExitCode.OK


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
def clean(dry_run: bool) -> ExitCode:
    """Remove what dead processes of this project left.

    Leftovers are machines without a keeper, kernel folders, cgroups, networks, work folders, locks, unfinished
    downloads and files, and a worker's orders without results and builds that no order needs. Results stay, and so do
    machines that are held or kept; these are listed. Exits with 3 when
    something could not be removed, or when libvirtd does not answer and this project has a virtual machine.

    \b
    Examples:
      picolab clean --dry-run
      picolab clean
    """
    from picolab.distributed import leftovers as of_workers
    from picolab.doctor import leftovers

    not_asked = leftovers.why_not_asked()
    found, troubles = leftovers.find(not_asked, of_workers.kinds())
    # Without a machine, a daemon that does not run is no trouble.
    troubles += [why for kind, why in not_asked.items() if leftovers.has_machines(kind)]
    for leftover in found:
        echo(f"{'would remove' if dry_run else 'removing'}: {leftover.kind}: {one_line(leftover.what)}")
    if not dry_run:
        troubles += leftovers.remove(found)
    for sentence in [*leftovers.left_alone(), *of_workers.left_alone()]:
        echo(f"left alone: {one_line(sentence)}")
    for kind, sentence in not_asked.items():
        if not leftovers.has_machines(kind):
            echo(f"picolab: {one_line(sentence)}", err=True)
    if not found and not troubles:
        echo("There is nothing to remove.")
    for sentence in dict.fromkeys(troubles):
        print_error(one_line(sentence))
    return ExitCode.INSTRUMENT_FAULT if troubles else ExitCode.OK
