"""The notebook of the history, in a real kernel, with change points and a memory floor."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from campaign_factory import FakeTrial, write_campaign
from history_campaigns import dated, night

from picolab.config.floor_search import FloorSearch
from picolab.config.project import outputs_dir, project_root
from picolab.history.add import add_campaign
from picolab.history.database import Database
from picolab.history.floors import FLOOR, floor_rows
from picolab.history.series import chosen_metrics, read_series
from picolab.history.store import open_store
from picolab.record.outcomes import Outcome
from picolab.results.standing import read_standing


def search(number: int, floor_mb: int, kernel: str = "6.1.0") -> Path:
    """Write a campaign that searched the floor of a build which needs this much RAM; `kernel` is that of its end."""
    levels = sorted({floor_mb + step for step in (-30, -12, -6, -3, -2, -1, 0, 1, 2, 3, 6, 12, 30)} | {256, 512})
    trials = [
        FakeTrial(
            build="1.5.4",
            label="build-a",
            ram_mb=ram_mb,
            outcome=Outcome.OK if ram_mb >= floor_mb else Outcome.OOM_KILLED,
            started_min=number * 24 * 60 + position,
            kernel=kernel if position > 2 * len(levels) else "6.1.0",
        )
        for position, ram_mb in enumerate(levels * 4, start=1)
    ]
    folder = write_campaign(outputs_dir() / f"floor-{number:02d}", trials)
    plan = json.loads((folder / "plan.json").read_text())
    limits = FloorSearch.model_validate({"low_mb": 32, "high_mb": 512, "limit": len(trials), "confirm": 0})
    planned = [trial | {"purpose": "search"} for trial in plan["trials"]]
    dated(folder, number, floor=limits.model_dump(mode="json"), trials=planned)
    return folder


@pytest.fixture
def filled() -> None:
    for number in range(8):
        add_campaign(
            open_store(None), night(number, {"build-a" if number < 4 else "build-b": 1.0 + 0.2 * (number > 3)})
        )
    add_campaign(open_store(None), search(9, 100))


@pytest.mark.usefixtures("filled")
def test_the_notebook_shows_every_build_over_time(tmp_path: Path) -> None:
    database = Database(open_store(None))
    (floor,) = read_series(database, [FLOOR])
    assert floor.points[0].values[FLOOR.name] / (1 << 20) == pytest.approx(100, rel=0.05)
    # Trials of a search are of no series but the floor's.
    assert {series.key for series in read_series(database, chosen_metrics([]))} > {floor.key}
    assert sum(len(series.points) for series in read_series(database, chosen_metrics(["throughput_mib_s"]))) == 8

    done = tmp_path / "history.ipynb"
    source = project_root() / "notebooks" / "history.ipynb"
    papermill = [sys.executable, "-m", "papermill", str(source), str(done), "--no-progress-bar"]
    ran = subprocess.run(papermill, capture_output=True, text=True, timeout=180, check=False)
    assert ran.returncode == 0, ran.stderr
    outputs = [output for cell in json.loads(done.read_text())["cells"] for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]

    assert sum("image/png" in data for data in shown) == 3
    tables = ["".join(data["text/html"]) for data in shown if "<table" in "".join(data.get("text/html", ""))]
    assert len(tables) == 2 and "faster" in tables[0] and "build-b" in tables[0]
    assert not [output for output in outputs if output["output_type"] in ("stream", "error")]


def test_a_floor_of_two_hosts_is_a_value_of_none() -> None:
    assert len(floor_rows(read_standing(search(1, 100)))) == 1
    assert floor_rows(read_standing(search(2, 100, kernel="6.2.0"))) == []
