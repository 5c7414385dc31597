"""The trial notebook or its kernel is broken: an instrument fault with a message, never a number."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picolab.campaign import slots
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import make_plan
from picolab.config.project import project_root
from picolab.errors import ParameterError
from picolab.exit_codes import ExitCode

from .catalogue import fault
from .conftest import Proof

OPEN_NOTEBOOK = "Fix `notebooks/trial.ipynb` (`git diff notebooks`), then `picolab resume CAMPAIGN`."


def run_campaign(**parameters: Any) -> tuple[Campaign, ExitCode]:
    wanted = {
        "matrix": {"ram_mb": [128], "file_size": ["1M"]},
        "parameters": parameters,
        "repeats": 1,
        "idle_limit_s": 0,
        "fault_retries": 0,
    }
    plan = make_plan(CampaignParameters.model_validate(wanted), "test", "test.yaml")
    campaign = Campaign.create(plan, Watcher())
    return campaign, campaign.run()


def spoilt(proof: Proof, **parameters: Any) -> None:
    """Run a campaign of one trial; check that its only attempt is the catalogue's fault, and that nothing counts."""
    campaign, code = run_campaign(**parameters)
    assert code is ExitCode.INSTRUMENT_FAULT
    (entry,) = campaign.ledger.entries()
    assert entry.outcome == proof.fault.outcome, entry
    proof.text(entry.outcome_detail)
    assert not campaign.ledger.results()


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], object]], Path]:
    """Let picolab take an edited copy of the trial notebook: `edited(lambda notebook: ...)`."""

    def edit(change: Callable[[Any], object]) -> Path:
        root = tmp_path / "checkout"
        (root / "notebooks").mkdir(parents=True)
        notebook = json.loads((project_root() / "notebooks" / "trial.ipynb").read_text())
        changed = change(notebook)
        path = root / "notebooks" / "trial.ipynb"
        path.write_text(changed if isinstance(changed, str) else json.dumps(notebook))
        for name, module in list(sys.modules.items()):
            if name.startswith("picolab.") and "project_root" in vars(module):
                monkeypatch.setattr(module, "project_root", lambda: root)
        return path

    return edit


Edited = Callable[[Callable[[Any], object]], Path]


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def in_first_stage(source: str) -> Callable[[Any], None]:
    """Return a change that puts a line before what the second code cell does."""

    def change(notebook: Any) -> None:
        cell = code_cells(notebook)[1]
        cell["source"] = [source + "\n", *cell["source"]]

    return change


@fault(
    "notebook with a syntax error",
    group="notebook",
    outcome="invalid",
    see="`the trial's process ended without a record: cell ... SyntaxError`",
    do=OPEN_NOTEBOOK,
)
def test_notebook_with_a_syntax_error(edited: Edited, proof: Proof) -> None:
    edited(in_first_stage("trial = = open"))
    spoilt(proof)


@fault(
    "notebook whose cell raises",
    group="notebook",
    outcome="invalid",
    see="`the trial's process ended without a record: cell ... ZeroDivisionError: division by zero`",
    do=OPEN_NOTEBOOK,
)
def test_notebook_whose_cell_raises(edited: Edited, proof: Proof) -> None:
    edited(in_first_stage("1 / 0"))
    spoilt(proof)


@fault(
    "notebook without its glue",
    group="notebook",
    outcome="invalid",
    see="`the trial's process ended without a record`",
    do=OPEN_NOTEBOOK,
)
def test_notebook_without_its_glue(edited: Edited, proof: Proof) -> None:
    def change(notebook: Any) -> None:
        for cell in code_cells(notebook)[2:]:
            cell["source"] = ["pass"]

    edited(change)
    spoilt(proof)


@fault(
    "endless cell",
    group="notebook",
    outcome="machine_failed",
    see="`the trial's process did not end within 8 s`",
    do="The campaign continues with the next attempt. " + OPEN_NOTEBOOK,
)
def test_endless_cell(edited: Edited, proof: Proof, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_LIMIT_MARGIN_S", 6.0)
    edited(in_first_stage("while True: pass"))
    spoilt(proof, ready_limit_s=0.5, total_limit_s=0.5)


@fault(
    "kernel exits in a cell",
    group="notebook",
    outcome="invalid",
    see="`the trial's process ended without a record: the kernel ended by itself with exit code 1`",
    do=OPEN_NOTEBOOK,
)
def test_kernel_ends_itself_in_a_cell(edited: Edited, proof: Proof) -> None:
    edited(in_first_stage("import os; os._exit(1)"))
    spoilt(proof)


@fault(
    "kernel that cannot be started",
    group="notebook",
    outcome="invalid",
    see="`the trial's process ended without a record: ... No such file or directory: '/no/such/python'`",
    do="`jupyter kernelspec list` shows the `python3` kernel in use; remove it. `picolab doctor` finds it too.",
)
def test_kernel_that_cannot_be_started(proof: Proof, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": ["/no/such/python", "-f", "{connection_file}"], "display_name": "gone", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    spoilt(proof)


PUT_BACK = "`git checkout notebooks/trial.ipynb`, or fix the file; nothing was measured."


def refused(proof: Proof) -> None:
    """Check that no campaign begins, and what is said."""
    with pytest.raises(ParameterError) as found:
        run_campaign()
    proof.text(str(found.value))


@fault(
    "notebook that is not JSON",
    group="notebook",
    outcome="refused",
    see="`trial.ipynb: ... put back the notebook that came with picolab`",
    do=PUT_BACK,
)
def test_notebook_that_is_no_json(edited: Edited, proof: Proof) -> None:
    edited(lambda _: '{"cells": [')
    refused(proof)


@fault(
    "notebook without the parameters tag",
    group="notebook",
    outcome="refused",
    see="`has no code cell with the tag ... so trials would not get the parameters that were asked for`",
    do=PUT_BACK,
)
def test_notebook_without_the_tag_of_its_parameters(edited: Edited, proof: Proof) -> None:
    def change(notebook: Any) -> None:
        for cell in notebook["cells"]:
            cell["metadata"].pop("tags", None)

    edited(change)
    refused(proof)


@fault(
    "notebook with parameters of an earlier run",
    group="notebook",
    outcome="refused",
    see="`has parameters of an earlier run in it`",
    do=PUT_BACK,
)
def test_notebook_with_parameters_of_an_earlier_run(edited: Edited, proof: Proof) -> None:
    def change(notebook: Any) -> None:
        code_cells(notebook)[2]["metadata"]["tags"] = ["injected-parameters"]

    edited(change)
    refused(proof)


@fault(
    "missing notebook",
    group="notebook",
    outcome="refused",
    see="`trial.ipynb: is not there; put back the notebook that came with picolab`",
    do=PUT_BACK,
)
def test_notebook_that_is_not_there(edited: Edited, proof: Proof) -> None:
    edited(lambda _: "").unlink()
    refused(proof)
