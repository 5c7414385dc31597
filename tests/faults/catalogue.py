"""The catalogue of faults: each with the outcome of the trial, its signs, the remedy, and its test.

A test declares the fault that it provokes, which adds it to the catalogue:

    @fault(
        "server killed in the transfer",
        group="server",
        outcome="server_died",
        see="`the server ended with signal SIGKILL, after ... MiB`",
        do="None: a result. Look in the server's log for the cause.",
    )
    def test_server_killed_in_the_transfer(run_trial, proof):
        proof.record(run_trial(...), "upload")

Text in backticks in `see` is picolab's own output, which `proof` (conftest.py) compares; `...` matches anything.

Tests in other folders are registered in elsewhere.py or next to their group's other faults:

    proved_by("machines/local/test_keeper.py::test_sigkill_takes_the_server", "keeper killed", group="machine", ...)

`python -m tests.faults.catalogue` writes docs/faults.md; test_catalogue.py compares.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

TESTS = Path(__file__).resolve().parent.parent
DOCUMENT = TESTS.parent / "docs" / "faults.md"
COMMAND = "python -m tests.faults.catalogue"
GROUPS = {
    "server": "The server under test",
    "network": "The network between client and server",
    "machine": "The machine",
    "host": "The host, its disks, its clock, and signals",
    "campaign": "Files of a campaign",
    "notebook": "The notebook and its kernel",
    "input": "Input",
}
REFUSED = "refused"
"""In addition to the outcomes of a trial: picolab refuses in one sentence, and nothing was measured."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        outcome: of the trial (a word of record.md; `ok`: nothing is lost and the numbers hold), or `refused`.
        see: its signs for the user; picolab's own output in backticks.
        do: the remedy.
        test: the test that provokes it, as `file.py::test_name` below tests/.
    """

    name: str
    group: str
    outcome: str
    see: str
    do: str
    test: str


FAULTS: dict[str, Fault] = {}
Test = TypeVar("Test", bound=Callable[..., object])


def _register(found: Fault) -> None:
    assert found.group in GROUPS, f"{found.name}: no such group: {found.group!r}"
    assert FAULTS.setdefault(found.name, found) == found, f"the fault {found.name!r} is declared twice"


def fault(name: str, *, group: str, outcome: str, see: str, do: str) -> Callable[[Test], Test]:
    """Declare the fault that a test provokes."""

    def register(test: Test) -> Test:
        place = f"{test.__module__.replace('.', '/')}.py::{test.__name__}"
        test.fault = Fault(name, group, outcome, see, do, place)  # type: ignore[attr-defined]
        _register(test.fault)  # type: ignore[attr-defined]
        return test

    return register


def proved_by(test: str, name: str, *, group: str, outcome: str, see: str, do: str) -> None:
    """Register a fault with a test in another file; `test` is `file.py::test_name` below tests/."""
    _register(Fault(name, group, outcome, see, do, test))


def load() -> list[Fault]:
    """Import every module of this folder, and return all faults: groups in their order, then files by name."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    package = importlib.import_module("faults")
    paths = sorted(Path(str(package.__file__)).parent.glob("test_*.py"))
    for name in (*(path.stem for path in paths), "elsewhere"):
        importlib.import_module(f"faults.{name}")
    found = importlib.import_module("faults.catalogue").FAULTS.values()
    # Which module was imported first depends on which tests are run.
    return sorted(found, key=lambda one: (list(GROUPS).index(one.group), one.test.partition("::")[0]))


def functions(path: Path) -> set[str]:
    """Return the names of the tests in a file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def document(faults: list[Fault]) -> str:
    """Return the text of docs/faults.md."""
    parts = [
        f"""# Faults

This page lists the faults of a trial with their outcome, signs and remedy. A test provokes each of these
{len(faults)} faults. `{COMMAND}` generates this page from the tests.

The outcome is one of [record.md](record.md#outcomes). `ok` means that the fault costs no number: the trial, or its
repetition, has valid numbers. `refused` means that picolab refuses with one sentence and measures nothing.
"None" as a sign or remedy means that there is nothing to see or to do.
"""
    ]
    for group, title in GROUPS.items():
        rows = [one for one in faults if one.group == group]
        if rows:
            parts.append(f"## {title}\n\n| fault | outcome | signs | remedy | test |\n|---|---|---|---|---|")
            parts += [_row(one) for one in rows]
            parts.append("")
    return "\n".join(parts).rstrip("\n") + "\n"


def _row(one: Fault) -> str:
    cells = (one.name, f"`{one.outcome}`", one.see, one.do, f"`{one.test}`")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    DOCUMENT.write_text(document(load()))
    print(f"{DOCUMENT} written")
