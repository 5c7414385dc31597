"""Prose: short, within the margin, and in the field's usual words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import nbformat
import pytest

from picolab.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "outputs" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMENTED = [ROOT / "Vagrantfile", ROOT / "environment.yml", *sorted((ROOT / "parameters").glob("*.yaml"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "picolab").rglob("*.py"))
TEMPLATES = sorted((ROOT / "picolab" / "report" / "template").glob("*.j2"))

README_WORDS = 700
COLUMNS = 120

QUAINT = {
    r"mend(s|ed|ing)?": "fix",
    r"(is|are|was) told (in|by|with|of)": "is documented in, see",
    r"(is|are|be) told to": "is asked to",
    r"(go|goes|went|going) on": "continue, resume",
    r"for want of": "out of, without",
    r"whichever door": "in any of these ways",
    r"as (it|they) stands?": "unchanged, literally",
    r"of a kind(?! of)": "of one kind",
    r"beside": "next to, during",
    r"tells? (what|which|how|whether|why|when|by)": "shows, reports",
    r"for ever": "forever",
    r"spoil(t|ed)": "damaged",
    r"the which|wherefore|thereof|herein|hitherto": "(archaic)",
    r"nobody knows": "is unknown",
}
"""Phrases that are always wrong here, and the usual words in their place. Text in backticks is not prose."""

PATTERN = re.compile("|".join(rf"\b(?P<q{number}>{phrase})\b" for number, phrase in enumerate(QUAINT)), re.IGNORECASE)
HEADLESS = re.compile(r"(?:#+ +)?What (?!.*\?)")
"""A heading or a docstring that begins like a question and is none, such as "What the host did"."""


def without_code(markdown: str) -> str:
    """Return a document's prose: no code blocks, no code spans, no comments."""
    text = re.sub(r"```.*?```|<!--.*?-->", "", markdown, flags=re.DOTALL)
    text = "\n".join(line for line in text.splitlines() if not re.match(r"(    |\t)(?! *[-*\d])", line))
    return re.sub(r"`[^`]*`", "``", text)


def complaints(text: str) -> list[str]:
    """Return each quaint phrase in a text with its neighbourhood and the usual words."""
    found = []
    for match in PATTERN.finditer(" ".join(text.split())):
        usual = list(QUAINT.values())[int(str(match.lastgroup)[1:])]
        begin = max(0, match.start() - 30)
        found.append(f"{match.string[begin : match.end() + 30]!r}: write {usual}")
    return found


def strings(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each text in a module that has a space in it, and whether it is a docstring."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value, id(node) in docstrings


def helps(group: click.Group = main, words: str = "picolab") -> Iterator[tuple[str, str]]:
    """Yield the name of each command and what `--help` prints about it."""
    yield words, group.get_help(click.Context(group, info_name=words))
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from helps(command, f"{words} {name}")
        else:
            yield f"{words} {name}", command.get_help(click.Context(command, info_name=f"{words} {name}"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_readme_is_short() -> None:
    lines = without_code((ROOT / "README.md").read_text()).splitlines()
    prose = " ".join(line for line in lines if not line.startswith("|"))
    words = re.sub(r"\]\([^)]*\)", "]", prose).split()

    assert len([word for word in words if re.search(r"\w", word)]) <= README_WORDS


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_lines_of_documents_fit(document: Path) -> None:
    long = [
        number
        for number, line in enumerate(document.read_text().splitlines(), 1)
        if len(line) > COLUMNS and not line.startswith("|")
    ]
    assert not long, f"{name_of(document)}: lines of more than {COLUMNS} columns: {long}"


@pytest.mark.parametrize("path", [*DOCUMENTS, *TEMPLATES], ids=name_of)
def test_documents_use_the_usual_words(path: Path) -> None:
    text = path.read_text()
    assert complaints(without_code(text)) == []
    assert [line for line in text.splitlines() if HEADLESS.match(line)] == []


@pytest.mark.parametrize("path", COMMENTED, ids=name_of)
def test_comments_use_the_usual_words(path: Path) -> None:
    assert complaints(re.sub(r"`[^`]*`", "``", path.read_text())) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebooks_use_the_usual_words(path: Path) -> None:
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    assert complaints(without_code("\n\n".join(cells))) == []
    assert [line for cell in cells for line in cell.splitlines() if HEADLESS.match(line)] == []


@pytest.mark.parametrize(("command", "text"), list(helps()), ids=lambda value: value if "\n" not in value else "help")
def test_help_uses_the_usual_words(command: str, text: str) -> None:
    assert complaints(text) == [], command


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_use_the_usual_words(path: Path) -> None:
    for text, is_docstring in strings(path):
        assert complaints(re.sub(r"`[^`]*`", "``", text)) == []
        assert not (is_docstring and HEADLESS.match(text)), text.splitlines()[0]


def test_the_list_finds_its_phrases() -> None:
    assert complaints("It mends the gap, and the campaign\ngoes on beside it.") != []
    assert complaints("The record has a field mended_at; a good wending bend.") == []
    assert without_code("Text `goes on` here.\n\n    mend this\n") == "Text `` here.\n"
    assert HEADLESS.match("## What the host did") and not HEADLESS.match("## What is a trial?")
