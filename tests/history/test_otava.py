"""The export for Apache Otava, read as its CSV importer reads it."""

import csv
import json
import os
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from command_line import picolab_here
from history_campaigns import night

from picolab.history.database import Database
from picolab.history.otava import export_otava
from picolab.history.series import Wanted, read_series
from picolab.history.store import open_store
from picolab.record.metrics import METRICS


@pytest.fixture(autouse=True)
def added() -> None:
    for number in (1, 0):
        night(number, {"build-a": 1.0, "build-b": 1.1})
    assert picolab_here("history", "add").returncode == 0


def test_each_series_and_metric_is_a_test(tmp_path: Path) -> None:
    names = ("throughput_mib_s", "peak_anon_bytes")
    metrics = [word for name in names for word in ("--metric", name)]
    done = picolab_here("history", "export", "--format", "otava", "--output", str(tmp_path / "otava"), *metrics)
    assert done.stdout == f"2 tests in {tmp_path / 'otava' / 'otava.yaml'}\n"
    tests = yaml.safe_load((tmp_path / "otava" / "otava.yaml").read_text())["tests"]

    assert sorted(name.rpartition(".")[2] for name in tests) == sorted(names)
    for name, test in tests.items():
        metric = METRICS[name.rpartition(".")[2]]
        with (tmp_path / "otava" / test["file"]).open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter=",", quotechar='"'))
        assert test["metrics"] == {metric.name: {"direction": 1 if metric.higher_is_better else -1, "scale": 1}}
        times = [datetime.strptime(row[test["time_column"]], "%Y-%m-%d %H:%M:%S %z") for row in rows]
        assert times == sorted(times) and len(rows) == 4
        assert all(float(row[metric.name]) > 0 for row in rows)
        assert sorted(row["build"] for row in rows[:2]) == ["build-a", "build-b"]
        assert set(test["attributes"]) <= set(rows[0])


def test_a_link_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tests").symlink_to(tmp_path)
    assert "is a link" in picolab_here("history", "export", "--output", str(tmp_path)).stderr
    (tmp_path / "file").touch()
    assert "is a file" in picolab_here("history", "export", "--output", str(tmp_path / "file")).stderr


def test_series_that_differ_late_in_their_keys_have_names_of_their_own(tmp_path: Path) -> None:
    metric = METRICS["throughput_mib_s"]
    (series,) = [one for one in read_series(Database(open_store(None)), [metric], Wanted()) if one.of(metric)]
    twins = [replace(series, key=series.key[:-1] + digit) for digit in "01"]
    config, *files = export_otava(twins, [metric], tmp_path)
    assert len(set(files)) == len(yaml.safe_load(config.read_text())["tests"]) == 2


def test_files_of_an_earlier_export_go_and_others_stay(tmp_path: Path) -> None:
    metric = METRICS["throughput_mib_s"]
    series = read_series(Database(open_store(None)), [metric], Wanted())
    tests = tmp_path / "tests"
    tests.mkdir()
    for name in ("local-512mb-100M-6f0c1d-58de52.peak_anon_bytes.csv", "mine.csv"):
        (tests / name).touch()
    _, *files = export_otava(series, [metric], tmp_path)
    assert sorted(tests.iterdir()) == sorted([*files, tests / "mine.csv"])


@pytest.mark.skipif(shutil.which("otava") is None, reason="Apache Otava is not installed; see docs/history.md")
def test_otava_itself_finds_a_step(tmp_path: Path) -> None:
    for number in range(2, 16):
        night(number, {"build-a": 1.0} if number < 8 else {"build-b": 0.8})
    assert picolab_here("history", "add").returncode == 0
    picolab_here("history", "export", "--output", str(tmp_path), "--metric", "throughput_mib_s")

    def otava(*words: str) -> str:
        environment = os.environ | {"OTAVA_CONFIG": "otava.yaml"}
        done = subprocess.run(
            ["otava", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    (name,) = otava("list-tests").split()
    # Otava leaves out points that are later than now.
    found = json.loads(otava("analyze", "--output", "json", "--until", "2100-01-01", name))[name]
    (step,) = [point for point in found if point["attributes"]["campaign"] == "bench-08"]
    assert step["attributes"]["build"] == "build-b"
    assert float(step["changes"][0]["forward_change_percent"]) < -15
