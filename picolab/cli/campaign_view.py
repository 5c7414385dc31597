"""Campaigns on the terminal: the plan, the start, the end, the status, the list."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from picolab.campaign.budget import Budget, machines_in_words
from picolab.campaign.estimate import ASSUMED_MIB_S, Estimate, earlier_times, estimate
from picolab.campaign.runner import Campaign
from picolab.campaign.stopping import watched_in_words
from picolab.cli.outcome_table import outcome_table
from picolab.cli.terminal import console, print_table
from picolab.config.plan import Plan, PlannedTrial, together
from picolab.config.project import in_command
from picolab.config.sizes import MIB
from picolab.distributed.capacity import Capacity, ram_in_words
from picolab.errors import CampaignNotFound, PicolabError
from picolab.exit_codes import ExitCode
from picolab.machines import registry
from picolab.machines.kinds import kind_of
from picolab.results.rows import record_row, trial_rows
from picolab.results.standing import Standing, read_standing
from picolab.text.foreign import one_line
from picolab.text.wording import counted, duration

_MOST_PROBLEMS = 10
_MOST_ESTIMATES = 100
"""Of blocks, whose times hardly differ."""


def print_begin(campaign: Campaign) -> None:
    """Print what is about to run."""
    plan, done = campaign.plan, campaign.tally.done
    done_text = f", {done} of them done" if done else ""
    if plan.floor is not None:
        builds = len({trial.parameters.build_label for trial in plan.trials})
        of_each = " of each build" if builds > 1 else ""
        console.print(
            f"Campaign {plan.campaign}: searches the memory floor{of_each} from {plan.floor.low_mb:.10g} to "
            f"{plan.floor.high_mb:.10g} MiB, at most {plan.floor.limit} trials{of_each}{done_text}, then "
            f"{plan.floor.confirm} to confirm it. Ctrl-C stops; `{campaign.resume_command}` "
            f"continues."
        )
        return
    if plan.answer is not None and plan.grows:
        console.print(
            f"Campaign {plan.campaign}: measures the server's speed with a small file{done_text}, then larger ones, "
            f"within {duration(plan.answer.budget_s)}. Ctrl-C stops; `{campaign.resume_command}` "
            f"continues."
        )
        return
    most = "at most " if plan.stopping is not None else ""
    console.print(
        f"Campaign {plan.campaign}: {most}{counted(len(plan.trials), 'trial')}{done_text} = "
        f"{counted(len(plan.cases), 'case')} x {most}{counted(plan.repeats, 'repeat')}, seed {plan.seed}. "
        f"Ctrl-C stops; `{campaign.resume_command}` continues."
    )
    left = [trial for trial in campaign.needed if trial.trial_id not in campaign.tally.rows]
    if left:
        console.print(estimate_in_words(estimate(left), at_most=bool(most)))
        print_machines(plan)


def print_plan(plan: Plan) -> None:
    """Print a plan: every trial in the order in which it would run."""
    table = Table(box=None, pad_edge=False)
    for heading in ("trial", "block", "case"):
        table.add_column(heading)
    for trial in plan.trials:
        table.add_row(str(trial.position), str(trial.block), trial.case)
    print_table(table)
    if plan.answer is not None and plan.grows:
        console.print(f"{plan.order} At most {duration(plan.answer.budget_s)} in all. Nothing was run.")
        return
    upload_mib = sum(trial.parameters.uploaded_bytes for trial in plan.trials) / MIB
    most = "at most " if plan.stopping is not None else ""
    console.print(
        f"{most}{counted(len(plan.trials), 'trial')} = {counted(len(plan.cases), 'case')} x "
        f"{most}{counted(plan.repeats, 'repeat')}, seed {plan.seed}; "
        f"{upload_mib:,.0f} MiB to upload in all. {plan.order} Nothing was run."
    )
    console.print(estimate_in_words(estimate(plan.trials), at_most=bool(most)))
    print_machines(plan)
    if plan.stopping is not None:
        console.print(watched_in_words(plan))


def print_machines(plan: Plan) -> None:
    """Print how many machines run at the same time, and what may overlap; nothing for one machine."""
    words = machines_in_words(plan)
    if words:
        boots = any(kind_of(trial.parameters.machine).reused_between_trials for trial in plan.trials)
        alone = "times, boots and restores" if boots else "times"
        console.print(f"{words} Now there are {Budget.of_host().words}. Expected {alone} are those of one machine.")


def print_workers(plan: Plan, trials: Sequence[PlannedTrial], capacity: Capacity) -> None:
    """Print how many workers share some trials of a plan, and how long that takes."""
    orders = together(plan, trials)
    earlier = earlier_times()
    total_s = estimate(trials, earlier).total_s
    longest_s = max((estimate(order, earlier).total_s for order in orders[:_MOST_ESTIMATES]), default=0.0)
    what = "blocks, each on one host" if plan.baseline is not None else "trials"
    console.print(
        f"Workers: {len(capacity.hosts)}, which run {counted(capacity.machines, 'machine')} at once"
        f"{ram_in_words(capacity)}. Together they need at least "
        f"{duration(max(total_s / max(1, capacity.machines), longest_s))} for {len(orders)} {what}."
    )


def estimate_in_words(found: Estimate, *, at_most: bool) -> str:
    """Return the boots, the restores and the time that trials need, and where these numbers are from.

    Args:
        at_most: the campaign may stop before its last trial.
    """
    most = "at most " if at_most else ""
    machines = ""
    if found.boots is not None:
        machines = f"{most}{counted(found.boots, 'boot')} ({duration(found.boot_s)})"
        if found.restores:
            machines += f" and {most}{counted(found.restores, 'restore')} ({duration(found.restore_s)})"
        machines += " of virtual machines, and "
    words = f"Expected: {machines}{most}{duration(found.total_s)} in all."
    if found.boots is not None and found.trials:
        words += (
            f" Boots and restores take {found.machine_share:.0%} of it."
            if found.restores
            else (f" Boots take {found.machine_share:.0%} of it.")
        )
    assumed = " to ".join(f"{seconds:g}" for seconds in dict.fromkeys([*found.overhead_s[:1], *found.overhead_s[-1:]]))
    assumption = f"upload and verify at {ASSUMED_MIB_S:g} MiB/s, plus {assumed} s"
    if found.measured == found.trials:
        words += " Earlier trials of the same cases took that long."
    elif found.measured:
        words += (
            f" {found.measured} of {found.trials} trials like earlier ones of their case, the others: {assumption}."
        )
    else:
        words += f" No trial of these cases was timed before; assumed: {assumption}."
    made = (found.boots or 0) + (found.restores or 0)
    if made:
        of_machines = "like earlier ones" if found.machines_measured == made else "with assumed times"
        if 0 < found.machines_measured < made:
            of_machines = f"{found.machines_measured} like earlier ones, the others with assumed times"
        words += f" {'Boots and restores' if found.restores else 'Boots'}: {of_machines}."
    return words


def print_end(campaign: Campaign, code: ExitCode) -> None:
    """Print how a campaign ended and what can be done next."""
    console.print()
    rows = _rows(read_standing(campaign.folder))
    print_table(outcome_table(campaign, rows))
    name = in_command(campaign.folder)
    console.print(
        f"{len(rows)} of {len(campaign.needed)} trials have a result. A rate counts when its step is ok. "
        f"Everything is in {campaign.folder}"
    )
    if any(trial.parameters.build == "calibration" for trial in campaign.plan.trials):
        console.print(
            "These are numbers of the calibration server, a test instrument, not of PicoShare.",
            style="yellow",
        )
    if any(trial.parameters.memory_limit == "none" for trial in campaign.plan.trials):
        console.print("The memory limit was NOT enforced in some of these trials.", style="yellow")
    if any(row["acceleration"] == "emulation" for row in rows):
        console.print(
            "Virtual machines were emulated by software: their rates and times say little about a real machine.",
            style="yellow",
        )
    found = [registry.attach(name) for name in campaign.machines]
    for machine in [machine for machine in found if machine is not None and machine.kept]:
        console.print(
            f"Stopped at a failure, with its machine still up. Copy the notebook of that trial from {campaign.folder}, "
            f"open the copy in JupyterLab and run it: it re-attaches. What it finds does not change this campaign. "
            f"Take the machine down with: picolab machines remove {machine.name}"
        )
        if machine.way_in:
            console.print(f"Get into it with: {machine.way_in}")
    if code in (ExitCode.INTERRUPTED, ExitCode.INSTRUMENT_FAULT):
        console.print(f"Resume with: {campaign.resume_command}", style="bold")
    else:
        console.print(f"Write the report with: picolab report {name}")
        if campaign.plan.baseline is not None and campaign.plan.floor is None:
            console.print(f"Compare its builds with: picolab verdict {name}")


def print_status(folder: Path) -> ExitCode:
    """Print the progress of a campaign; return 3 when results are gone, 4 when the plan cannot be read, else 0."""
    found = read_standing(folder, with_samples=True)
    rows = _rows(found)
    try:
        campaign = Campaign.load(folder)
    except CampaignNotFound:
        raise
    except PicolabError as error:
        console.print(one_line(str(error)), style="red")
        console.print(f"{len(rows)} trials have a result. Folder: {folder}")
        _print_problems(found)
        return error.exit_code
    print_table(outcome_table(campaign, rows))
    left_s = campaign.tally.left_s()
    eta = f", about {duration(left_s)} left" if left_s else ""
    console.print(f"{len(rows)} of {len(campaign.needed)} trials have a result{eta}. Folder: {folder}")
    if campaign.plan.machines > 1:
        console.print(machines_in_words(campaign.plan))
    unfinished = campaign.unfinished
    if unfinished:
        console.print(one_line(unfinished), style="yellow")
    for row in found.faults:
        words = f"  {row['trial_id']} attempt {row['attempt']}: {row['outcome']}: {row['outcome_detail']}"
        console.print(one_line(words))
    _print_problems(found)
    if unfinished or len(rows) < len(campaign.needed):
        console.print(f"Resume with: picolab resume {in_command(folder)}")
    return ExitCode.INSTRUMENT_FAULT if found.lost else ExitCode.OK


def _rows(found: Standing) -> list[dict[str, Any]]:
    return trial_rows(record_row(record) for record in found.results.values())


def _print_problems(found: Standing) -> None:
    """Print which results are gone, and the first files that cannot be read or contradict each other."""
    if found.lost:
        names = ", ".join(f"{trial_id} ({outcome})" for trial_id, outcome in list(found.lost.items())[:_MOST_PROBLEMS])
        more = " ..." if len(found.lost) > _MOST_PROBLEMS else ""
        one = len(found.lost) == 1
        which = "1 result that the ledger names is" if one else f"{len(found.lost)} results that the ledger names are"
        console.print(one_line(f"{which} gone: {names}{more}"), style="red")
    others = [one for one in found.problems if not one.problem.startswith(("no result", "is gone: "))]
    for path, problem in others[:_MOST_PROBLEMS]:
        console.print(one_line(f"  {path}: {problem}"), style="yellow")
    if len(others) > _MOST_PROBLEMS:
        console.print(f"  and {len(others) - _MOST_PROBLEMS} more; the report lists them all", style="yellow")


def print_campaigns(folders: Sequence[Path]) -> None:
    """Print a line for each campaign: its progress, or why it cannot be read."""
    if not folders:
        console.print("There are no campaigns yet. Start one with: picolab matrix parameters/quick.yaml")
    for folder in folders:
        try:
            campaign = Campaign.load(folder)
            progress = campaign.progress()
        except CampaignNotFound:
            continue
        except (PicolabError, OSError) as error:
            console.print(one_line(f"{folder.name}  {error}"), style="red")
        else:
            gone = ", and some of its results are gone" if campaign.tally.lost else ""
            trials = f"{progress.done} of {progress.total} trials"
            if not progress.total:
                trials = "no trial of its own, uses earlier ones"
            elif campaign.unfinished:
                trials = f"{progress.done} of about {progress.total} trials of an unfinished search"
            console.print(f"{one_line(folder.name)}  {trials}{gone}  {folder}")
