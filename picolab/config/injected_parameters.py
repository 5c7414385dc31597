"""The parameters that papermill injected into a notebook, read from the cells that its kernel has run."""

import ast
from collections.abc import Sequence

_FIRST_LINE = "# Parameters\n"
"""Of the cell that papermill injects (`PythonTranslator.codify`)."""


def undeclared_names(cells: Sequence[str]) -> list[str]:
    """Return the injected names that no cell before declared, in their order.

    papermill itself only warns of them, so a mistyped name would leave a parameter at its default.

    Args:
        cells: sources in the order in which they ran, as IPython's `In` holds them.
    """
    declared: set[str] = set()
    unknown: dict[str, None] = {}
    for cell in cells:
        names = _assigned_names(cell)
        if cell.startswith(_FIRST_LINE):
            unknown |= dict.fromkeys(name for name in names if name not in declared)
        else:
            declared |= set(names)
    return list(unknown)


def _assigned_names(cell: str) -> list[str]:
    try:
        statements = ast.parse(cell).body
    except SyntaxError:
        # Such as a magic command, which declares nothing.
        return []
    names = []
    for statement in statements:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names
