"""The progress of a running campaign: a live line on a terminal, and a line for each trial that ended."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

from rich.live import Live

from picolab.campaign.progress import Progress, Watcher
from picolab.cli.echo import echo
from picolab.cli.terminal import Text, colour, console
from picolab.config.plan import PlannedTrial
from picolab.record.outcomes import Outcome
from picolab.results.ledger import LedgerEntry
from picolab.text.foreign import one_line
from picolab.text.live_line import rewrite_line
from picolab.text.wording import duration

_BAR_CELLS = 24
_REFRESH_S = 1.0
"""Of the live line while a trial runs: drawing more often would be work next to the measured step."""


def _progress_text(progress: Progress) -> Text:
    filled = _BAR_CELLS * progress.done // max(1, progress.total)
    text = Text(f"{'━' * filled}{'─' * (_BAR_CELLS - filled)} {progress.done} of {progress.total}")
    text.append(f"  ETA {duration(progress.eta_s)}" if progress.eta_s is not None else "  ETA after one trial")
    if progress.current is not None:
        again = f" (attempt {progress.attempt})" if progress.attempt > 1 else ""
        text.append(f"\n  {progress.current.trial_id}{again}  ", style="bold")
        text.append(one_line(progress.line), style="cyan")
    return text


class StepPrinter:
    """Prints the steps of something that takes minutes as lines of their own, where no line can be rewritten in place.

    A line is left out when it begins like the one before, up to the first comma or colon: the progress of a download,
    or the measurements of one round.
    """

    def __init__(self, write: Callable[[str], None] = lambda line: echo(line, err=True)) -> None:
        self._write = write
        self._last = ""

    def show(self, line: str, before: str = "") -> None:
        """Print a line, behind a text that does not count for the comparison; nothing for an empty one."""
        step = before + re.split(r"[,:]", line, maxsplit=1)[0]
        if line and step != self._last:
            self._last = step
            # The reader may be gone.
            with suppress(OSError):
                self._write(one_line(before + line))


def line_printer() -> Callable[[str], None]:
    """Return a callback for progress on stderr: a line rewritten in place on a terminal, one line a step elsewhere."""
    return rewrite_line if sys.stderr.isatty() else StepPrinter().show


@contextmanager
def campaign_watcher(stop_requested: Callable[[], bool]) -> Iterator[Watcher]:
    """Yield a watcher that shows a campaign: a live line on a terminal, and a line for each trial that ended."""
    live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def show_progress(progress: Progress) -> None:
        if live is not None:
            with suppress(OSError):
                live.update(_progress_text(progress), refresh=True)

    def show_ended(entry: LedgerEntry, progress: Progress) -> None:
        eta = f"ETA {duration(progress.eta_s)}" if progress.eta_s else ""
        line = Text(f"[{progress.done:>{len(str(progress.total))}}/{progress.total}] {entry.trial_id}  ")
        line.append(entry.outcome, style=colour(entry.outcome))
        line.append(f"  {duration(entry.duration_s) if entry.duration_s is not None else 'not timed'}  {eta}")
        if entry.outcome is not Outcome.OK:
            line.append(f"\n    {one_line(entry.outcome_detail)}", style="dim")
        # The terminal may be gone: what matters is in the ledger.
        with suppress(OSError):
            console.print(line)

    said: list[str] = []

    def show_waiting(line: str) -> None:
        with suppress(OSError):
            if live is not None:
                live.update(Text(one_line(line), style="yellow"), refresh=True)
            elif not said:
                said.append(line)
                console.print(one_line(line), style="yellow")

    def show_note(line: str) -> None:
        with suppress(OSError):
            console.print(one_line(line), style="yellow")

    steps = StepPrinter(console.print)

    def show_step(trial: PlannedTrial, line: str) -> None:
        steps.show(line, f"{trial.trial_id}: ")

    with live or nullcontext():
        step, refresh_s = (show_step, None) if live is None else (None, _REFRESH_S)
        yield Watcher(show_progress, show_ended, show_waiting, show_note, stop_requested, step, refresh_s)
