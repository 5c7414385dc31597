"""A trial's progress: a view in the notebook's cell, or a line on the terminal; and a file for other processes."""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from picolab.errors import UnreadableFile
from picolab.files.foreign import read_json
from picolab.jupyter.trial_context import CONTEXT_VARIABLE
from picolab.text.live_line import rewrite_line
from picolab.text.markup import Html

if TYPE_CHECKING:
    from picolab.jupyter.live_display import LiveDisplay

_FILE_INTERVAL_S = 1.0
_LARGEST_BYTES = 1 << 16


def is_watched() -> bool:
    """Return whether a person may be watching the cells of this process: it is a kernel, and runs no campaign's trial.

    Nobody sees the cells of a trial that papermill runs, and updates would compete with the measured step.
    """
    return "JPY_PARENT_PID" in os.environ and CONTEXT_VARIABLE not in os.environ


class LiveLine:
    """One line of progress, or a view in its place. Use it as a context manager; call it from any thread.

    Args:
        what: the current activity, such as `upload`.
        file: gets the line about once a second as JSON, so that another process can show it.
    """

    def __init__(self, what: str, file: Path) -> None:
        self._what = what
        self._file = file
        self._written_s = 0.0
        self._display: LiveDisplay | None = None

    def __enter__(self) -> "LiveLine":
        if is_watched():
            from picolab.jupyter.live_display import LiveDisplay

            self._display = LiveDisplay(f"{self._what} begins")
        return self

    @property
    def in_notebook(self) -> bool:
        """Whether a notebook shows it."""
        return self._display is not None

    def show(self, line: str, view: Callable[[], Html] | None = None) -> None:
        """Replace the line.

        Args:
            view: makes what a notebook shows in its place, at most twice a second.
        """
        if self._display is None:
            rewrite_line(f"{self._what} {line}")
        elif view is None:
            self._display.show(f"{self._what} {line}")
        elif self._display.is_due:
            self._display.show(view())
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

    def show_last(self, shown: Html) -> None:
        """Replace the view when the work is over."""
        if self._display is not None:
            self._display.show(shown)

    def __exit__(self, *_: object) -> None:
        if self._display is None:
            rewrite_line("")


def last_line(file: Path) -> str:
    """Return the line that a `LiveLine` in another process wrote last; empty when there is none."""
    try:
        return str(read_json(file, _LARGEST_BYTES)["line"])
    except (OSError, UnreadableFile, LookupError, TypeError):
        return ""
