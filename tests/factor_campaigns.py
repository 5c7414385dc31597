"""Campaigns whose trials differ in given factors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from campaign_factory import FakeTrial, make_record, make_samples

from picolab.charts import campaign
from picolab.config.trial_parameters import TrialParameters
from picolab.record.record import Record
from picolab.report import campaign_page, tables
from picolab.results.load import CampaignData
from picolab.results.rows import FAULT_COLUMNS, joined_samples, record_row, sample_frame, trial_frame
from picolab.text.wording import NOTHING

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
        places |= {"virtual": made["machine"]["virtual_machine"], "host": made["provenance"]["host"]}
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
    return CampaignData(
        Path("synthetic"), {}, frame, nothing, sample_frame(joined_samples(samples), frame), problems, records
    )


def layer_rows(panel: alt.LayerChart, layer: int) -> list[dict[str, Any]]:
    # tests/charts checks charts against the schema, which takes longer than making them.
    spec = panel.to_dict(validate=False)
    name = (spec["layer"][layer].get("data") or spec["data"])["name"]
    return list(spec["datasets"][name])


def title_of(panel: alt.LayerChart) -> str:
    return panel.title if isinstance(panel.title, str) else " ".join(panel.title.text)


def table_of(markup: str) -> pd.DataFrame:
    """Return the words of an HTML table."""
    soup = BeautifulSoup(markup, "html.parser")
    head = [cell.get_text() for cell in soup.select("thead th")]
    return pd.DataFrame(
        [[cell.get_text() for cell in row.select("td")] for row in soup.select("tbody tr")], columns=head
    )


def assert_never_pooled(data: CampaignData, count: int, repeats: int = 3) -> None:
    """Every table and chart has as many cases as there are, each with its own trials only.

    Of a case with direction download there are no numbers of the upload, which is not measured.
    """
    assert data.trials["throughput_mib_s"].round(6).nunique() == count, "the campaign is not as this check supposes"
    uploads = data.trials[data.trials["upload_outcome"].notna()]
    rates = sorted(uploads["throughput_mib_s"].round(6).unique(), reverse=True)
    rows = table_of(tables.case_table(data).markup)
    assert len(rows) == count
    assert list(rows["trials"]) == [f"{repeats} ok"] * count
    medians = sorted((float(rate) for rate in rows["upload, MiB/s"] if rate != NOTHING), reverse=True)
    assert medians == pytest.approx([round(rate, 1) for rate in rates], abs=0.11)
    told = [name for name in ("build", "build and machine", "RAM", "file", "other factors") if name in rows]
    assert not rows[told].astype(str).duplicated().any()

    tiles = campaign.outcome_matrix(data.trials)
    assert [row["words"] for panel in tiles for row in layer_rows(panel, 1)] == [[f"{repeats} ok"]] * count
    for panels in (campaign.throughput(data.trials), *_by_phase(campaign.phases(data.trials))):
        medians = [(title_of(panel), row) for panel in panels for row in layer_rows(panel, 1)]
        assert [row["trials"] for _, row in medians] == [repeats] * len(rates)
        assert len({(title, row["series"], row["file_size"]) for title, row in medians}) == len(rates)
    memory = campaign.memory_panels(data.samples, data.trials)
    assert len(memory) == len({title_of(panel) for panel in memory}) == len(rates)
    for panel in memory:
        assert len({row["trial_id"] for row in layer_rows(panel, 0)}) == repeats
    points = [
        (title_of(panel), row)
        for panel in campaign.peak_memory(data.trials)
        for row in layer_rows(panel, -1)
        if row["kind"] == "peak memory"
    ]
    lines = [(title, row["line"]) for title, row in points]
    assert [lines.count(line) for line in dict.fromkeys(lines)] == [repeats] * len(rates)

    assert data.trials["case_id"].nunique() == data.trials["case"].nunique() == count
    assert data.samples["case_id"].nunique() == count
    assert (
        len(campaign_page.how_to_repeat(data).text.split("# one trial of each case")[1].strip().splitlines()) == count
    )


def _by_phase(panels: list[alt.LayerChart]) -> list[list[alt.LayerChart]]:
    return [[panel for panel in panels if title_of(panel).startswith(phase)] for phase in ("transfer", "commit")]
