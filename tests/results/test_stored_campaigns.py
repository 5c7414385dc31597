"""Campaigns measured before the package was split into rooms read the same: every column of every trial and sample."""

import csv
import tarfile
from pathlib import Path

import pandas as pd
import pytest

import picolab as pl
from picolab.results.export import export_campaign, renew_results

STORED = Path(__file__).parents[1] / "records" / "campaigns-before-rooms.tar.xz"
"""Two campaigns of the calibration server, without their notebooks: one all ok, one of five kinds of failure. Each has
its `results.csv` and, as `samples.expected.csv`, the exported samples, as the older version wrote them."""


@pytest.fixture(params=["quick", "fails"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(STORED) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.setenv("PICOLAB_OUTPUTS_DIR", str(tmp_path))
    return tmp_path / str(request.param)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_stored_results_csv_only_gains_columns(folder: Path) -> None:
    before = rows_of(folder / "results.csv")
    renew_results(folder)
    after = rows_of(folder / "results.csv")

    assert [{column: new[column] for column in old} for old, new in zip(before, after, strict=True)] == before
    assert list(after[0])[: len(before[0])] == list(before[0]), "columns that are new stand last"
    assert not (folder / "set-aside").exists(), "nothing is lost, so nothing is set aside"


def test_stored_samples_only_gain_columns(folder: Path) -> None:
    export_campaign(folder, folder / "export", ["csv", "parquet"])

    before, after = rows_of(folder / "samples.expected.csv"), rows_of(folder / "export" / "samples.csv")
    assert [{column: new[column] for column in old} for old, new in zip(before, after, strict=True)] == before
    assert list(after[0])[: len(before[0])] == list(before[0]), "columns that are new stand last"
    assert len(pd.read_parquet(folder / "export" / "trials.parquet")) == len(rows_of(folder / "results.csv"))


def test_load_has_the_numbers_of_a_stored_campaign(folder: Path) -> None:
    stored = pd.read_csv(folder / "results.csv")
    trials = pl.load(folder.name).trials
    assert list(trials["trial_id"]) == list(stored["trial_id"])

    numbers = list(stored.dropna(axis="columns", how="all").select_dtypes("number").columns)
    assert len(numbers) > 30
    pd.testing.assert_frame_equal(trials[numbers].astype(float), stored[numbers].astype(float), check_exact=True)
    assert list(trials["case_id"]) == list(stored["case_id"]) and list(trials["outcome"]) == list(stored["outcome"])
    assert set(trials["server"]) == {"picoshare"}, "the only server there was"
