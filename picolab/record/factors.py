"""The factors: everything in which two trials may differ. Trials that differ in any of them are never one case.

Each parameter of a trial is a factor, unless it stands in `NOT_FACTORS`: a new parameter groups without another edit,
and needs an entry here only if its title or its place is not the usual one. Facts that a machine or build has whatever
was asked for, such as the executable's SHA-256, are factors too, one entry each. Grouping is always by all of them
(`case_key`). `picolab.results.labels` finds the words that tell cases apart.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_origin

from picolab.config.trial_parameters import TrialParameters, short
from picolab.record.fields import pandas_type, pandas_type_at

NOT_FACTORS = ("seed", "machine_name", "keep_machine")
"""Parameters that say nothing about what is measured."""
_IN_EVERY_ID = """
machine ram_mb file_size build_wanted calibration label environment parallel_uploads direction cache sync memory_limit
work_dir fresh_machine cpus_wanted box_wanted provider_wanted boot_limit_s release_base_url ready_limit_s stall_limit_s
floor_rate_mib_s total_limit_s sample_interval_s build_sha256 acceleration memory_limit_method box box_version route
network
"""
"""Factors that `case_id` always contains. A later factor is in it only if its level is not the default, so that old
cases keep their ids. It needs no entry here."""
_UNITS = {"_mib_s": " MiB/s", "_s": " s", "_mb": " MiB"}
_UNIT = re.compile(f"({'|'.join(_UNITS)})$")


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def _shell_words(environment: Mapping[str, str]) -> str:
    return " ".join(shlex.quote(f"{name}={text}") for name, text in sorted(environment.items()))


def _of_shell_words(level: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(level))


@functools.cache
def _defaults() -> TrialParameters:
    return TrialParameters.model_validate({})


@functools.cache
def _field_default(name: str) -> Any:
    return TrialParameters.model_fields[name].get_default(call_default_factory=True)


@dataclass(frozen=True)
class Factor:
    """Something in which trials may differ."""

    name: str
    """Its column in the rows of trials."""
    parameter: str | None = None
    """The parameter behind it; None for a fact."""
    source: str = ""
    """The path of a fact's field in the record."""
    words: str = ""
    """Its title, if that is not its name in words."""
    shown: Literal["place", "build", "label", "words"] = "words"
    """Where its level is seen. `place`: every table and chart has a place for it. `build`: in the name of the build, if
    each name stands for one level. `label`: the same, if every trial has a label. `words`: in words, if it varies."""
    machines: Literal["all", "host", "virtual"] = "all"
    """The machines that heed it: all, those that share this host's kernel and disk, or virtual ones."""
    encode: Callable[[Any], str] | None = None
    """Makes the text in its column of a mapping; None: JSON."""
    decode: Callable[[str], dict[str, Any]] = json.loads
    """Reads that text."""

    @functools.cached_property
    def kind(self) -> str:
        """The pandas type of its column."""
        if self.parameter is None:
            return pandas_type_at(self.source)
        return pandas_type(TrialParameters.model_fields[self.parameter].annotation)

    @functools.cached_property
    def default(self) -> Any:
        """Its level if nothing was asked for, as its column holds it; None for a fact."""
        return None if self.parameter is None else self.level(_defaults())

    @property
    def title(self) -> str:
        """The factor in words."""
        return self.words or _UNIT.sub("", self.parameter or self.name).replace("_", " ")

    @property
    def unit(self) -> str:
        """The unit of its levels, which its name ends with."""
        ending = _UNIT.search(self.name)
        return _UNITS[ending[0]] if ending else ""

    @property
    def is_mapping(self) -> bool:
        """True when a level has named entries, of which only those that differ are shown."""
        return (
            self.parameter is not None and get_origin(TrialParameters.model_fields[self.parameter].annotation) is dict
        )

    def entries(self, level: str | None) -> dict[str, Any]:
        """Return the entries of a mapping's level."""
        return self.decode(level) if level else {}

    def level(self, parameters: TrialParameters) -> Any:
        """Return the level of a parameter as its column holds it: a mapping as text, different for any two mappings."""
        value = getattr(parameters, str(self.parameter))
        if self.encode is not None:
            return self.encode(value)
        if value is None or isinstance(value, str):
            return value
        return _json(value) if self.kind == "string" else value


_DECLARED = (
    Factor("machine", "machine", shown="place"),
    Factor("ram_mb", "ram_mb", shown="place"),
    Factor("file_size", "file_size", shown="place"),
    Factor("memory_limit", "memory_limit", shown="place"),
    # The column `build`, and three more below, hold what there really was.
    Factor("build_wanted", "build", words="build from", shown="build"),
    Factor("label", "label", words="labelled", shown="build"),
    Factor("calibration", "calibration", shown="label"),
    Factor("environment", "environment", shown="label", encode=_shell_words, decode=_of_shell_words),
    Factor("work_dir", "work_dir", machines="host"),
    Factor("fresh_machine", "fresh_machine", machines="virtual"),
    Factor("cpus_wanted", "cpus", machines="virtual"),
    Factor("box_wanted", "box", words="box wanted", machines="virtual"),
    Factor("provider_wanted", "provider", machines="virtual"),
    Factor("boot_limit_s", "boot_limit_s", machines="virtual"),
)
"""Parameters that differ from the usual in more than their name."""
_FACTS = (
    Factor("build_sha256", source="build.sha256", words="sha256", shown="build"),
    Factor("acceleration", source="machine.virtual_machine.acceleration", shown="place", machines="virtual"),
    Factor("memory_limit_method", source="machine.memory_limit.method", words="memory limit by"),
    Factor("box", source="machine.virtual_machine.box", machines="virtual"),
    Factor("box_version", source="machine.virtual_machine.box_version", machines="virtual"),
    Factor("route", source="machine.virtual_machine.route", machines="virtual"),
    Factor("network", source="machine.network.kind", machines="host"),
    # A level only where trials of several hosts are together: `picolab.results.rows.trial_rows` sets it.
    Factor("measured_on", source="provenance.host.hostname", words="host"),
)
"""Facts that make trials incomparable although they were asked for the same."""


def _of_parameters() -> list[Factor]:
    declared = {factor.parameter: factor for factor in _DECLARED}
    names = [name for name in TrialParameters.model_fields if name not in NOT_FACTORS]
    return [declared.get(name) or Factor(name, name) for name in names]


FACTORS: dict[str, Factor] = {factor.name: factor for factor in (*_of_parameters(), *_FACTS)}
"""By column: the parameters in their order, then the facts."""


def parameter_factors() -> list[Factor]:
    """Return the factors that are parameters."""
    return [factor for factor in FACTORS.values() if factor.parameter is not None]


def fact_factors() -> list[Factor]:
    """Return the factors that are facts."""
    return [factor for factor in FACTORS.values() if factor.parameter is None]


def machine_facts() -> list[str]:
    """Return the columns of the facts that a machine has, whatever build it runs."""
    return [factor.name for factor in fact_factors() if factor.source.startswith("machine.")]


def levels_of(parameters: TrialParameters) -> dict[str, Any]:
    """Return the level of every factor that is a parameter, by column."""
    return {factor.name: factor.level(parameters) for factor in parameter_factors()}


Key = tuple[Any, ...]


def case_key(row: Mapping[str, Any]) -> Key:
    """Return what trials of one case have in common, and no others; the row has plain values, None for missing."""
    return tuple(row.get(name) for name in FACTORS)


def parameter_key(row: Mapping[str, Any]) -> Key:
    """Return the part of `case_key` that is known before a trial has run."""
    return tuple(row.get(factor.name) for factor in parameter_factors())


def case_id(row: Mapping[str, Any]) -> str:
    """Return a short text that is equal for trials of one case, and for no others."""
    first = [row.get(name) for name in _IN_EVERY_ID.split()]
    later = [
        [name, row.get(name)]
        for name, factor in FACTORS.items()
        if name not in _IN_EVERY_ID.split() and row.get(name) != factor.default
    ]
    return hashlib.sha256(_json([*first, *later]).encode()).hexdigest()[:12]


def case_name(parameters: TrialParameters) -> str:
    """Return a case in words that are safe in a file name: each parameter that is not the default is named."""
    others = [
        f"-{factor.parameter}_{short(getattr(parameters, factor.parameter))}"
        for factor in parameter_factors()
        if factor.parameter is not None
        and factor.shown not in ("place", "build")
        and getattr(parameters, factor.parameter) != _field_default(factor.parameter)
    ]
    return parameters.case_label + "".join(others)
