"""Running campaigns from the command line: the options of `matrix` and `compare`, and the run itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

import click

from picolab.errors import ParameterError
from picolab.host.stop_request import StopRequest
from picolab.machines.kinds import KINDS
from picolab.servers.registry import SERVERS
from picolab.text.foreign import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from picolab.campaign.progress import Watcher
    from picolab.campaign.runner import Campaign
    from picolab.config.plan import Plan
    from picolab.exit_codes import ExitCode


class PlanOptions(TypedDict):
    """The options that `matrix` and `compare` share."""

    campaign: str | None
    machine: str | None
    servers: tuple[str, ...]
    memory_limits: str | None
    file_sizes: str | None
    seed: int | None
    idle_limit: float | None
    machines: int | None
    overlap: bool
    check_overlap: bool
    scheduler: str | None
    only_plan: bool


def scheduler_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--scheduler` to a command."""
    return click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Run the trials on the workers of this Dask scheduler, such as tcp://10.0.0.1:8786.",
    )(command)


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `PlanOptions` to a command."""
    for option in reversed(
        (
            click.option("--campaign", help="Name of the campaign; default: the file's name and the time in UTC."),
            click.option(
                "--machine",
                type=click.Choice(list(KINDS)),
                help="Where the servers of all trials run, instead of the file's kind of machine.",
            ),
            click.option(
                "--server",
                "servers",
                multiple=True,
                type=click.Choice(list(SERVERS)),
                help="Level of server instead of the file's; may be repeated.",
            ),
            click.option("--memory-limits", help="Levels of ram_mb instead of the file's, such as 512,256,12.5M."),
            click.option("--file-sizes", help="Levels of file_size instead of the file's, such as 100M,1G."),
            click.option("--seed", type=int, help="Seed of the order and the bytes instead of the file's."),
            click.option(
                "--idle-limit",
                type=float,
                help="Seconds to wait for an idle host instead of the file's; 0: do not wait.",
            ),
            click.option(
                "--machines",
                type=int,
                help="Machines at the same time on this host instead of the file's number.",
            ),
            click.option("--overlap", is_flag=True, help="Measured steps of several machines may overlap."),
            click.option(
                "--check-overlap", is_flag=True, help="Run each case alone and next to others, and compare the two."
            ),
            scheduler_option,
            click.option("--plan", "only_plan", is_flag=True, help="Print the plan and run nothing."),
        )
    ):
        command = option(command)
    return command


def plan_of(wanted: dict[str, Any], file: Path, options: PlanOptions) -> Plan:
    """Return the plan of a parameter file, with the levels and values that options replace.

    Args:
        wanted: the content of the file.

    Raises:
        ParameterError: something does not make sense.
    """
    from picolab.config.campaign_parameters import CampaignParameters
    from picolab.config.invalid_input import validate
    from picolab.config.plan import make_plan
    from picolab.config.sizes import parse_ram_mib
    from picolab.results.folders import check_name, dated_name

    levels = {
        "ram_mb": _levels("--memory-limits", options["memory_limits"], parse_ram_mib),
        "file_size": _levels("--file-sizes", options["file_sizes"], str),
    }
    wanted["matrix"].update({name: given for name, given in levels.items() if given is not None})
    if options["servers"]:
        wanted["matrix"]["server"] = list(options["servers"])
        wanted["parameters"].pop("server", None)
    if options["machine"] is not None:
        _set_machine(wanted, options["machine"], str(file))
    values = {"seed": options["seed"], "idle_limit_s": options["idle_limit"]}
    wanted.update({name: value for name, value in values.items() if value is not None})
    _set_machines(wanted, options, str(file))
    name = check_name(options["campaign"] or dated_name(file.stem))
    return make_plan(validate(CampaignParameters, wanted, str(file)), name, str(file))


def _set_machines(wanted: dict[str, Any], options: PlanOptions, source: str) -> None:
    """Have several machines run at the same time, and set what their trials may do at the same time.

    Raises:
        ParameterError: an option needs several machines, or the file says already what may overlap.
    """
    if options["machines"] is not None:
        wanted["machines"] = options["machines"]
    asked = [
        option
        for option, given in (("--overlap", options["overlap"]), ("--check-overlap", options["check_overlap"]))
        if given
    ]
    if not asked:
        return
    if wanted.get("machines") == 1:
        raise ParameterError(f"{asked[0]} is about several machines, and there is one; add --machines 2")
    if "overlap" in wanted["matrix"] or "overlap" in wanted["parameters"]:
        raise ParameterError(f"{asked[0]}: {source} sets overlap itself; remove it there, or leave the option out")
    level = "measurements" if options["overlap"] else "preparation"
    if options["check_overlap"]:
        wanted["matrix"]["overlap"] = ["none", level]
    else:
        wanted["parameters"]["overlap"] = level


def _set_machine(wanted: dict[str, Any], machine: str, source: str) -> None:
    """Have all trials use one kind of machine, whatever the file's `parameters` say.

    Raises:
        ParameterError: the matrix compares kinds of machines.
    """
    matrix = wanted["matrix"]
    levels = matrix.get("machine", [])
    compared = [*(levels if isinstance(levels, list) else [levels])]
    compared += [case["machine"] for case in matrix["include"] if "machine" in case]
    if len(set(map(str, compared))) > 1:
        raise ParameterError(
            f"--machine {machine}: machine is a factor of the matrix in {source}, with the levels "
            f"{', '.join(dict.fromkeys(map(str, compared)))}; leave --machine out, or remove the factor from the file"
        )
    matrix["include"] = [{**case, "machine": machine} if "machine" in case else case for case in matrix["include"]]
    if "machine" in matrix:
        matrix["machine"] = [machine]
    else:
        wanted["parameters"]["machine"] = machine


def _levels(option: str, text: str | None, convert: Callable[[str], Any]) -> list[Any] | None:
    if text is None:
        return None
    try:
        return [convert(part.strip()) for part in text.split(",") if part.strip()]
    except ParameterError as error:
        raise ParameterError(f"{option} {text}: {error}") from None


def show_plan(plan: Plan, scheduler: str | None) -> None:
    """Print a plan, and with a scheduler how many workers would share it."""
    from picolab.cli.campaign_view import print_plan, print_workers

    if scheduler is None:
        print_plan(plan)
        return
    from picolab.cli.echo import echo
    from picolab.distributed.checks import check_distributed
    from picolab.distributed.cluster import Cluster

    check_distributed(plan)
    with Cluster(scheduler) as cluster:
        found = cluster.check_workers()
        print_plan(plan, found.machines)
        print_workers(plan, plan.trials, found)
        for sentence in cluster.notes(found):
            echo(one_line(sentence))


def run_plan(plan: Plan, scheduler: str | None = None) -> tuple[Campaign, ExitCode]:
    """Run a new campaign, and print how it ends.

    Args:
        scheduler: address of the one whose workers run the trials; None: they run on this host.
    """
    from picolab.campaign.preflight import check_plan
    from picolab.campaign.runner import Campaign

    if scheduler is not None:
        from picolab.cli.campaign_view import print_workers
        from picolab.distributed.campaign import begin
        from picolab.distributed.checks import check_distributed
        from picolab.distributed.cluster import Cluster

        check_distributed(plan)
        with Cluster(scheduler) as cluster:
            print_workers(plan, plan.trials, cluster.check_workers())
            return run(lambda watcher: begin(plan, watcher, cluster))
    check_plan(plan)
    return run(lambda watcher: Campaign.create(plan, watcher))


def run(
    open_campaign: Callable[[Watcher], Campaign], accept_changes: bool = False, budget_s: float | None = None
) -> tuple[Campaign, ExitCode]:
    """Run a campaign while its progress is shown, and print how it ends.

    Args:
        budget_s: seconds after which a plan that grows ends; None: no limit.
    """
    from picolab.cli.campaign_view import print_begin, print_end
    from picolab.cli.progress import campaign_watcher

    stop = StopRequest().install()
    with campaign_watcher(lambda: stop.requested) as watcher:
        campaign = open_campaign(watcher)
        campaign.budget_s = budget_s
        print_begin(campaign)
        code = campaign.run(accept_changes)
    print_end(campaign, code)
    return campaign, code
