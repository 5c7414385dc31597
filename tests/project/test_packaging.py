"""What is installed: one truth for versions, hashed locks, clean notebooks, nothing of any registry."""

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import picolab

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
OPTIONAL = [Requirement(text) for extra in ("s3", "distributed") for text in PROJECT["optional-dependencies"][extra]]
DEVELOPMENT = [Requirement(text) for text in PROJECT["optional-dependencies"]["dev"]]
LOCKS = {
    "requirements.txt": RUNTIME,
    "requirements-dev.txt": RUNTIME + DEVELOPMENT,
    "requirements-uv.txt": [Requirement("uv")],
}

ENDLESS = {"cryptography", "pyarrow", "ruff", "s3fs", "pandas-stubs", "types-jsonschema", "types-pyyaml"}
"""Their major number rises with every release, or is no promise: an upper bound would say nothing."""
IMPORTED_AS = {"vagrant": "python-vagrant", "yaml": "pyyaml", "vl_convert": "vl-convert-python"}


def committed_files() -> list[Path]:
    """Return the files that are in git or will be, or all but caches when this is no clone."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 0:
        return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
    hidden = (".venv", ".git", ".picolab", "__pycache__", "outputs")
    return [path for path in ROOT.rglob("*") if path.is_file() and not set(path.relative_to(ROOT).parts) & set(hidden)]


def locked(name: str) -> list[str]:
    """Return the lines of a lock, continuation lines joined, without comments."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def versions(name: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in locked(name):
        requirement = Requirement(line.partition(" --hash")[0].strip())
        (pin,) = requirement.specifier
        assert pin.operator == "==", line
        found.setdefault(canonicalize_name(requirement.name), set()).add(pin.version)
    return found


def test_conda_door_repeats_no_version() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())

    assert environment["dependencies"] == ["python", "pip", {"pip": ["-e ."]}]


@pytest.mark.parametrize("requirement", [*RUNTIME, *OPTIONAL, *DEVELOPMENT], ids=lambda requirement: requirement.name)
def test_each_dependency_has_bounds(requirement: Requirement) -> None:
    operators = {specifier.operator for specifier in requirement.specifier}

    assert operators <= {">=", "<"} and ">=" in operators
    assert "<" in operators or requirement.name in ENDLESS


@pytest.mark.parametrize("name", LOCKS)
def test_each_line_of_a_lock_is_hashed_and_names_no_place(name: str) -> None:
    lines = locked(name)

    assert len(lines) >= len(LOCKS[name])
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[^\s;]+( ; [^\\]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*", line), line[
            :80
        ]
    assert "://" not in (ROOT / name).read_text()
    assert "--index" not in (ROOT / name).read_text() and "--find-links" not in (ROOT / name).read_text()


@pytest.mark.parametrize("name", LOCKS)
def test_lock_keeps_the_bounds(name: str) -> None:
    pinned = versions(name)
    for requirement in LOCKS[name]:
        assert canonicalize_name(requirement.name) in pinned, f"run: make lock ({requirement.name} is missing)"
        for version in pinned[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version), f"run: make lock ({requirement} is locked at {version})"


def test_locks_agree_with_each_other() -> None:
    runtime, development = versions("requirements.txt"), versions("requirements-dev.txt")

    assert {name: development.get(name) for name in runtime} == runtime


def test_imported_packages_are_declared() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in RUNTIME + OPTIONAL}
    # Jupyter's own parts, which a kernel cannot be without.
    comes_along = {canonicalize_name(Requirement(text).name) for text in metadata.requires("ipykernel") or ()}
    imported: dict[str, str] = {}
    for path in (ROOT / "picolab").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            imported.update({name.partition(".")[0]: path.name for name in names})
    third_party = set(imported) - set(sys.stdlib_module_names) - {"picolab", ""}

    assert {"httpx", "yaml", "papermill"} <= third_party
    for name in third_party:
        package = canonicalize_name(IMPORTED_AS.get(name, name))
        assert package in declared | comes_along, f"{imported[name]} imports {name}"


def test_version_is_said_once() -> None:
    assert PROJECT["version"] == picolab.__version__
    assert PROJECT["scripts"] == {"picolab": "picolab.cli.main:main"}


def build(kind: str, folder: Path) -> zipfile.ZipFile:
    """Build a wheel with the project's build backend, from the files of this checkout."""
    code = f"import hatchling.build as backend; print(backend.build_{kind}({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return zipfile.ZipFile(folder / done.stdout.split()[-1])


def test_wheel_holds_the_files_of_the_tree(tmp_path: Path) -> None:
    with build("wheel", tmp_path) as wheel:
        packaged = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
    built_from = packaged.pop("picolab/built_from.json", None)
    expected = {}
    for path in committed_files():
        name = path.relative_to(ROOT)
        if name.parts[0] == "picolab":
            expected[str(name)] = path.read_bytes()
        elif name.parts[0] in ("notebooks", "parameters", "Vagrantfile") or str(name) == "outputs/README.md":
            expected[f"picolab/project_files/{name}"] = path.read_bytes()

    assert packaged == expected
    assert {"picolab/py.typed", "picolab/project_files/notebooks/explore.ipynb"} <= set(packaged)
    assert built_from is None or re.fullmatch(r"[0-9a-f]{40}", json.loads(built_from)["commit"])


def test_an_editable_install_is_a_plain_path(tmp_path: Path) -> None:
    with build("editable", tmp_path) as wheel:
        (path,) = [name for name in wheel.namelist() if ".dist-info/" not in name]
        assert path.endswith(".pth") and wheel.read(path).decode().strip() == str(ROOT)


def environment(folder: Path, *package: str) -> Path:
    """Make an environment with picolab alone, which borrows the dependencies of this one; return its `bin`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], timeout=120, check=True)
    (own,) = folder.glob("lib/python3*/site-packages")
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", *package], capture_output=True, timeout=120, check=True)
    return folder / "bin"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Make a clone called picolab with an environment of its own."""
    folder = tmp_path / "picolab"
    for path in committed_files():
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
        # Byte code is valid for a copy with the same time; making it anew takes seconds.
        compiled = Path(importlib.util.cache_from_source(str(path)))
        if path.suffix == ".py" and compiled.exists():
            copy = Path(importlib.util.cache_from_source(str(copy)))
            copy.parent.mkdir(exist_ok=True)
            shutil.copy2(compiled, copy)
    environment(folder / ".venv", "-e", str(folder))
    return folder


@pytest.fixture
def without_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Leave it to picolab where its folders are; return the user's state folder."""
    for name in ("PICOLAB_STATE_DIR", "PICOLAB_OUTPUTS_DIR"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user-state"))
    return tmp_path / "user-state" / "picolab"


def run_in(folder: Path, program: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


FEW = ("-p", "ram_mb", "128", "-p", "file_size", "1M", "-p", "keep_machine", "never")
LINE = ("--memory-limits", "64", "--file-sizes", "1M", "--repeats", "1", "--idle-limit", "0", "--campaign", "x")


@pytest.mark.usefixtures("without_folders")
def test_a_clone_called_picolab_works_from_its_parent(clone: Path, tmp_path: Path) -> None:
    def run(program: str, *words: str) -> str:
        return run_in(tmp_path, clone / ".venv" / "bin" / program, *words)

    where = "import picolab.config.trial_parameters; print(picolab.config.trial_parameters.__file__)"
    assert run("python", "-c", where).strip() == str(clone / "picolab" / "config" / "trial_parameters.py")
    run("python", "-m", "papermill", "picolab/notebooks/trial.ipynb", "out.ipynb", *FEW)
    assert '"outcome": "ok"' in (tmp_path / "out.ipynb").read_text()
    run("picolab", "matrix", "picolab/parameters/quick.yaml", *LINE)
    assert "report.html" in run("picolab", "report", "x")
    assert "1 of 1 trials" in run("python", "-m", "picolab", "status")
    assert (clone / "outputs" / "x" / "report.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.ipynb", "picolab"]


def test_a_wheel_works_without_a_checkout(tmp_path: Path, without_folders: Path) -> None:
    with build("wheel", tmp_path) as wheel:
        programs = environment(tmp_path / "env", str(wheel.filename))
    (installed,) = (tmp_path / "env").glob("lib/python3*/site-packages")
    before = sorted(path for path in installed.rglob("*") if "__pycache__" not in path.parts)
    desk = tmp_path / "desk"
    desk.mkdir()

    assert "picolab matrix parameters/quick.yaml" in run_in(desk, programs / "picolab", "init", "mybench")
    bench = desk / "mybench"
    run_in(bench, programs / "picolab", "matrix", "parameters/quick.yaml", *LINE)
    # From a folder in the project, and a path as it is meant there.
    run_in(bench / "parameters", programs / "picolab", "report", "x", "--output", "page.html")
    assert (bench / "outputs" / "x" / "results.csv").is_file() and (bench / "parameters" / "page.html").is_file()
    assert (bench / ".picolab").is_dir() and not without_folders.exists()

    # Where there is no project: outputs in the current folder, state in the user's.
    run_in(desk, programs / "python", "-m", "papermill", "mybench/notebooks/trial.ipynb", "out.ipynb", *FEW)
    (record,) = (desk / "outputs" / "single-trials").glob("*/record.json")
    assert json.loads(record.read_text())["outcome"] == "ok" and without_folders.is_dir()
    assert sorted(path for path in installed.rglob("*") if "__pycache__" not in path.parts) == before


@pytest.mark.parametrize(
    "path", [path for path in committed_files() if path.suffix == ".ipynb"], ids=lambda path: path.name
)
def test_notebook_is_thin_and_has_no_outputs(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]

    assert cells and len(cells) <= 20
    for cell in cells:
        assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]
        tree = ast.parse("".join(cell["source"]))
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.walk(tree)), cell["id"]
        if "parameters" not in cell["metadata"].get("tags", []):
            assert len(cell["source"]) <= 12, cell["id"]


def test_no_file_names_a_package_registry() -> None:
    # Put together here, so that this file does not name them either.
    hosts = [
        ("py", "pi.org"),
        ("python", "hosted.org"),
        ("registry.np", "mjs.org"),
        ("deb.deb", "ian.org"),
        ("conda.ana", "conda.org"),
        ("repo.ana", "conda.com"),
    ]
    words = re.compile("|".join(re.escape(first + second) for first, second in hosts), re.IGNORECASE)
    files = committed_files()

    assert ROOT / "Makefile" in files and Path(__file__).resolve() in files
    for path in files:
        found = words.search(path.read_bytes().decode(errors="replace"))
        assert found is None, f"{path.relative_to(ROOT)} names {found[0] if found else ''}"


def test_licence() -> None:
    text = (ROOT / "LICENSE").read_text()

    assert PROJECT["license"] == "Apache-2.0" and PROJECT["license-files"] == ["LICENSE"]
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
