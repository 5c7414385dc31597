"""Two builds of a history: the verdicts of each campaign that paired them, or a refusal that says why."""

import shutil
from pathlib import Path

import pytest
from command_line import picolab_here
from history_campaigns import night, paired_night

from picolab.analysis.comparison.compare import compare
from picolab.errors import ParameterError
from picolab.history.add import add_campaign
from picolab.history.compare import compare_from_history
from picolab.history.database import Database
from picolab.history.store import CAMPAIGNS, FolderStore
from picolab.results.load import read_campaign


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "history")


def test_verdicts_are_those_of_each_campaign_that_paired_them(store: FolderStore) -> None:
    folders = [paired_night(0, 1.2), paired_night(1, 0.8)]
    for folder in folders:
        add_campaign(store, folder)
    expected = [compare(read_campaign(folder)) for folder in reversed(folders)]
    for folder in folders:
        shutil.rmtree(folder)  # the history needs them no more
    found = compare_from_history(Database(store), "old", "new")

    assert found.refused == []
    assert {one.campaign for one in found.comparisons} == {"pairs-00", "pairs-01"}
    by_name = {one.campaign: one for one in expected}
    for one in found.comparisons:
        assert one.metrics == by_name[one.campaign].metrics
        assert one.gate is by_name[one.campaign].gate
        assert one.caveats == by_name[one.campaign].caveats


def test_builds_by_sha256_on_the_command_line() -> None:
    paired_night(0, 0.8)
    assert picolab_here("history", "add").returncode == 0
    done = picolab_here("history", "compare", "aaaaaa", "bbbbbb", "--margin", "3")
    assert done.returncode == 1, done.stderr
    assert "Campaign pairs-00" in done.stdout and "slower" in done.stdout and "margin 3 %" in done.stdout


def test_builds_that_were_never_paired_are_refused(store: FolderStore) -> None:
    add_campaign(store, night(0, {"build-a": 1.0}))
    add_campaign(store, night(1, {"build-b": 1.0}))
    with pytest.raises(ParameterError, match=r"were never paired on one host.*no campaign measured both"):
        compare_from_history(Database(store), "build-a", "build-b")
    with pytest.raises(ParameterError, match=r"no trial of such a build.*it has build-b and build-a"):
        compare_from_history(Database(store), "build-a", "build-x")


def test_a_campaign_of_two_hosts_is_left_out(store: FolderStore) -> None:
    folder = paired_night(0, 1.2)
    for path in list((folder / "trials").iterdir())[:4]:
        path.write_text(path.read_text().replace('"hostname": "bench"', '"hostname": "other"'))
    add_campaign(store, folder)
    with pytest.raises(ParameterError, match="pairs-00: its trials ran on 2 hosts"):
        compare_from_history(Database(store), "old", "new")


def test_a_campaign_without_its_plan_is_left_out(store: FolderStore) -> None:
    add_campaign(store, paired_night(0, 1.2))
    shutil.rmtree(store.folder / CAMPAIGNS)
    with pytest.raises(ParameterError, match="pairs-00: its plan and ledger are not in the history; add the campaign"):
        compare_from_history(Database(store), "old", "new")
