"""The command line: words to calls."""

import errno
import io
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Container
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import click

from picolab import __version__
from picolab.cli.project import init
from picolab.errors import ParameterError, PicolabError
from picolab.exit_codes import ExitCode
from picolab.machines.kinds import DEFAULT_KIND, KINDS
from picolab.text.foreign import one_line, visible
from picolab.text.live_line import rewrite_line

EXIT_CODE_HELP = "Exit codes: " + ", ".join(f"{int(code)} {code.name.lower().replace('_', ' ')}" for code in ExitCode)


class _Group(click.Group):
    """Turns every error of ours into one sentence, and click's usage errors into our exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        _make_streams_usable()
        try:
            code = super().main(*args, **kwargs)
            sys.stdout.flush()
            sys.exit(int(code) if code is not None else 0)
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except click.ClickException as error:
            vars(error)["message"] = visible(error.message)
            error.show()
            sys.exit(int(ExitCode.BAD_PARAMETERS))
        except click.exceptions.Abort:
            sys.exit(int(ExitCode.INTERRUPTED))
        except PicolabError as error:
            _say_error(str(error))
            sys.exit(int(error.exit_code))
        except KeyboardInterrupt:
            sys.exit(int(ExitCode.INTERRUPTED))
        except BrokenPipeError:
            # Somebody piped us into `head`: that is no error, and Python must not complain at exit either.
            sys.stdout = None
            sys.exit(0)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            more = "; free some, then go on with: picolab resume" if error.errno == errno.ENOSPC else ""
            _say_error(f"{place}{error.strerror or error}{more}")
            _forget_unwritten_output()
            sys.exit(int(ExitCode.HOST_UNFIT))
        except Exception:
            # A mistake of picolab's own: Python would exit with 1, which means a regression to a script.
            click.echo(visible(traceback.format_exc()), err=True, nl=False)
            sys.exit(int(ExitCode.INSTRUMENT_FAULT))


def _say_error(text: str) -> None:
    with suppress(OSError):
        click.secho(f"Error: {visible(text)}", fg="red", err=True)


def _make_streams_usable() -> None:
    """Put /dev/null where a standard stream was closed, and write every character in any encoding.

    Else the next file that is opened would get the number of the closed stream, and be written into as one.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _forget_unwritten_output() -> None:
    """Drop what could not be written: Python would try again at exit, and complain in its own words."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = None


@click.group(cls=_Group, epilog=EXIT_CODE_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Honest, reproducible benchmarks of PicoShare that live in notebooks.

    \b
    Examples:
      picolab matrix parameters/quick.yaml      run a campaign
      picolab report quick-20260101T120000      render its report
      picolab compare ./old ./new               is the new build faster?
      picolab trial --ram 256 --file-size 100M  one trial by hand
      picolab doctor                            what this host can do
    """
    # Trials run in another folder, where a relative path would mean another place.
    for name in ("PICOLAB_OUTPUTS_DIR", "PICOLAB_STATE_DIR"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).absolute())


class _StopRequest:
    """Notes the first Ctrl-C or SIGTERM so that work can end in an orderly way; the second one is immediate."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> "_StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # What nohup (or a shell's `&`) has silenced stays silent.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        return self

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        with suppress(OSError):
            # Nothing buffered in a signal handler, and nothing that fails when the terminal is gone.
            os.write(2, b"\nStopping after cleaning up (again: at once) ...\n")


def _levels(text: str | None, convert: Callable[[str], Any]) -> list[Any] | None:
    if text is None:
        return None
    try:
        return [convert(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ParameterError(f"{text!r} should be numbers with commas between, such as 512,256") from None


def _build(build: str, labels: Container[str], place: str) -> str:
    """Return a build of the command line: a label of the parameter file, a word, or a path from the root."""
    from picolab.config.given_paths import absolute_build

    return build if build in labels else absolute_build(build, Path.cwd(), place)


main.add_command(init)


@main.command()
@click.argument("parameters", type=click.Path(path_type=Path))
@click.option("--campaign", help="Name of the campaign; default: the file's name and the time in UTC.")
@click.option("--memory-limits", help="Levels of ram_mb instead of the file's, such as 512,256.")
@click.option("--file-sizes", help="Levels of file_size instead of the file's, such as 100M,1G.")
@click.option("--build", "builds", multiple=True, help="Level of build instead of the file's; may be repeated.")
@click.option("--repeats", type=int, help="Trials a case instead of the file's number.")
@click.option("--seed", type=int, help="Seed of the order and the bytes instead of the file's.")
@click.option(
    "--idle-limit", type=float, help="Seconds to wait at most for an idle host instead of the file's; 0: none."
)
@click.option("--plan", "only_plan", is_flag=True, help="Print the plan and run nothing.")
def matrix(
    parameters: Path,
    campaign: str | None,
    memory_limits: str | None,
    file_sizes: str | None,
    builds: tuple[str, ...],
    repeats: int | None,
    seed: int | None,
    idle_limit: float | None,
    only_plan: bool,
) -> ExitCode | None:
    """Run a campaign: every case of a matrix, several times, in random order.

    Goes on after a failing trial; Ctrl-C stops in an orderly way, and `picolab resume` goes on.

    \b
    Examples:
      picolab matrix parameters/quick.yaml
      picolab matrix parameters/full.yaml --build 1.5.4 --campaign release-1.5.4
      picolab matrix parameters/quick.yaml --memory-limits 512,256 --file-sizes 100M --repeats 5
      picolab matrix parameters/full.yaml --plan
    """
    from picolab.campaign.preflight import check_plan
    from picolab.campaign.runner import Campaign
    from picolab.cli import terminal
    from picolab.config.parameters import CampaignParameters, load_campaign_parameters, validate
    from picolab.config.plan import make_plan
    from picolab.results.folders import check_name

    wanted = load_campaign_parameters(parameters).model_dump()
    overrides = {
        "ram_mb": _levels(memory_limits, int),
        "file_size": _levels(file_sizes, str),
        "build": [_build(build, wanted["builds"], "--build") for build in builds] or None,
    }
    wanted["matrix"].update({name: levels for name, levels in overrides.items() if levels is not None})
    given = {"repeats": repeats, "seed": seed, "idle_limit_s": idle_limit}
    wanted.update({name: value for name, value in given.items() if value is not None})
    name = check_name(campaign or f"{parameters.stem}-{datetime.now(UTC):%Y%m%dT%H%M%S}")
    plan = make_plan(validate(CampaignParameters, wanted, str(parameters)), name, str(parameters))
    if only_plan:
        terminal.show_plan(plan)
        return None
    check_plan(plan)
    stop = _StopRequest().install()
    with terminal.campaign_watcher(lambda: stop.requested) as watcher:
        running = Campaign.create(plan, watcher)
        terminal.say_begin(running)
        code = running.run()
    terminal.show_end(running, code)
    return code


@main.command()
@click.argument("words", nargs=-1, metavar="[BASELINE CANDIDATE...] [PARAMETERS.yaml]")
@click.option("--self", "twice", metavar="BUILD", help="Compare a build with itself (A/A): it must find nothing.")
@click.option("--campaign", help="Name of the campaign; default: the file's name and the time in UTC.")
@click.option("--memory-limits", help="Levels of ram_mb instead of the file's, such as 512,256.")
@click.option("--file-sizes", help="Levels of file_size instead of the file's, such as 100M,1G.")
@click.option("--repeats", help="Pairs a scenario instead of the file's number, or auto: until it knows enough.")
@click.option("--margin", type=float, help="Change in percent that does not matter, instead of the file's.")
@click.option("--seed", type=int, help="Seed of the order and the bytes instead of the file's.")
@click.option(
    "--idle-limit", type=float, help="Seconds to wait at most for an idle host instead of the file's; 0: none."
)
@click.option("--plan", "only_plan", is_flag=True, help="Print the plan and run nothing.")
def compare(
    words: tuple[str, ...],
    twice: str | None,
    campaign: str | None,
    memory_limits: str | None,
    file_sizes: str | None,
    repeats: str | None,
    margin: float | None,
    seed: int | None,
    idle_limit: float | None,
    only_plan: bool,
) -> ExitCode | None:
    """Measure builds side by side, and say which is faster and which needs more memory, or that it cannot tell.

    A build is a path, a release or a label of the parameter file's `builds`; LABEL=BUILD names it. All builds of a
    scenario run back to back, in balanced random order. Writes compare.html and exits with 0 when no regression
    beyond the margin is left, 1 for a regression, 2 when it cannot tell, 3 when trials have no result.

    \b
    Examples:
      picolab compare ./picoshare-old ./picoshare-new
      picolab compare old=1.4.4 new=./picoshare parameters/compare.yaml --repeats 20
      picolab compare 1.4.4 1.5.4 --repeats auto --margin 3
      picolab compare --self ./picoshare
    """
    from picolab.campaign.preflight import check_plan
    from picolab.campaign.runner import Campaign
    from picolab.cli import terminal
    from picolab.config.compare_request import requested
    from picolab.config.parameters import CampaignParameters, load_campaign_parameters, validate
    from picolab.config.plan import make_plan
    from picolab.config.project import project_root
    from picolab.results.folders import check_name

    files = [word for word in words if word.endswith((".yaml", ".yml"))]
    if len(files) > 1:
        raise ParameterError(f"{files[0]} and {files[1]} are two parameter files; name one")
    file = Path(files[0]) if files else project_root() / "parameters" / "compare.yaml"
    wanted = requested(
        load_campaign_parameters(file).model_dump(),
        [word for word in words if word not in files],
        twice,
        str(file),
    )
    overrides = {"ram_mb": _levels(memory_limits, int), "file_size": _levels(file_sizes, str)}
    wanted["matrix"].update({name: levels for name, levels in overrides.items() if levels is not None})
    given = {"margin_percent": margin, "seed": seed, "repeats": _pairs(repeats), "idle_limit_s": idle_limit}
    wanted.update({name: value for name, value in given.items() if value is not None})
    if repeats is not None and repeats != "auto":
        wanted["stopping"] = None
    name = check_name(campaign or f"{file.stem}-{datetime.now(UTC):%Y%m%dT%H%M%S}")
    plan = make_plan(validate(CampaignParameters, wanted, str(file)), name, str(file))
    if plan.baseline is None:
        raise ParameterError(f"{file}: this is one build, and nothing to compare it with; name two, or use --self")
    if only_plan:
        terminal.show_plan(plan)
        return None
    check_plan(plan)
    stop = _StopRequest().install()
    with terminal.campaign_watcher(lambda: stop.requested) as watcher:
        running = Campaign.create(plan, watcher)
        terminal.say_begin(running)
        code = running.run()
    terminal.show_end(running, code)
    if code is ExitCode.INTERRUPTED:
        return code
    return terminal.show_verdict(running.folder)


def _pairs(text: str | None) -> int | str | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,9}", text, re.ASCII) else text


@main.command()
@click.argument("campaigns", nargs=-1, required=True, metavar="CAMPAIGN...")
@click.option("--margin", type=float, help="Change in percent that does not matter; default: the plan's.")
@click.option("--baseline", help="Label of the build that the others are compared with; default: the plan's.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, and write no page.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a table for a pull request, and write no page.")
@click.option("--output", type=click.Path(path_type=Path), help="HTML file; default: compare.html in the campaign.")
def verdict(
    campaigns: tuple[str, ...],
    margin: float | None,
    baseline: str | None,
    as_json: bool,
    as_markdown: bool,
    output: Path | None,
) -> ExitCode:
    """Compare the builds of a campaign that has run, and write the page of the comparison.

    Builds of several campaigns can be put side by side, but get no verdict: they are not comparable in time.

    \b
    Examples:
      picolab verdict compare-20260101T120000
      picolab verdict compare-20260101T120000 --markdown --margin 3
      picolab verdict release-1.4.4 release-1.5.4 --json
    """
    from picolab.analysis.comparison.compare import compare as compare_builds
    from picolab.analysis.comparison.compare import compare_campaigns
    from picolab.cli import terminal
    from picolab.report import comparison_text
    from picolab.results.folders import find_campaign
    from picolab.results.load import read_campaign

    if as_json and as_markdown:
        raise ParameterError("--json and --markdown exclude each other; give one")
    if margin is not None and not 0 < margin <= 50:
        raise ParameterError(f"--margin {margin:g} should be a change in percent, above 0 and at most 50")
    folders = [find_campaign(name) for name in campaigns]
    share = None if margin is None else margin / 100
    if len(folders) == 1 and not as_json and not as_markdown:
        return terminal.show_verdict(folders[0], output, share, baseline)
    read = [read_campaign(folder) for folder in folders]
    found = compare_campaigns(read, share, baseline) if len(read) > 1 else compare_builds(read[0], share, baseline)
    if as_json:
        click.echo(json.dumps(comparison_text.as_json(found), indent=1, allow_nan=False))
    elif as_markdown:
        click.echo(visible(comparison_text.as_markdown(found)))
    else:
        terminal.show_lines(comparison_text.as_lines(found))
    return found.exit_code


@main.command()
@click.option(
    "--machine",
    type=click.Choice(list(KINDS)),
    default=DEFAULT_KIND,
    show_default=True,
    help="The kind of machine to measure on.",
)
@click.option("--quick", is_flag=True, help="Small files and few rounds: a look, no numbers to rely on.")
@click.option("--work-dir", default="", help="Folder for data folder and TMPDIR, as in a trial.")
def calibrate(machine: str, quick: bool, work_dir: str) -> ExitCode:
    """Measure picolab itself on this host: the client's ceiling, the probe's cost, errors, and the noise floor.

    Takes about three minutes. Later records refer to the result, and say so when the client was the limit.

    \b
    Examples:
      picolab calibrate
      picolab calibrate --machine vagrant
    """
    from picolab.cli import terminal
    from picolab.config.given_paths import absolute_path
    from picolab.instrument.measure import calibrate_instrument
    from picolab.instrument.summary import summary_lines

    stop = _StopRequest().install()
    found = calibrate_instrument(
        machine,
        quick=quick,
        work_dir=absolute_path(work_dir, Path.cwd(), "--work-dir"),
        report=rewrite_line,
        stop_requested=lambda: stop.requested,
    )
    rewrite_line("")
    if found is None:
        return ExitCode.INTERRUPTED
    terminal.show_lines(summary_lines(found))
    return ExitCode.OK


@main.command()
@click.argument("campaign")
@click.option(
    "--accept-changes",
    is_flag=True,
    help="Go on although the plan, a build or the host has changed; the report will say so.",
)
def resume(campaign: str, accept_changes: bool) -> ExitCode:
    """Go on with a campaign that was stopped, without repeating or losing a trial.

    Trials that ended in a fault of the instrument are tried again, and so are trials whose results are gone.
    Refuses when the plan, a build (SHA-256) or the host has changed since the campaign began, and names each change.

    \b
    Examples:
      picolab resume quick-20260101T120000
      picolab resume quick-20260101T120000 --accept-changes
    """
    from picolab.campaign.runner import Campaign
    from picolab.cli import terminal
    from picolab.results.folders import find_campaign

    stop = _StopRequest().install()
    with terminal.campaign_watcher(lambda: stop.requested) as watcher:
        running = Campaign.load(find_campaign(campaign), watcher)
        terminal.say_begin(running)
        code = running.run(accept_changes)
    terminal.show_end(running, code)
    return code


@main.command()
@click.argument("campaign", required=False)
def status(campaign: str | None) -> ExitCode | None:
    """Show the progress and the problems of a campaign, or list all campaigns.

    Exits with 3 when results that the ledger names are gone, with 4 when the plan cannot be read, else with 0.

    \b
    Examples:
      picolab status
      picolab status quick-20260101T120000
    """
    from picolab.cli import terminal
    from picolab.results.folders import all_campaigns, find_campaign

    if campaign is None:
        terminal.show_campaigns(all_campaigns())
        return None
    return terminal.show_status(find_campaign(campaign))


@main.command()
@click.argument("campaign")
@click.option("--output", type=click.Path(path_type=Path), help="HTML file; default: report.html in the campaign.")
def report(campaign: str, output: Path | None) -> None:
    """Render a campaign, finished or not, as one HTML file that needs no network.

    \b
    Examples:
      picolab report quick-20260101T120000
      picolab report quick-20260101T120000 --output public/index.html
    """
    from picolab.report.render import render_report
    from picolab.results.folders import find_campaign

    click.echo(visible(f"Report: {render_report(find_campaign(campaign), output)}"))


@main.command()
@click.argument("campaign")
@click.option("--output", type=click.Path(path_type=Path), help="Folder; default: export/ in the campaign.")
@click.option(
    "--format", "formats", type=click.Choice(["csv", "parquet"]), multiple=True, help="Default: both of them."
)
def export(campaign: str, output: Path | None, formats: tuple[str, ...]) -> None:
    """Write a campaign's trials and samples as CSV and Parquet.

    \b
    Example:
      picolab export quick-20260101T120000 --format csv
    """
    from picolab.results.export import DEFAULT_FOLDER, export_campaign
    from picolab.results.folders import find_campaign

    folder = find_campaign(campaign)
    for path in export_campaign(folder, output or folder / DEFAULT_FOLDER, formats or ("csv", "parquet")):
        click.echo(visible(str(path)))


@main.command()
@click.option("--machine", type=click.Choice(list(KINDS)), help="Where PicoShare runs (machine).")
@click.option("--ram", "ram_mb", type=int, help="Memory of the machine in MiB (ram_mb).")
@click.option("--file-size", help="Size of the upload, such as 100M (file_size).")
@click.option("--build", help="calibration, a release such as 1.5.4, or a path (build).")
@click.option("--keep-machine", is_flag=True, help="Leave machine and server up, whatever the outcome.")
@click.option(
    "-p",
    "--parameter",
    "others",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="Any other parameter of the trial notebook; VALUE is YAML.",
)
def trial(
    machine: str | None,
    ram_mb: int | None,
    file_size: str | None,
    build: str | None,
    keep_machine: bool,
    others: tuple[tuple[str, str], ...],
) -> ExitCode:
    """Run one trial, and say what it found.

    \b
    Examples:
      picolab trial --ram 512 --file-size 100M
      picolab trial --ram 256 --file-size 1G --build ./picoshare --keep-machine
      picolab trial --machine vagrant --ram 256 --file-size 100M --keep-machine
      picolab trial -p calibration '{"transfer_mib_s": 50}' -p stall_limit_s 10
    """
    from picolab.campaign.single_trial import run_single_trial
    from picolab.cli import terminal
    from picolab.config.parameters import TrialParameters, validate
    from picolab.config.yaml_text import YamlProblem, read_value
    from picolab.text.foreign import shown

    keep = "always" if keep_machine else None
    given = {"machine": machine, "ram_mb": ram_mb, "file_size": file_size, "build": build, "keep_machine": keep}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, text in others:
        if name in values:
            raise ParameterError(f"-p {name} {text}: {name} is given twice; remove one of the two")
        try:
            values[name] = read_value(text)
        except YamlProblem as problem:
            raise ParameterError(f"-p {name}: {shown(text)} {problem}") from None
    parameters = validate(TrialParameters, values, "picolab trial").located(Path.cwd(), "picolab trial")
    stop = _StopRequest().install()
    live = rewrite_line if sys.stderr.isatty() else None
    finished = run_single_trial(parameters, lambda: stop.requested, live)
    terminal.show_trial(finished)
    return finished.exit_code


@main.group()
def machines() -> None:
    """The machines that exist now: list them, or take one down."""


@machines.command("list")
def machines_list() -> None:
    """List the machines that exist now, and remove what dead ones have left.

    \b
    Example:
      picolab machines list
    """
    from picolab.cli import terminal
    from picolab.machines import registry

    registry.sweep()
    terminal.show_machines(registry.existing())


@machines.command("remove")
@click.argument("name")
def machines_remove(name: str) -> None:
    """Take a machine down, with the server in it, whoever holds it. A virtual machine is destroyed.

    \b
    Example:
      picolab machines remove local
    """
    from picolab.machines import registry
    from picolab.machines.folders import machine_folders

    if name not in {folder.name for folder in machine_folders()} or not registry.release_by_name(name):
        names = ", ".join(machine["name"] for machine in registry.existing()) or "none"
        raise ParameterError(f"machine {name!r}: there is no such machine; there are: {names}")
    click.echo(f"Machine {name!r} taken down.")


@main.command()
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
def clean(dry_run: bool) -> ExitCode:
    """Remove the leftovers of dead processes of this checkout from this host.

    These are machines without a keeper, kernels' folders, cgroups, networks, work folders, unfinished downloads and
    files. Results stay, and so do machines that are held or kept, which are named. Exits with 3 when something could
    not be removed.

    \b
    Examples:
      picolab clean --dry-run
      picolab clean
    """
    from picolab.doctor import leftovers

    found, troubles = leftovers.find()
    for leftover in found:
        click.echo(f"{'would remove' if dry_run else 'removing'}: {leftover.kind}: {one_line(leftover.what)}")
    if not dry_run:
        troubles += leftovers.remove(found)
    for sentence in leftovers.left_alone():
        click.echo(f"left alone: {one_line(sentence)}")
    if not found and not troubles:
        click.echo("There is nothing to remove.")
    for sentence in dict.fromkeys(troubles):
        click.secho(f"Error: {one_line(sentence)}", fg="red", err=True)
    return ExitCode.INSTRUMENT_FAULT if troubles else ExitCode.OK


@main.group("box")
def box_group() -> None:
    """The box that virtual machines are made of: build one, list those there are, remove one."""


@box_group.command("build")
@click.option("--name", default="picolab", show_default=True, help="Name of the box in Vagrant.")
@click.option("--mirror", help="Debian mirror; default: this host's own package sources.")
@click.option("--suite", help="Debian release; default: bookworm.")
def box_build(name: str, mirror: str | None, suite: str | None) -> None:
    """Build a small box from Debian packages, in about a minute, and give it to Vagrant.

    \b
    Examples:
      picolab box build
      picolab box build --mirror http://mirror.example.org/debian
    """
    from picolab.config.sizes import MIB
    from picolab.machines.vagrant.box import build_box

    built = build_box(name=name, mirror=mirror, suite=suite, report=lambda line: click.echo(visible(line)))
    click.echo(f"Box {built.name!r} {built.version}: {built.size_bytes / MIB:,.0f} MiB in {built.duration_s:.0f} s")


@box_group.command("list")
def box_list() -> None:
    """List the boxes that Vagrant has, with libvirt's copies of them (base volumes).

    \b
    Example:
      picolab box list
    """
    from picolab.cli import terminal
    from picolab.machines.vagrant.box import list_boxes

    terminal.show_boxes(list_boxes())


@box_group.command("remove")
@click.argument("name")
def box_remove(name: str) -> None:
    """Remove a box and libvirt's copy of it, which Vagrant would leave behind.

    \b
    Example:
      picolab box remove picolab
    """
    from picolab.machines.vagrant.box import remove_box

    remove_box(name)
    click.echo(f"Box {name!r} removed.")


@main.command()
def doctor() -> ExitCode:
    """Tell what this host can do, with the command that mends each gap.

    \b
    Example:
      picolab doctor
    """
    from picolab.cli import terminal
    from picolab.doctor.diagnosis import examine

    findings = examine()
    terminal.show_findings(findings)
    return ExitCode.HOST_UNFIT if any(finding.blocks for finding in findings) else ExitCode.OK
