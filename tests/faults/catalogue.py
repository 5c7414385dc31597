"""The catalogue of faults: what can go wrong, what becomes of the trial, what you see, what to do, and the test of it.

A test says which fault it provokes, and needs nothing else to be in the catalogue:

    @fault(
        "server killed in the transfer",
        group="server",
        outcome="server_died",
        see="`the server ended with signal SIGKILL, after ... MiB`",
        do="Nothing: it is a result. Look at the server's log for who killed it.",
    )
    def test_server_killed_in_the_transfer(run_trial, proof):
        proof.record(run_trial(...), "upload")

What `see` has in backticks is what picolab says, and `proof` (conftest.py) compares it; `...` stands for anything.

A test that stands elsewhere is registered in elsewhere.py, or where the group's other faults are, without a copy of it:

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
    "server": "The server under test misbehaves",
    "network": "The network between client and server",
    "machine": "The machine that the server runs in",
    "host": "The host, its disks, its clock, and signals",
    "campaign": "A campaign's own files",
    "notebook": "The notebook and its kernel",
    "input": "Input from the user or from others",
}
REFUSED = "refused"
"""Beside the outcomes of a trial: picolab says no in one sentence, and nothing was measured."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        outcome: of the trial (a word of record.md; `ok`: nothing is lost and the numbers hold), or `refused`.
        see: what a user reads; in backticks picolab's own words.
        do: what a user does then.
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
    assert found.group in GROUPS, f"{found.name}: there is no group {found.group!r}"
    assert FAULTS.setdefault(found.name, found) == found, f"the fault {found.name!r} is there twice"


def fault(name: str, *, group: str, outcome: str, see: str, do: str) -> Callable[[Test], Test]:
    """Say which fault a test provokes."""

    def register(test: Test) -> Test:
        place = f"{test.__module__.replace('.', '/')}.py::{test.__name__}"
        test.fault = Fault(name, group, outcome, see, do, place)  # type: ignore[attr-defined]
        _register(test.fault)  # type: ignore[attr-defined]
        return test

    return register


def proved_by(test: str, name: str, *, group: str, outcome: str, see: str, do: str) -> None:
    """Register a fault whose test stands elsewhere; `test` is `file.py::test_name` below tests/."""
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

The faults of a trial: the outcome, the signs and the remedy of each. Each of these {len(faults)} faults is
provoked by a test. This page is written by `{COMMAND}` from the tests themselves.

The outcome is one of [record.md](record.md#outcomes). `ok` means that the fault costs no number: the trial, or the one
that runs in its place, has its numbers, and they hold. `refused` means that picolab says no in one sentence, and that
nothing was measured.
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
