"""A comparison in text: JSON for machines, Markdown for a pull request, lines for a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from picolab.analysis.comparison.compare import (
    Comparison,
    Metric,
    MetricComparison,
    OneBuild,
    OutcomeComparison,
    Pair,
    change_in_words,
)
from picolab.analysis.statistics import CONFIDENCE
from picolab.config.sizes import MIB
from picolab.exit_codes import ExitCode
from picolab.text.foreign import visible

JSON_VERSION = 1
NO_VERDICT = "no verdict"
GATE_WORDS = {ExitCode.OK: "ok", ExitCode.REGRESSION: "regression", ExitCode.UNDECIDED: "undecided"}
_NOTHING = "–"


# JSON


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return everything in a comparison as plain JSON: names that stay, null for what is not known, and no NaN.

    Ratios are candidate over baseline; changes and spreads are relative (0.05 is 5 %); values are in the unit named.
    """
    return {
        "comparison_version": JSON_VERSION,
        "campaign": comparison.campaign,
        "baseline": comparison.baseline,
        "candidates": list(comparison.candidates),
        "scenarios": list(comparison.scenarios),
        "margin": comparison.margin,
        "gate": {
            "exit_code": int(comparison.exit_code),
            "word": GATE_WORDS[comparison.gate],
            "reason": comparison.exit_reason,
        },
        "plan_is_known": comparison.plan_is_known,
        "unmeasured": comparison.unmeasured,
        "comparable": comparison.comparable,
        "not_comparable_reason": comparison.not_comparable_reason,
        "self_comparison": comparison.self_comparison,
        "independence": comparison.independence,
        "randomised": comparison.randomised,
        "metrics": [_metric_json(found) for found in comparison.metrics],
        "outcomes": [_outcome_json(found) for found in comparison.outcomes],
        "builds": [_build_json(found) for found in comparison.builds],
        "caveats": [caveat.model_dump() for caveat in comparison.caveats],
    }


def _metric_json(found: MetricComparison) -> dict[str, Any]:
    return {
        "scenario": found.scenario,
        "metric": found.metric.name,
        "unit": found.metric.unit,
        "higher_is_better": found.metric.higher_is_better,
        "baseline": found.baseline,
        "candidate": found.candidate,
        "verdict": found.verdict,
        "reason": found.reason,
        "gates": found.gates,
        "no_regression": found.no_regression,
        "ratio": _finite(found.ratio),
        "low": _finite(found.low),
        "high": _finite(found.high),
        "coverage": _finite(found.coverage),
        "p_value": _finite(found.p_value),
        "adjusted_p_value": _finite(found.adjusted_p_value),
        "spread": _finite(found.spread),
        "minimum_detectable": _finite(found.minimum_detectable),
        "pairs": [_pair_json(pair) for pair in found.pairs],
        "incomplete": list(found.incomplete),
    }


def _pair_json(pair: Pair) -> dict[str, Any]:
    return {
        "block": pair.block,
        "hours": _finite(pair.hours),
        "baseline_first": pair.baseline_first,
        "baseline_trial": pair.baseline_trial,
        "candidate_trial": pair.candidate_trial,
        "baseline_value": _finite(pair.baseline_value),
        "candidate_value": _finite(pair.candidate_value),
        "ratio": _finite(pair.ratio),
    }


def _outcome_json(found: OutcomeComparison) -> dict[str, Any]:
    return {
        "scenario": found.scenario,
        "baseline": found.baseline,
        "candidate": found.candidate,
        "verdict": found.verdict,
        "reason": found.reason,
        "baseline_outcomes": dict(found.baseline_outcomes),
        "candidate_outcomes": dict(found.candidate_outcomes),
        "p_value": _finite(found.p_value),
        "adjusted_p_value": _finite(found.adjusted_p_value),
        "step": found.step,
    }


def _build_json(found: OneBuild) -> dict[str, Any]:
    return {
        "scenario": found.scenario,
        "build": found.build,
        "metric": found.metric.name,
        "unit": found.metric.unit,
        "n": found.n,
        "median": _finite(found.median),
        "low": _finite(found.low),
        "high": _finite(found.high),
        "coverage": _finite(found.coverage),
        "spread": _finite(found.spread),
        "drift": _finite(found.drift),
        "drift_p_value": _finite(found.drift_p_value),
        "first_effect": _finite(found.first_effect),
    }


def _finite(value: float | None) -> float | None:
    """Return a number that JSON has a word for: no NaN and no infinity, six digits of it."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}") if abs(value) < 1e6 else round(value, 1)


# Words that Markdown and terminal share


def headline(comparison: Comparison) -> str:
    """Return what was compared, one line."""
    return (
        f"{' and '.join(comparison.candidates)} against {comparison.baseline} in {comparison.campaign}, "
        f"margin {100 * comparison.margin:g} %"
    )


def gate_line(comparison: Comparison) -> str:
    """Return what a script is told, and why."""
    return f"exit code {int(comparison.exit_code)}: {comparison.exit_reason}"


def verdict_words(found: MetricComparison | OutcomeComparison) -> str:
    """Return a verdict, or that there is none."""
    return found.verdict or NO_VERDICT


def value_words(metric: Metric, value: float | None) -> str:
    """Return a value with its unit, bytes as MiB."""
    if value is None:
        return _NOTHING
    return f"{value / MIB:.1f} MiB" if metric.unit == "bytes" else f"{value:.1f} {metric.unit}"


def notes(comparison: Comparison) -> list[str]:
    """Return what a reader must know before all numbers, a sentence each."""
    said = []
    if not comparison.comparable:
        said.append(f"Not comparable in time: {comparison.not_comparable_reason}. There is no verdict.")
    if comparison.self_comparison:
        said.append(
            "This is a self comparison (A/A): one executable, started in one way, under two labels. It should find "
            "nothing; what it finds is the instrument's or the host's doing."
        )
    return said


def _shown(comparison: Comparison) -> list[MetricComparison]:
    """Return the comparisons in the order of candidates and scenarios, those that decide the gate first."""
    order = {name: place for place, name in enumerate((*comparison.candidates, *comparison.scenarios))}
    return sorted(comparison.metrics, key=lambda c: (order[c.candidate], order[c.scenario], not c.gates))


def _medians(comparison: Comparison) -> Callable[[MetricComparison, str], str]:
    found = {(one.scenario, one.build, one.metric.name): one.median for one in comparison.builds}

    def words(compared: MetricComparison, build: str) -> str:
        return value_words(compared.metric, found.get((compared.scenario, build, compared.metric.name)))

    return words


def _change(found: MetricComparison) -> str:
    """Return a change with its interval, and what the interval promises where that is less than usual."""
    words = change_in_words(found.ratio, found.low, found.high)
    return (
        words if found.coverage is None or found.coverage >= CONFIDENCE else f"{words} at {100 * found.coverage:.0f} %"
    )


def _detectable(found: MetricComparison) -> str:
    if found.minimum_detectable is None:
        return _NOTHING
    return f"{100 * found.minimum_detectable:.1f} %"


def _pairs_words(found: MetricComparison) -> str:
    return (
        f"{len(found.pairs)} of {len(found.pairs) + len(found.incomplete)}"
        if found.incomplete
        else str(len(found.pairs))
    )


def _reasons(comparison: Comparison) -> list[str]:
    """Return why verdicts are what they are where the table does not tell: each reason once."""
    where: dict[str, list[str]] = {}
    for found in _shown(comparison):
        # Of the whole comparison a reason stands above the table.
        told = not comparison.comparable and found.reason.startswith("not comparable in time")
        if found.verdict in (None, "undecided", "unstable") and not told:
            where.setdefault(found.reason, []).append(f"{found.metric.title} of {found.candidate} in {found.scenario}")
    return [f"{_several(names)}: {reason}." for reason, names in where.items()]


def _several(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


# Markdown


def as_markdown(comparison: Comparison) -> str:
    """Return a comparison for a pull request: the verdict table first, then what it rests on."""
    medians = _medians(comparison)
    rows = [
        (
            found.scenario,
            found.candidate,
            found.metric.title + ("" if found.gates else " *"),
            f"**{verdict_words(found)}**" if found.gates else verdict_words(found),
            _change(found),
            medians(found, found.baseline),
            medians(found, found.candidate),
            _pairs_words(found),
            _detectable(found),
        )
        for found in _shown(comparison)
    ]
    parts = [f"### {_plain(headline(comparison))}", *(_begin(_plain(note)) for note in notes(comparison))]
    if rows:
        head = (
            "scenario",
            "build",
            "metric",
            "verdict",
            "change [95 %]",
            "baseline",
            "candidate",
            "pairs",
            "would see",
        )
        parts += [_table(head, rows)]
        parts += [
            "Change: candidate against baseline, from pairs that ran back to back. Would see: the smallest change that "
            "as many pairs of this spread find four times in five."
            + ("" if all(found.gates for found in comparison.metrics) else " \\* does not decide the gate.")
        ]
    parts += [f"**Gate:** {_plain(gate_line(comparison))}"]
    parts += _section("Outcomes", [_outcome_line(found) for found in _telling(comparison.outcomes)])
    parts += _section("Why", _reasons(comparison))
    parts += _section(
        "Caveats",
        [f"{_begin(_code(c.code))}: {_plain(c.message)} {_plain(c.advice)}" for c in comparison.caveats],
        raw=True,
    )
    parts += _section("Blocks without a pair", _incomplete(comparison))
    parts += [_begin(f"{_plain(comparison.independence)} {_plain(comparison.randomised)}")]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return text that stays in its cell; bold is ours."""
    bold = text.startswith("**") and text.endswith("**")
    plain = _plain(text.strip("*") if bold else text)
    return f"**{plain}**" if bold else plain


_MARKUP = re.compile(r"[\\`*_{}<>#~$&@]|\[(?=[ xX^])|(?<=\])[(\[:]|(?<=\bwww)\.|:(?=//)")


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is, in one line: names come from files and servers."""
    line = " ".join(visible(text).split())
    # A pipe would end its cell; whether a backslash before it counts depends on the reader.
    return _MARKUP.sub(r"\\\g<0>", line).replace("|", "&#124;")


def _begin(text: str) -> str:
    """Return text that begins no list of its own."""
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", text)


def _code(text: str) -> str:
    """Return a word in the type of a terminal, if it is one."""
    return f"`{text}`" if re.fullmatch(r"[\w.-]+", text) else _begin(_plain(text))


def _section(title: str, items: Sequence[str], raw: bool = False) -> list[str]:
    if not items:
        return []
    return [f"**{title}**", "\n".join(f"- {item if raw else _begin(_plain(item))}" for item in items)]


def _telling(outcomes: Sequence[OutcomeComparison]) -> list[OutcomeComparison]:
    """Return the comparisons of outcomes that say something: a failure, or no result."""
    return [
        found
        for found in outcomes
        if found.verdict is None or {*found.baseline_outcomes, *found.candidate_outcomes} != {"ok"}
    ]


def _outcome_line(found: OutcomeComparison) -> str:
    where = f"{found.scenario}{found.of_step}"
    return f"{found.candidate} against {found.baseline} in {where}: {verdict_words(found)}: {found.reason}"


def _incomplete(comparison: Comparison) -> list[str]:
    """Return the blocks that gave no pair, each sentence once in its scenario."""
    return list(
        dict.fromkeys(f"{found.scenario}, {sentence}" for found in comparison.metrics for sentence in found.incomplete)
    )


# Terminal


def as_lines(comparison: Comparison) -> list[str]:
    """Return a comparison for a terminal: the gate and the verdicts first."""
    rows = [
        (
            found.scenario,
            found.candidate,
            found.metric.title,
            verdict_words(found),
            _change(found),
            f"{_pairs_words(found)} pairs",
        )
        for found in _shown(comparison)
    ]
    lines = [gate_line(comparison), "", headline(comparison), *notes(comparison)]
    lines += _aligned(rows)
    for title, items in (
        ("Outcomes", [_outcome_line(found) for found in _telling(comparison.outcomes)]),
        ("Why", _reasons(comparison)),
        ("Caveats", [f"{caveat.code}: {caveat.message} {caveat.advice}" for caveat in comparison.caveats]),
    ):
        if items:
            lines += ["", f"{title}:", *(f"  {item}" for item in items)]
    return [*lines, "", comparison.independence]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return [
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
