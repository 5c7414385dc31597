"""The calibration server as one executable file, and the null sink."""

import functools
import hashlib
from pathlib import Path

from picolab.config.project import state_dir
from picolab.files.writing import not_written, write_atomically
from picolab.files.zipapp import zipapp

SINK_PATH = Path(__file__).with_name("sink.py")
"""A server that discards what it gets; what remains is the client's own speed."""
MODULES = ("body", "handler", "knobs", "log", "memory", "multipart", "pacing", "server", "storage")
"""The modules that the file holds. They import the standard library and each other."""


@functools.cache
def _content() -> bytes:
    package = __name__.rpartition(".")[0]
    return zipapp(f"{package}.server", [f"{package}.{name}" for name in MODULES])


def server_path() -> Path:
    """Return the executable to start, or to copy to another machine; made in the state folder when it is missing.

    Raises:
        FileNotWritten: the state folder cannot be written.
    """
    content = _content()
    path = state_dir() / "builds" / f"calibration-server-{hashlib.sha256(content).hexdigest()[:12]}"
    if not path.is_file() or path.read_bytes() != content:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(path, error) from None
        write_atomically(path, content, mode=0o755)
    return path
