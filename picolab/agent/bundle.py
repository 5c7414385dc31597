"""The agent as it is shipped to guests: this package as one zipapp, and how its programs are started.

A guest unpacks and compiles it once: a start from the zip itself would compile every module anew, which takes time and
memory that a small guest does not have.
"""

import functools
import hashlib
import io
import zipfile
from pathlib import Path

PACKAGE = "picolab.agent"
_FOLDER = Path(__file__).parent
_HERE = Path(__file__).name
_ROOT = Path(__file__).parents[2]
_START = f"from {PACKAGE}.__main__ import main\n\nmain()\n"
_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip can hold: the same sources always make the same bytes."""


@functools.cache
def zipapp() -> bytes:
    """Return the package as a zipapp, a zip file that Python runs (PEP 441); the same bytes for the same sources."""
    files = {"__main__.py": _START.encode(), "picolab/__init__.py": b""}
    for path in _FOLDER.glob("*.py"):
        if path.name != _HERE:
            files[f"picolab/agent/{path.name}"] = path.read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _DATE), files[name])
    return packed.getvalue()


def version() -> str:
    """Return a text that differs from that of another version of the agent."""
    return hashlib.sha256(zipapp()).hexdigest()[:16]


def words(module: str, place: Path | str = _ROOT) -> list[str]:
    """Return the options for python3 that start a program of the package, without site-packages; its own come behind.

    Args:
        module: `__main__` (the agent) or `memory_probe`.
        place: the zipapp, or the folder that holds the package; this checkout if nothing else is given.
    """
    return [
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.append({str(place)!r}); from {PACKAGE}.{module} import main; main()",
    ]
