"""What the command line shows: progress with an ETA, plans, tables. Plain lines when nobody watches a terminal.

Nothing that is shown can obey: a string never is markup, and control characters stand as escapes, whoever wrote them.
Text from outside that belongs into a line goes through `one_line` besides, so that it cannot look like a line of ours.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text as RichText

from picolab.campaign.progress import Progress, Watcher
from picolab.campaign.runner import Campaign
from picolab.campaign.single_trial import FinishedTrial
from picolab.campaign.stopping import watched_in_words
from picolab.config.plan import Plan
from picolab.config.project import in_command
from picolab.config.sizes import MIB
from picolab.errors import CampaignNotFound, PicolabError
from picolab.exit_codes import ExitCode
from picolab.machines import registry
from picolab.record import factors
from picolab.record.models import OUTCOME_MEANINGS, STEPS, MemoryRecord, Outcome, Step, step_outcome
from picolab.results.ledger import LedgerEntry
from picolab.results.load import CampaignData, read_campaign
from picolab.text.foreign import one_line, visible
from picolab.text.quantities import in_seconds

if TYPE_CHECKING:
    import pandas as pd

    from picolab.doctor.diagnosis import Finding
    from picolab.machines.vagrant.box import ListedBox


class Text(RichText):
    """Text with a style, in which control characters stand as escapes."""

    def __init__(self, text: str = "", style: str = "", **rest: Any) -> None:
        super().__init__(visible(text), style, **rest)

    def append(self, text: RichText | str, style: Any = None) -> "Text":
        super().append(visible(text) if isinstance(text, str) else text, style)
        return self


class _Console(Console):
    """A console that takes strings as they are, and goes on silently when its reader is gone.

    A campaign does not end because of `| head`.
    """

    def render_str(self, text: str, **how: Any) -> RichText:
        # Every string comes by here: what is printed, a cell or title of a table.
        return super().render_str(visible(text), **{**how, "markup": False, "emoji": False, "highlight": False})

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_NARROWEST_WORDS_CELLS = 14
"""A column of words is not folded more: on a narrower terminal the table's lines are wrapped, and nothing is lost."""
_console = _Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
_BAR_CELLS = 24
_UNLIMITED_CELLS = 100_000
_REFRESH_S = 1.0
"""Of the live line while a trial runs: what draws more often works beside the measured step."""
_MOST_PROBLEMS = 10


def _show_table(table: Table) -> None:
    """Print a table; its columns of words fold, and those of numbers never do."""
    whole = Measurement.get(_console, _console.options.update(max_width=_UNLIMITED_CELLS), table).maximum
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", column.justify == "right"
        if not column.no_wrap:
            longest = max((cell_len(str(cell)) for cell in column.cells), default=0)
            whole -= max(0, longest - _NARROWEST_WORDS_CELLS)
    wide = _Console(width=max(_console.width, whole), file=_console.file)
    wide.print(table)


def _colour(outcome: Outcome) -> str:
    if outcome is Outcome.OK:
        return "green"
    return "magenta" if outcome.is_fault else "red"


def format_duration(seconds: float) -> str:
    """Return a duration for a person: `42 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _progress_text(progress: Progress) -> Text:
    filled = _BAR_CELLS * progress.done // max(1, progress.total)
    text = Text(f"{'━' * filled}{'─' * (_BAR_CELLS - filled)} {progress.done} of {progress.total}")
    text.append(f"  ETA {format_duration(progress.eta_s)}" if progress.eta_s is not None else "  ETA after one trial")
    if progress.current is not None:
        again = f" (attempt {progress.attempt})" if progress.attempt > 1 else ""
        text.append(f"\n  {progress.current.trial_id}{again}  ", style="bold")
        text.append(one_line(progress.line), style="cyan")
    return text


@contextmanager
def campaign_watcher(stop_requested: Callable[[], bool]) -> Iterator[Watcher]:
    """Yield a watcher that shows a campaign: a live line on a terminal, and a line for each trial that ended."""
    live = Live(console=_console, auto_refresh=False, transient=True) if _console.is_terminal else None

    def show_progress(progress: Progress) -> None:
        if live is not None:
            with suppress(OSError):
                live.update(_progress_text(progress), refresh=True)

    def show_ended(entry: LedgerEntry, progress: Progress) -> None:
        eta = f"ETA {format_duration(progress.eta_s)}" if progress.eta_s else ""
        line = Text(f"[{progress.done:>{len(str(progress.total))}}/{progress.total}] {entry.trial_id}  ")
        line.append(entry.outcome, style=_colour(entry.outcome))
        line.append(f"  {format_duration(entry.duration_s) if entry.duration_s is not None else 'not timed'}  {eta}")
        if entry.outcome is not Outcome.OK:
            line.append(f"\n    {one_line(entry.outcome_detail)}", style="dim")
        # The terminal may be gone: what matters is in the ledger.
        with suppress(OSError):
            _console.print(line)

    said: list[str] = []

    def show_waiting(line: str) -> None:
        with suppress(OSError):
            if live is not None:
                live.update(Text(one_line(line), style="yellow"), refresh=True)
            elif not said:
                said.append(line)
                _console.print(one_line(line), style="yellow")

    def show_note(line: str) -> None:
        with suppress(OSError):
            _console.print(one_line(line), style="yellow")

    with live or nullcontext():
        refresh_s = None if live is None else _REFRESH_S
        yield Watcher(show_progress, show_ended, show_waiting, show_note, stop_requested, refresh_s)


def say_begin(campaign: Campaign) -> None:
    """Say what is about to run."""
    plan, done = campaign.plan, campaign.tally.done
    done_text = f", {done} of them done" if done else ""
    most = "at most " if plan.stopping is not None else ""
    _console.print(
        f"Campaign {plan.campaign}: {most}{len(plan.trials)} trials{done_text} = {len(plan.cases)} cases x "
        f"{most}{plan.repeats} repeats, seed {plan.seed}. "
        f"Ctrl-C stops; `picolab resume {in_command(campaign.folder)}` goes on."
    )


def show_plan(plan: Plan) -> None:
    """Print a plan: every trial in the order in which it would run."""
    table = Table(box=None, pad_edge=False)
    for heading in ("trial", "block", "case"):
        table.add_column(heading)
    for trial in plan.trials:
        table.add_row(str(trial.position), str(trial.block), trial.case)
    _show_table(table)
    upload_mib = sum(trial.parameters.uploaded_bytes for trial in plan.trials) / MIB
    most = "at most " if plan.stopping is not None else ""
    _console.print(
        f"{most}{len(plan.trials)} trials = {len(plan.cases)} cases x {most}{plan.repeats} repeats, seed {plan.seed}; "
        f"{upload_mib:,.0f} MiB to upload in all. {plan.order} Nothing was run."
    )
    if plan.stopping is not None:
        _console.print(watched_in_words(plan))


def outcome_table(campaign: Campaign, data: CampaignData) -> Table:
    """Return a table with a row a case: outcomes with counts, and of each measured step rates and its peak of memory.

    Rates are medians of trials in which that step is ok, peaks the highest of all trials in which it was measured.
    """
    trials = data.trials
    columns = [column for column in _STEP_COLUMNS if trials[f"{column[0]}_outcome"].notna().any() or column[4]]
    table = Table(title=f"Campaign {campaign.plan.campaign}", title_justify="left", box=None, pad_edge=False)
    for heading in ("case", "outcomes"):
        table.add_column(heading)
    for _, _, heading, statistic, _ in columns:
        table.add_column(f"{heading}\n{statistic}", justify="right")
    outcome_of = {
        trial_id: (_step_words(upload, download) or outcome, Outcome(outcome))
        for trial_id, outcome, upload, download in zip(
            *(trials[name] for name in ("trial_id", "outcome", "upload_outcome", "download_outcome")), strict=True
        )
    }
    case_of = {trial.trial_id: trial.case for trial in campaign.needed}
    for case in campaign.plan.cases:
        planned = [name for name, its_case in case_of.items() if its_case == case]
        rows = trials[trials["trial_id"].isin(planned)]
        # What was asked for is equal in a case of the plan; build and ground may not be.
        for place, (others, part) in enumerate(factors.split(rows) or [("", rows)]):
            outcomes = Counter(outcome_of[name] for name in part["trial_id"])
            words = Text(", ").join(
                Text(f"{n} {word}", style=_colour(outcome)) for (word, outcome), n in outcomes.most_common()
            )
            if len(planned) > len(rows) and place == 0:
                words = Text(", ").join([*([words] if outcomes else []), Text(f"{len(planned) - len(rows)} not run")])
            cells = [_cell(part, step, name, statistic) for step, name, _, statistic, _ in columns]
            emulated = " (emulated)" if (part["acceleration"] == "emulation").any() else ""
            label = f"{case}{emulated}{' · ' if others else ''}{others}"
            table.add_row(Text(label), words, *cells)
    return table


_STEP_COLUMNS = (
    ("upload", "throughput_mib_s", "upload\nMiB/s", "median", True),
    ("upload", "transfer_mib_s", "transfer\nMiB/s", "median", True),
    ("upload", "commit_mib_s", "commit\nMiB/s", "median", True),
    ("upload", "peak_anon_bytes", "upload\npeak MiB", "maximum", True),
    ("download", "download_mib_s", "download\nMiB/s", "median", False),
    ("download", "download_peak_anon_bytes", "download\npeak MiB", "maximum", False),
)
"""Measured step, column of a row, heading, statistic, and whether it is shown even if no trial has measured it."""


def _cell(rows: "pd.DataFrame", step: str, name: str, statistic: str) -> str:
    measured = rows[rows[f"{step}_outcome"].notna()]
    if statistic == "maximum":
        peaks = measured[name].dropna()
        return f"{peaks.max() / MIB:,.1f}" if len(peaks) else "-"
    good = measured[(measured[f"{step}_outcome"] == Outcome.OK) & (measured["outcome"] != Outcome.CORRUPTED)]
    rates = good[name].dropna()
    return f"{rates.median():,.1f}" if len(rates) else "-"


def _step_words(upload: Any, download: Any) -> str:
    """Return the outcome of both measured steps where they differ, else an empty text."""
    both = [str(found) for found in (upload, download) if isinstance(found, str)]
    return f"upload {both[0]} but download {both[1]}" if len(set(both)) > 1 else ""


def show_end(campaign: Campaign, code: ExitCode) -> None:
    """Print how a campaign ended and what can be done next."""
    _console.print()
    data = read_campaign(campaign.folder)
    _show_table(outcome_table(campaign, data))
    name = in_command(campaign.folder)
    _console.print(
        f"{len(data.trials)} of {len(campaign.needed)} trials have a result. A rate counts when its step is ok. "
        f"Everything is in {campaign.folder}"
    )
    if any(trial.parameters.build == "calibration" for trial in campaign.plan.trials):
        _console.print(
            "These are numbers of the calibration server, a test instrument, not of PicoShare.",
            style="yellow",
        )
    if any(trial.parameters.memory_limit == "none" for trial in campaign.plan.trials):
        _console.print("The memory limit was NOT enforced in some of these trials.", style="yellow")
    if (data.trials["acceleration"] == "emulation").any():
        _console.print(
            "Virtual machines were emulated by software: their rates and times say little about a real machine.",
            style="yellow",
        )
    machine = registry.attach(campaign.machine_name)
    if machine is not None and machine.kept:
        _console.print(
            f"Stopped at a failure, with its machine still up. Copy the notebook of that trial from {campaign.folder}, "
            f"open the copy in JupyterLab and run it: it re-attaches. What it finds does not change this campaign. "
            f"Take the machine down with: picolab machines remove {machine.name}"
        )
        if machine.way_in:
            _console.print(f"Get into it with: {machine.way_in}")
    if code in (ExitCode.INTERRUPTED, ExitCode.INSTRUMENT_FAULT):
        _console.print(f"Go on with: picolab resume {name}", style="bold")
    else:
        _console.print(f"Render the report with: picolab report {name}")
        if campaign.plan.baseline is not None:
            _console.print(f"Compare its builds with: picolab verdict {name}")


def show_lines(lines: Sequence[str]) -> None:
    """Print lines as they are."""
    for line in lines:
        _console.print(line)


def show_verdict(
    folder: Path, output: Path | None = None, margin: float | None = None, baseline: str | None = None
) -> ExitCode:
    """Compare the builds of a campaign, print the verdicts, write the page, and return the code that was printed."""
    from picolab.analysis.comparison.compare import compare
    from picolab.report.comparison_text import as_lines
    from picolab.report.render import render_comparison

    found = compare(read_campaign(folder), margin, baseline)
    # The page first: when it cannot be written, the command ends with another code than the one below.
    page = render_comparison(folder, output, margin, baseline)
    _console.print()
    show_lines(as_lines(found))
    _console.print(f"\nPage: {page}")
    return found.exit_code


def show_status(folder: Path) -> ExitCode:
    """Print how far a campaign is, and return 3 when results are gone, 4 when the plan cannot be read, else 0."""
    data = read_campaign(folder)
    try:
        campaign = Campaign.load(folder)
    except CampaignNotFound:
        raise
    except PicolabError as error:
        _console.print(one_line(str(error)), style="red")
        _console.print(f"{len(data.trials)} trials have a result. Folder: {folder}")
        _show_problems(data)
        return error.exit_code
    _show_table(outcome_table(campaign, data))
    left_s = campaign.tally.left_s()
    eta = f", about {format_duration(left_s)} left" if left_s else ""
    _console.print(f"{len(data.trials)} of {len(campaign.needed)} trials have a result{eta}. Folder: {folder}")
    for row in data.faults.to_dict("records"):
        words = f"  {row['trial_id']} attempt {row['attempt']}: {row['outcome']}: {row['outcome_detail']}"
        _console.print(one_line(words))
    _show_problems(data)
    if len(data.trials) < len(campaign.needed):
        _console.print(f"Go on with: picolab resume {in_command(folder)}")
    return ExitCode.INSTRUMENT_FAULT if data.lost else ExitCode.OK


def _show_problems(data: CampaignData) -> None:
    """Print which results are gone, and the first of everything else that cannot be read or contradicts."""
    if data.lost:
        names = ", ".join(f"{trial_id} ({outcome})" for trial_id, outcome in list(data.lost.items())[:_MOST_PROBLEMS])
        more = " ..." if len(data.lost) > _MOST_PROBLEMS else ""
        which = (
            "1 result that the ledger names is"
            if len(data.lost) == 1
            else (f"{len(data.lost)} results that the ledger names are")
        )
        _console.print(one_line(f"{which} gone: {names}{more}"), style="red")
    told = data.problems[~data.problems["problem"].str.startswith(("no result", "is gone: "))]
    for path, problem in told.head(_MOST_PROBLEMS).itertuples(index=False):
        _console.print(one_line(f"  {path}: {problem}"), style="yellow")
    if len(told) > _MOST_PROBLEMS:
        _console.print(f"  and {len(told) - _MOST_PROBLEMS} more; the report lists them all", style="yellow")


def show_campaigns(folders: Sequence[Path]) -> None:
    """Print a line a campaign; one that cannot be read says so."""
    if not folders:
        _console.print("There are no campaigns yet. Begin with: picolab matrix parameters/quick.yaml")
    for folder in folders:
        try:
            campaign = Campaign.load(folder)
            progress = campaign.progress()
        except CampaignNotFound:
            continue
        except (PicolabError, OSError) as error:
            _console.print(one_line(f"{folder.name}  {error}"), style="red")
        else:
            gone = ", and some of its results are gone" if campaign.tally.lost else ""
            _console.print(f"{one_line(folder.name)}  {progress.done} of {progress.total} trials{gone}  {folder}")


def show_trial(finished: FinishedTrial) -> None:
    """Print what a single trial found."""
    record = finished.record
    if record is None:
        _console.print(f"No record: {one_line(finished.reason)}", style="red")
    else:
        _console.print(
            Text(record.outcome, style=f"bold {_colour(record.outcome)}")
            + Text(f"  ({OUTCOME_MEANINGS[record.outcome]})")
        )
        _console.print(f"  {one_line(record.outcome_detail)}")
        upload = record.upload
        virtual = record.machine.virtual_machine if record.machine else None
        emulated = " (emulated)" if virtual is not None and virtual.acceleration == "emulation" else ""
        found = {step: step_outcome(record, step) for step in STEPS}
        unmeasured = " (not measured, only done)"
        if upload is not None and upload.duration_s is not None:
            _console.print(
                f"  upload    {found['upload'] or 'done'}, {upload.throughput_mib_s:,.1f} MiB/s{emulated}: "
                f"transfer {in_seconds(upload.transfer_s)}, commit {in_seconds(upload.commit_s)}"
                + ("" if found["upload"] else unmeasured)
            )
        elif found["upload"] is not None:
            _console.print(f"  upload    {found['upload']}")
        if record.verify is not None and record.verify.download_mib_s is not None:
            _console.print(
                f"  download  {found['download'] or 'done'}, {record.verify.download_mib_s:,.1f} MiB/s{emulated}"
                + ("" if found["download"] else unmeasured)
            )
        elif found["download"] is not None:
            _console.print(f"  download  {found['download']}")
        memories: dict[Step, MemoryRecord | None] = {
            "upload": record.memory,
            "download": record.download.memory if record.download else None,
        }
        for step, memory in memories.items():
            if found[step] is None or memory is None or memory.peak_anon_bytes is None or record.machine is None:
                continue
            limit = record.machine.memory_limit.limit_bytes
            of_limit = f"of {limit / MIB:,.0f} MiB" if limit else "with no limit"
            _console.print(
                f"  memory    {step}: peak {memory.peak_anon_bytes / MIB:,.1f} MiB anonymous {of_limit}, "
                f"{memory.samples} samples"
            )
        for caveat in record.caveats:
            _console.print(f"  caveat    {one_line(caveat.message)} {caveat.advice}", style="yellow")
    if finished.kept_machine:
        _console.print(
            f"The machine {finished.kept_machine!r} is still up. Look at it: open {finished.folder / 'trial.ipynb'} in "
            f"JupyterLab and run it. Take it down: picolab machines remove {finished.kept_machine}"
        )
        if finished.way_in:
            _console.print(f"Get into it: {finished.way_in}")
    _console.print(f"Files: {finished.folder}")


def show_machines(machines: Sequence[dict[str, Any]]) -> None:
    """Print a line a machine."""
    if not machines:
        _console.print("There are no machines.")
    for machine in machines:
        way_in = f"  get in: {machine['way_in']}" if machine["way_in"] else ""
        _console.print(
            f"{machine['name']}  {machine['kind']}  {machine['ram_mb']} MiB  held by {machine['holder']}  "
            f"server: {machine['server']}{way_in}"
        )


def show_boxes(boxes: "Sequence[ListedBox]") -> None:
    """Print a line a box, with libvirt's copies of it below."""
    if not boxes:
        _console.print("There are no boxes. Build one with: picolab box build")
    for box in boxes:
        for version in box.boxes:
            recipe = f"recipe {version.recipe}" if version.recipe else f"version {version.version}"
            by = " (by this version of picolab)" if box.current else ""
            _console.print(f"{box.name}  {version.provider}  {recipe}{by}  {version.size_bytes / MIB:,.0f} MiB")
        if not box.boxes:
            _console.print(f"{box.name}  no longer in Vagrant")
        if box.base_volumes is None:
            _console.print("  libvirt does not answer, so its copies are not known")
        for volume in box.base_volumes or ():
            users = f"used by {', '.join(volume.used_by)}" if volume.used_by else "used by no machine"
            _console.print(f"  base volume {volume.name}  {volume.allocation_bytes / MIB:,.0f} MiB  {users}")


def show_findings(findings: "Sequence[Finding]") -> None:
    """Print what the doctor found, with the command that mends each gap."""
    for finding in findings:
        mark, style = {"good": ("ok", "green"), "gap": ("--", "yellow"), "bad": ("!!", "red")}[finding.state]
        _console.print(Text(f"{mark}  ", style=style) + Text(f"{finding.what}: ", style="bold") + Text(finding.text))
        if finding.remedy:
            _console.print(f"      {finding.remedy}", style="cyan")
