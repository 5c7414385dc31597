"""A campaign that searches the memory floor: its plan grows by one trial after the other."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from picolab.analysis.floor_search import Floor, floor_of, look
from picolab.config.floor_search import FloorSearch, as_ram_mb
from picolab.config.invalid_input import validate
from picolab.config.plan import Plan, PlannedTrial, Purpose
from picolab.config.sizes import MIB
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import HostUnfit
from picolab.host.facts import memory_info
from picolab.machines.kinds import kind_of
from picolab.text.wording import percent

_USUAL_HIGHEST_MB = 1024
_ORDER = (
    "One trial after the other: the RAM of each is the one after whose outcome the entropy of the floor is expected to "
    "be least; then trials at the recommended RAM. Every trial has a fresh server, data folder and TMPDIR."
)


def make_search(values: Mapping[str, Any], machine: str, source: str) -> FloorSearch:
    """Return a search with the range of a kind of machine where none is given.

    Raises:
        ParameterError: a value does not make sense.
        HostUnfit: the host has less RAM than the range.
    """
    kind, host_mb = kind_of(machine), memory_info()["MemTotal"] // MIB
    usual = {
        "low_mb": kind.smallest_ram_mb,
        "high_mb": min(_USUAL_HIGHEST_MB, host_mb * 3 // 4),
        "step_mb": kind.ram_step_mb,
    }
    search: FloorSearch = validate(FloorSearch, usual | dict(values), source)
    if search.high_mb > host_mb:
        raise HostUnfit(
            f"{source}: --to {search.high_mb:.10g}M is more than this host's {host_mb} MiB, so the limit would mean "
            f"nothing; choose less"
        )
    return search


def make_floor_plan(
    parameters: TrialParameters, search: FloorSearch, campaign: str, source: str, seed: int, idle_limit_s: float
) -> Plan:
    """Return the plan of a search, with its first trial.

    Args:
        parameters: of every trial but for `ram_mb` and `seed`.
        source: the command, for messages and the page.
    """
    first = look(search, [])
    assert first.next_mb is not None
    return Plan(
        campaign=campaign,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
        description=f"The smallest RAM at which {percent(search.share)} of trials survive the {search.step}.",
        seed=seed,
        repeats=1,
        fault_retries=1,
        factors={},
        order=_ORDER,
        idle_limit_s=idle_limit_s,
        floor=search,
        trials=[_trial(parameters, 1, first.next_mb, "search", seed)],
    )


def with_next_trial(plan: Plan, rows: Mapping[str, Mapping[str, Any]]) -> tuple[Plan, Floor]:
    """Return the plan with the next trial of its search, or unchanged when the search has ended.

    Args:
        rows: results of every trial of the plan so far, by trial_id.
    """
    found = floor_of(plan, rows)
    if found.next_mb is None:
        return plan, found
    trial = _trial(plan.trials[0].parameters, len(plan.trials) + 1, found.next_mb, found.next_purpose, plan.seed)
    return plan.model_copy(update={"trials": [*plan.trials, trial]}), found


def _trial(parameters: TrialParameters, position: int, ram_mb: float, purpose: Purpose, seed: int) -> PlannedTrial:
    values = parameters.model_dump() | {"ram_mb": as_ram_mb(ram_mb), "seed": seed * 1_000_000 + position}
    own = validate(TrialParameters, values, "the search")
    return PlannedTrial(
        trial_id=f"{position:03d}-{own.case_label}",
        block=position,
        position=position,
        case=own.case_label,
        scenario=own.scenario,
        purpose=purpose,
        parameters=own,
    )
