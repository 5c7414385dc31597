"""Campaigns whose trials differ in given factors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from campaign_factory import FakeTrial, make_record, make_samples

from picolab.config.trial_parameters import TrialParameters
from picolab.record.record import Record
from picolab.results.load import CampaignData
from picolab.results.rows import FAULT_COLUMNS, record_row, sample_frame, trial_frame

Case = dict[str, Any]
"""Parameters that are not as usual, and under `facts` what a record is to say."""


def campaign_of(cases: Sequence[Case], repeats: int = 3) -> CampaignData:
    """Return a campaign with some trials of each case; each is twice as slow as the one before."""
    trials = [
        (case, FakeTrial(speed=1.2 * 0.5**place, block=block))
        for block in range(1, repeats + 1)
        for place, case in enumerate(cases)
    ]
    records, samples = {}, {}
    for position, (case, trial) in enumerate(trials, start=1):
        for name in ("machine", "memory_limit", "direction", "ram_mb", "file_size", "build"):
            setattr(trial, name, case.get(name, getattr(trial, name)))
        facts = case.get("facts", {})
        if any(name.startswith("virtual.") for name in facts):
            trial.machine = "vagrant"
        made = make_record(trial, position)
        made["parameters"] |= {name: value for name, value in case.items() if name != "facts"}
        made["build"]["label"] = TrialParameters.model_validate(made["parameters"]).build_label
        made["identity"]["trial_id"] = f"{position:03d}"
        places = {"build": made["build"], "limit": made["machine"]["memory_limit"]}
        places["virtual"] = made["machine"]["virtual_machine"]
        if any(name.startswith("network.") for name in facts):
            places["network"] = made["machine"]["network"] = {"kind": "private", "reason": None}
        for path, value in facts.items():
            part, _, name = path.partition(".")
            places[part][name] = value
        record = Record.model_validate(made)
        records[record.identity.trial_id] = record
        samples[record.identity.trial_id] = make_samples(trial, position)["columns"]
    frame = trial_frame([record_row(record) for record in records.values()])
    nothing = pd.DataFrame(columns=list(FAULT_COLUMNS))
    problems = pd.DataFrame(columns=["path", "problem"])
    return CampaignData(Path("synthetic"), {}, frame, nothing, sample_frame(samples, frame), problems, records)
