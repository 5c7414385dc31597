"""The words that tell cases apart: which factors must be named where some trials are shown together, and how."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from picolab.record.factors import FACTORS, Key, case_id, case_key, fact_factors, parameter_factors
from picolab.text.foreign import one_line

Row = dict[str, Any]
_LONGEST_LEVEL = 60


def build_label(build: str, build_kind: str | None) -> str:
    """Return a build in words; the calibration server is never taken for PicoShare."""
    if build_kind != "calibration":
        return build
    return "calibration server (not PicoShare)" if build == "calibration" else f"{build} (not PicoShare)"


def varying(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of the factors that have more than one level in these trials."""
    return [name for name in FACTORS if len({row.get(name) for row in rows}) > 1]


def _place(row: Mapping[str, Any]) -> Key:
    """Return what is shown of a case next to its words, where nothing else is given."""
    placed = [name for name, factor in FACTORS.items() if factor.shown == "place"]
    return tuple(one_line(str(row.get(name))) for name in (*placed, "build"))


class Labels:
    """The words that tell the cases of some trials apart; no two cases at one place have the same."""

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        place: Callable[[Mapping[str, Any]], Key] = _place,
    ) -> None:
        """Look at all trials that are shown together.

        Args:
            rows: plain rows with the column of each factor, and `build` as it is shown.
            place: what is shown of a row next to its words, such as its panel and its RAM.
        """
        by_key = {case_key(row): row for row in rows}
        cases = list(by_key.values())
        self.named = _named(cases)
        """The columns of the factors that are named, in the order of the registry."""
        entries = {name: _differing_entries(name, cases) for name in self.named if FACTORS[name].is_mapping}
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
        """Return the words of a trial next to its build, machine, RAM and file size; empty if those say it all."""
        return self._words[case_key(row)]


def split(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return the cases of some trials, each with the words that tell it from the others and with its rows."""
    labels = Labels(rows)
    cases: dict[Key, list[Row]] = {}
    for row in rows:
        cases.setdefault(case_key(row), []).append(row)
    return [(labels.of(same[0]), same) for same in cases.values()]


def _named(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the factors that must be named next to build, machine, RAM and file size."""
    in_build = ("build", "label") if all(row.get("label") for row in cases) else ("build",)
    facts = [factor.name for factor in fact_factors()]
    asked_for = ("build", *(factor.name for factor in parameter_factors()))
    named = []
    for name in varying(cases):
        shown = FACTORS[name].shown
        by_build = shown in in_build and _determined(cases, name, ("build",))
        # A fact that follows from what was asked for needs no words.
        by_parameters = name in facts and _determined(cases, name, asked_for)
        if shown != "place" and not by_build and not by_parameters:
            named.append(name)
    return named


def _determined(cases: Sequence[Mapping[str, Any]], name: str, others: Sequence[str]) -> bool:
    """Return True when a factor has one level only wherever the others have theirs."""
    seen: dict[Key, Any] = {}
    return all(seen.setdefault(tuple(row.get(o) for o in others), row.get(name)) == row.get(name) for row in cases)


def _differing_entries(name: str, cases: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of a mapping's entries that are not the same in all cases."""
    levels = [FACTORS[name].entries(row.get(name)) for row in cases]
    every = sorted({entry for level in levels for entry in level})
    texts = {entry: {_json(level[entry]) if entry in level else None for level in levels} for entry in every}
    return [entry for entry in every if len(texts[entry]) > 1]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def level_words(name: str, level: Any, entries: Sequence[str] | None = None) -> str:
    """Return a level with its factor in words, such as `cache cold`; of a mapping only the named entries."""
    factor = FACTORS[name]
    if entries is not None:
        found = factor.entries(level)
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
