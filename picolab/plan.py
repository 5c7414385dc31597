"""From a matrix to a plan: every trial in the order in which it will run, frozen in `plan.json`."""

import itertools
import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from picolab.errors import CampaignNotFound, ParameterError
from picolab.parameters import (
    CampaignParameters,
    Matrix,
    TrialParameters,
    format_size,
    parse_size,
    unknown_name,
    validate,
)
from picolab.paths import write_atomically

PLAN_FILE = "plan.json"
ORDER = (
    "Each block holds every case once; the order of cases inside a block is random, drawn from the seed; "
    "every trial has a fresh server, data folder and TMPDIR."
)
_NOT_A_FACTOR = ("machine_name", "seed", "keep_machine")
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
    trials: list[PlannedTrial]

    @property
    def cases(self) -> list[str]:
        return list(dict.fromkeys(sorted(trial.case for trial in self.trials)))

    @property
    def largest_file_bytes(self) -> int:
        return max(trial.parameters.file_size_bytes for trial in self.trials)

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
            return cls.model_validate_json((folder / PLAN_FILE).read_text())
        except FileNotFoundError:
            raise CampaignNotFound(
                f"{folder}: there is no campaign; `picolab status` lists those there are"
            ) from None
        except (OSError, ValueError) as error:
            raise ParameterError(f"{folder / PLAN_FILE}: is not a plan that this picolab can read ({error})") from None


def make_plan(wanted: CampaignParameters, campaign: str, source: str) -> Plan:
    """Build the plan of a campaign.

    A block holds every case once; cases are shuffled inside each block. The same seed gives the same plan.

    Args:
        campaign: name of the campaign.
        source: where `wanted` came from, for messages and the report.

    Raises:
        ParameterError: a factor does not exist, a level makes no sense, or no case is left.
    """
    cases = [_case(levels, wanted, source) for levels in expand(wanted.matrix, source)]
    labels = _labels(cases)
    chance = random.Random(wanted.seed)
    digits = max(3, len(str(len(cases) * wanted.repeats)))
    trials: list[PlannedTrial] = []
    for block in range(1, wanted.repeats + 1):
        order = list(range(len(cases)))
        chance.shuffle(order)
        for index in order:
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
        order=ORDER,
        trials=trials,
    )


def expand(matrix: Matrix, source: str) -> list[dict[str, Any]]:
    """Return the cases of a matrix as {factor: level}, by GitHub Actions' rules for `include` and `exclude`.

    All levels of all factors are combined; an `exclude` entry removes every combination that has all its
    values; an `include` entry adds its values to every combination whose factors it does not contradict, or else
    is a case of its own.
    Source: "Using a matrix for your jobs" in GitHub's Actions documentation.

    Raises:
        ParameterError: a factor has no list of levels, has a level twice, or no case is left.
    """
    factors = matrix.factors
    for name, levels in factors.items():
        _require_parameter(name, f"{source}: matrix")
        if not isinstance(levels, list) or not levels:
            raise ParameterError(f"{source}: matrix: {name} = {levels!r} should be a list of levels, such as [512]")
        spelled = [_comparable(name, level) for level in levels]
        if len(set(map(repr, spelled))) < len(spelled):
            raise ParameterError(f"{source}: matrix: {name} = {levels!r} names a level twice; remove one")
    combinations = [
        dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())
    ]
    if not factors:
        combinations = []
    for entry in matrix.exclude:
        for name in entry:
            if name not in factors:
                raise ParameterError(f"{source}: matrix.exclude: {unknown_name(name, sorted(factors))}")
        if not any(_has(case, entry) for case in combinations):
            raise ParameterError(f"{source}: matrix.exclude: {entry!r} excludes no case; remove or mend it")
        combinations = [case for case in combinations if not _has(case, entry)]
    added: list[dict[str, Any]] = []
    for entry in matrix.include:
        for name in entry:
            _require_parameter(name, f"{source}: matrix.include")
        shared = {name: value for name, value in entry.items() if name in factors}
        fitting = [case for case in combinations if _has(case, shared)]
        if fitting and len(shared) < len(entry):
            for case in fitting:
                case.update(entry)
        elif not fitting:
            added.append(dict(entry))
    cases = combinations + added
    if not cases:
        raise ParameterError(f"{source}: matrix: no case is left; give at least one factor with one level")
    return cases


def _require_parameter(name: str, place: str) -> None:
    known = sorted(set(TrialParameters.model_fields) - set(_NOT_A_FACTOR))
    if name not in known:
        raise ParameterError(f"{place}: {unknown_name(name, known)}")


def _comparable(name: str, level: Any) -> Any:
    return parse_size(level) if name == "file_size" else level


def _has(case: dict[str, Any], values: dict[str, Any]) -> bool:
    return all(
        name in case and _comparable(name, case[name]) == _comparable(name, value) for name, value in values.items()
    )


def _case(levels: dict[str, Any], wanted: CampaignParameters, source: str) -> TrialParameters:
    for name in wanted.parameters:
        if name in levels and name in wanted.matrix.factors:
            raise ParameterError(f"{source}: parameters: {name} is a factor of the matrix too; remove one of the two")
    # Nobody waits beside a campaign, so its machines are taken down unless the file says otherwise.
    merged = {"keep_machine": "never", **wanted.parameters, **levels}
    if "seed" in merged:
        raise ParameterError(f"{source}: parameters: seed is set by the campaign's own seed; remove it here")
    parameters = validate(TrialParameters, merged, source)
    if parameters.keep_machine == "always":
        raise ParameterError(
            f"{source}: keep_machine = 'always' would keep a machine for every trial; use never, or "
            f"on_failure to stop the campaign at the first failure with its machine still up"
        )
    if parameters.calibration and parameters.build != "calibration":
        raise ParameterError(
            f"{source}: calibration = {parameters.calibration!r} needs build: calibration, "
            f"but build is {parameters.build!r}; remove one of the two"
        )
    return parameters


def _labels(cases: list[TrialParameters]) -> list[str]:
    """Return a label a case: the usual words, and whatever else tells two cases apart."""
    varying = [
        name
        for name in TrialParameters.model_fields
        if name not in _LABELLED and len({repr(getattr(case, name)) for case in cases}) > 1
    ]
    labels = []
    for case in cases:
        extra = "".join(f"-{name}_{_short(getattr(case, name))}" for name in varying)
        labels.append(case.case_label + extra)
    for label in labels:
        if labels.count(label) > 1:
            twins = [f"{case.build} ({format_size(case.file_size_bytes)})" for case in cases if label in case.case_label]
            raise ParameterError(
                f"two cases have the label {label!r} ({', '.join(twins)}); "
                f"remove the one that is there twice, or rename one of the build files"
            )
    return labels


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)
    return "".join(character if character.isalnum() or character in "._" else "" for character in text)[:40] or "none"
