"""A campaign that searches the memory floor of builds: its plan grows by a trial of each build in each round."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from picolab.analysis.floor_search import Floor, floors_of, look
from picolab.config.floor_search import FloorSearch, as_ram_mb
from picolab.config.invalid_input import validate
from picolab.config.plan import Plan, PlannedTrial, Purpose
from picolab.config.trial_parameters import BUILD_PARAMETERS, TrialParameters
from picolab.errors import HostUnfit, ParameterError
from picolab.machines.kinds import kind_of
from picolab.text.wording import percent

_USUAL_HIGHEST_MB = 1024
_OPTIONS = {"low_mb": "--from", "high_mb": "--to"} | {
    name: f"--{name}" for name in ("share", "precision", "limit", "confirm", "slowdown")
}
_ORDER = (
    "One trial after the other: the RAM of each is the one after whose outcome the entropy of the floor is expected to "
    "be least; then trials at the recommended RAM. Every trial has a fresh server, data folder and TMPDIR."
)
_ORDER_OF_SEVERAL = " The trials of the builds alternate: whatever changes on the host meanwhile, all of them meet it."


def make_search(values: Mapping[str, Any], machine: str, source: str) -> FloorSearch:
    """Return a search with the range of a kind of machine where none is given.

    Raises:
        ParameterError: a value does not make sense.
        HostUnfit: the host has less RAM than the range.
    """
    kind, host_mb = kind_of(machine), kind_of(machine).largest_ram_mb()
    usual = {
        "low_mb": kind.smallest_ram_mb,
        "high_mb": min(_USUAL_HIGHEST_MB, host_mb * 3 // 4),
        "step_mb": kind.ram_step_mb,
    }
    search: FloorSearch = validate(FloorSearch, usual | dict(values), source, _OPTIONS)
    if search.high_mb > host_mb:
        raise HostUnfit(
            f"{source}: --to {search.high_mb:.10g}M is more than this host's {host_mb} MiB, so the limit would mean "
            f"nothing; choose less"
        )
    return search


def make_floor_plan(
    builds: Sequence[TrialParameters],
    search: FloorSearch,
    campaign: str,
    source: str,
    seed: int,
    idle_limit_s: float,
    margin: float | None = None,
) -> Plan:
    """Return the plan of a search, with the first trial of each build.

    Args:
        builds: the parameters of every trial of a build but for `ram_mb` and `seed`; the first is the baseline.
        source: the command, for messages and the page.
        margin: relative change of the floor that does not matter; None: twice the precision, since two intervals that
            are as wide as asked for cannot exclude less.

    Raises:
        ParameterError: two builds have one label, or differ in more than their build.
    """
    shared = [name for name in TrialParameters.model_fields if name not in (*BUILD_PARAMETERS, "ram_mb", "seed")]
    labels = [build.build_label for build in builds]
    for place, build in enumerate(builds):
        if labels[place] in labels[:place]:
            raise ParameterError(f"{source}: two builds are called {labels[place]!r}; name them, such as old=PATH")
        for name in shared:
            if getattr(build, name) != getattr(builds[0], name):
                raise ParameterError(f"{source}: {labels[place]} has another {name} than {labels[0]}; search apart")
    several = len(builds) > 1
    steps = "upload and download" if search.step == "both" else search.step
    plan = Plan(
        campaign=campaign,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
        description=f"The smallest RAM at which {percent(search.share)} of trials survive the {steps}.",
        seed=seed,
        repeats=1,
        fault_retries=1,
        factors={},
        order=_ORDER + (_ORDER_OF_SEVERAL if several else ""),
        baseline=labels[0] if several else None,
        margin_percent=min(50.0, 100 * (2 * search.precision if margin is None else margin)),
        idle_limit_s=idle_limit_s,
        floor=search,
        # Replaced at once: a plan has at least one trial.
        trials=[_trial(builds[0], 1, 1, search.high_mb, "search", seed)],
    )
    first = look(search, [])
    return _with_round(plan.model_copy(update={"trials": []}), [(build, first) for build in builds])


def with_next_round(plan: Plan, rows: Mapping[str, Mapping[str, Any]]) -> tuple[Plan, dict[str, Floor]]:
    """Return the plan with the next trial of each build whose search has not ended, or unchanged when all have.

    Args:
        rows: results of every trial of the plan so far, by trial_id.

    Returns:
        The plan, and by label what was known of the floor of each build before that round.
    """
    found = floors_of(plan, rows)
    builds = {trial.parameters.build_label: trial.parameters for trial in reversed(plan.trials)}
    return _with_round(plan, [(builds[label], floor) for label, floor in found.items()]), found


def _with_round(plan: Plan, builds: Sequence[tuple[TrialParameters, Floor]]) -> Plan:
    block = max((trial.block for trial in plan.trials), default=0) + 1
    trials = list(plan.trials)
    # In every other round the other way round, so that no build always runs first.
    for parameters, floor in builds if block % 2 else reversed(builds):
        if floor.next_mb is not None:
            position = len(trials) + 1
            trials.append(_trial(parameters, position, block, floor.next_mb, floor.next_purpose, plan.seed))
    return plan.model_copy(update={"trials": trials})


def _trial(
    parameters: TrialParameters, position: int, block: int, ram_mb: float, purpose: Purpose, seed: int
) -> PlannedTrial:
    values = parameters.model_dump() | {"ram_mb": as_ram_mb(ram_mb), "seed": seed * 1_000_000 + position}
    own = validate(TrialParameters, values, "the search")
    return PlannedTrial(
        trial_id=f"{position:03d}-{own.case_label}",
        block=block,
        position=position,
        case=own.case_label,
        scenario=own.scenario,
        purpose=purpose,
        parameters=own,
    )
