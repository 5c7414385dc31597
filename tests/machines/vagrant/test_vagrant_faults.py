"""Virtual machines that fail in the middle of a trial: the outcome, its sentence, and the next trial, which works."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MIB, eventually
from small_mounts import Mount, fill
from virtual_machines import domains, obtain, shell, wish

from picolab.config.project import outputs_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import MachineError, PicolabError
from picolab.exit_codes import ExitCode
from picolab.jupyter.live_line import last_line
from picolab.machines import registry
from picolab.machines.base import MachineWish
from picolab.machines.folders import folder_of
from picolab.machines.vagrant import libvirt
from picolab.machines.vagrant.guest import GUEST_HOME
from picolab.machines.vagrant.machine import VagrantMachine
from picolab.machines.vagrant.reach import Reach
from picolab.record.outcomes import STAGES
from picolab.record.record import Record
from picolab.record.validation import validate_record
from picolab.trial.state import PROGRESS_FILE, RECORD_FILE
from picolab.trial.trial import Trial

pytestmark = pytest.mark.vm

Action = Callable[[Trial], object]


def run_trial(box: str, before: dict[str, Action], **parameters: object) -> Record:
    """Run the stages of a trial in the machine of this module, and return its record. The machine stays.

    Args:
        before: called just before the stage of that name.
    """
    given = {"machine": "vagrant", "machine_name": "vm", "box": box, "ram_mb": 256, "keep_machine": "never"}
    trial = Trial.open(TrialParameters.model_validate({**given, **parameters}))
    try:
        for stage in STAGES[:-1]:
            if stage in before:
                before[stage](trial)
            getattr(trial, stage)()
    except PicolabError:
        if not (trial.folder / RECORD_FILE).exists():
            raise
    finally:
        if trial._run.machine is not None:
            trial._run.machine.hand_back()
    return validate_record(json.loads((trial.folder / RECORD_FILE).read_text()), "the trial's folder")


def virsh(*words: str) -> None:
    subprocess.run(["virsh", "-c", "qemu:///system", *words], check=True, timeout=60, capture_output=True)


def guest_of(trial: Trial) -> VagrantMachine:
    machine = trial._run.machine
    assert isinstance(machine, VagrantMachine)
    return machine


def await_delivery(folder: Path) -> None:
    """Wait until bytes of the upload of a trial in a folder, or in one below it, are delivered."""

    def delivers() -> bool:
        return any(" MiB/s" in last_line(file) for file in folder.rglob(PROGRESS_FILE))

    eventually(delivers, "bytes are delivered", give_up_s=120)


def in_the_upload(action: Callable[[], object]) -> Action:
    """Have something done as soon as bytes of the upload are delivered."""

    def act(folder: Path) -> None:
        await_delivery(folder)
        action()

    return lambda trial: threading.Thread(target=act, args=(trial.folder,)).start()


@pytest.fixture
def domain(box: str, shared_state: Path, request: pytest.FixtureRequest) -> str:
    """The domain of this module's machine, with 256 MB, as after its boot: restored if it did not run any more."""
    obtain(wish(box, fresh_for=request.node.name)).hand_back()
    (name,) = domains()
    return name


SLOW = {"file_size": "40M", "calibration": {"transfer_mib_s": 4}, "stall_limit_s": 5}


def check_machine_failed(record: Record, why: str) -> None:
    assert (record.outcome, record.outcome_stage) == ("machine_failed", "upload"), record.outcome_detail
    assert f"the virtual machine does not run any more: it is {why}" in record.outcome_detail
    assert "\n" not in record.outcome_detail
    assert record.upload is not None and 0 < record.upload.delivered_bytes < 40 * MIB
    assert record.memory is not None and record.memory.samples > 0, "what was sampled until then is kept"


def test_a_guest_that_thrashes_is_a_result(box: str, domain: str) -> None:
    """Without its pages locked the probe stops for minutes, because its own code is read from the disk again."""
    knobs = {"transfer_mib_s": 4, "ballast_mib": 136, "ballast_mib_per_mib": 1}
    record = run_trial(box, {}, file_size="60M", calibration=knobs, stall_limit_s=20)
    assert record.outcome in ("oom_killed", "stalled"), record.outcome_detail
    assert record.memory is not None and record.memory.probe_cpu_share is not None, "the probe ran to its end"
    assert "probe_not_locked" not in {caveat.code for caveat in record.caveats}


def test_a_full_disk_in_the_guest_is_the_servers_answer(box: str, domain: str) -> None:
    filler = f"{GUEST_HOME}/filler"

    def fill(trial: Trial) -> None:
        # As root, who may take what the file system keeps back from others; most of it without writing it.
        most = "$(( $(stat -f -c '%f*%S/1048576' /) - 16 ))M"
        script = (
            f"test -e {filler} || fallocate -l {most} {filler}; cat /dev/zero >>{filler} 2>/dev/null; stat -f -c %a /"
        )
        assert int(shell(guest_of(trial), f"sudo -n sh -c {shlex.quote(script)}")) == 0, "blocks are free"

    def check(trial: Trial) -> None:
        fill(trial)
        assert guest_of(trial).process_status().running and guest_of(trial).process_log()

    try:
        record = run_trial(box, {"upload": fill, "collect": check}, file_size="8M")
    finally:
        # Before the machine is obtained again, which would make one with a full disk anew.
        left = registry.attach("vm")
        assert isinstance(left, VagrantMachine)
        shell(left, f"sudo -n rm -f {filler}")
        left.hand_back()
    assert (record.outcome, record.outcome_stage) == ("disk_full", "upload"), record.outcome_detail
    assert "the server answered 400: " in record.outcome_detail and "disk is full" in record.outcome_detail
    assert record.server is not None and record.server.stop_s is not None, "it was stopped on a full disk"
    assert record.memory is not None and record.memory.probe_cpu_share is not None


def test_a_machine_suspended_in_the_upload(box: str, domain: str) -> None:
    record = run_trial(box, {"upload": in_the_upload(lambda: virsh("suspend", domain))}, **SLOW)
    virsh("resume", domain)
    check_machine_failed(record, "suspended")


def test_a_machine_destroyed_in_the_upload(box: str, domain: str) -> None:
    record = run_trial(box, {"upload": in_the_upload(lambda: virsh("destroy", domain))}, **SLOW)
    check_machine_failed(record, "off")


def test_lost_notes_of_vagrant_then_killed_in_up(box: str, shared_state: Path) -> None:
    """With lost notes Vagrant alone says: "Name ... of domain about to create is already taken"."""
    (domain,) = domains()
    libvirt.power_off(domain)
    subprocess.run(["rm", "-r", str(folder_of("vm") / "vagrant")], check=True, timeout=60)

    def kill() -> None:
        eventually(lambda: domains() == {domain: "running"}, "the new machine boots", give_up_s=300)
        holder = json.loads((folder_of("vm") / ".vagrant.lock").read_text())
        assert " up " in holder["line"]
        os.kill(holder["vagrant"]["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(MachineError, match="ended by SIGKILL") as failed:
        obtain(wish(box))
    killer.join()
    assert "\n" not in str(failed.value)
    machine = obtain(wish(box))
    described = machine.describe().virtual_machine
    assert described is not None and described.reached_by == "created"
    assert described.mended[0].endswith("in an unknown state, and was removed")
    machine.hand_back()


def test_two_campaigns_that_want_one_machine(box: str, domain: str, tmp_path: Path) -> None:
    file = tmp_path / "vm.yaml"
    matrix = {"machine": ["vagrant"], "ram_mb": [256], "file_size": ["40M"]}
    parameters = {"box": box, "calibration": {"transfer_mib_s": 2}}
    file.write_text(json.dumps({"matrix": matrix, "repeats": 1, "idle_limit_s": 0, "parameters": parameters}))
    words = [sys.executable, "-m", "picolab", "matrix", str(file), "--campaign", "vm"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        await_delivery(outputs_dir() / "vm" / "running")
        elsewhere = {**os.environ, "PICOLAB_OUTPUTS_DIR": str(tmp_path / "others")}
        second = subprocess.run(words, env=elsewhere, capture_output=True, text=True, timeout=120, check=False)
        assert second.returncode == ExitCode.HOST_UNFIT, second.stderr
        assert f"the machine 'vm' is held by process {first.pid}" in second.stderr and "Traceback" not in second.stderr
        assert not list((tmp_path / "others" / "vm").rglob("*.ipynb")) and domains() == {domain: "running"}
        first.terminate()
        said, _ = first.communicate(timeout=300)
    assert first.returncode == ExitCode.INTERRUPTED, said


def test_a_full_disk_of_this_host_in_the_upload(box: str, domain: str, mount: Mount) -> None:
    """The machine's disk lies on a small file system from here on."""
    place = mount("ext4", 700)
    libvirt.power_off(domain)
    disk = libvirt.pool_folder() / f"{domain}.img"
    shutil.move(disk, place)
    disk.symlink_to(place / disk.name)
    try:
        obtain(wish(box, fresh_for="on a small disk")).hand_back()
        record = run_trial(box, {"upload": in_the_upload(lambda: fill(place))}, **SLOW)
        check_machine_failed(record, "suspended")
        why = rf"because the file system of its disk in {place} is full \(0\.0 MiB free\); free some space there"
        assert re.search(why, record.outcome_detail), record.outcome_detail

        (place / "rest").unlink()
        virsh("resume", domain)
        machine = registry.attach("vm")
        assert isinstance(machine, VagrantMachine) and machine.process_status().running, "it goes on where it was"
        shell(machine, "sync")
        rest = fill(place)
        # Some room for what the guest writes: after a save that failed it finds that of the save.
        os.truncate(rest, rest.stat().st_size - 16 * MIB)
        reach = Reach(machine._state, machine._guest, MachineWish("vm", 256, "enforced", "", save_state=True))
        assert not reach._saved_and_restored()
        sentence = machine._state["mended"][-1]
        assert re.search(rf"the free space is .* MiB in libvirt's pool {disk.parent}\b", sentence), sentence
        machine.hand_back()
    finally:
        # Else the file system could not be unmounted.
        registry.release_by_name("vm")
