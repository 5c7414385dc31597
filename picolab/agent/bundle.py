"""The agent as it is shipped to guests: this package as one zipapp, and how its programs are started.

A guest unpacks and compiles it once: a start from the zip itself would compile every module anew, which takes time and
memory that a small guest does not have.
"""

import functools
import hashlib
from pathlib import Path

from picolab.files import zipapp as archive

PACKAGE = "picolab.agent"
_FOLDER = Path(__file__).parent
_HERE = Path(__file__).name
_ROOT = Path(__file__).parents[2]


@functools.cache
def zipapp() -> bytes:
    """Return the package as a zipapp, a zip file that Python runs (PEP 441); the same bytes for the same sources."""
    names = [path.stem for path in _FOLDER.glob("*.py") if path.name not in (_HERE, "__init__.py")]
    return archive.zipapp(f"{PACKAGE}.__main__", [f"{PACKAGE}.{name}" for name in names])


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
