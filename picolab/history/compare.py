"""Two builds compared from a history: in each campaign that paired them on one host, and nowhere else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from picolab.analysis.comparison import gate
from picolab.analysis.comparison.compare import compare
from picolab.analysis.comparison.models import Comparison
from picolab.analysis.comparison.trials import read_trials
from picolab.errors import ParameterError, PicolabError
from picolab.files.writing import file_name, write_atomically
from picolab.history.add import KEPT_FILES
from picolab.history.database import Database
from picolab.results.load import CampaignData, read_campaign
from picolab.results.standing import RECORD_SUFFIX
from picolab.text.foreign import shown
from picolab.text.wording import counted, listed_few

_LEAST_DIGITS = 6


@dataclass
class FromHistory:
    """Two builds in a history.

    Attributes:
        comparisons: of each campaign that paired them, the newest first.
        refused: why a campaign that has both is left out, one sentence each.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Campaign:
    key: str
    name: str
    hosts: int


def compare_from_history(database: Database, baseline: str, candidate: str, margin: float | None = None) -> FromHistory:
    """Compare two builds in each campaign of a history that has both.

    Args:
        baseline, candidate: label of a build, or the begin of its SHA-256, at least 6 digits.
        margin: relative change that does not matter; default: that of each campaign's plan.

    Raises:
        ParameterError: a build is not in the history, or no campaign paired the two on one host.
    """
    names = {build: _campaigns_with(database, build) for build in (baseline, candidate)}
    for build, campaigns in names.items():
        if not campaigns:
            raise ParameterError(
                f"{shown(build)}: no trial of such a build is in {database.store.place}; "
                f"it has {listed_few(_builds(database)) or 'no build'}"
            )
    found = FromHistory()
    for campaign in [one for one in names[baseline] if one in names[candidate]]:
        if campaign.hosts > 1:
            found.refused.append(f"{campaign.name}: its trials ran on {campaign.hosts} hosts or kernels")
            continue
        try:
            with _written_out(database, campaign) as folder:
                comparison = _of_two(read_campaign(folder), baseline, candidate, margin)
        except PicolabError as error:
            found.refused.append(f"{campaign.name}: {error}")
            continue
        if comparison.comparable:
            found.comparisons.append(comparison)
        else:
            found.refused.append(f"{campaign.name}: {comparison.not_comparable_reason}")
    if not found.comparisons:
        raise ParameterError(_never_paired(baseline, candidate, names[baseline], names[candidate], found.refused))
    return found


def _campaigns_with(database: Database, build: str) -> list[_Campaign]:
    """Return the campaigns with trials of a build, the newest first."""
    digits = build if len(build) >= _LEAST_DIGITS and set(build) <= set("0123456789abcdef") else "no digits"
    rows = database.rows(
        "SELECT campaign_key, any_value(campaign) AS campaign, count(DISTINCT host) AS hosts, max(started_utc) AS last "
        "FROM trials GROUP BY campaign_key HAVING bool_or(build = ? OR starts_with(build_sha256, ?)) "
        "ORDER BY last DESC, campaign_key",
        build,
        digits,
    )
    return [_Campaign(row["campaign_key"], str(row["campaign"] or "by hand"), row["hosts"]) for row in rows]


def _builds(database: Database) -> list[str]:
    rows = database.rows("SELECT build, max(started_utc) AS last FROM trials GROUP BY build ORDER BY last DESC, build")
    return [str(row["build"]) for row in rows]


def _never_paired(
    baseline: str, candidate: str, old: Sequence[_Campaign], new: Sequence[_Campaign], refused: Sequence[str]
) -> str:
    reasons = f": {'; '.join(refused[:3])}" if refused else ""
    where = (
        f"{shown(baseline)} is in {counted(len(old), 'campaign')}, {shown(candidate)} in "
        f"{counted(len(new), 'campaign')}, and no campaign measured both"
        if not refused
        else f"{counted(len(refused), 'campaign')} with both cannot be used"
    )
    return (
        f"{baseline} and {candidate} were never paired on one host, so changes in between cannot be separated from a "
        f"difference of the builds ({where}{reasons}); pair them with `picolab compare`, then add that campaign"
    )


@contextmanager
def _written_out(database: Database, campaign: _Campaign) -> Iterator[Path]:
    """Write a campaign's records and small files to a temporary folder, from which it is read as any other."""
    rows = database.rows("SELECT campaign, files FROM campaigns WHERE campaign_key = ?", campaign.key)
    if not rows:
        raise ParameterError("its plan and ledger are not in the history; add the campaign again")
    row = rows[0]
    records = database.rows("SELECT trial_id, record FROM trials WHERE campaign_key = ?", campaign.key)
    with tempfile.TemporaryDirectory(prefix="picolab-history-") as scratch:
        folder = Path(scratch) / _safe(str(row["campaign"]))
        (folder / "trials").mkdir(parents=True)
        for name, content in database.parsed(campaign.name, "plan and ledger", row["files"], dict).items():
            if name in KEPT_FILES:
                write_atomically(folder / name, str(content))
        for record in records:
            name = f"{_safe(str(record['trial_id']))}{RECORD_SUFFIX}"
            write_atomically(folder / "trials" / name, str(record["record"]))
        yield folder


def _safe(name: str) -> str:
    """Return a name from a history as a file name.

    Raises:
        ParameterError: it would be a path.
    """
    try:
        return file_name(name)
    except ValueError as error:
        raise ParameterError(f"the history names a campaign or trial that {error}") from None


def _of_two(data: CampaignData, baseline: str, candidate: str, margin: float | None) -> Comparison:
    """Return the comparison of a campaign, with this baseline and this candidate alone."""
    trials = read_trials(data).trials
    names = {}
    for build in (baseline, candidate):
        found = {
            trial.build
            for trial in trials
            if build in (trial.build, trial.record.build.label if trial.record.build else None)
            or (len(build) >= _LEAST_DIGITS and str(trial.row["build_sha256"]).startswith(build))
        }
        if len(found) != 1:
            raise ParameterError(
                f"{shown(build)} stands for {counted(len(found), 'build')} in it ({listed_few(found)})"
            )
        names[build] = found.pop()
    if names[baseline] == names[candidate]:
        raise ParameterError(f"both names stand for {names[baseline]}")
    whole = compare(data, margin, names[baseline])
    metrics = tuple(row for row in whole.metrics if row.candidate == names[candidate])
    outcomes = tuple(row for row in whole.outcomes if row.candidate == names[candidate])
    decision, reason = gate.decide(metrics, outcomes, whole.caveats, whole.margin)
    return replace(
        whole,
        candidates=(names[candidate],),
        metrics=metrics,
        outcomes=outcomes,
        builds=tuple(one for one in whole.builds if one.build in names.values()),
        gate=decision,
        gate_reason=reason,
    )
