"""From a matrix to a plan: every trial in the order in which it will run, frozen in `plan.json`."""

import hashlib
import itertools
import json
import math
import random
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from picolab.errors import CampaignNotFound, ParameterError
from picolab.parameters import (
    CampaignParameters,
    Matrix,
    TrialParameters,
    shown,
    unknown_name,
    validate,
)
from picolab.paths import write_atomically

PLAN_FILE = "plan.json"
ORDER = (
    "Each block holds every case once; the order of cases inside a block is random, drawn from the seed; "
    "every trial has a fresh server, data folder and TMPDIR."
)
ORDER_WITH_VIRTUAL_MACHINES = (
    "Each block holds every case once. Inside a block the cases that need the same virtual machine (RAM, processors, "
    "box, provider) run one after the other in random order, since another one costs a boot; {groups} in random order "
    "too, all drawn from the seed anew for each block. Every trial has a fresh server, data folder and TMPDIR."
)
MOST_TRIALS = 10_000
_LONGEST_LABEL = 120
_NOT_A_FACTOR = ("machine_name", "seed", "keep_machine")
_SET_BY_CAMPAIGN = {
    "seed": "is set by the campaign's own seed",
    "machine_name": "is set by the campaign: its machine has the campaign's name",
}
_LABELLED = ("machine", "ram_mb", "file_size", "build", "memory_limit")


class PlannedTrial(BaseModel):
    """One trial to run."""

    model_config = ConfigDict(extra="forbid")

    trial_id: str
    block: int
    position: int
    case: str
    parameters: TrialParameters


class Plan(BaseModel):
    """All trials of a campaign in the order in which they will run."""

    model_config = ConfigDict(extra="forbid")

    plan_version: Literal[1] = 1
    campaign: str
    created_at: str
    source: str
    description: str
    seed: int
    repeats: int
    fault_retries: int
    factors: dict[str, list[Any]]
    order: str
    trials: Annotated[list[PlannedTrial], Field(min_length=1)]

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
        try:
            return cls.model_validate_json((folder / PLAN_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CampaignNotFound(f"{folder}: there is no campaign; `picolab status` lists those there are") from None
        except (OSError, ValueError) as error:
            why = str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                why = f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
            raise ParameterError(
                f"{folder / PLAN_FILE}: is not a plan that this picolab can read ({why}); "
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
    combinations = expand(wanted.matrix, source)
    for name, value in wanted.parameters.items():
        _meaning(name, value, f"{source}: parameters")
    cases = [_case(levels, wanted, source) for levels in combinations]
    if len(cases) * wanted.repeats > MOST_TRIALS:
        raise ParameterError(
            f"{source}: {len(cases)} cases x {wanted.repeats} repeats are more than {MOST_TRIALS} trials; "
            f"remove levels or repeats"
        )
    labels = _labels(cases, source)
    chance = random.Random(wanted.seed)
    digits = max(3, len(str(len(cases) * wanted.repeats)))
    trials: list[PlannedTrial] = []
    for block in range(1, wanted.repeats + 1):
        for index in _shuffled(cases, chance):
            position = len(trials) + 1
            trials.append(
                PlannedTrial(
                    trial_id=f"{position:0{digits}d}-{labels[index]}",
                    block=block,
                    position=position,
                    case=labels[index],
                    # Bytes of their own for each trial: nothing in between can have seen them before.
                    parameters=cases[index].model_copy(update={"seed": wanted.seed * 1_000_000 + position}),
                )
            )
    return Plan(
        campaign=campaign,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
        description=wanted.description,
        seed=wanted.seed,
        repeats=wanted.repeats,
        fault_retries=wanted.fault_retries,
        factors=wanted.matrix.factors,
        order=_order_in_words(cases),
        trials=trials,
    )


def _shuffled(cases: list[TrialParameters], chance: random.Random) -> list[int]:
    """Return the numbers of the cases in the order of a block: groups in random order, random inside each."""
    groups: dict[Any, list[int]] = {}
    for index, case in enumerate(cases):
        groups.setdefault(_virtual_machine(case) or index, []).append(index)
    order = list(groups.values())
    chance.shuffle(order)
    for group in order:
        chance.shuffle(group)
    return [index for group in order for index in group]


def _virtual_machine(case: TrialParameters) -> tuple[Any, ...] | None:
    """Return what makes another virtual machine, or another boot of it, necessary; None for a local machine."""
    if case.machine != "vagrant":
        return None
    return (case.ram_mb, case.cpus, case.box, case.provider)


def _order_in_words(cases: list[TrialParameters]) -> str:
    machines = {case.machine for case in cases}
    if "vagrant" not in machines:
        return ORDER
    groups = "these groups and the other cases run" if len(machines) > 1 else "these groups run"
    return ORDER_WITH_VIRTUAL_MACHINES.format(groups=groups)


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
    for name, levels in factors.items():
        _require_parameter(name, f"{source}: matrix")
        if not isinstance(levels, list) or not levels:
            raise ParameterError(
                f"{source}: matrix: {name} = {shown(levels)} should be a list of levels, such as [512]"
            )
        meant = [_meaning(name, level, f"{source}: matrix") for level in levels]
        if any(level in meant[:index] for index, level in enumerate(meant)):
            raise ParameterError(f"{source}: matrix: {name} = {shown(levels)} names a level twice; remove one")
    if math.prod(map(len, factors.values())) > MOST_TRIALS:
        raise ParameterError(f"{source}: matrix: gives more than {MOST_TRIALS} cases; remove levels")
    combinations = [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]
    if not factors:
        combinations = []
    for entry in matrix.exclude:
        for name in entry:
            if name not in factors:
                raise ParameterError(f"{source}: matrix.exclude: {unknown_name(name, sorted(factors))}")
        place = f"{source}: matrix.exclude"
        if not entry or not any(_has(case, entry, place) for case in combinations):
            raise ParameterError(f"{place}: {shown(entry)} excludes no case; remove or mend it")
        combinations = [case for case in combinations if not _has(case, entry, place)]
    added: list[dict[str, Any]] = []
    for entry in matrix.include:
        place = f"{source}: matrix.include"
        for name, value in entry.items():
            _require_parameter(name, place)
            _meaning(name, value, place)
        shared = {name: value for name, value in entry.items() if name in factors}
        fitting = [case for case in combinations if _has(case, shared, place)]
        if len(shared) == len(entry) and (fitting or not entry):
            raise ParameterError(f"{place}: {shown(entry)} adds nothing: these cases are there; remove or mend it")
        for case in fitting:
            case.update(entry)
        if not fitting:
            added.append(dict(entry))
    cases = combinations + added
    if not cases:
        raise ParameterError(f"{source}: matrix: no case is left; give at least one factor with one level")
    return cases


def _require_parameter(name: str, place: str) -> None:
    known = sorted(set(TrialParameters.model_fields) - set(_NOT_A_FACTOR))
    if name not in known:
        raise ParameterError(f"{place}: {unknown_name(name, known)}")


def _meaning(name: str, level: Any, place: str) -> Any:
    """Return what a level means, however it is spelled: `1G` is `1024M`, 512 is "512"."""
    return getattr(validate(TrialParameters, {name: level}, place), name)


def _has(case: dict[str, Any], values: dict[str, Any], place: str) -> bool:
    return all(_meaning(name, case[name], place) == _meaning(name, value, place) for name, value in values.items())


def _case(levels: dict[str, Any], wanted: CampaignParameters, source: str) -> TrialParameters:
    for name in wanted.parameters:
        if name in levels and name in wanted.matrix.factors:
            raise ParameterError(f"{source}: parameters: {name} is a factor of the matrix too; remove one of the two")
    # Nobody waits beside a campaign, so its machines are taken down unless the file says otherwise.
    merged = {"keep_machine": "never", **wanted.parameters, **levels}
    for name, why in _SET_BY_CAMPAIGN.items():
        if name in merged:
            raise ParameterError(f"{source}: parameters: {name} {why}; remove it here")
    # Each value has been looked at by now: what is wrong here is that they do not fit each other.
    parameters = validate(TrialParameters, merged, f"{source}: case {shown(levels)}")
    if parameters.keep_machine == "always":
        raise ParameterError(
            f"{source}: keep_machine = 'always' would keep a machine for every trial; use never, or "
            f"on_failure to stop the campaign at the first failure with its machine still up"
        )
    if parameters.calibration and parameters.build != "calibration":
        raise ParameterError(
            f"{source}: calibration = {shown(parameters.calibration)} needs build: calibration, "
            f"but build is {parameters.build!r}; remove one of the two"
        )
    _check_knobs(parameters.calibration, source)
    return parameters


def _check_knobs(knobs: dict[str, Any], source: str) -> None:
    """Refuse knobs that would end the server of every trial at its start."""
    if not knobs:
        return
    from picolab.calibration.server import Knobs

    try:
        Knobs.parse(json.dumps(knobs, default=str))
    except ValueError as error:
        sentence = str(error).replace("PICOLAB_CALIBRATION", "calibration")
        raise ParameterError(f"{source}: {sentence}") from None


def _labels(cases: list[TrialParameters], source: str) -> list[str]:
    """Return a label a case, safe in a file name: the usual words, and what else tells cases apart."""
    varying = [
        name
        for name in TrialParameters.model_fields
        if name not in _LABELLED and any(getattr(case, name) != getattr(cases[0], name) for case in cases)
    ]
    labels = []
    for case in cases:
        label = case.case_label + "".join(f"-{name}_{_short(getattr(case, name))}" for name in varying)
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


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", "_")) if isinstance(value, dict) else str(value)
    return re.sub(r"[^A-Za-z0-9._]+", "-", re.sub(r'[{}"]', "", text)).strip("-") or "none"
