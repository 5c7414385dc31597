"""The structure of the package: imports run one way, rooms know only what they may, each module has a docstring."""

import ast
import functools
import re
import sys
from pathlib import Path

import pytest

from picolab.servers.calibration import program

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "picolab"

DECLARATIONS = re.compile(
    r"picolab\.(config\.sizes|machines\.(kinds?|\w+\.kind)|servers\.(registry|base|\w+\.adapter))"
)
"""Modules that declare an entry of a registry without the code behind it: known from the second layer on."""


def imports(path: Path) -> set[str]:
    """Return the imports of a module, except those for type checkers and those inside functions of a declaration."""
    tree = ast.parse(path.read_text())
    declares = DECLARATIONS.fullmatch(".".join(path.relative_to(ROOT).with_suffix("").parts))
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        or (declares and isinstance(node, ast.FunctionDef))
        for child in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: imports are absolute"
            found |= {as_module(node.module, alias.name) for alias in node.names}
    return found


def as_module(module: str, name: str) -> str:
    inner = f"{module}.{name}"
    place = ROOT.joinpath(*inner.split("."))
    return inner if place.with_suffix(".py").is_file() or (place / "__init__.py").is_file() else module


@functools.cache
def all_modules() -> dict[str, set[str]]:
    """Return the imports of each module; not at import, which each process that collects tests would do."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): imports(path)
        for path in PACKAGE.rglob("*.py")
    }


def modules(*prefixes: str) -> dict[str, set[str]]:
    """Return the imports from picolab of these modules, or of the modules in these packages."""
    wanted = [f"picolab.{prefix}" for prefix in prefixes]
    return {
        name: {target for target in targets if target.startswith("picolab")}
        for name, targets in all_modules().items()
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in wanted)
    }


def assert_only(rooms: dict[str, set[str]], *allowed: str) -> None:
    assert rooms
    for name, targets in rooms.items():
        for target in targets:
            inside = any(f"{target}.".startswith(f"picolab.{room}.") for room in allowed)
            assert inside or target == "picolab", f"{name} imports {target}"


def test_nothing_imports_the_command_line() -> None:
    for name, targets in all_modules().items():
        assert "picolab.cli.main" not in targets or name == "picolab.__main__", name


LAYERS = (
    ("errors", "exit_codes", "slow_imports", "text"),
    ("files", "agent"),
    ("config",),
    ("record",),
    ("host",),
    ("servers", "machines", "jupyter"),
    ("results",),
    ("analysis", "instrument", "history"),
    ("charts",),
    ("trial", "report", "examine"),
    ("campaign", "doctor", "publish"),
    ("distributed", "watch"),
    ("api", "cli"),
)
"""Rooms from the lowest to the highest. A room imports from its own layer and from those below."""


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_imports_run_one_way() -> None:
    rooms = {room: index for index, rooms in enumerate(LAYERS) for room in rooms}
    level = {
        name: 1 if DECLARATIONS.fullmatch(name) else rooms[room_of(name)]
        for name in all_modules()
        if room_of(name) not in ("", "__main__")
    }
    wrong = [
        f"{name} imports {target}"
        for name, targets in sorted(all_modules().items())
        for target in sorted(targets)
        if name in level and target in level and level[target] > level[name]
    ]

    assert {room_of(name) for name in level} == set(rooms)
    assert wrong == []


def test_the_document_shows_these_layers() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().split("\n## Layers\n")[1].split("\n## ")[0]
    shown = [tuple(line.split()) for line in text.splitlines() if line.startswith("    ")]

    assert shown[::-1] == list(LAYERS)


def test_statistics_are_pure() -> None:
    names = {target.partition(".")[0] for target in all_modules()["picolab.analysis.statistics"]}
    assert names <= set(sys.stdlib_module_names) - {"os", "pathlib", "io", "random", "time"} | {"numpy", "scipy"}


def test_charts_alone_import_altair() -> None:
    """Their package keeps what altair would import, and nobody needs, from taking a second."""
    rooms = {room_of(name) for name, targets in all_modules().items() if "altair" in targets}
    assert rooms == {"charts"}
    assert "decline_slow_imports()" in (PACKAGE / "charts" / "__init__.py").read_text()


def test_charts_touch_no_file() -> None:
    for path in sorted((PACKAGE / "charts").glob("*.py")):
        targets = imports(path)
        assert not targets & {"os", "io", "pathlib", "picolab.config.project"}, path.name
        calls = [
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        assert "open" not in calls, path.name


SHIPPED = {f"picolab.servers.calibration.{name}" for name in program.MODULES}


@pytest.mark.parametrize("name", sorted(SHIPPED | {"picolab.servers.calibration.sink"}))
def test_files_copied_to_machines_need_python_alone(name: str) -> None:
    assert {target.partition(".")[0] for target in all_modules()[name] - SHIPPED} <= set(sys.stdlib_module_names)


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        name: {target for target in targets if target in all_modules()} - {name}
        for name, targets in all_modules().items()
    }
    finished: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name in finished:
            return
        for target in graph[name]:
            # A package's own name stands for its empty __init__.
            if target != "picolab":
                visit(target, (*way, name))
        finished.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
