"""Campaigns from a notebook: `pl.run()` and `pl.resume()`."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from picolab.api.campaigns import CampaignResults
from picolab.campaign.preflight import check_plan
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.parameter_file import campaign_parameters, load_campaign_parameters
from picolab.config.plan import Plan, make_plan
from picolab.config.project import in_command
from picolab.errors import ParameterError
from picolab.exit_codes import ExitCode
from picolab.host.stop_request import StopRequest
from picolab.jupyter.live_line import is_watched
from picolab.record.outcomes import Outcome
from picolab.results.folders import check_name, dated_name, find_campaign
from picolab.results.load import read_campaign
from picolab.results.standing import read_standing
from picolab.text.foreign import visible

_PLACE = "run()"


def run(parameters: str | Path | Mapping[str, Any], *, campaign: str = "", scheduler: str = "") -> CampaignResults:
    """Run a campaign as `picolab matrix` does, and return its results.

    A notebook shows cases by repeats with their outcomes, and the time that is left; a terminal shows what
    `picolab matrix` shows. A trial that fails does not stop it. Interrupting the kernel stops it after cleaning up;
    `pl.resume()` continues.

    Args:
        parameters: path of a parameter file, or a mapping of the same form; a relative path in a mapping means the
            current folder.
        campaign: name of the campaign; default: the file's name, or `notebook`, and the time in UTC.
        scheduler: address of a Dask scheduler whose workers run the trials, such as `tcp://10.0.0.1:8786`; default:
            they run on this host.

    Raises:
        ParameterError: something in the parameters makes no sense, or there is a campaign of that name.
        HostUnfit: this host cannot run it, or the scheduler and its workers cannot.

    Example:
        >>> import picolab as pl
        >>> matrix = {"ram_mb": [128], "file_size": ["1M"]}
        >>> pl.run({"matrix": matrix, "repeats": 1, "idle_limit_s": 0}, campaign="small").trials["outcome"].tolist()
        [1/1] 001-local-128mb-1M-calibration  ok ...
        ['ok']
    """
    if isinstance(parameters, Mapping):
        wanted, stem, place = campaign_parameters(parameters, Path.cwd(), _PLACE), "notebook", _PLACE
    else:
        path = Path(parameters)
        wanted, stem, place = load_campaign_parameters(path), path.stem, str(path)
    plan = make_plan(wanted, check_name(campaign or dated_name(stem)), place)
    if not scheduler:
        check_plan(plan)
    with (
        _on_workers(plan, scheduler) as placed,
        StopRequest(signal.SIGINT) as stop,
        _watcher(plan, {}, lambda: stop.requested) as (watcher, over),
    ):
        begun = placed(Campaign.create(plan, watcher))
        over(_ending(begun, begun.run(), scheduler))
    return CampaignResults(read_campaign(begun.folder))


def resume(campaign: str | Path, *, accept_changes: bool = False, scheduler: str = "") -> CampaignResults:
    """Continue a campaign that was stopped, as `picolab resume` does, and return its results.

    It is shown as `pl.run()` shows it, with the results so far. No trial with a result is repeated; trials that ended
    in a fault of the instrument run again.

    Args:
        campaign: its name, as `pl.campaigns()` lists it, or the path of its folder.
        accept_changes: continue although the plan, a build or the host has changed since the campaign began.
        scheduler: address of a Dask scheduler whose workers run the trials; default: they run on this host.

    Raises:
        CampaignNotFound: there is no such campaign; the message lists those that exist.
        CampaignBusy: another process runs it.
        CampaignChanged: the plan, a build or the host has changed; the message names each change.
        HostUnfit: this host cannot run it, or the scheduler and its workers cannot.
        ParameterError: it searches a memory floor.

    Example:
        >>> import picolab as pl
        >>> matrix = {"ram_mb": [128], "file_size": ["1M"]}
        >>> wanted = {"matrix": matrix, "repeats": 1, "idle_limit_s": 0}
        >>> pl.run(wanted, campaign="again")  # perhaps interrupted
        [1/1] 001-local-128mb-1M-calibration  ok ...
        <campaign again: 1 trial, 0 problems>
        >>> pl.resume("again").trials["outcome"].tolist()
        ['ok']
    """
    folder = find_campaign(str(campaign))
    stopped = Campaign.load(folder)
    if stopped.plan.floor is not None:
        raise ParameterError(
            f"campaign {folder.name!r} searches a memory floor; continue it with: picolab resume {in_command(folder)}"
        )
    results = read_standing(folder).results
    found = {trial_id: (record.outcome, record.outcome_detail) for trial_id, record in results.items()}
    with (
        _on_workers(stopped.plan, scheduler) as placed,
        StopRequest(signal.SIGINT) as stop,
        _watcher(stopped.plan, found, lambda: stop.requested) as (watcher, over),
    ):
        stopped.watcher = watcher
        stopped = placed(stopped)
        over(_ending(stopped, stopped.run(accept_changes), scheduler))
    return CampaignResults(read_campaign(folder))


@contextmanager
def _on_workers(plan: Plan, scheduler: str) -> Iterator[Callable[[Campaign], Campaign]]:
    """Yield a function that has a campaign run on the workers of a scheduler; without one it changes nothing."""
    if not scheduler:
        yield lambda campaign: campaign
        return
    from picolab.distributed.campaign import with_cluster
    from picolab.distributed.checks import check_distributed
    from picolab.distributed.cluster import Cluster

    check_distributed(plan)
    with Cluster(scheduler) as cluster:
        cluster.check_workers()
        yield lambda campaign: with_cluster(campaign, cluster)


@contextmanager
def _watcher(
    plan: Plan, found: Mapping[str, tuple[Outcome, str]], stop_requested: Callable[[], bool]
) -> Iterator[tuple[Watcher, Callable[[str], None]]]:
    """Yield the callbacks that show a campaign, and a function that shows how it has ended.

    Args:
        found: outcome and detail of each trial that has a result already, by its id.
    """
    if is_watched():
        from picolab.campaign.live_matrix import LiveMatrix
        from picolab.jupyter.live_display import LiveDisplay

        matrix = LiveMatrix(plan, LiveDisplay(f"campaign {plan.campaign} begins"), found)
        yield matrix.watcher(stop_requested), matrix.say
        return
    from picolab.cli.progress import campaign_watcher

    lines: list[str] = []
    with campaign_watcher(stop_requested) as watcher:
        yield watcher, lines.append
    for line in filter(None, lines):
        print(visible(line))


def _ending(campaign: Campaign, code: ExitCode, scheduler: str) -> str:
    """Return how a campaign ended, in a sentence; empty when every trial has a result."""
    if code not in (ExitCode.INTERRUPTED, ExitCode.INSTRUMENT_FAULT):
        return ""
    missing = len(campaign.needed) - campaign.tally.done
    words = f"{in_command(campaign.folder)!r}" + (f", scheduler={scheduler!r}" if scheduler else "")
    return (
        f"Not every trial has a result ({missing} missing). Resume with: {campaign.resume_command}; or "
        f"pl.resume({words})"
    )
