"""Factors: everything in which two trials may differ; trials that differ in any of it are never one case.

Each parameter of a trial is a factor, unless it stands in `NOT_FACTORS`: a parameter that is added later groups by
itself. With them go facts that a machine or a build has whatever was asked for, such as the executable's SHA-256.
Grouping is always by all of them (`case_key`); a label names only the levels that differ.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from picolab.config.parameters import TrialParameters, short
from picolab.text.foreign import one_line

if TYPE_CHECKING:  # pandas takes half a second, and a trial that only reads a record does not need it.
    import pandas as pd

NOT_FACTORS = ("seed", "machine_name", "keep_machine")
"""Parameters that say nothing about what is measured."""
_MEASURED_TOO = ("build", "box", "cpus", "provider")
"""Parameters whose name is the column of what there really was; what was asked for has `_wanted` in its column."""
_ADDED_LATER = {"server": TrialParameters.model_fields["server"].default}
"""Factors that older records lack, and the level that these have: with it a case keeps the id that it had before."""
_LONGEST_LEVEL = 60


_UNIT = re.compile("_(mib_s|s|mb)$")


@dataclass(frozen=True)
class Factor:
    """Something in which trials may differ."""

    name: str
    """Its column in the rows of trials."""
    parameter: str | None
    """The parameter behind it; None for a fact that is no parameter."""
    kind: str
    """The column's pandas type."""

    @property
    def title(self) -> str:
        """The factor in words."""
        return _TITLES.get(self.name, _UNIT.sub("", self.parameter or self.name).replace("_", " "))

    @property
    def unit(self) -> str:
        """The unit of its levels, which its name ends with."""
        ending = _UNIT.search(self.name)
        return {"_mib_s": " MiB/s", "_s": " s", "_mb": " MiB"}[ending[0]] if ending else ""

    def level(self, parameters: TrialParameters) -> Any:
        """Return the level of a parameter as it stands in the column: a mapping as one text, of which no two agree."""
        value = getattr(parameters, str(self.parameter))
        if self.name == "environment":
            return " ".join(shlex.quote(f"{name}={text}") for name, text in sorted(value.items()))
        return _json(value) if self.kind == "string" and not isinstance(value, str | None) else value


_TITLES = {
    "build_wanted": "build from",
    "build_sha256": "sha256",
    "box_wanted": "box wanted",
    "memory_limit_method": "memory limit by",
    "label": "labelled",
}


def _kind(annotation: Any) -> str:
    """Return the pandas type for a parameter's annotation."""
    known = {int: "Int64", float: "Float64", bool: "boolean"}
    plain = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    alternatives = {get_args(one)[0] if hasattr(one, "__metadata__") else one for one in plain} - {types.NoneType}
    return known.get(alternatives.pop(), "string") if len(alternatives) == 1 else "string"


def _column(parameter: str) -> str:
    return f"{parameter}_wanted" if parameter in _MEASURED_TOO else parameter


PARAMETER_FACTORS = tuple(
    Factor(_column(name), name, _kind(field.annotation))
    for name, field in TrialParameters.model_fields.items()
    if name not in NOT_FACTORS
)
MACHINE_FACTS = ("acceleration", "memory_limit_method", "box", "box_version", "route", "network")
FACT_FACTORS = tuple(Factor(name, None, "string") for name in ("build_sha256", *MACHINE_FACTS))
"""What makes trials incomparable although they were asked for the same."""
FACTORS = (*PARAMETER_FACTORS, *FACT_FACTORS)
COLUMNS = {factor.name: factor.kind for factor in FACTORS}
"""The column of each factor and its pandas type."""

_SHOWN_ELSEWHERE = ("machine", "acceleration", "ram_mb", "memory_limit", "file_size")
"""Factors with a place of their own in every table and chart."""
_TOLD_BY_BUILD = ("build_wanted", "label", "build_sha256")
"""What a build's name tells when each name stands for one level."""
_TOLD_BY_LABEL = (*_TOLD_BY_BUILD, "environment", "calibration")
"""The same when every trial has a label, which names how the build is started, too."""


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def levels_of(parameters: TrialParameters) -> dict[str, Any]:
    """Return the level of every factor that is a parameter, by column."""
    return {factor.name: factor.level(parameters) for factor in PARAMETER_FACTORS}


Key = tuple[Any, ...]


def case_key(row: Mapping[str, Any]) -> Key:
    """Return what trials of one case have in common, and no others; the row has plain values, None for missing."""
    return tuple(row.get(name) for name in COLUMNS)


def parameter_key(row: Mapping[str, Any]) -> Key:
    """Return the part of `case_key` that is known before a trial has run."""
    return tuple(row.get(factor.name) for factor in PARAMETER_FACTORS)


def case_id(row: Mapping[str, Any]) -> str:
    """Return a short text that is equal for trials of one case, and for no others."""
    key = [row.get(name) for name in COLUMNS if name not in _ADDED_LATER or row.get(name) != _ADDED_LATER[name]]
    return hashlib.sha256(_json(key).encode()).hexdigest()[:12]


def case_name(parameters: TrialParameters) -> str:
    """Return a case in words that are safe in a file name: each parameter that is not as usual is named."""
    told = ("machine", "ram_mb", "file_size", "build", "label", "memory_limit", *NOT_FACTORS)
    others = [
        f"-{name}_{short(getattr(parameters, name))}"
        for name, field in TrialParameters.model_fields.items()
        if name not in told and getattr(parameters, name) != field.get_default(call_default_factory=True)
    ]
    return parameters.case_label + "".join(others)


def varying(trials: pd.DataFrame | Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the columns of the factors that have more than one level in these trials."""
    rows = _rows(trials)
    return [name for name in COLUMNS if len({row.get(name) for row in rows}) > 1]


def _rows(trials: pd.DataFrame | Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    import pandas as pd

    if not isinstance(trials, pd.DataFrame):
        return list(trials)
    plain = trials.astype(object).where(trials.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]


def _place(row: Mapping[str, Any]) -> Key:
    """Return what is shown of a case beside its words, where nothing else is said."""
    return tuple(one_line(str(row.get(name))) for name in (*_SHOWN_ELSEWHERE, "build"))


class Labels:
    """The words that tell the cases of some trials apart; no two cases at one place have the same."""

    def __init__(
        self,
        trials: pd.DataFrame | Iterable[Mapping[str, Any]],
        place: Callable[[Mapping[str, Any]], Key] = _place,
    ) -> None:
        """Look at all trials that are shown together.

        Args:
            trials: rows with the column of each factor, and `build` as it is shown.
            place: what is shown of a row beside its words, such as its panel and its RAM.
        """
        by_key = {case_key(row): row for row in _rows(trials)}
        cases = list(by_key.values())
        self.named = _named(cases)
        """The columns of the factors that are named, in the order of parameters."""
        entries = {name: _differing_entries(name, cases) for name in self.named if name in _MAPPINGS}
        words = {
            key: [level_words(name, row.get(name), entries.get(name)) for name in self.named]
            for key, row in by_key.items()
        }
        # Levels that only look alike, or were cut off, must not make one case of two.
        shown = {key: (place(row), *words[key]) for key, row in by_key.items()}
        alike = Counter(shown.values())
        self._words = {
            key: " · ".join([*words[key], *([f"case {case_id(row)}"] if alike[shown[key]] > 1 else [])])
            for key, row in by_key.items()
        }

    def of(self, row: Mapping[str, Any]) -> str:
        """Return the words of a trial beside its build, machine, RAM and file size; empty when those say it all."""
        return self._words[case_key(row)]


def split(trials: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the cases of some trials, each with the words that tell it from the others and with its trials."""
    rows = _rows(trials)
    labels = Labels(rows)
    places: dict[Key, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(case_key(row), []).append(place)
    return [(labels.of(rows[same[0]]), trials.iloc[same]) for same in places.values()]


def _named(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the factors that must be named beside build, machine, RAM and file size."""
    told = _TOLD_BY_LABEL if all(row.get("label") for row in cases) else _TOLD_BY_BUILD
    facts = [factor.name for factor in FACT_FACTORS]
    named = []
    for name in varying(cases):
        by_build = name in told and _determined(cases, name, ("build",))
        # A fact that follows from what was asked for needs no words.
        by_parameters = name in facts and _determined(cases, name, ("build", *(f.name for f in PARAMETER_FACTORS)))
        if name not in _SHOWN_ELSEWHERE and not by_build and not by_parameters:
            named.append(name)
    return named


def _determined(cases: Sequence[Mapping[str, Any]], name: str, others: Sequence[str]) -> bool:
    """Tell whether a factor has but one level wherever the others have theirs."""
    seen: dict[Key, Any] = {}
    return all(seen.setdefault(tuple(row.get(o) for o in others), row.get(name)) == row.get(name) for row in cases)


def _of_environment(level: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(level))


_MAPPINGS: dict[str, Callable[[str], dict[str, Any]]] = {"environment": _of_environment, "calibration": json.loads}
"""Factors whose levels are mappings, and how their text is read: of them only the entries that differ are named."""
_FACTOR = {factor.name: factor for factor in FACTORS}


def _entries(name: str, level: str | None) -> dict[str, Any]:
    return _MAPPINGS[name](level) if level else {}


def _differing_entries(name: str, cases: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of a mapping's entries that are not the same in all cases."""
    levels = [_entries(name, row.get(name)) for row in cases]
    every = sorted({entry for level in levels for entry in level})
    return [e for e in every if len({_json(level[e]) if e in level else None for level in levels}) > 1]


def level_words(name: str, level: Any, entries: Sequence[str] | None = None) -> str:
    """Return a level with its factor in words, such as `cache cold`; of a mapping only the named entries."""
    factor = _FACTOR[name]
    if entries is not None:
        found = _entries(name, level)
        has = [f"{entry}={found[entry]}" for entry in entries if entry in found]
        without = [entry for entry in entries if entry not in found]
        words = " ".join(has + ([f"without {', '.join(without)}"] if without else []))
    elif level is None or level == "":
        words = "not set" if factor.parameter else "unknown"
    else:
        words = f"{level:g}{factor.unit}" if isinstance(level, float) else f"{level}{factor.unit}"
    words = one_line(words)
    if len(words) > _LONGEST_LEVEL:
        words = f"{words[: _LONGEST_LEVEL - 1]}…"
    return f"{factor.title} {words}"
