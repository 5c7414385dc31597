"""A trial's progress in one line: in the notebook's cell or on the terminal, and in a file for other processes."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from picolab.errors import UnreadableFile
from picolab.files.foreign import read_json
from picolab.jupyter.trial_context import CONTEXT_VARIABLE
from picolab.text.live_line import rewrite_line

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
        # Nobody sees the cells of a trial that papermill runs, and updates would compete with the measured step.
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
        else:
            rewrite_line(f"{self._what} {line}")
        if time.monotonic() - self._written_s >= _FILE_INTERVAL_S:
            self._written_s = time.monotonic()
            # On a full disk nobody sees the line; the step itself continues.
            temporary = self._file.with_suffix(".new")
            with suppress(OSError):
                try:
                    temporary.write_text(json.dumps({"line": f"{self._what} {line}"}))
                    temporary.replace(self._file)
                finally:
                    temporary.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        if self._handle is None:
            rewrite_line("")


def last_line(file: Path) -> str:
    """Return the line that a `LiveLine` in another process wrote last; empty when there is none."""
    try:
        return str(read_json(file, _LARGEST_BYTES)["line"])
    except (OSError, UnreadableFile, LookupError, TypeError):
        return ""
