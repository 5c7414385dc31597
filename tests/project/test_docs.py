"""Documents and help texts: each command, parameter, message, file, test and link in them exists."""

import ast
import io
import re
import shlex
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import nbformat
import pytest
import yaml
from pydantic import BaseModel

from picolab.agent.memory_probe import COLUMNS
from picolab.cli.main import main
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.invalid_input import validate
from picolab.config.plan import make_plan
from picolab.config.trial_parameters import TrialParameters
from picolab.exit_codes import ExitCode
from picolab.record import caveats
from picolab.record.machine import REACHED_BY_MEANINGS, ReachedBy
from picolab.record.outcomes import FAULTS, OUTCOME_MEANINGS, Outcome
from picolab.record.record import Record

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "picolab"
DOCS = [ROOT / "README.md", ROOT / "outputs" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUOTING = [*DOCS, ROOT / "Makefile", *sorted((ROOT / "parameters").glob("*.yaml"))]
TRIAL_NOTEBOOK = ROOT / "notebooks" / "trial.ipynb"


# Commands


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def parse(words: list[str]) -> None:
    """Parse a command line as click would, and execute nothing."""
    command: click.Command = main
    context = click.Context(main, info_name="picolab")
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=name)
        if isinstance(found, click.Group) and not words:
            return
    command.make_context(context.info_name, words, parent=context.parent)


def quoted_commands() -> Iterator[tuple[str, str, bool]]:
    """Yield (place, command line, whether it is a whole one) for what stands in documents, comments and help."""
    for path in QUOTING:
        text = path.read_text()
        for line in text.splitlines():
            found = re.match(r"(?:    |#   |\t@\$\(RUN\)/)(picolab .*)", line)
            if found:
                yield path.name, found[1], True
        for snippet in re.findall(r"`(picolab [^`]+)`", text.replace("\n", " ")):
            # A command that is only named, without what it works on, is no command line.
            yield path.name, snippet, len(snippet.split()) > 2 + snippet.startswith(("picolab machines", "picolab box"))
    for path, command in (((), main), *commands()):
        for line in (command.help or "").splitlines():
            if line.strip().startswith("picolab "):
                yield f"help of picolab {' '.join(path)}", line.strip(), True


QUOTED = sorted(set(quoted_commands()))


def test_there_are_quoted_commands() -> None:
    assert len(QUOTED) > 40
    assert {place for place, _, _ in QUOTED} >= {
        "README.md",
        "parameters.md",
        "troubleshooting.md",
        "virtual-machines.md",
        "full.yaml",
        "Makefile",
    }


@pytest.mark.parametrize(("place", "line", "whole"), QUOTED, ids=[f"{place}: {line}" for place, line, _ in QUOTED])
def test_quoted_command_can_be_parsed(place: str, line: str, whole: bool) -> None:
    line = re.sub(r"\s{2,}\S.*$", "", line) if place.startswith("help") else line
    words = shlex.split(line.replace("$(CAMPAIGN)", "CAMPAIGN"), comments=True)[1:]
    try:
        parse(words)
    except click.MissingParameter:
        assert not whole, f"{place}: {line}"
    for word in words:
        if word.startswith("parameters/"):
            assert (ROOT / word).is_file(), f"{place}: {line}"


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_each_command_is_in_the_documents_and_has_an_example(path: tuple[str, ...]) -> None:
    words = " ".join(("picolab", *path))
    command = dict(commands())[path]

    assert any(words in document.read_text() for document in DOCS), words
    assert f"  {words}" in (command.help or ""), f"the help of {words} shows no example"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{words} {parameter.opts[0]} has no help"


def test_parameters_in_quoted_commands_exist() -> None:
    quoted = [line for _, line, _ in QUOTED if line.startswith("picolab trial")]
    quoted += [line for path in DOCS for line in path.read_text().splitlines() if "papermill notebooks/" in line]
    names = {name for line in quoted for name in re.findall(r" -p (\w+) ", line)}

    assert {"ram_mb", "stall_limit_s", "calibration"} <= names <= set(TrialParameters.model_fields)


# Tables


def table_rows(document: str, heading: str | None = None) -> list[list[str]]:
    """Return the rows of all tables of a document, or of those under one heading, without the head rows."""
    text = (ROOT / "docs" / document).read_text()
    if heading is not None:
        level = heading.split(" ")[0]
        assert f"\n{heading}\n" in text, heading
        text = re.split(rf"\n#{{1,{len(level)}}} ", text.split(f"\n{heading}\n")[1])[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for index, row in enumerate(rows) if not _is_head(lines, index)]


def _is_head(lines: list[str], index: int) -> bool:
    is_rule = re.fullmatch(r"[|\- ]+", lines[index])
    before_rule = index + 1 < len(lines) and re.fullmatch(r"[|\- ]+", lines[index + 1])
    return bool(is_rule or before_rule)


def default_text(model: type[BaseModel], name: str) -> str:
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return f"`{value!r}`".replace("'", '"')


@pytest.mark.parametrize(
    ("model", "heading"),
    [(TrialParameters, "## Parameters of a trial"), (CampaignParameters, "## A parameter file")],
)
def test_parameters_are_documented_with_default_and_meaning(model: type[BaseModel], heading: str) -> None:
    rows = table_rows("parameters.md", heading)

    assert [row[0] for row in rows] == [f"`{name}`" for name in model.model_fields]
    for row in rows:
        name = row[0].strip("`")
        assert row[1] == default_text(model, name), name
        assert row[3] == model.model_fields[name].description, name
        assert row[2], name


def test_example_of_a_parameter_file_makes_a_plan() -> None:
    text = (ROOT / "docs" / "parameters.md").read_text().split("## A parameter file")[1]
    lines = [line[4:] for line in text.split("| key |")[0].splitlines() if line.startswith("    ")]
    plan = make_plan(validate(CampaignParameters, yaml.safe_load("\n".join(lines)), "parameters.md"), "a", "b")

    assert len(plan.cases) == 2 * 2 * 2 - 2 + 1
    assert {trial.parameters.work_dir for trial in plan.trials} == {"/mnt/ssd"}


def models_of_the_record(model: type[BaseModel] = Record, path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield (path, model) for the record and each model in it, but for the parameters, which have a document."""
    yield path, model
    for name, field in model.model_fields.items():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel) and part is not TrialParameters:
                yield from models_of_the_record(part, f"{path}.{name}".strip("."))


@pytest.mark.parametrize(("path", "model"), list(models_of_the_record()), ids=lambda value: str(value) or "record")
def test_every_field_of_the_record_is_documented(path: str, model: type[BaseModel]) -> None:
    rows = table_rows("record.md", f"### `{path}`" if path else "### Top level")

    assert [row[0] for row in rows] == [f"`{name}`" for name in model.model_fields]
    for (_, meaning), field in zip(rows, model.model_fields.values(), strict=True):
        assert meaning
        if field.description:
            assert meaning == field.description


def test_outcomes_are_documented() -> None:
    rows = table_rows("record.md", "## Outcomes")
    meanings = {
        outcome.value: text.removeprefix("fault of the instrument: ") for outcome, text in OUTCOME_MEANINGS.items()
    }

    assert {row[0].strip("`"): row[1] for row in rows} == meanings
    assert [row[0].strip("`") for row in rows] == [outcome.value for outcome in Outcome]
    assert {row[0].strip("`") for row in rows[-3:]} == {fault.value for fault in FAULTS}


def test_ways_of_getting_ready_are_documented() -> None:
    rows = table_rows("record.md", "### How a virtual machine gets ready")

    assert {row[0].strip("`"): row[1] for row in rows} == REACHED_BY_MEANINGS
    assert set(REACHED_BY_MEANINGS) == set(get_args(ReachedBy))


def test_exit_codes_are_documented() -> None:
    rows = table_rows("record.md", "## Exit codes")

    assert [(int(row[0]), row[1].strip("`")) for row in rows] == [(int(code), code.name) for code in ExitCode]
    assert all(row[2] for row in rows)


def test_caveats_are_documented() -> None:
    made_in = sorted((PACKAGE / "record").glob("*caveats.py"))
    given = [
        keyword.value
        for path in made_in
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "code"
    ]
    codes = [code.value for code in given if isinstance(code, ast.Constant)]
    codes += [getattr(caveats, code.id) for code in given if isinstance(code, ast.Name)]
    elsewhere = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if "Caveat(" in path.read_text()
        and path not in (*made_in, PACKAGE / "record" / "record.py")
        and path.parent != PACKAGE / "analysis" / "comparison"
    ]

    assert len(codes) == len(set(codes)) >= 10
    assert {row[0].strip("`") for row in table_rows("record.md", "## Caveats")} == set(codes)
    assert elsewhere == [], "caveats of trials are made in record/*caveats.py, those of builds in analysis/comparison/"


def test_caveats_of_a_comparison_are_documented() -> None:
    modules = sorted((PACKAGE / "analysis" / "comparison").glob("*.py"))
    codes = [code for path in modules for code in re.findall(r'code="(\w+)"', path.read_text())]
    rows = table_rows("comparison.md", "## Caveats of a comparison")

    assert sorted(row[0].strip("`") for row in rows) == sorted(codes)
    assert not set(codes) & {row[0].strip("`") for row in table_rows("record.md", "## Caveats")}


def test_columns_of_samples_are_documented() -> None:
    assert [row[0].strip("`") for row in table_rows("record.md", "### Samples")] == list(COLUMNS)


def test_environment_variables_are_documented() -> None:
    used = {name for path in PACKAGE.rglob("*.py") for name in re.findall(r'"(PICOLAB_[A-Z_]+)"', path.read_text())}
    text = "\n".join(path.read_text() for path in DOCS)

    # For its trials from a campaign, for its server from an adapter, for its campaign from a worker.
    for name in used - {"PICOLAB_TRIAL", "PICOLAB_SECRET", "PICOLAB_BUILD_COPIES"}:
        assert name in text, name
    assert {row[0].strip("`") for row in table_rows("parameters.md", "## Environment variables")} <= used


def test_messages_in_the_documents_are_those_of_the_code() -> None:
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    rows = table_rows("troubleshooting.md", "## Messages")

    assert len(rows) > 12
    for message, *_ in rows:
        for part in re.split(r"\.\.\.|'[^']*'|\d+\.\d+|\(404\)|there is no 'x'|\by\?|[?:;]", message):
            if len(part.strip()) > 5:
                assert part.strip() in source, f"no message says: {part.strip()!r} ({message})"


def test_files_in_the_documents_exist() -> None:
    for document in DOCS:
        for name in set(re.findall(r"`((?:picolab|tests|notebooks|parameters)/[\w/.-]+)`", document.read_text())):
            # adding-a-server.md makes a new folder.
            assert (ROOT / name).exists() or name == "picolab/servers/toy/", f"{document.name} names {name}"


def test_rooms_and_their_modules_are_those_of_the_package() -> None:
    rows = table_rows("architecture.md", "## The rooms")
    rooms = {row[0].strip("`"): re.findall(r"`([^`]+)`", row[2]) for row in rows}

    assert {f"picolab/{path.name}/" for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == {
        room for room in rooms if room.startswith("picolab/")
    }
    for room, modules in rooms.items():
        assert modules, f"{room} names no module"
        for module in modules:
            assert (ROOT / room / module).exists(), f"{room} has no {module}"


# Tests that prove something


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def named_tests(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`((?:\w+/)*test_\w+\.py)::(test_\w+)`", text)


@pytest.mark.parametrize("document", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_in_the_documents_exist(document: Path) -> None:
    for file, name in named_tests(document.read_text()):
        path = ROOT / "tests" / file
        assert path.is_file(), f"{document.name} names {file}"
        assert name in functions_of(path), f"{document.name} names {file}::{name}"


@pytest.mark.parametrize("heading", ["## Problems of the old suite", "## Locks and stale states of virtual machines"])
def test_each_problem_names_the_test_that_proves_its_end(heading: str) -> None:
    rows = table_rows("flakiness.md", heading)

    assert len(rows) >= 10
    for row in rows:
        assert len(row) == 4 and all(row), row
        assert named_tests(row[3]), f"nothing proves: {row[0]}"


# Links


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        place = document.parent / name if name else document
        assert place.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", place.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), f"{document.name} links to {target}"


def test_every_document_can_be_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(docs/(\w[\w-]*\.md)\)", (ROOT / "README.md").read_text()))

    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")}


# The parameters cell


def parameters_cell() -> str:
    cells = nbformat.read(TRIAL_NOTEBOOK, as_version=4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return str(cell.source)


def test_parameters_cell_has_defaults_and_descriptions() -> None:
    source = parameters_cell()
    values = {}
    for node in ast.parse(source).body:
        assert isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        values[node.targets[0].id] = ast.literal_eval(node.value)
    comments = [
        token.string.removeprefix("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    fields = TrialParameters.model_fields

    assert list(values) == list(fields)
    assert values == {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    assert comments == [field.description for field in fields.values()]
    assert TrialParameters.from_namespace(values) == TrialParameters()


def test_papermill_shows_every_parameter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--help-notebook", str(TRIAL_NOTEBOOK)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    shown = " ".join(done.stdout.split())
    for name, field in TrialParameters.model_fields.items():
        default = repr(field.get_default(call_default_factory=True)).replace("'", '"')
        assert f"{name}: Unknown type (default {default}) {field.description}" in shown
