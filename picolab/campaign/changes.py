"""Whether a campaign may continue although its plan, a build or the host has changed since it began."""

from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from picolab.config.plan import Plan, PlannedTrial
from picolab.config.project import in_command
from picolab.errors import CampaignChanged
from picolab.files.set_aside import set_aside
from picolab.host.facts import host_identity
from picolab.record.hosts import HostIdentity, same_host
from picolab.results import begun_file
from picolab.results.standing import Standing


def check_unchanged(folder: Path, plan: Plan, standing: Standing, accept: bool, note: Callable[[str], None]) -> None:
    """Refuse a campaign whose further numbers would not be comparable with those that it has.

    Args:
        accept: continue all the same, and note the changes in `begun.json`.
        note: receives a sentence for the user.

    Raises:
        CampaignChanged: something has changed, and `accept` is false.
    """
    begun = begun_file.read_beginning(folder)
    if begun.known is None and not begun.problems:
        if standing.entries:
            note("An older picolab began this campaign: it is not known whether something changed since.")
        return
    finished = all(trial.trial_id in standing.results for trial in standing.needed)
    changes = begun.problems or (begun.plan_changes(plan) if finished else begun.changes(plan))
    if not changes:
        return
    if not accept:
        raise CampaignChanged(
            f"campaign {plan.campaign!r}: it is not what it began with: {begun_file.in_short(changes)}. "
            f"Numbers from before and after would not be comparable: change it back, or begin a new campaign; or "
            f"continue all the same, which is noted, with: picolab resume {in_command(folder)} --accept-changes"
        )
    known = begun.known.accepted if begun.known is not None else []
    if begun.problems:
        set_aside(folder, folder / begun_file.BEGUN_FILE)
    accepted = begun_file.Accepted(at=begun_file.now(), changes=changes)
    begun_file.write_beginning(folder, plan, [*known, accepted])
    note(f"Continues although it is not what it began with: {begun_file.in_short(changes)}.")


def hosts_of_blocks(
    plan: Plan, trials: Iterable[PlannedTrial], rows: Mapping[str, Mapping[str, Any]]
) -> dict[int, HostIdentity]:
    """Return the host on which each block has begun; none for a plan without pairs.

    Args:
        trials: of the plan: those of the blocks that are asked for.
        rows: of the results, by id of the trial.
    """
    hosts: dict[int, HostIdentity] = {}
    if plan.baseline is not None:
        for trial in trials:
            host = HostIdentity.of(rows.get(trial.trial_id, {}))
            if host.name:
                hosts.setdefault(trial.block, host)
    return hosts


def check_blocks(folder: Path, plan: Plan, rows: Mapping[str, Mapping[str, Any]], needed: Container[str]) -> None:
    """Refuse to run the rest of a block on this host when all of it so far ran on others, at workers.

    Args:
        needed: ids of the trials that are to have a result.

    Raises:
        CampaignChanged: there is such a block.
    """
    here = HostIdentity.of(host_identity())
    hosts = hosts_of_blocks(plan, plan.trials, rows)
    # Where the rest of a block has begun here too, somebody has accepted it.
    ours = {trial.block for trial in plan.trials if same_host(HostIdentity.of(rows.get(trial.trial_id, {})), here)}
    for trial in plan.trials:
        is_left = trial.trial_id in needed and trial.trial_id not in rows
        if is_left and trial.block in hosts.keys() - ours:
            again = f"picolab resume {in_command(folder)}"
            raise CampaignChanged(
                f"campaign {plan.campaign!r}: block {trial.block} has begun on the host {hosts[trial.block].name}, and "
                f"its rest makes no pair on this one ({here.name}); continue on the workers with: {again} "
                f"--scheduler tcp://HOST:PORT; or here all the same with: {again} --accept-changes"
            )
