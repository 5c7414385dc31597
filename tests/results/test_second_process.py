"""A large campaign is read by two processes, with the same result as by one."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from campaign_factory import FakeTrial, make_record, quick_matrix, write_campaign

from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.results import second_process, standing
from picolab.results.standing import read_standing


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """A campaign with something wrong in each half: damaged, foreign and contradictory notebooks, a fault, a kill."""
    trials = [*quick_matrix()[:6], FakeTrial(outcome=Outcome.OOM_KILLED, ram_mb=64), FakeTrial(file_size="1M")]
    folder = write_campaign(tmp_path / "c", [*trials, FakeTrial(outcome=Outcome.INTERRUPTED, ram_mb=32)])
    notebooks = sorted((folder / "trials").glob("*.ipynb"))
    notebooks[1].write_text("{")
    notebooks[6].write_text("{}")
    notebooks[7].write_bytes(notebooks[5].read_bytes())
    for position in (1, 6):
        record = make_record(trials[position - 1], position, "c")
        (folder / "trials" / f"{record['identity']['trial_id']}.record.json").write_text(json.dumps(record))
    (folder / "trials" / "009-stranger.ipynb").write_text("{}")
    return folder


def everything(folder: Path) -> dict[str, Any]:
    found = read_standing(folder, with_samples=True)
    samples = {name: {key: values.tobytes() for key, values in one.items()} for name, one in found.samples.items()}
    return asdict(found) | {"results": dict(found.results), "samples": samples}


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The trials that this process read."""
    read: list[str] = []
    real = standing._Reader._read_trial

    def note(reader: standing._Reader, trial_id: str, path: Path) -> Record | None:
        read.append(trial_id)
        return real(reader, trial_id, path)

    monkeypatch.setattr(standing._Reader, "_read_trial", note)
    return read


def test_two_processes_find_what_one_finds(
    campaign: Path, monkeypatch: pytest.MonkeyPatch, read_here: list[str]
) -> None:
    alone = everything(campaign)
    assert len(read_here) == 8 and len(alone["results"]) == 5 and len(alone["problems"]) >= 5
    read_here.clear()
    monkeypatch.setattr(second_process, "FEWEST_TRIALS", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})

    assert everything(campaign) == alone
    assert len(read_here) == 4, "the second process read the other half"
    results = read_standing(campaign, with_samples=True).results
    theirs = [name for name in results if name not in read_here]
    assert theirs and all(isinstance(results._found[name], str) for name in theirs), "parsed when somebody asks"


@pytest.mark.parametrize("program", ["/bin/false", "/bin/true", "/no/such/program"])
def test_without_the_second_process_this_one_reads_all(
    campaign: Path, monkeypatch: pytest.MonkeyPatch, read_here: list[str], program: str
) -> None:
    alone = everything(campaign)
    read_here.clear()
    monkeypatch.setattr(second_process, "FEWEST_TRIALS", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(sys, "executable", program)

    assert everything(campaign) == alone
    assert len(read_here) == 8
