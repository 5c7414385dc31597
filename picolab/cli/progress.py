"""The progress of a running campaign: a live line on a terminal, and a line for each trial that ended."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

from rich.live import Live

from picolab.campaign.progress import Progress, Watcher
from picolab.cli.terminal import Text, colour, console
from picolab.record.outcomes import Outcome
from picolab.results.ledger import LedgerEntry
from picolab.text.foreign import one_line
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

    with live or nullcontext():
        refresh_s = None if live is None else _REFRESH_S
        yield Watcher(show_progress, show_ended, show_waiting, show_note, stop_requested, refresh_s)
