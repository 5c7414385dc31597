"""A comparison as Markdown for a pull request: the verdict table first, then its evidence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from picolab.analysis.comparison.models import Comparison
from picolab.report import comparison_words as words
from picolab.text.foreign import markdown_line

_HEAD = ("scenario", "build", "metric", "verdict", "change [95 %]", "baseline", "candidate", "pairs", "would see")


def as_markdown(comparison: Comparison) -> str:
    """Return a comparison as Markdown that ends with a line break."""
    median = words.medians(comparison)
    rows = [
        (
            found.scenario,
            found.candidate,
            found.metric.title + ("" if found.gates else " *"),
            f"**{words.verdict_words(found)}**" if found.gates else words.verdict_words(found),
            words.change_words(found),
            median(found, found.baseline),
            median(found, found.candidate),
            words.pairs_words(found),
            words.detectable_words(found),
        )
        for found in words.in_order(comparison)
    ]
    parts = [f"### {markdown_line(words.headline(comparison))}"]
    parts += [_begin(markdown_line(note)) for note in words.notes(comparison)]
    if rows:
        parts += [
            _table(_HEAD, rows),
            "Change: candidate against baseline, from pairs that ran back to back. Would see: the smallest change that "
            "this many pairs of this spread find four times in five."
            + ("" if all(found.gates for found in comparison.metrics) else " \\* does not gate."),
        ]
    parts += [f"**Gate:** {markdown_line(words.gate_line(comparison))}"]
    parts += _section("Outcomes", map(_item, words.outcome_lines(comparison)))
    parts += _section("Why", map(_item, words.reasons(comparison)))
    parts += _section(
        "Caveats",
        (f"{_begin(_code(c.code))}: {markdown_line(f'{c.message} {c.advice}')}" for c in comparison.caveats),
    )
    parts += _section("Blocks without a pair", map(_item, _incomplete(comparison)))
    parts += [_begin(f"{markdown_line(comparison.independence)} {markdown_line(comparison.randomised)}")]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return text that stays in its cell; bold is ours."""
    bold = text.startswith("**") and text.endswith("**")
    plain = markdown_line(text.strip("*") if bold else text)
    return f"**{plain}**" if bold else plain


def _begin(text: str) -> str:
    """Return text that begins no list of its own."""
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", text)


def _item(text: str) -> str:
    return _begin(markdown_line(text))


def _code(text: str) -> str:
    """Return a word in the type of a terminal, if it is one."""
    return f"`{text}`" if re.fullmatch(r"[\w.-]+", text) else _item(text)


def _section(title: str, items: Iterable[str]) -> list[str]:
    lines = [f"- {item}" for item in items]
    return [f"**{title}**", "\n".join(lines)] if lines else []


def _incomplete(comparison: Comparison) -> list[str]:
    """Return the blocks that gave no pair, each sentence once in its scenario."""
    return list(
        dict.fromkeys(f"{found.scenario}, {sentence}" for found in comparison.metrics for sentence in found.incomplete)
    )
