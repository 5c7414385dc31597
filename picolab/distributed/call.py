"""A call that may take long, in a thread of its own: meanwhile the campaign files results, and hears Ctrl-C."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Call(Generic[Result]):
    """A call of a function that has begun in another thread; a process that ends does not wait for it.

    Args:
        function: without arguments.
        then: called in that thread when it has ended.
    """

    def __init__(self, function: Callable[[], Result], then: Callable[[], None] = lambda: None) -> None:
        self._function = function
        self._then = then
        self._found: list[Result] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._began_s = time.monotonic()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._found.append(self._function())
        except BaseException as error:
            self._error = error
        self._ended.set()
        self._then()

    def has_ended(self, within_s: float = 0.0) -> bool:
        """Wait for it some seconds at most; return whether it has ended."""
        return self._ended.wait(within_s)

    def result(self, within_s: float = 0.0) -> Result:
        """Return what the function has returned.

        Raises:
            TimeoutError: it has not ended within some seconds.
            BaseException: what the function has raised.
        """
        if not self.has_ended(within_s):
            raise TimeoutError(f"no answer came within {time.monotonic() - self._began_s:.0f} s")
        if self._error is not None:
            raise self._error
        return self._found[0]
