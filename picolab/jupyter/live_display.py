"""One output of a notebook's cell that is replaced in place. Nothing in a campaign's trial imports this module."""

import time

from IPython import display

from picolab.text.markup import Html

INTERVAL_S = 0.5
"""Between two updates of something that changes all the time."""


class LiveDisplay:
    """One output of the running cell. It may be updated from any thread.

    Args:
        text: what it shows at first.
    """

    def __init__(self, text: str) -> None:
        self._shown_s = 0.0
        self._handle = display.display(  # type: ignore[no-untyped-call]
            {"text/plain": text}, raw=True, display_id=f"progress-{time.monotonic_ns()}"
        )

    @property
    def is_due(self) -> bool:
        """Whether the last update is long enough ago for another one."""
        return time.monotonic() - self._shown_s >= INTERVAL_S

    def show(self, shown: Html | str) -> None:
        """Replace what is shown; HTML comes with its text, for a reader without HTML."""
        self._shown_s = time.monotonic()
        if isinstance(shown, Html):
            self._handle.update({"text/plain": shown.text, "text/html": shown.markup}, raw=True)
        else:
            self._handle.update({"text/plain": shown}, raw=True)
