"""From a matrix to a plan: every trial in the order in which it will run, frozen in `plan.json`."""

import hashlib
import itertools
import math
import random
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from picolab.config.parameters import (
    CampaignParameters,
    Matrix,
    Stopping,
    TrialParameters,
    short,
    unknown_name,
    validate,
)
from picolab.config.sizes import MIB
from picolab.errors import CampaignNotFound, ParameterError, UnreadableFile
from picolab.files.foreign import read_json, unfit_value
from picolab.files.writing import file_name, write_atomically
from picolab.machines.kinds import kind_of
from picolab.servers.registry import server_of
from picolab.text.foreign import one_line, shown, visible

PLAN_FILE = "plan.json"
ORDER = (
    "Each block holds every case once; the order of cases inside a block is random, drawn from the seed; "
    "every trial has a fresh server, data folder and TMPDIR."
)
ORDER_OF_BUILDS = (
    "Each block holds every case once. Inside a block all builds of a scenario run back to back; over {builds} blocks "
    "each build runs once at each place among them, in random order. The scenarios of a block are in random order. All "
    "is drawn from the seed; every trial has a fresh server, data folder and TMPDIR."
)
ORDER_WITH_VIRTUAL_MACHINES = (
    "Not fully random: inside a block the scenarios that need the same virtual machine (RAM, processors, "
    "box, provider) run one after the other in random order, since another one costs a boot; {groups} in random order "
    "too, anew for each block."
)
MOST_TRIALS = 10_000
_MOST_COMPARISONS = 300_000
_LONGEST_LABEL = 120
_NOT_A_FACTOR = ("machine_name", "seed", "keep_machine", "label")
_SET_BY_CAMPAIGN = {
    "label": "is a name in `builds`",
    "seed": "is set by the campaign's own seed",
    "machine_name": "is set by the campaign: its machine has the campaign's name",
}
_LABELLED = ("machine", "ram_mb", "file_size", "build", "memory_limit")
_TOLD_BY_LABEL = ("label", "environment", "calibration")


FileName = Annotated[str, AfterValidator(file_name)]
"""A text that becomes the name of a file or folder, checked whenever it is read."""
LARGEST_PLAN_BYTES = 32 * MIB
"""A plan of `MOST_TRIALS` trials has half of it."""


class PlannedTrial(BaseModel):
    """One trial to run."""

    model_config = ConfigDict(extra="forbid")

    trial_id: FileName
    block: Annotated[int, Field(ge=1, lt=1 << 31)]
    position: Annotated[int, Field(ge=1, lt=1 << 31)]
    case: str
    scenario: str = ""
    parameters: TrialParameters


class Plan(BaseModel):
    """All trials of a campaign in the order in which they will run."""

    model_config = ConfigDict(extra="forbid")

    plan_version: Literal[1] = 1
    campaign: FileName
    created_at: str
    source: str
    description: str
    seed: int
    repeats: Annotated[int, Field(ge=1)]
    fault_retries: Annotated[int, Field(ge=0, le=10)]
    factors: dict[str, list[Any]]
    order: str
    baseline: str | None = None
    margin_percent: Annotated[float, Field(gt=0, le=50)] = 5.0
    stopping: Stopping | None = None
    idle_limit_s: Annotated[float, Field(ge=0, le=86400)] = 0.0
    busy_host: Literal["flag", "refuse"] = "flag"
    trials: Annotated[list[PlannedTrial], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_fit(self) -> "Plan":
        name, count = Counter(trial.trial_id for trial in self.trials).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{count} trials are called {name}")
        if self.baseline is not None and all(trial.parameters.build_label != self.baseline for trial in self.trials):
            raise ValueError(f"the baseline {self.baseline!r} is no build of a trial")
        return self

    @property
    def cases(self) -> list[str]:
        return list(dict.fromkeys(sorted(trial.case for trial in self.trials)))

    def save(self, folder: Path) -> None:
        write_atomically(folder / PLAN_FILE, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Plan":
        """Read the plan of a campaign.

        Raises:
            CampaignNotFound: there is no campaign in this folder.
            ParameterError: its plan cannot be read.
        """
        path = folder / PLAN_FILE
        try:
            data = read_json(path, LARGEST_PLAN_BYTES)
            unfit = unfit_value(data) if isinstance(data, dict) else "it holds no object"
            if unfit is not None:
                raise UnreadableFile(unfit)
            return cls.model_validate(data)
        except FileNotFoundError:
            raise CampaignNotFound(f"{folder}: there is no campaign; `picolab status` lists those there are") from None
        except (UnreadableFile, ValidationError) as error:
            why = str(error).removeprefix(f"{path}: ")
            if isinstance(error, ValidationError):
                first = error.errors(include_input=False)[0]
                why = f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
            raise ParameterError(
                f"{path}: is not a plan that this picolab can read ({one_line(why[:300])}); "
                f"the notebooks beside it are still good, and a new campaign gets a new plan"
            ) from None


def make_plan(wanted: CampaignParameters, campaign: str, source: str) -> Plan:
    """Build the plan of a campaign.

    A block holds every case once; cases are shuffled inside each block, and those that need the same virtual machine
    stay together. The same seed gives the same plan.

    Args:
        campaign: name of the campaign.
        source: where `wanted` came from, for messages and the report.

    Raises:
        ParameterError: a factor does not exist, a level makes no sense, or no case is left.
    """
    stopping = _stopping(wanted, source)
    blocks = stopping.most_blocks if stopping is not None else int(wanted.repeats)
    for name, value in wanted.parameters.items():
        _meaning(name, value, f"{source}: parameters")
    cases = [_case(levels, wanted, source) for levels in expand(_with_builds(wanted, source), source)]
    if len(cases) * blocks > MOST_TRIALS:
        raise ParameterError(
            f"{source}: {len(cases)} cases x {blocks} repeats are more than {MOST_TRIALS} trials; "
            f"remove levels or repeats"
        )
    labels = _labels(cases, source)
    order = _blocks(cases, blocks, random.Random(wanted.seed))
    digits = max(3, len(str(len(cases) * blocks)))
    trials: list[PlannedTrial] = []
    for block, indices in enumerate(order, start=1):
        for index in indices:
            position = len(trials) + 1
            trials.append(
                PlannedTrial(
                    trial_id=f"{position:0{digits}d}-{labels[index]}",
                    block=block,
                    position=position,
                    case=labels[index],
                    scenario=cases[index].scenario,
                    # Bytes of their own for each trial: nothing in between can have seen them before.
                    parameters=cases[index].model_copy(update={"seed": wanted.seed * 1_000_000 + position}),
                )
            )
    return Plan(
        campaign=campaign,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=visible(source),
        description=wanted.description,
        seed=wanted.seed,
        repeats=blocks,
        fault_retries=wanted.fault_retries,
        factors=_with_builds(wanted, source).factors,
        order=_order_in_words(cases),
        baseline=_baseline(cases, wanted, source),
        margin_percent=wanted.margin_percent,
        stopping=stopping,
        idle_limit_s=wanted.idle_limit_s,
        busy_host=wanted.busy_host,
        trials=trials,
    )


def _stopping(wanted: CampaignParameters, source: str) -> Stopping | None:
    if wanted.repeats == "auto":
        return wanted.stopping or Stopping.model_validate({})
    if wanted.stopping is not None:
        raise ParameterError(f"{source}: stopping needs repeats: auto, but repeats is {wanted.repeats}; change one")
    return None


def _with_builds(wanted: CampaignParameters, source: str) -> Matrix:
    """Return the matrix with the labels of `builds` as levels of `build`, when it names none itself."""
    factors = wanted.matrix.factors
    if not wanted.builds or "build" in wanted.parameters:
        for label in wanted.builds:
            raise ParameterError(f"{source}: builds: parameters sets build for all trials, so {label} is unused")
        return wanted.matrix
    if "build" not in factors:
        return Matrix.model_validate({**wanted.matrix.model_dump(), "build": list(wanted.builds)})
    named = [str(entry["build"]) for entry in wanted.matrix.include if "build" in entry]
    levels = factors["build"] if isinstance(factors["build"], list) else []
    unused = [label for label in wanted.builds if label not in [*map(str, levels), *named]]
    if unused:
        raise ParameterError(f"{source}: builds: {unused[0]} is no level of build in the matrix; add it, or remove it")
    return wanted.matrix


def _baseline(cases: list[TrialParameters], wanted: CampaignParameters, source: str) -> str | None:
    """Return the label of the build that the others are compared with; None when there is one build only."""
    labels = list(dict.fromkeys(case.build_label for case in cases))
    if wanted.baseline and wanted.baseline not in labels:
        raise ParameterError(f"{source}: baseline: {unknown_name(wanted.baseline, sorted(labels))}")
    return wanted.baseline or (labels[0] if len(labels) > 1 else None)


def _blocks(cases: list[TrialParameters], blocks: int, chance: random.Random) -> list[list[int]]:
    """Return the numbers of the cases in the order of each block.

    Cases that need the same virtual machine stay together, and inside of that the builds of a scenario: what
    drifts over minutes or hours then hits the builds of a pair alike. Each build has each place among its
    neighbours equally often, so that a steady drift within a pair cancels.
    """
    scenarios: dict[str, list[int]] = {}
    for index, case in enumerate(cases):
        scenarios.setdefault(case.scenario, []).append(index)
    squares = {scenario: _balanced_orders(indices, blocks, chance) for scenario, indices in scenarios.items()}
    order = []
    for block in range(blocks):
        groups: dict[Any, list[str]] = {}
        for scenario, indices in scenarios.items():
            groups.setdefault(_machine_key(cases[indices[0]]) or scenario, []).append(scenario)
        shuffled = list(groups.values())
        chance.shuffle(shuffled)
        for group in shuffled:
            chance.shuffle(group)
        order.append([index for group in shuffled for scenario in group for index in squares[scenario][block]])
    return order


def _balanced_orders(items: list[int], blocks: int, chance: random.Random) -> list[list[int]]:
    """Return an order of the items for each block: random Latin squares, one after the other."""
    orders: list[list[int]] = []
    while len(orders) < blocks:
        first = list(items)
        chance.shuffle(first)
        square = [first[shift:] + first[:shift] for shift in range(len(first))]
        chance.shuffle(square)
        orders += square
    return orders[:blocks]


def _machine_key(case: TrialParameters) -> tuple[Any, ...] | None:
    """Return a value that differs when the machine must be rebooted or made anew; None when that costs nothing."""
    key = kind_of(case.machine).change_key(case)
    return None if key is None else (case.machine, *key)


def _order_in_words(cases: list[TrialParameters]) -> str:
    most = max(Counter(case.scenario for case in cases).values())
    words = ORDER if most == 1 else ORDER_OF_BUILDS.format(builds=most)
    grouped = {_machine_key(case) is not None for case in cases}
    if True in grouped:
        groups = "these groups and the other scenarios run" if len(grouped) > 1 else "these groups run"
        words = f"{words} {ORDER_WITH_VIRTUAL_MACHINES.format(groups=groups)}"
    return words


def expand(matrix: Matrix, source: str) -> list[dict[str, Any]]:
    """Return the cases of a matrix as {factor: level}, by GitHub Actions' rules for `include` and `exclude`.

    All levels of all factors are combined; an `exclude` entry removes every combination that has all its
    values; an `include` entry adds its values to every combination whose factors it does not contradict, or
    else is a case of its own. Stricter than there: an entry that changes nothing is refused as a mistake.
    Source: "Using a matrix for your jobs" in GitHub's Actions documentation.

    Raises:
        ParameterError: a factor has no list of levels, has a level twice, or no case is left.
    """
    factors = matrix.factors
    known: dict[tuple[str, str], Any] = {}

    def has(case: dict[str, Any], values: dict[str, Any], place: str) -> bool:
        return all(means(name, case[name], place) == means(name, value, place) for name, value in values.items())

    def means(name: str, level: Any, place: str) -> Any:
        # Each level is looked at once, however many cases it is in.
        key = name, repr(level)
        if key not in known:
            known[key] = _meaning(name, level, place)
        return known[key]

    for name, levels in factors.items():
        _require_parameter(name, f"{source}: matrix")
        if not isinstance(levels, list) or not levels:
            raise ParameterError(
                f"{source}: matrix: {name} = {shown(levels)} should be a list of levels, such as [512]"
            )
        if len(levels) > MOST_TRIALS:
            raise ParameterError(f"{source}: matrix: {name} has more than {MOST_TRIALS} levels; remove some")
        meant = {_hashable(means(name, level, f"{source}: matrix")) for level in levels}
        if len(meant) < len(levels):
            raise ParameterError(f"{source}: matrix: {name} = {shown(levels)} names a level twice; remove one")
    if math.prod(map(len, factors.values())) > MOST_TRIALS:
        raise ParameterError(f"{source}: matrix: gives more than {MOST_TRIALS} cases; remove levels")
    cases, entries = math.prod(map(len, factors.values())), len(matrix.include) + len(matrix.exclude)
    if cases * entries > _MOST_COMPARISONS:
        raise ParameterError(
            f"{source}: matrix: {cases} cases and {entries} entries of include and exclude are too many; remove some"
        )
    combinations = [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]
    if not factors:
        combinations = []
    for entry in matrix.exclude:
        for name in entry:
            if name not in factors:
                raise ParameterError(f"{source}: matrix.exclude: {unknown_name(name, sorted(factors))}")
        place = f"{source}: matrix.exclude"
        if not entry or not any(has(case, entry, place) for case in combinations):
            raise ParameterError(f"{place}: {shown(entry)} excludes no case; remove or mend it")
        combinations = [case for case in combinations if not has(case, entry, place)]
    added: list[dict[str, Any]] = []
    for entry in matrix.include:
        place = f"{source}: matrix.include"
        for name, value in entry.items():
            _require_parameter(name, place)
            means(name, value, place)
        shared = {name: value for name, value in entry.items() if name in factors}
        fitting = [case for case in combinations if has(case, shared, place)]
        if len(shared) == len(entry) and (fitting or not entry):
            raise ParameterError(f"{place}: {shown(entry)} adds nothing: these cases are there; remove or mend it")
        for case in fitting:
            case.update(entry)
        if not fitting:
            added.append(dict(entry))
    if not combinations + added:
        raise ParameterError(f"{source}: matrix: no case is left; give at least one factor with one level")
    return combinations + added


def _require_parameter(name: str, place: str) -> None:
    known = sorted(set(TrialParameters.model_fields) - set(_NOT_A_FACTOR))
    if name not in known:
        raise ParameterError(f"{place}: {unknown_name(name, known)}")


def _meaning(name: str, level: Any, place: str) -> Any:
    """Return what a level means, however it is spelled: `1G` is `1024M`, 512 is "512"."""
    return getattr(validate(TrialParameters, {name: level}, place), name)


def _hashable(value: Any) -> Any:
    """Return something that is equal for equal values, and may be in a set."""
    if isinstance(value, dict):
        return frozenset((name, _hashable(item)) for name, item in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _case(levels: dict[str, Any], wanted: CampaignParameters, source: str) -> TrialParameters:
    for name in wanted.parameters:
        if name in levels and name in wanted.matrix.factors:
            raise ParameterError(f"{source}: parameters: {name} is a factor of the matrix too; remove one of the two")
    # Nobody waits beside a campaign, so its machines are taken down unless the file says otherwise.
    merged = {"keep_machine": "never", **wanted.parameters, **levels}
    labelled = wanted.builds.get(str(levels.get("build")))
    for name, why in _SET_BY_CAMPAIGN.items():
        if name in merged:
            raise ParameterError(f"{source}: parameters: {name} {why}; remove it here")
    if labelled is not None:
        # What a build sets goes before what all trials have in common.
        own = {name: {**merged.get(name, {}), **getattr(labelled, name)} for name in ("environment", "calibration")}
        merged |= {"label": str(levels["build"]), "build": labelled.build, **own}
    # Each value has been looked at by now: what is wrong here is that they do not fit each other.
    parameters = validate(TrialParameters, merged, f"{source}: case {shown(levels)}")
    if parameters.keep_machine == "always":
        raise ParameterError(
            f"{source}: keep_machine = 'always' would keep a machine for every trial; use never, or "
            f"on_failure to stop the campaign at the first failure with its machine still up"
        )
    why_not = server_of(parameters.server).why_unfit(parameters)
    if why_not is not None:
        raise ParameterError(f"{source}: {why_not}")
    return parameters


def _labels(cases: list[TrialParameters], source: str) -> list[str]:
    """Return a label a case, safe in a file name: the usual words, and what else tells cases apart."""
    told = (*_LABELLED, *_TOLD_BY_LABEL) if all(case.label for case in cases) else _LABELLED
    varying = [
        name
        for name in TrialParameters.model_fields
        if name not in told and any(getattr(case, name) != getattr(cases[0], name) for case in cases)
    ]
    labels = []
    for case in cases:
        label = case.case_label + "".join(f"-{name}_{short(getattr(case, name))}" for name in varying)
        if len(label) > _LONGEST_LABEL:
            label = f"{label[: _LONGEST_LABEL - 9]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
        labels.append(label)
    label, count = Counter(labels).most_common(1)[0]
    if count > 1:
        one, other = [case for case, its_label in zip(cases, labels, strict=True) if its_label == label][:2]
        names = [name for name in TrialParameters.model_fields if getattr(one, name) != getattr(other, name)]
        if not names:
            raise ParameterError(f"{source}: matrix: the case {label} is there twice; remove one of the two")
        name = names[0]
        raise ParameterError(
            f"{source}: matrix: two cases cannot be told apart by their label {label}: {name} is "
            f"{shown(getattr(one, name))} and {shown(getattr(other, name))}; rename one of the two"
        )
    return labels
