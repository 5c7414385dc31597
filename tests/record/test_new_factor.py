"""A factor needs one entry, a parameter of a trial none: all tables, charts and comparisons tell its cases apart."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from campaign_factory import FakeTrial, write_campaign
from comparison_campaigns import around, paired_trials, read
from factor_campaigns import assert_never_pooled

from picolab.analysis.comparison.compare import compare
from picolab.campaign.runner import Campaign
from picolab.charts.style import labelled
from picolab.cli.outcome_table import outcome_table
from picolab.config.trial_parameters import TrialParameters
from picolab.record import factors
from picolab.record.factors import FACTORS, Factor
from picolab.results.export import export_campaign
from picolab.results.load import CampaignData, read_campaign
from picolab.results.rows import plain_rows

ROOT = Path(__file__).resolve().parents[2]
DISKS = ("ext4", "xfs")
PATH = "machine.data_folder_file_system"


@pytest.fixture
def factor(monkeypatch: pytest.MonkeyPatch) -> Factor:
    """A fact that every record holds and that tells no cases apart."""
    new = Factor("disk_kind", source=PATH, words="disk")
    monkeypatch.setitem(FACTORS, new.name, new)
    return new


@pytest.fixture
def data(factor: Factor, tmp_path: Path) -> CampaignData:
    """Three trials on each file system, as one plan that asks for the same in all of them."""
    trials = [
        FakeTrial(speed=1.2 * 0.5**place, block=block, facts={PATH: disk})
        for block in (1, 2, 3)
        for place, disk in enumerate(DISKS)
    ]
    return read_campaign(write_campaign(tmp_path / "c", trials))


def test_a_new_fact_is_never_pooled(data: CampaignData) -> None:
    assert_never_pooled(data, 2)
    assert {row["others"] for row in labelled(data.trials)} == {"disk ext4", "disk xfs"}


def test_without_its_entry_the_same_trials_are_one_case(tmp_path: Path) -> None:
    trials = [FakeTrial(block=block, facts={PATH: disk}) for block in (1, 2) for disk in DISKS]
    assert read_campaign(write_campaign(tmp_path / "c", trials)).trials["case_id"].nunique() == 1


def test_a_new_fact_is_in_results_and_exports(data: CampaignData, factor: Factor, tmp_path: Path) -> None:
    export_campaign(data.folder, tmp_path / "export")
    for frame in (
        pd.read_csv(data.folder / "results.csv"),
        pd.read_csv(tmp_path / "export" / "trials.csv"),
        pd.read_parquet(tmp_path / "export" / "trials.parquet"),
    ):
        assert list(frame[factor.name]) == ["ext4", "xfs"] * 3
        assert frame.columns[-1] == factor.name, "the other columns keep their places"


def test_a_new_fact_splits_a_case_on_the_console(data: CampaignData) -> None:
    table = outcome_table(Campaign.load(data.folder), plain_rows(data.trials))
    cases = [str(cell) for cell in table.columns[0].cells]
    assert [case.split(" · ")[1] for case in cases] == ["disk ext4", "disk xfs"]


def test_a_new_fact_leaves_the_ids_of_other_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {name: f"level of {name}" for name in FACTORS}
    before = factors.case_id(row)
    monkeypatch.setitem(FACTORS, "disk_kind", Factor("disk_kind", source=PATH))
    assert factors.case_id(row) == before != factors.case_id(row | {"disk_kind": "ext4"})


def test_a_new_fact_splits_a_scenario(factor: Factor, tmp_path: Path) -> None:
    trials = paired_trials([*around(0.8), *around(1.0)])
    for trial in trials:
        trial.facts[PATH] = "ext4" if trial.block <= 10 else "xfs"
    comparison = compare(read(tmp_path / "c", trials[:-1], trials[-1:]))
    verdicts = {row.scenario: row.verdict for row in comparison.metrics if row.metric.name == "throughput_mib_s"}
    assert verdicts == {"local-512mb-100M · disk ext4": "slower", "local-512mb-100M · disk xfs": "equivalent"}
    assert comparison.scenarios == tuple(sorted(verdicts)), "a trial without a result goes with its neighbours"


# A new parameter: the source gets the one line that somebody would write.

NEW_PARAMETER = '    compression: Literal["off", "on"] = Field("off", description="compress the upload")\n'
NEIGHBOUR = "    sample_interval_s: "
CHECKS = """
import sys
from pathlib import Path

from campaign_factory import FakeTrial, write_campaign
from comparison_campaigns import around, paired_trials, read
from factor_campaigns import assert_never_pooled

from picolab.analysis.comparison.compare import compare
from picolab.charts.style import labelled
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import make_plan
from picolab.results.export import export_campaign
from picolab.results.load import read_campaign

folder = Path(sys.argv[1])
trials = [
    FakeTrial(speed=1.2 * 0.5**place, block=block, parameters_too={"compression": level})
    for block in (1, 2, 3)
    for place, level in enumerate(("off", "on"))
]
data = read_campaign(write_campaign(folder / "c", trials))
assert_never_pooled(data, 2)
assert {row["others"] for row in labelled(data.trials)} == {"compression off", "compression on"}
export_campaign(data.folder, folder / "export")
for path in (data.folder / "results.csv", folder / "export" / "trials.csv"):
    head, first, *_ = path.read_text().splitlines()
    assert head.endswith(",compression") and first.endswith(",off"), path

wanted = {"matrix": {"file_size": ["4M"], "compression": ["off", "on"]}, "repeats": 1}
plan = make_plan(CampaignParameters.model_validate(wanted), "p", "p.yaml")
assert len(plan.cases) == 2 and any("compression_on" in case for case in plan.cases), plan.cases

both = [
    trial
    for level in ("off", "on")
    for trial in paired_trials(around(1.0), parameters_too={"compression": level})
]
comparison = compare(read(folder / "both", both))
assert comparison.scenarios == ("local-512mb-100M", "local-512mb-100M-compression_on"), comparison.scenarios
"""


def test_a_new_parameter_is_a_factor_without_another_edit(tmp_path: Path) -> None:
    copy = tmp_path / "source"
    shutil.copytree(ROOT / "picolab", copy / "picolab", ignore=shutil.ignore_patterns("__pycache__"))
    module = copy / "picolab" / "config" / "trial_parameters.py"
    text = module.read_text()
    assert text.count(NEIGHBOUR) == 1
    module.write_text(text.replace(NEIGHBOUR, NEW_PARAMETER + NEIGHBOUR))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(copy), str(ROOT / "tests")])}
    for words in (["-m", "picolab.record.schema"], ["-c", CHECKS, str(tmp_path)]):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("factor", FACTORS.values(), ids=lambda factor: factor.name)
def test_an_entry_names_what_exists(factor: Factor) -> None:
    assert factor.kind in ("string", "Int64", "Float64", "boolean")
    assert bool(factor.parameter) != bool(factor.source) and factor.title


@pytest.mark.parametrize("factor", factors.parameter_factors(), ids=lambda factor: factor.name)
def test_a_parameter_says_which_machines_ignore_it(factor: Factor) -> None:
    description = str(TrialParameters.model_fields[str(factor.parameter)].description)
    assert ("(local ignores it)" in description) is (factor.machines == "virtual")
