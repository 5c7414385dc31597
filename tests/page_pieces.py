"""What the notebook of a page shows, made in the test's own process: no kernel, no pictures, no HTML file.

A page takes seconds, its pieces a fraction of one. That a page holds its pieces is tested with whole pages.
"""

import ast
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup

from picolab.charts.figure import Figure
from picolab.text.markup import escape


def pieces(notebook: Path, campaign: Path, **parameters: Any) -> list[Any]:
    """Run the cells of a page's notebook over a campaign, and return what they show, in their order."""
    first, *others = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    names: dict[str, Any] = {}
    exec(first.source, names)
    assert parameters.keys() <= names.keys()
    names.update(parameters, campaign=str(campaign))
    shown = []
    for cell in others:
        *before, last = ast.parse(cell.source).body
        assert isinstance(last, ast.Expr), cell.source
        exec(compile(ast.Module(before, []), notebook.name, "exec"), names)
        shown.append(eval(compile(ast.Expression(last.value), notebook.name, "eval"), names))
    return [piece for piece in shown if piece is not None]


def markup(shown: list[Any]) -> BeautifulSoup:
    """Return the HTML of pieces as one document; of a figure it has the caption."""
    parts = [escape(repr(piece)) if isinstance(piece, Figure) else piece.markup for piece in shown]
    return BeautifulSoup("\n".join(f"<div>{part}</div>" for part in parts), "html.parser")


def figures(shown: list[Any]) -> list[Figure]:
    """Return the figures among pieces."""
    return [piece for piece in shown if isinstance(piece, Figure)]
