"""HTML for notebooks and reports: tables, lists, commands, outcomes. What comes from outside goes through `escape`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from picolab.charts.style import OUTCOME_COLOURS, OUTCOME_LABELS
from picolab.record.outcomes import Outcome
from picolab.text.markup import Html, escape
from picolab.text.wording import NOTHING

LONG_TABLE = 20
"""Rows above which a table scrolls in its own box, so that the page below it is in reach."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, the field of a row, and how many decimals a number shows."""

    title: str
    field: str
    decimals: int | None = None


def paragraph(text: str, css_class: str = "note") -> Html:
    """Return one sentence as a paragraph."""
    return Html(f'<p class="{css_class}">{escape(text)}</p>', text)


def folding(text: str) -> Html:
    """Return text that a cell of a table folds where it is long."""
    return Html(f'<span class="name">{escape(text)}</span>', text)


def badge(outcome: str) -> str:
    """Return an outcome in plain words on its colour."""
    known = Outcome(outcome) if outcome in set(Outcome) else None
    label, colour = (OUTCOME_LABELS[known], OUTCOME_COLOURS[known]) if known else (outcome, "#4a4a4a")
    return f'<span class="badge" style="background-color:{colour};color:#ffffff">{escape(label)}</span>'


def table(
    rows: Sequence[dict[str, Any]], columns: Sequence[Column], caption: str = "", group: str | None = None
) -> Html:
    """Return a table that scrolls inside its own box on a narrow page.

    Args:
        rows: values by field; None shows as a dash, an `Html` as it is, and `outcome` as a badge.
        group: field that stands as a heading above the rows which have it in common; these must be neighbours.
    """
    head = "".join(f'<th scope="col"{_numeric(column)}>{escape(column.title)}</th>' for column in columns)
    body, above = "", None
    for row in rows:
        if group is not None and row[group] != above:
            above = row[group]
            body += f'<tr class="group"><th scope="colgroup" colspan="{len(columns)}">{escape(above)}</th></tr>'
        body += "<tr>" + "".join(f"<td{_numeric(column)}>{_cell(row, column)}</td>" for column in columns) + "</tr>"
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return Html(
        f'<div class="table-box" tabindex="0"><table>{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>",
        f"table of {len(rows)} rows",
    )


def boxed(shown: Html, rows: int) -> Html:
    """Return a table that scrolls in its own box when it is long; in print it is whole."""
    return Html(f'<div class="tall">{shown.markup}</div>', shown.text) if rows > LONG_TABLE else shown


def _numeric(column: Column) -> str:
    return ' class="number"' if column.decimals is not None else ""


def _cell(row: dict[str, Any], column: Column) -> str:
    value = row.get(column.field)
    if value is None:
        return NOTHING
    if isinstance(value, Html):
        return value.markup
    if column.field == "outcome":
        return badge(str(value))
    if column.decimals is not None and isinstance(value, int | float):
        return f"{value:,.{column.decimals}f}"
    return escape(value)


def definitions(pairs: Sequence[tuple[str, Html | str]]) -> Html:
    """Return a list of names and what they are."""
    shown = [(name, value.markup if isinstance(value, Html) else escape(value)) for name, value in pairs]
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in shown)
    return Html(f'<dl class="facts">{items}</dl>', "; ".join(name for name, _ in pairs))


def code(text: str) -> Html:
    """Return a word in the type of a terminal."""
    return Html(f"<code>{escape(text)}</code>", text)


def commands(lines: Sequence[str]) -> Html:
    """Return shell commands as a block to copy from."""
    text = "\n".join(lines)
    return Html(f'<pre class="commands">{escape(text)}</pre>', text)


def joined(parts: Sequence[Html]) -> Html:
    """Return pieces one below the other."""
    return Html("\n".join(part.markup for part in parts), "\n".join(repr(part) for part in parts))
