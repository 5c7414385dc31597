"""The table of a campaign's cases: their outcomes, rates and peaks of memory."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.table import Table

from picolab.campaign.runner import Campaign
from picolab.cli.terminal import Text, colour
from picolab.config.sizes import MIB
from picolab.record import factors
from picolab.record.outcomes import Outcome
from picolab.results.load import CampaignData

if TYPE_CHECKING:
    import pandas as pd


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
                Text(f"{n} {word}", style=colour(outcome)) for (word, outcome), n in outcomes.most_common()
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


def _cell(rows: pd.DataFrame, step: str, name: str, statistic: str) -> str:
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
