"""Names of scenarios and cases, safe in file names; no two scenarios and no two cases of a campaign share one."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from picolab.config.trial_parameters import BUILD_PARAMETERS, SCENARIO_PARAMETERS, TrialParameters, short
from picolab.errors import ParameterError
from picolab.text.foreign import shown

_LONGEST_LABEL = 120
_LABELLED = ("machine", "ram_mb", "file_size", "build", "memory_limit")
_LABELLED_BY_NAME = ("label", "environment", "calibration")


class ScenarioNames:
    """Names the scenarios of some trials: `TrialParameters.scenario`, with a hash where that name is not unique.

    A name leaves out characters that are not safe in a file name, so that `a/b` and `a-b` read the same.
    """

    def __init__(self, trials: Iterable[TrialParameters]) -> None:
        """Look at all trials that are shown together."""
        self._meanings: dict[str, set[str]] = defaultdict(set)
        for trial in trials:
            self._meanings[trial.scenario].add(_meaning(trial))

    def of(self, trial: TrialParameters) -> str:
        """Return the name of a trial's scenario; equal for trials that differ in their build alone, and no others."""
        name = trial.scenario
        return name if len(self._meanings[name]) < 2 else f"{name}-{_hash(_meaning(trial))}"


def _meaning(trial: TrialParameters) -> str:
    return json.dumps([getattr(trial, name) for name in SCENARIO_PARAMETERS])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def case_labels(cases: Sequence[TrialParameters], source: str) -> list[str]:
    """Return a label a case, safe in a file name: the usual words, and every other parameter that varies.

    Raises:
        ParameterError: two cases are equal, or have builds whose names read the same.
    """
    covered = (*_LABELLED, *_LABELLED_BY_NAME) if all(case.label for case in cases) else _LABELLED
    varying = [
        name
        for name in TrialParameters.model_fields
        if name not in covered and any(getattr(case, name) != getattr(cases[0], name) for case in cases)
    ]
    labels = []
    for case in cases:
        label = case.case_label + "".join(f"-{name}_{short(getattr(case, name))}" for name in varying)
        labels.append(label if len(label) <= _LONGEST_LABEL else _cut(label, label))
    meanings = dict.fromkeys(zip(labels, map(_meaning, cases), strict=True))
    shared = Counter(label for label, _ in meanings)
    labels = [
        _cut(label, _meaning(case)) if shared[label] > 1 else label for label, case in zip(labels, cases, strict=True)
    ]
    label, count = Counter(labels).most_common(1)[0]
    if count == 1:
        return labels
    one, other = [case for case, its_label in zip(cases, labels, strict=True) if its_label == label][:2]
    names = [name for name in BUILD_PARAMETERS if getattr(one, name) != getattr(other, name)]
    if not names:
        raise ParameterError(f"{source}: matrix: the case {label} appears twice; remove one of the two")
    values = f"{shown(getattr(one, names[0]))} and {shown(getattr(other, names[0]))}"
    raise ParameterError(
        f"{source}: matrix: two cases cannot be told apart by their label {label}: {names[0]} is {values}; "
        f"rename one of the two"
    )


def _cut(label: str, meaning: str) -> str:
    return f"{label[: _LONGEST_LABEL - 9]}-{_hash(meaning)}"
