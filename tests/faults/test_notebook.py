"""The trial notebook or its kernel cannot do what they should: a fault of the instrument, named, and never a number."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picolab import campaign as campaigns
from picolab.campaign import Campaign, Watcher
from picolab.errors import PicolabError
from picolab.exit_codes import ExitCode
from picolab.parameters import CampaignParameters
from picolab.paths import project_root
from picolab.plan import make_plan

from .catalogue import fault
from .conftest import Proof

OPEN_NOTEBOOK = "Mend `notebooks/trial.ipynb` (`git diff notebooks`), then `picolab resume CAMPAIGN`."


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
    do="The campaign goes on with the next attempt. " + OPEN_NOTEBOOK,
)
def test_endless_cell(edited: Edited, proof: Proof, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns, "_LIMIT_MARGIN_S", 6.0)
    edited(in_first_stage("while True: pass"))
    spoilt(proof, ready_limit_s=0.5, total_limit_s=0.5)


@fault(
    "kernel ends itself in a cell",
    group="notebook",
    outcome="invalid",
    see="`the trial's process ended without a record: ... Kernel died`",
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
    do="`jupyter kernelspec list` names the kernel `python3` that is used; remove it. `picolab doctor` finds it too.",
)
def test_kernel_that_cannot_be_started(proof: Proof, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": ["/no/such/python", "-f", "{connection_file}"], "display_name": "gone", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    spoilt(proof)


@fault(
    "notebook that is no JSON",
    group="notebook",
    outcome="invalid",
    see="The campaign says what it could not read, in one sentence, and measures nothing.",
    do=OPEN_NOTEBOOK,
)
def test_notebook_that_is_no_json(edited: Edited) -> None:
    edited(lambda _: '{"cells": [')
    try:
        campaign, code = run_campaign()
    except PicolabError as error:
        assert "trial.ipynb" in str(error)
    else:
        assert code is ExitCode.INSTRUMENT_FAULT and not campaign.ledger.results()
        assert [entry.outcome for entry in campaign.ledger.entries()] == ["invalid"]
