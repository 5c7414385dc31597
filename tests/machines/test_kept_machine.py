"""A machine that a trial left up for a look is not destroyed by whoever comes next."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import picolab_here

from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import make_plan
from picolab.config.project import outputs_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.doctor import leftovers
from picolab.errors import MachineError, MachineKept
from picolab.exit_codes import ExitCode
from picolab.host.processes import ProcessIdentity, this_process
from picolab.instrument.measure import MACHINE_NAME, calibrate_instrument
from picolab.machines import folders, registry
from picolab.machines.base import Holder, MachineWish
from picolab.machines.local.keeper import KEEP_LEASE_S
from picolab.machines.local.machine import LocalMachine
from picolab.machines.vagrant import removal
from picolab.machines.vagrant.state import State
from picolab.trial.state import TrialState, claim_folder
from picolab.trial.trial import Trial

PARAMETERS = TrialParameters(ram_mb=64, file_size="1M", memory_limit="none")


def keep(name: str, holder: ProcessIdentity, keep: bool = True) -> Path:
    """Leave a machine up as a trial does, and return the trial's folder."""
    machine = LocalMachine.obtain(MachineWish(name, 64, "none", ""), Holder(holder, keep=keep))
    state = TrialState.begin(PARAMETERS, None)
    folder = claim_folder(state)
    state.save(folder)
    (machine.folder / folders.TRIAL_FILE).write_text(json.dumps({"folder": str(folder)}))
    return folder


@pytest.fixture
def kept(gone: ProcessIdentity) -> Iterator[Path]:
    yield keep("local", gone)
    registry.release_by_name("local")


def still_there(name: str = "local") -> bool:
    return folders.keeper_of(folders.folder_of(name)) is not None


@pytest.mark.parametrize("words", [("--ram", "64", "--file-size", "1M"), ("--ram", "128"), ("--keep-machine",)])
def test_a_trial_by_command_is_refused(kept: Path, words: tuple[str, ...]) -> None:
    before = sorted(outputs_dir().rglob("*"))
    command = [sys.executable, "-m", "picolab", "trial", "-p", "memory_limit", "none", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == ExitCode.HOST_UNFIT
    assert f"kept for debugging by the trial {kept.name}" in done.stderr and "Traceback" not in done.stderr
    for way_on in (str(kept / "trial.ipynb"), "picolab machines remove local", "-p machine_name NAME"):
        assert way_on in done.stderr
    assert still_there() and sorted(outputs_dir().rglob("*")) == before


@pytest.mark.parametrize("other", [{"ram_mb": 128}, {"file_size": "2M"}, {"seed": 7}, {"calibration": {"status": 500}}])
def test_a_notebook_with_other_parameters_is_refused(kept: Path, other: dict[str, Any]) -> None:
    with pytest.raises(MachineKept, match=kept.name):
        Trial.open(PARAMETERS.model_copy(update=other))
    assert still_there() and [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_a_notebook_with_the_same_parameters_goes_on(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Trial.open(PARAMETERS).folder == kept
    assert "Re-attached to trial" in capsys.readouterr().out


def test_a_notebook_is_refused_also_when_the_trial_is_not_known(kept: Path) -> None:
    (folders.folder_of("local") / folders.TRIAL_FILE).unlink()
    with pytest.raises(MachineKept, match="kept for debugging, and this would destroy it: take it down with"):
        Trial.open(PARAMETERS)
    assert still_there()


def test_another_machine_name_is_free(kept: Path) -> None:
    assert Trial.open(PARAMETERS.model_copy(update={"machine_name": "second"})).folder != kept


def test_after_the_machine_is_taken_down_the_way_is_free(kept: Path) -> None:
    registry.release_by_name("local")
    assert Trial.open(PARAMETERS.model_copy(update={"ram_mb": 128})).folder != kept


def test_a_trial_has_its_result_though_its_machine_stays_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fail_at_the_end(name: str) -> bool:
        asked.append(name)
        if len(asked) > 1:
            raise MachineError("the daemon does not answer")
        return False

    monkeypatch.setattr(registry, "release_by_name", fail_at_the_end)
    done = picolab_here("trial", "-p", "memory_limit", "none", "--ram", "64", "--file-size", "1M")
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "The machine local could not be taken down: the daemon does not answer; do it with: picolab" in said, said


def test_whoever_holds_it_in_this_process_may_begin_anew() -> None:
    first = keep("local", this_process())
    try:
        assert Trial.open(PARAMETERS.model_copy(update={"seed": 7})).folder != first
    finally:
        registry.release_by_name("local")


def test_a_machine_that_is_not_to_be_kept_is_no_obstacle(gone: ProcessIdentity) -> None:
    keep("local", gone, keep=False)
    try:
        registry.check_not_kept("local")
    finally:
        registry.release_by_name("local")


def test_a_campaign_is_refused_before_its_first_trial(gone: ProcessIdentity) -> None:
    wanted = {"matrix": {"ram_mb": [64], "file_size": ["1M"]}, "repeats": 1, "idle_limit_s": 0}
    campaign = Campaign.create(make_plan(CampaignParameters.model_validate(wanted), "test", "test.yaml"), Watcher())
    folder = keep("test", gone)
    try:
        with pytest.raises(MachineKept, match=rf"{folder.name}, .*; or begin a campaign .* --campaign NAME"):
            campaign.run()
        assert still_there("test") and campaign.ledger.entries() == []
    finally:
        registry.release_by_name("test")


def test_a_calibration_is_refused_and_leaves_it_up(gone: ProcessIdentity) -> None:
    folder = keep(MACHINE_NAME, gone)
    try:
        with pytest.raises(MachineKept, match=rf"{folder.name}, and this would destroy it: .* another machine_name"):
            calibrate_instrument(quick=True)
        assert still_there(MACHINE_NAME)
    finally:
        registry.release_by_name(MACHINE_NAME)


@pytest.fixture
def without_keeper(gone: ProcessIdentity) -> Iterator[Path]:
    """A virtual machine that a trial has kept and whose keeper was killed; nothing of it is asked of libvirt."""
    folder = folders.folder_of("vagrant")
    folder.mkdir(parents=True)
    spec = {"kind": "vagrant", "name": "vagrant", "ram_mb": 256, "state": "up", "provider": "libvirt", "prefix": "p_"}
    folders.write_spec(folder, {**spec, "holder": gone.to_json(), "keep": True})
    (folder / folders.TRIAL_FILE).write_text(json.dumps({"folder": str(folder.parent / "the-trial")}))
    yield folder
    shutil.rmtree(folder)


def test_a_kept_virtual_machine_survives_its_keeper(without_keeper: Path) -> None:
    assert registry.sweep() == [] and without_keeper.is_dir()
    with pytest.raises(MachineKept, match="kept for debugging by the trial the-trial, and this would destroy it: take"):
        registry.check_not_kept("vagrant")
    assert leftovers.left_alone() == [
        "machine 'vagrant': kept for debugging by the trial the-trial; to remove it: picolab machines remove vagrant"
    ]
    assert not [found for found in leftovers.find()[0] if found.what == str(without_keeper)]


def test_it_is_abandoned_when_the_time_is_over(without_keeper: Path, gone: ProcessIdentity) -> None:
    kind = registry.kind_in(without_keeper)
    long_ago = time.time() - KEEP_LEASE_S - 1
    os.utime(without_keeper / folders.SPEC, (long_ago, long_ago))
    assert kind.is_abandoned(without_keeper), "where no keeper saw its holder go, its last use counts"

    folders.note_unheld(without_keeper, gone)
    assert not kind.is_abandoned(without_keeper)


def test_one_that_is_removed_meanwhile_is_not_abandoned(without_keeper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another command removes it while the doctor looks for leftovers."""

    def read_and_vanish(folder: Path) -> dict[str, Any] | None:
        spec = folders.spec_of(folder)
        (folder / folders.SPEC).unlink(missing_ok=True)
        return spec

    monkeypatch.setattr(removal, "spec_of", read_and_vanish)
    assert not removal.is_abandoned(without_keeper)


def test_a_halt_does_not_begin_its_time_anew(without_keeper: Path, gone: ProcessIdentity) -> None:
    since = (datetime.now(UTC) - timedelta(seconds=KEEP_LEASE_S + 1)).replace(microsecond=0)
    note = {"holder": gone.to_json(), "since": since.isoformat()}
    (without_keeper / folders._UNHELD).write_text(json.dumps(note))
    # As `machines halt` does, and then a new keeper.
    State(without_keeper).write(server=None)
    folders.note_unheld(without_keeper, gone)

    assert registry.existing()[0]["since"] == since.isoformat()
    assert registry.kind_in(without_keeper).is_abandoned(without_keeper)


def test_whoever_takes_it_has_it_since_then(without_keeper: Path, gone: ProcessIdentity) -> None:
    folders.note_unheld(without_keeper, gone)
    spec = folders.spec_of(without_keeper) or {}
    before = datetime.now(UTC).replace(microsecond=0)
    folders.write_spec(without_keeper, {**spec, **folders.held(spec, this_process(), keep=True)})

    (machine,) = registry.existing()
    assert machine["held"] and datetime.fromisoformat(machine["since"]) >= before > this_process().started_at
    spec = folders.spec_of(without_keeper) or {}
    assert folders.held(spec, this_process(), keep=False)["held_since"] == spec["held_since"], "the same holder"


@pytest.mark.parametrize("change", [{"state": "making"}, {"keep": False}])
def test_a_half_made_one_is_abandoned(without_keeper: Path, change: dict[str, Any]) -> None:
    folders.write_spec(without_keeper, {**(folders.spec_of(without_keeper) or {}), **change})
    assert registry.kind_in(without_keeper).is_abandoned(without_keeper)
    registry.check_not_kept("vagrant")
