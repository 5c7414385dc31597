"""The cases of a matrix: levels combined, `exclude` and `include` applied."""

import itertools
import math
from typing import Any

from picolab.config.campaign_parameters import Matrix
from picolab.config.invalid_input import unknown_name, validate
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import ParameterError
from picolab.text.foreign import shown

MOST_TRIALS = 10_000
"""Of a campaign."""
_MOST_COMPARISONS = 300_000
SET_BY_CAMPAIGN = {
    "label": "is a name in `builds`",
    "seed": "is set by the campaign's own seed",
    "machine_name": "is set by the campaign: its machine has the campaign's name",
}
"""Parameters that a campaign sets for each trial, and how."""
_NOT_A_FACTOR = {**SET_BY_CAMPAIGN, "keep_machine": "is the same in all trials; set it in `parameters`"}


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
            known[key] = check_level(name, level, place)
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
            raise ParameterError(f"{place}: {shown(entry)} excludes no case; remove or fix it")
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
            raise ParameterError(f"{place}: {shown(entry)} adds nothing: these cases exist already; remove or fix it")
        for case in fitting:
            case.update(entry)
        if not fitting:
            added.append(dict(entry))
    if not combinations + added:
        raise ParameterError(f"{source}: matrix: no case is left; give at least one factor with one level")
    return combinations + added


def _require_parameter(name: str, place: str) -> None:
    if name in _NOT_A_FACTOR:
        raise ParameterError(f"{place}: {name} {_NOT_A_FACTOR[name]}; remove it here")
    known = sorted(set(TrialParameters.model_fields) - set(_NOT_A_FACTOR))
    if name not in known:
        raise ParameterError(f"{place}: {unknown_name(name, known)}")


def check_level(name: str, level: Any, place: str) -> Any:
    """Return what a level means, however it is spelled: `1G` is `1024M`, 512 is "512"."""
    return getattr(validate(TrialParameters, {name: level}, place), name)


def _hashable(value: Any) -> Any:
    """Return something that is equal for equal values, and may be in a set."""
    if isinstance(value, dict):
        return frozenset((name, _hashable(item)) for name, item in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
