"""A comparison as lines for a terminal: the gate and the verdicts first."""

from __future__ import annotations

from collections.abc import Sequence

from picolab.analysis.comparison.models import Comparison
from picolab.report import comparison_words as words


def as_lines(comparison: Comparison) -> list[str]:
    """Return a comparison as lines of text."""
    rows = [
        (
            found.scenario,
            found.candidate,
            found.metric.title,
            words.verdict_words(found),
            words.change_words(found),
            f"{words.pairs_words(found)} pairs",
        )
        for found in words.in_order(comparison)
    ]
    lines = [words.gate_line(comparison), "", words.headline(comparison), *words.notes(comparison), *_aligned(rows)]
    for title, items in (
        ("Outcomes", words.outcome_lines(comparison)),
        ("Why", words.reasons(comparison)),
        ("Caveats", [f"{caveat.code}: {caveat.message} {caveat.advice}" for caveat in comparison.caveats]),
    ):
        if items:
            lines += ["", f"{title}:", *(f"  {item}" for item in items)]
    return [*lines, "", comparison.independence]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
