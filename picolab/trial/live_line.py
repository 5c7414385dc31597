"""A line that is renewed in place: in a notebook's cell, on a terminal, and in a file for whoever else waits."""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from picolab.errors import UnreadableFile
from picolab.files.foreign import read_json
from picolab.trial.state import CONTEXT_VARIABLE

_FILE_INTERVAL_S = 1.0
_LARGEST_BYTES = 1 << 16


class LiveLine:
    """One line of progress. Use it as a context manager; `show` may be called from any thread.

    Args:
        what: the current activity, such as `upload`.
        file: gets the line about once a second as JSON, so that another process can show it.
    """

    def __init__(self, what: str, file: Path) -> None:
        self._what = what
        self._file = file
        self._written_s = 0.0
        self._handle: Any = None

    def __enter__(self) -> "LiveLine":
        # Of a trial that papermill runs nobody sees the cells, and every update would be work beside the measured step.
        if "JPY_PARENT_PID" in os.environ and CONTEXT_VARIABLE not in os.environ:
            from IPython import display

            self._handle = display.display(  # type: ignore[no-untyped-call]
                {"text/plain": f"{self._what} begins"}, raw=True, display_id=f"progress-{time.monotonic_ns()}"
            )
        return self

    def show(self, line: str) -> None:
        """Replace the line."""
        if self._handle is not None:
            self._handle.update({"text/plain": f"{self._what} {line}"}, raw=True)
        elif sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{self._what} {line}")
            sys.stderr.flush()
        if time.monotonic() - self._written_s >= _FILE_INTERVAL_S:
            self._written_s = time.monotonic()
            # A full disk: then nobody sees the line, and what it is about goes on.
            temporary = self._file.with_suffix(".new")
            with suppress(OSError):
                try:
                    temporary.write_text(json.dumps({"line": f"{self._what} {line}"}))
                    temporary.replace(self._file)
                finally:
                    temporary.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        if self._handle is None and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")


def last_line(file: Path) -> str:
    """Return the line that a `LiveLine` in another process wrote last; empty when there is none."""
    try:
        return str(read_json(file, _LARGEST_BYTES)["line"])
    except (OSError, UnreadableFile, LookupError, TypeError):
        return ""
