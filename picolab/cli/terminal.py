"""The terminal: text from outside obeys nothing, tables fold, and plain lines replace live ones when nobody watches.

A string never is markup, and control characters appear as escapes, whoever wrote them. Text from outside that belongs
on one line goes through `one_line` as well, so that it cannot look like a line of picolab's own.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text as RichText

from picolab.record.outcomes import Outcome
from picolab.text.foreign import visible


class Text(RichText):
    """Text with a style, in which control characters appear as escapes."""

    def __init__(self, text: str = "", style: str = "", **rest: Any) -> None:
        super().__init__(visible(text), style, **rest)

    def append(self, text: RichText | str, style: Any = None) -> "Text":
        super().append(visible(text) if isinstance(text, str) else text, style)
        return self


class Console(RichConsole):
    """A console that prints strings unchanged, and becomes silent when its reader is gone, as with `| head`."""

    def render_str(self, text: str, **how: Any) -> RichText:
        # Every printed string, and every cell and title of a table, passes through this method.
        return super().render_str(visible(text), **{**how, "markup": False, "emoji": False, "highlight": False})

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_NARROWEST_WORDS_CELLS = 14
"""A column of words is not folded below this: on a narrower terminal the table's lines wrap, and nothing is lost."""
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
_UNLIMITED_CELLS = 100_000


def print_table(table: Table) -> None:
    """Print a table. Columns of words fold, columns of numbers never do."""
    whole = Measurement.get(console, console.options.update(max_width=_UNLIMITED_CELLS), table).maximum
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", column.justify == "right"
        if not column.no_wrap:
            longest = max((cell_len(str(cell)) for cell in column.cells), default=0)
            whole -= max(0, longest - _NARROWEST_WORDS_CELLS)
    wide = Console(width=max(console.width, whole), file=console.file)
    wide.print(table)


def colour(outcome: Outcome) -> str:
    """Return the colour of an outcome: ok, a fault of the instrument, or another result."""
    if outcome is Outcome.OK:
        return "green"
    return "magenta" if outcome.is_fault else "red"


def print_lines(lines: Sequence[str]) -> None:
    """Print lines unchanged."""
    for line in lines:
        console.print(line)
