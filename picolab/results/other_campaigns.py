"""Finished trials of other campaigns that answer a question too: the same upload, build, machine, host and picolab."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from picolab import __version__
from picolab.config.answer_request import AnswerRequest, EarlierTrial
from picolab.config.plan import Plan
from picolab.config.trial_parameters import SCENARIO_PARAMETERS, TrialParameters
from picolab.errors import PicolabError
from picolab.host.facts import host_identity
from picolab.record.record import Record
from picolab.results.begun_file import host_changes
from picolab.results.folders import all_campaigns
from picolab.results.standing import read_standing

_MOST_CAMPAIGNS = 60
"""That are looked at, the newest ones."""
_MAY_DIFFER = ("file_size", "parallel_uploads")
_SAME = (*(name for name in SCENARIO_PARAMETERS if name not in _MAY_DIFFER), "environment", "calibration")


def is_alike(one: TrialParameters, other: TrialParameters) -> bool:
    """Return whether two trials differ at most in file size, uploads at the same time, and names."""
    return all(getattr(one, name) == getattr(other, name) for name in _SAME)


def earlier_trials(wanted: TrialParameters, build_sha256: str) -> list[tuple[EarlierTrial, Record]]:
    """Return the finished trials of this project that may be pooled with trials of a question, oldest first.

    Trials of another host, of another version of picolab or of another executable are left out, and so are campaigns
    that cannot be read.
    """
    found = []
    for folder in all_campaigns()[-_MOST_CAMPAIGNS:]:
        with suppress(PicolabError, OSError):
            if any(is_alike(trial.parameters, wanted) for trial in Plan.load(folder).trials):
                found += [
                    (EarlierTrial(campaign=folder.name, trial_id=trial_id), record)
                    for trial_id, record in read_standing(folder).results.items()
                    if _may_be_pooled(record, wanted, build_sha256)
                ]
    return sorted(found, key=lambda one: one[1].identity.started_at)


def _may_be_pooled(record: Record, wanted: TrialParameters, build_sha256: str) -> bool:
    return (
        is_alike(record.parameters, wanted)
        and record.build is not None
        and record.build.sha256 == build_sha256
        and record.provenance.picolab_version == __version__
        and not host_changes(record.provenance.host, host_identity())
    )


@dataclass
class EarlierRecords:
    """The earlier trials that a question names.

    Attributes:
        records: by `campaign/trial_id`.
        gone: those that are not there any more, or cannot be read.
    """

    records: dict[str, Record] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)


def read_earlier(outputs: Path, request: AnswerRequest) -> EarlierRecords:
    """Return the records of the earlier trials that a question names.

    Args:
        outputs: the folder that holds their campaigns.
    """
    found = EarlierRecords()
    for campaign in dict.fromkeys(trial.campaign for trial in request.earlier):
        results: Mapping[str, Record] = {}
        with suppress(PicolabError, OSError):
            results = read_standing(outputs / campaign).results
        for trial in request.earlier:
            if trial.campaign == campaign:
                name = f"{campaign}/{trial.trial_id}"
                if trial.trial_id in results:
                    found.records[name] = results[trial.trial_id]
                else:
                    found.gone.append(name)
    return found
