"""The command that answers whether an upload survives, how long it takes and what it needs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from picolab.cli.answer_floor import FLOOR_SUFFIX
from picolab.cli.parameter_option import parameter_option, read_parameters, sized
from picolab.cli.running import run
from picolab.errors import ParameterError, PicolabError
from picolab.machines.kinds import KINDS
from picolab.servers.registry import SERVERS
from picolab.text.foreign import shown
from picolab.text.wording import counted

if TYPE_CHECKING:
    from picolab.campaign.answer import Question
    from picolab.campaign.runner import Campaign
    from picolab.config.trial_parameters import TrialParameters
    from picolab.exit_codes import ExitCode

_SOURCE = "picolab answer"
_SET_HERE = ("seed", "machine_name", "memory_limit", "parallel_uploads", "keep_machine", "label")
_SHARE_WITH_FLOOR = 0.5
"""Of the budget for the trials of the answer itself, where a floor is searched after them."""
_SECONDS = {"": 1, "s": 1, "min": 60, "h": 3600}


@click.command()
@click.argument("build")
@click.option("--file-size", required=True, help="Size of the upload that is asked about, such as 5G.")
@click.option("--ram", required=True, help="RAM of the server, such as 256M.")
@click.option(
    "--budget", default="20min", show_default=True, help="Time for trials, such as 90s or 2h; 0: run nothing."
)
@click.option("--repeats", type=click.IntRange(3, 100), default=3, show_default=True, help="Trials of each size.")
@click.option("--largest", help="Largest file to measure, such as 1G; default: as the budget allows.")
@click.option(
    "--parallel",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="Measure up to so many uploads at the same time; 4 or more give a law.",
)
@click.option(
    "--floor",
    "with_floor",
    is_flag=True,
    help="Search the RAM floor too, with half of the budget or what is left of it.",
)
@click.option("--machine", type=click.Choice(list(KINDS)), help="Where the server runs.")
@click.option("--server", type=click.Choice(list(SERVERS)), help="The server under test.")
@parameter_option("Any other parameter of a trial")
@click.option("--campaign", help="Name of the campaign; default: answer and the time in UTC.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the order and the uploaded bytes.")
@click.option("--idle-limit", type=float, default=60.0, show_default=True, help="Seconds to wait for an idle host.")
@click.option("--dry-run", is_flag=True, help="Print the plan and run nothing.")
def answer(build: str, **options: Any) -> ExitCode | None:
    """Answer whether an upload survives with little RAM, how long it takes, and what it needs.

    Uses the finished trials of this project with the same build, host, RAM and other parameters, and runs those that
    are missing: three file sizes or more, the largest that --budget allows. Larger files are predicted, at most four
    times the largest measured size. Where nothing is known of the server's speed, a small file comes first, and larger
    ones follow as far as the budget allows. `picolab resume` continues a stopped campaign.

    Writes answer.html and answer.json. Exits with 0 for yes and very likely, 1 for no and very likely not, 2 when the
    trials do not answer it, 3 when a trial has no result.

    \b
    Examples:
      picolab answer ./picoshare --file-size 5G --ram 256M
      picolab answer 1.5.4 --file-size 5G --ram 256M --budget 1h --largest 2G
      picolab answer ./picoshare --file-size 100M --ram 128M --parallel 8
      picolab answer ./picoshare --file-size 100M --ram 128M --floor
      picolab answer ./picoshare --file-size 2G --ram 256M --budget 0
      picolab answer ./picoshare --file-size 5G --ram 256M --dry-run
    """
    from picolab.campaign.answer import make_answer_plan
    from picolab.campaign.preflight import check_plan
    from picolab.campaign.runner import Campaign
    from picolab.cli.campaign_view import print_plan
    from picolab.cli.terminal import print_lines
    from picolab.exit_codes import ExitCode
    from picolab.results.folders import check_name, dated_name

    name = check_name(options["campaign"] or dated_name("answer"))
    if options["with_floor"]:
        check_name(name + FLOOR_SUFFIX)
    question = _question(build, options)
    plan = make_answer_plan(question, name, _command(build, options), options["seed"], options["idle_limit"])
    assert plan.answer is not None
    used = len(plan.answer.earlier)
    if used:
        print_lines([f"Uses {counted(used, 'finished trial')} of this project."])
    if options["dry_run"]:
        print_plan(plan)
        return None
    if plan.trials:
        check_plan(plan)
        campaign, code = run(lambda watcher: Campaign.create(plan, watcher))
    else:
        from picolab.campaign.progress import Watcher

        campaign, code = Campaign.create(plan, Watcher()), ExitCode.OK
    if options["with_floor"] and code is ExitCode.OK:
        from picolab.cli.answer_floor import search_floor

        try:
            code = search_floor(campaign, _seconds(options["budget"]))
        except PicolabError as error:
            # The answer is measured, whatever keeps the search from its begin.
            print_lines(["", f"The RAM floor is not searched: {error}"])
    return end_of_answer(campaign, code)


def _question(build: str, options: dict[str, Any]) -> Question:
    from picolab.campaign.answer import Question
    from picolab.config.sizes import parse_size
    from picolab.machines.kinds import kind_of
    from picolab.servers.registry import server_of

    parameters = _parameters(build, options)
    budget_s = _seconds(options["budget"])
    if options["with_floor"]:
        if not budget_s:
            raise ParameterError("--floor runs trials, and --budget 0 allows none; leave one of the two out")
        budget_s *= _SHARE_WITH_FLOOR
    in_guest = kind_of(parameters.machine).is_virtual
    largest = None if options["largest"] is None else sized("--largest", parse_size, options["largest"])
    return Question(
        parameters,
        build,
        server_of(parameters.server).find_build(parameters, in_guest=in_guest).identity.sha256,
        budget_s,
        options["repeats"],
        largest,
        options["parallel"],
        _SHARE_WITH_FLOOR if options["with_floor"] else 1.0,
    )


def _parameters(build: str, options: dict[str, Any]) -> TrialParameters:
    from picolab.config.given_paths import absolute_build
    from picolab.config.invalid_input import validate
    from picolab.config.sizes import parse_ram_mib
    from picolab.config.trial_parameters import TrialParameters

    values: dict[str, Any] = {
        "build": absolute_build(build, Path.cwd(), "BUILD"),
        "file_size": options["file_size"],
        "ram_mb": sized("--ram", parse_ram_mib, options["ram"]),
    }
    values |= {name: options[name] for name in ("machine", "server") if options[name] is not None}
    fixed = ("build", "file_size", "ram_mb", *_SET_HERE)
    values |= read_parameters(options["others"], given=values, fixed=fixed, command="picolab answer")
    values = {"direction": "both", "keep_machine": "never"} | values
    options_of = {"file_size": "--file-size", "ram_mb": "--ram"}
    return validate(TrialParameters, values, _SOURCE, options_of).located(Path.cwd(), _SOURCE)


def _seconds(text: str) -> float:
    """Return the seconds of a time such as `90s`, `20min` or `1.5h`."""
    from picolab.config.answer_request import LONGEST_BUDGET_S

    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|min|h|)", text.strip(), re.ASCII)
    if not found or (found[2] == "" and float(found[1])):
        raise ParameterError(f"--budget {shown(text)} is no time; write a number and s, min or h, such as 20min")
    seconds = float(found[1]) * _SECONDS[found[2]]
    if seconds > LONGEST_BUDGET_S:
        raise ParameterError(f"--budget {shown(text)} is more than 30 days; give less")
    return seconds


def _command(build: str, options: dict[str, Any]) -> str:
    words = [*_SOURCE.split(), build, "--file-size", options["file_size"], "--ram", options["ram"]]
    words += ["--budget", options["budget"], "--repeats", str(options["repeats"])]
    words += [
        word for name in ("largest", "machine", "server") if options[name] for word in (f"--{name}", options[name])
    ]
    words += ["--floor"] if options["with_floor"] else []
    words += ["--parallel", str(options["parallel"])] if options["parallel"] > 1 else []
    words += [word for name, text in options["others"] for word in ("-p", name, text)]
    return shlex.join(words)


def end_of_answer(campaign: Campaign, code: ExitCode) -> ExitCode:
    """Write `answer.json` and the page, and print the answer as far as it is known; return the exit code."""
    from rich.table import Table

    from picolab.cli.terminal import Text, print_lines, print_table
    from picolab.exit_codes import ExitCode
    from picolab.files.writing import write_atomically
    from picolab.report.answer_lines import ANSWER_FILE, as_json, exit_code, facts, headline, notes, reason
    from picolab.report.answer_page import read
    from picolab.report.render import render_answer
    from picolab.results.load import read_campaign

    answered = read(read_campaign(campaign.folder))
    content = json.dumps(as_json(answered.plan, answered.found, campaign.folder), indent=1, allow_nan=False)
    write_atomically(campaign.folder / ANSWER_FILE, content + "\n")
    # The page first: one that cannot be written ends the command with another exit code than the one printed here.
    page = render_answer(campaign.folder)
    found = answered.found
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in facts(found, campaign.folder):
        table.add_row(*map(Text, row))
    print_lines(["", f"{headline(found)} {reason(found)}"])
    print_table(table)
    print_lines([*notes(found, campaign.folder), f"Page: {page}"])
    return code if code is not ExitCode.OK else exit_code(answered.found)
