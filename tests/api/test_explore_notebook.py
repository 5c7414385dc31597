"""The notebook for own charts, in a real kernel, and exported to a page."""

import json
import subprocess
import sys
from pathlib import Path

from campaign_factory import FakeTrial, quick_matrix, write_campaign

from picolab.config.project import outputs_dir, project_root
from picolab.record.outcomes import Outcome


def test_explore_notebook_shows_frames_and_charts_offline(tmp_path: Path) -> None:
    outputs_dir().mkdir()
    write_campaign(outputs_dir() / "demo", [*quick_matrix(), FakeTrial(ram_mb=64, outcome=Outcome.OOM_KILLED)])
    source, done = project_root() / "notebooks" / "explore.ipynb", tmp_path / "explore.ipynb"
    papermill = [sys.executable, "-m", "papermill", str(source), str(done), "--no-progress-bar"]
    ran = subprocess.run(papermill, capture_output=True, text=True, timeout=180, check=False)
    assert ran.returncode == 0, ran.stderr
    outputs = [output for cell in json.loads(done.read_text())["cells"] for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]

    assert sum("image/png" in data for data in shown) == 3
    assert sum("<table" in "".join(data.get("text/html", "")) for data in shown) == 4
    assert not [output for output in outputs if output["output_type"] in ("stream", "error")]
    convert = [sys.executable, "-m", "nbconvert", "--to", "html", "--template", "basic", str(done)]
    subprocess.run(convert, capture_output=True, timeout=180, check=True)
    page = (tmp_path / "explore.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "<script" not in page
