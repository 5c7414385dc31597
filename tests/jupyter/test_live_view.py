"""The live views of a notebook in a real kernel: an upload and a campaign; and that a campaign's trial has none."""

import json
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from campaign_factory import quick_matrix, write_campaign

from picolab.campaign.live_matrix import LiveMatrix
from picolab.campaign.progress import Progress
from picolab.config.plan import Plan
from picolab.config.project import outputs_dir, project_root
from picolab.config.sizes import MIB
from picolab.config.trial_parameters import TrialParameters
from picolab.host.processes import this_process
from picolab.jupyter.notebook_process import NOTEBOOK_FILE, TrialProcess
from picolab.jupyter.trial_context import TrialContext
from picolab.machines import registry
from picolab.record.outcomes import Outcome
from picolab.results.ledger import LedgerEntry
from picolab.servers.measurements import TransferProgress
from picolab.text.markup import Html
from picolab.trial.state import RECORD_FILE
from picolab.trial.upload_view import UploadView

EVIL = "<script>alert(1)</script>"
LOADED = (
    "import sys; [name for name in sys.modules if name.endswith(('.live_display', '.upload_view', '.live_matrix'))]"
)


class Updates(nbclient.NotebookClient):
    """Notes what a notebook's displays are updated with."""

    def __init__(self, notebook: Any) -> None:
        super().__init__(notebook, timeout=120, kernel_name="python3")
        self.shown: list[dict[str, str]] = []

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "update_display_data":
            self.shown.append(msg["content"]["data"])
        return super().process_message(msg, cell, cell_index)


def run_cells(*cells: str) -> Updates:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = Updates(notebook)
    client.execute()
    return client


def test_the_trial_notebook_shows_a_running_upload() -> None:
    notebook = nbformat.read(project_root() / "notebooks" / "trial.ipynb", as_version=4)
    (index,) = [index for index, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    given = "file_size, ram_mb, keep_machine, calibration = '8M', 128, 'never', {'transfer_mib_s': 4}"
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(given))
    client = Updates(notebook)
    client.execute()

    uploads = [data for data in client.shown if data["text/plain"].startswith("upload")]
    assert len(uploads) >= 2
    assert all("<b>upload</b>" in data["text/html"] for data in uploads)
    assert "transfer, " in uploads[0]["text/plain"] and "MiB/s on average" in uploads[0]["text/plain"]
    assert "MiB of 128.0 MiB" in uploads[0]["text/plain"], "memory against the limit"
    assert "ended, 8 MiB delivered" in uploads[-1]["text/plain"]
    (record,) = outputs_dir().rglob(RECORD_FILE)
    assert json.loads(record.read_text())["upload"]["live_view"] is True


def test_a_campaigns_trial_imports_no_view(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = project_root() / "notebooks" / "trial.ipynb"
    notebook = nbformat.read(source, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(LOADED))
    changed = scratch / "changed.ipynb"
    nbformat.write(notebook, changed)
    monkeypatch.setattr("picolab.jupyter.notebook_process.trial_notebook", lambda: changed)
    folder = outputs_dir() / "trial"
    context = TrialContext(folder=folder, trial_id="trial", owner=this_process().to_json())
    parameters = TrialParameters(file_size="4M", ram_mb=128, keep_machine="never")
    process = TrialProcess(parameters, context)
    try:
        assert process.wait(120)
    finally:
        process.kill()
        registry.release_by_name("local")

    executed = nbformat.read(folder / NOTEBOOK_FILE, as_version=4)
    assert executed.cells[-1].outputs[0].data["text/plain"] == "[]"
    assert json.loads((folder / RECORD_FILE).read_text())["upload"]["live_view"] is False


def test_a_campaign_of_a_notebook_shows_its_matrix() -> None:
    client = run_cells(
        "import picolab as pl\n"
        "wanted = {'matrix': {'ram_mb': [128, 64], 'file_size': ['1M']}, 'repeats': 1, 'idle_limit_s': 0}\n"
        "pl.run(wanted, campaign='live')",
        "for lost in (pl.load('live').folder / 'trials').glob('002-*'):\n    lost.unlink()\npl.resume('live')",
    )

    texts = [data["text/plain"] for data in client.shown]
    assert len(texts) == 5 + 4, "a trial begins and ends, the campaign ends, a note: nothing during a measured step"
    again = texts[5:]
    assert again[-3].startswith("campaign live: 1 of 2 trials, about ") and "; 1 ok; runs 002-" in again[-3]
    assert again[-1].startswith("campaign live: 2 of 2 trials; 2 ok")
    assert texts[0].startswith("campaign live: 0 of 2 trials; runs 001-")
    assert texts[4].startswith("campaign live: 2 of 2 trials; 2 ok")
    assert client.shown[-1]["text/html"].count(">ok</td>") == 2
    outputs = client.nb.cells[0].outputs
    assert [output.output_type for output in outputs] == ["display_data", "execute_result"]
    assert outputs[1].data["text/plain"] == "<campaign live: 2 trials, 0 problems>"


def test_a_mistake_in_a_dict_names_it() -> None:
    with pytest.raises(nbclient.exceptions.CellExecutionError, match=r"run\(\): matrix: there is no 'ramm'"):
        run_cells("import picolab as pl; pl.run({'matrix': {'ramm': [1]}})")


class Shown:
    is_due = True

    def __init__(self) -> None:
        self.pieces: list[Html] = []

    def show(self, shown: Html) -> None:
        self.pieces.append(shown)


def test_labels_and_details_of_a_matrix_are_escaped(tmp_path: Path) -> None:
    plan = Plan.load(write_campaign(tmp_path / "c", [], quick_matrix()))
    for trial in plan.trials:
        trial.case = f"{trial.case} {EVIL}"
    display = Shown()
    watcher = LiveMatrix(plan, display).watcher(lambda: False)  # type: ignore[arg-type]
    first = plan.trials[0]
    detail = f'the server answered 500: "{EVIL}\n'
    entry = LedgerEntry(
        trial_id=first.trial_id,
        attempt=1,
        outcome=Outcome.HTTP_ERROR,
        outcome_detail=detail,
        started_at=None,
        ended_at="",
        duration_s=1.0,
        notebook=None,
        record=None,
    )
    others = tuple(trial.trial_id for trial in plan.trials[1:3])
    watcher.ended(entry, Progress(len(plan.trials), 1, 60.0, running=others))
    watcher.note(EVIL)
    watcher.waiting(EVIL)

    assert len(display.pieces) == 3
    assert display.pieces[0].markup.count(">runs</td>") == 2, "the trials of other machines have not ended"
    markup = display.pieces[-1].markup
    assert "<script" not in markup and "&lt;script&gt;" in markup and ">HTTP error</td>" in markup
    assert "500: &quot;" in markup and "about 1 min 00 s left" in markup


def test_a_large_matrix_has_counts_for_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picolab.campaign.live_matrix.MOST_CELLS", 3)
    plan = Plan.load(write_campaign(tmp_path / "c", [], quick_matrix()))
    matrix = LiveMatrix(plan, Shown())  # type: ignore[arg-type]

    assert matrix.shown().markup.count("<td>none yet</td>") == len(plan.cases)


@pytest.mark.parametrize(
    ("tail", "memory"),
    [
        ("[1.0, 20971520]\n", "20.0 MiB"),
        ("[1.0, 20971520]\n[2.0, 3", "20.0 MiB"),
        ("[1.0, null]\n", "not known"),
        ("", "not known"),
        ("{}\n", "not known"),
    ],
)
def test_memory_is_that_of_the_last_whole_sample(tmp_path: Path, tail: str, memory: str) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps({"columns": ["t_s", "anon_bytes"], "missing": {}}) + "\n" + tail)
    view = UploadView(samples, 64 * MIB)

    assert f"memory {memory} of 64.0 MiB" in view.shown(TransferProgress(MIB, 4 * MIB, 1.0)).text
    assert "MiB/s" not in view.shown(TransferProgress(4 * MIB, 4 * MIB, 2.0)).text, "it commits"
