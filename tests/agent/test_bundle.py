"""The zipapp that is shipped to guests."""

import ast
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from picolab.agent import bundle

SHIPPED = [path for path in sorted(Path(bundle.__file__).parent.glob("*.py")) if path.name != "bundle.py"]


def test_the_bytes_depend_on_the_sources_alone(tmp_path: Path) -> None:
    code = "import sys; from picolab.agent import bundle; sys.stdout.buffer.write(bundle.zipapp())"
    again = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True).stdout

    assert again == bundle.zipapp()
    with zipfile.ZipFile(io.BytesIO(again)) as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {name for name in archive.namelist() if name.startswith("picolab/agent/")} == {
            f"picolab/agent/{path.name}" for path in SHIPPED
        }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_modules_need_python_3_9_alone(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    for name in names:
        shipped = name == "picolab.agent" or name.startswith("picolab.agent.")
        assert shipped or name.partition(".")[0] in sys.stdlib_module_names, name
