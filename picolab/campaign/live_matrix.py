"""A running campaign as one output of a notebook: cases by repeats with their outcomes, and the time that is left.

It is redrawn when a trial begins or ends, while the campaign waits for an idle host, and during a machine's boot. So
nothing is drawn during a measured step.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from picolab.campaign.progress import Progress, Watcher
from picolab.charts.style import OUTCOME_COLOURS, OUTCOME_LABELS
from picolab.config.plan import Plan, PlannedTrial
from picolab.jupyter.live_display import LiveDisplay
from picolab.record.outcomes import Outcome
from picolab.results.ledger import LedgerEntry
from picolab.text.foreign import one_line
from picolab.text.markup import Html, bar, escape
from picolab.text.wording import duration

MOST_CELLS = 400
"""With more trials, a row has the counts of its outcomes and no cell for each trial."""
_MOST_NOTES = 3
_DONE_COLOUR = OUTCOME_COLOURS[Outcome.OK]
_CELL = "padding:.15em .5em;text-align:center;border-radius:.3em"


class LiveMatrix:
    """Shows a campaign while it runs.

    Args:
        plan: of the campaign.
        display: the output of the cell.
        found: outcome and detail of each trial that has a result already, by its id.
    """

    def __init__(
        self, plan: Plan, display: LiveDisplay, found: Mapping[str, tuple[Outcome, str]] | None = None
    ) -> None:
        self._plan = plan
        self._display = display
        self._found: dict[str, tuple[Outcome, str]] = dict(found or {})
        self._progress = Progress(len(plan.trials), len(self._found))
        self._line = ""
        self._notes: list[str] = []

    def watcher(self, stop_requested: Callable[[], bool]) -> Watcher:
        """Return the callbacks for the campaign."""
        return Watcher(self._begins, self._ended, self.say, self._note, stop_requested, self._step)

    def say(self, line: str) -> None:
        """Show a line: what the campaign waits for, or how it has ended."""
        self._line = line
        self._show()

    def _begins(self, progress: Progress) -> None:
        self._progress, self._line = progress, ""
        self._show()

    def _ended(self, entry: LedgerEntry, progress: Progress) -> None:
        self._found[entry.trial_id] = (entry.outcome, entry.outcome_detail)
        self._progress = progress
        self._show()

    def _note(self, line: str) -> None:
        self._notes = [*self._notes, line][-_MOST_NOTES:]
        self._show()

    def _step(self, _trial: PlannedTrial, line: str) -> None:
        self._line = line
        if self._display.is_due:
            self._show()

    def _show(self) -> None:
        self._display.show(self.shown())

    def shown(self) -> Html:
        """Return what the notebook shows now."""
        progress, plan = self._progress, self._plan
        head = f"{progress.done} of {progress.total} trials"
        if progress.eta_s:
            until = datetime.now(UTC) + timedelta(seconds=progress.eta_s)
            head += f", about {duration(progress.eta_s)} left, until {until:%H:%M} UTC"
        now = self._now()
        texts = [f"campaign {plan.campaign}: {head}", self._counts(plan.trials), now, *self._notes]
        markup = [
            f"<div><b>{escape(plan.campaign)}</b> {escape(head)}</div>",
            bar(progress.done / max(1, progress.total), _DONE_COLOUR),
            self._table(),
            *(f"<div>{escape(one_line(line))}</div>" for line in (now, *self._notes) if line),
        ]
        return Html(f"<div>{''.join(markup)}</div>", "; ".join(one_line(text) for text in texts if text))

    def _now(self) -> str:
        current, running = self._progress.current, self._progress.running
        if not running:
            return self._line
        again = f", attempt {self._progress.attempt}" if current is not None and self._progress.attempt > 1 else ""
        return f"runs {', '.join(running)}{again}{': ' if self._line else ''}{self._line}"

    def _counts(self, trials: list[PlannedTrial]) -> str:
        counts = Counter(self._found[trial.trial_id][0] for trial in trials if trial.trial_id in self._found)
        return ", ".join(f"{count} {OUTCOME_LABELS[outcome]}" for outcome, count in counts.most_common())

    def _table(self) -> str:
        plan = self._plan
        trials: dict[str, list[PlannedTrial]] = {case: [] for case in plan.cases}
        for trial in plan.trials:
            trials[trial.case].append(trial)
        if len(plan.trials) > MOST_CELLS:
            rows = "".join(
                f'<tr><th style="text-align:left">{escape(one_line(case))}</th>'
                f"<td>{escape(self._counts(its) or 'none yet')}</td></tr>"
                for case, its in trials.items()
            )
        else:
            blocks = "".join(f"<th>{block}</th>" for block in range(1, plan.repeats + 1))
            rows = f'<tr><th style="text-align:left">case</th>{blocks}</tr>'
            for case, its in trials.items():
                cells = {trial.block: self._cell(trial) for trial in its}
                row = "".join(cells.get(block, "<td></td>") for block in range(1, plan.repeats + 1))
                rows += f'<tr><th style="text-align:left">{escape(one_line(case))}</th>{row}</tr>'
        return f'<div style="overflow:auto;max-height:24em"><table>{rows}</table></div>'

    def _cell(self, trial: PlannedTrial) -> str:
        found = self._found.get(trial.trial_id)
        if trial.trial_id in self._progress.running:
            return f'<td style="{_CELL};outline:1px solid {_DONE_COLOUR}" title="{escape(trial.trial_id)}">runs</td>'
        if found is None:
            return f'<td style="{_CELL};color:gray" title="{escape(trial.trial_id)}">·</td>'
        outcome, detail = found
        title = escape(one_line(f"{trial.trial_id}: {detail}"))
        style = f"{_CELL};background:{OUTCOME_COLOURS[outcome]};color:#ffffff"
        return f'<td style="{style}" title="{title}">{escape(OUTCOME_LABELS[outcome])}</td>'
