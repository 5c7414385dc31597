"""The command that examines a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from picolab.cli.echo import echo
from picolab.cli.parameter_option import parameter_option, read_parameters
from picolab.errors import ParameterError
from picolab.exit_codes import ExitCode
from picolab.host.stop_request import StopRequest
from picolab.machines.kinds import DEFAULT_KIND, KINDS
from picolab.servers.registry import DEFAULT_SERVER, SERVERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from picolab.examine.check import Check
    from picolab.examine.run import Examination

FORMAT_NAMES = ("table", "markdown", "junit", "sarif", "json")
MACHINE_PARAMETERS = ("memory_limit", "cpus", "box", "provider", "boot_limit_s")
_SEVERITIES = ("low", "medium", "high")


@click.command()
@click.argument("build", required=False)
@click.option(
    "--server",
    type=click.Choice(list(SERVERS)),
    default=DEFAULT_SERVER,
    show_default=True,
    help="The server that the build is of.",
)
@click.option("--only", multiple=True, metavar="ID", help="Make this check alone; may be repeated.")
@click.option("--list", "only_list", is_flag=True, help="List the checks, and make none.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMAT_NAMES),
    default="table",
    show_default=True,
    help="The format of the result.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="File for the result.")
@click.option(
    "--fail-on",
    type=click.Choice(_SEVERITIES),
    default="medium",
    show_default=True,
    help="The lowest severity of a finding that makes the exit code 1.",
)
@click.option(
    "--machine", type=click.Choice(list(KINDS)), default=DEFAULT_KIND, show_default=True, help="Where it runs."
)
@click.option("--work-dir", default="", help="Folder for data folder and TMPDIR, as in a trial.")
@parameter_option(f"A parameter of the machine, as in a trial: {', '.join(MACHINE_PARAMETERS)}")
def examine(
    build: str | None,
    server: str,
    only: tuple[str, ...],
    only_list: bool,
    form: str,
    output: Path | None,
    fail_on: str,
    machine: str,
    work_dir: str,
    others: tuple[tuple[str, str], ...],
) -> ExitCode:
    """Look for known weaknesses of a server: crashes, stops, full disks, bad settings, odd requests, load.

    BUILD is a build as in a trial; default: that of the server. The server runs with 512 MiB, on the local machine or
    in a virtual one, where fewer checks can be made. Takes about two minutes. Exits with 0 if nothing was found, 1 if a
    finding is at least as severe as --fail-on, and 3 if a check could not be made.

    \b
    Examples:
      picolab examine ./picoshare
      picolab examine calibration --only head --only range
      picolab examine ./picoshare --format sarif --output findings.sarif
      picolab examine ./picoshare --machine vagrant
      picolab examine ./picoshare -p memory_limit none
      picolab examine --list
    """
    from picolab.cli.progress import line_printer
    from picolab.cli.terminal import print_lines
    from picolab.config.given_paths import absolute_path
    from picolab.config.invalid_input import validate
    from picolab.config.trial_parameters import TrialParameters
    from picolab.examine.check import Severity
    from picolab.examine.output import FORMATS, summary
    from picolab.examine.registry import CHECKS
    from picolab.examine.run import examine as examine_build
    from picolab.files.writing import write_atomically

    for name in only:
        if name not in CHECKS:
            raise ParameterError(f"--only {name!r}: there is no such check; picolab examine --list shows all")
    checks = [check for name, check in CHECKS.items() if not only or name in only]
    if only_list:
        _print_checks(checks)
        return ExitCode.OK
    given: dict[str, Any] = {"server": server, "build": build or SERVERS[server].default_build, "machine": machine}
    for name, _ in others:
        if name not in MACHINE_PARAMETERS:
            raise ParameterError(
                f"-p {name}: an examination takes {', '.join(MACHINE_PARAMETERS)}, and sets all else itself; remove it"
            )
    given |= read_parameters(others)
    given["work_dir"] = absolute_path(work_dir, Path.cwd(), "--work-dir")
    parameters = validate(TrialParameters, given, "the command line")
    if form == "table" and output is not None:
        raise ParameterError("--output needs a format for files; add --format markdown, junit, sarif or json")
    show = line_printer()
    stop = StopRequest().install()
    keep, kept = _keeping()
    found = examine_build(parameters, checks, show, lambda: stop.requested, keep)
    show("")
    if form == "table":
        _print_results(found)
    elif output is None:
        echo(FORMATS[form](found), nl=False)
    else:
        write_atomically(output, FORMATS[form](found))
        print_lines([f"Results: {output}"])
    if form == "table" or output is not None:
        print_lines([f"{summary(found)}.", *kept()])
    if found.stopped:
        return ExitCode.INTERRUPTED
    if found.not_examined:
        return ExitCode.INSTRUMENT_FAULT
    return ExitCode.FINDINGS if found.found(Severity[fail_on.upper()]) else ExitCode.OK


def _keeping() -> tuple[Callable[[Examination], None], Callable[[], list[str]]]:
    """Return a function that stores an examination, and one that returns lines that say where it is, or why not."""
    from picolab.errors import FileNotWritten
    from picolab.examine.stored import path_of, store

    lines: list[str] = []

    def keep(examination: Examination) -> None:
        try:
            store(examination)
            lines[:] = [f"Kept in {path_of(examination)}; picolab report shows it for campaigns of this build."]
        except FileNotWritten as error:
            lines[:] = [f"Not kept for reports: {error}."]

    return keep, lambda: lines


def _print_checks(checks: list[Check]) -> None:
    from rich.table import Table

    from picolab.cli.terminal import print_table

    table = Table("check", "severity", "finding", "threshold", box=None, pad_edge=False)
    for check in checks:
        table.add_row(check.id, check.severity.word, check.title, check.threshold)
    print_table(table)


def _print_results(examination: Examination) -> None:
    from rich.table import Table

    from picolab.cli.terminal import print_table
    from picolab.examine.output import STATE_WORDS

    table = Table("check", "result", "severity", "finding", "seen", box=None, pad_edge=False)
    for result in examination.results:
        check = result.check
        title = check.title if result.state == "found" else ""
        table.add_row(check.id, STATE_WORDS[result.state], check.severity.word, title, result.seen)
    print_table(table)
