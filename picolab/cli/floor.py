"""The command that searches the memory floor."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from picolab.cli.parameter_option import parameter_option, read_parameters, sized
from picolab.cli.running import run
from picolab.errors import ParameterError
from picolab.machines.kinds import KINDS
from picolab.servers.registry import SERVERS
from picolab.text.foreign import shown

if TYPE_CHECKING:
    from picolab.campaign.runner import Campaign
    from picolab.exit_codes import ExitCode


@click.command()
@click.argument("builds", nargs=-1, required=True, metavar="BUILD...")
@click.option("--file-size", default="100M", show_default=True, help="Size of the uploaded file.")
@click.option(
    "--step",
    type=click.Choice(["upload", "download", "both"]),
    default="upload",
    show_default=True,
    help="Step that must survive.",
)
@click.option("--share", type=float, default=0.95, show_default=True, help="Share of trials that must survive.")
@click.option("--precision", default="10%", show_default=True, help="Reach of the interval from its middle.")
@click.option(
    "--slowdown", help="Search the RAM too from which the step takes at most this much longer than at full speed."
)
@click.option("--limit", type=int, default=80, show_default=True, help="Trials of the search at most.")
@click.option(
    "--confirm", type=int, default=20, show_default=True, help="Trials that must all survive at the end; 59 prove 95 %."
)
@click.option("--margin", help="Change of the floor between builds that does not matter; default: twice the precision.")
@click.option("--from", "low", help="Smallest RAM to try, such as 8M; default: the least of the machine.")
@click.option("--to", "high", help="Largest RAM to try, such as 512M; default: 1G, or 3/4 of this host's.")
@click.option("--machine", type=click.Choice(list(KINDS)), help="Where the server runs.")
@click.option("--server", type=click.Choice(list(SERVERS)), help="The server under test.")
@parameter_option("Any other parameter of a trial")
@click.option("--campaign", help="Name of the campaign; default: floor and the time in UTC.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the uploaded bytes.")
@click.option("--idle-limit", type=float, default=60.0, show_default=True, help="Seconds to wait for an idle host.")
def floor(builds: tuple[str, ...], **options: Any) -> ExitCode:
    """Find the smallest RAM at which a server survives.

    Repeats trials at changing RAM until the smallest amount at which --share of them survives is known to within
    --precision, then confirms the recommended amount. With --slowdown, then searches the amount from which half of
    the trials run at full speed: the median time of trials at the largest RAM. `picolab resume` continues a stopped
    search.

    With several builds their trials alternate, and each floor is compared with that of the first build, with
    --slowdown also the RAM of full speed. LABEL=BUILD names a build.

    Writes floor.html and floor.json. Of one build, exits with 0 when the floor was found and confirmed, 2 when it was
    not. Of several: with 0 when it is excluded that a build needs more RAM than the margin allows, to survive and for
    full speed, 1 when one needs more, 2 when it is undecided. With 3 when a trial has no result.

    \b
    Examples:
      picolab floor 1.5.4 --file-size 1G
      picolab floor ./picoshare --file-size 100M --slowdown 10%
      picolab floor old=1.4.4 new=./picoshare --file-size 100M --slowdown 10%
      picolab floor ./picoshare --file-size 500M --step both --confirm 59
      picolab floor ./picoshare --share 0.9 --precision 5% --from 8M --to 256M
      picolab floor ./picoshare --file-size 100M --machine vagrant
    """
    from picolab.campaign.floor import make_floor_plan, make_search
    from picolab.campaign.preflight import check_plan
    from picolab.campaign.runner import Campaign
    from picolab.config.compare_request import named_builds
    from picolab.config.invalid_input import validate
    from picolab.config.sizes import parse_ram_mib
    from picolab.config.trial_parameters import TrialParameters
    from picolab.results.folders import check_name

    source = "picolab floor"
    named = named_builds(builds, {}, source)
    values: dict[str, Any] = {"build": next(iter(named.values()))["build"], "file_size": options["file_size"]}
    values |= {name: options[name] for name in ("machine", "server") if options[name] is not None}
    fixed = ("build", "file_size", "ram_mb", "direction", "seed", "machine_name", "memory_limit", "label")
    values |= read_parameters(options["others"], given=values, fixed=fixed, command="picolab floor")
    wanted = {name: options[name] for name in ("step", "share", "limit", "confirm")}
    wanted["precision"] = _share(options["precision"], "--precision")
    if options["slowdown"] is not None:
        wanted["slowdown"] = _share(options["slowdown"], "--slowdown")
    margin = None if options["margin"] is None else _share(options["margin"], "--margin")
    if margin is not None and not 0 < margin <= 0.5:
        raise ParameterError(f"--margin {options['margin']} should be above 0 and at most 50%")
    for option, name, text in (("--from", "low_mb", options["low"]), ("--to", "high_mb", options["high"])):
        if text is not None:
            wanted[name] = sized(option, parse_ram_mib, text)
    machine = values.get("machine", TrialParameters.model_fields["machine"].default)
    search = make_search(wanted, machine, source)
    values |= {"direction": options["step"], "keep_machine": "never", "ram_mb": parse_ram_mib(search.high_mb)}
    # One build without a name of its own keeps that of its file or release.
    plain = len(builds) == 1 and "=" not in builds[0]
    parameters = [
        validate(
            TrialParameters,
            values | entry | ({} if plain else {"label": label}),
            source,
            {"file_size": "--file-size"},
        ).located(Path.cwd(), source)
        for label, entry in named.items()
    ]
    name = check_name(options["campaign"] or f"floor-{datetime.now(UTC):%Y%m%dT%H%M%S}")
    words = [*source.split(), *builds, "--file-size", parameters[0].file_size, "--step", search.step]
    words += ["--share", f"{search.share:g}", "--precision", f"{search.precision:g}", "--confirm", str(search.confirm)]
    words += ["--limit", str(search.limit), "--from", f"{search.low_mb:.10g}M", "--to", f"{search.high_mb:.10g}M"]
    words += [word for one in ("machine", "server") if options[one] for word in (f"--{one}", options[one])]
    words += [word for name_, text in options["others"] for word in ("-p", name_, text)]
    words += ["--slowdown", f"{100 * search.slowdown:g}%"] if search.slowdown is not None else []
    words += ["--margin", f"{100 * margin:g}%"] if margin is not None else []
    seed, idle_limit_s = options["seed"], options["idle_limit"]
    plan = make_floor_plan(parameters, search, name, shlex.join(words), seed, idle_limit_s, margin)
    check_plan(plan)
    campaign, code = run(lambda watcher: Campaign.create(plan, watcher))
    return end_of_search(campaign, code)


def _share(text: str, option: str) -> float:
    """Return a share from `10%` or `0.1`."""
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)\s*(%?)", text.strip(), re.ASCII)
    # 10 without a sign would be 1000 %.
    if not found or (not found[2] and float(found[1]) > 1):
        raise ParameterError(f"{option} {shown(text)} should be a share, such as 10%")
    return float(found[1]) / (100 if found[2] else 1)


def end_of_search(campaign: Campaign, code: ExitCode) -> ExitCode:
    """Write `floor.json` and print the answer of a search, as far as it is known; return the exit code."""
    from picolab.analysis.floor_comparison import exit_code
    from picolab.analysis.floor_search import floors_of
    from picolab.cli.terminal import print_lines
    from picolab.exit_codes import ExitCode
    from picolab.files.writing import write_atomically
    from picolab.report.floor_lines import FLOOR_FILE, as_json, as_lines, margin_of
    from picolab.report.render import render_floor

    floors = floors_of(campaign.plan, campaign.tally.rows)
    content = json.dumps(as_json(campaign.plan, floors), indent=1, allow_nan=False)
    write_atomically(campaign.folder / FLOOR_FILE, content + "\n")
    # The page first: one that cannot be written ends the command with another exit code than the one printed here.
    page = render_floor(campaign.folder)
    print_lines(["", *as_lines(campaign.plan, floors), "", f"Page: {page}"])
    return code if code is not ExitCode.OK else exit_code(floors, margin_of(campaign.plan))
