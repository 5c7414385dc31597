"""A calibration without room: refused before it begins, the full place named, complete rounds kept."""

import contextlib
import errno
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import virsh_stub
from command_line import picolab_here
from conftest import GIVE_UP_S, MIB

from picolab.config.project import state_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import FileNotWritten, HostUnfit, MachineError
from picolab.exit_codes import ExitCode
from picolab.instrument import measure, room, store
from picolab.instrument.measure import FULL, QUICK, calibrate_instrument
from picolab.machines import registry
from picolab.machines.base import MachineWish
from picolab.machines.local.machine import LocalMachine

Small = Callable[[int], Path]


@pytest.fixture
def small(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Small]:
    """Make TMPDIR a file system of that many MiB, for real."""
    mounted: list[Path] = []

    def make(size_mib: int) -> Path:
        place = scratch / "small"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(place)]
        if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True, timeout=60).returncode:
            pytest.skip("this user may not mount a file system")
        mounted.append(place)
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=GIVE_UP_S)


def fill(place: Path) -> None:
    with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass


def test_too_small_a_folder_for_samples_is_refused(small: Small) -> None:
    place = small(8)
    done = picolab_here("calibrate", "--quick")
    assert done.returncode == ExitCode.HOST_UNFIT and "Traceback" not in done.stderr
    assert f"needs 64 MiB for samples and logs in {place}, and 8 MiB are free; free some, or set TMPDIR" in done.stderr
    assert registry.existing() == [] and list(place.iterdir()) == []


def test_a_folder_whose_room_is_unknown_does_not_hide_what_failed(tmp_path: Path) -> None:
    unknown = room.places(tmp_path / ("x" * 300), tmp_path)
    room.check(TrialParameters(), 0, unknown)
    with pytest.raises(MachineError, match=r"^it failed$"), room.named_when_full(TrialParameters(), unknown):
        raise MachineError("it failed")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotWritten, match=str(tmp_path)), room.named_when_full(TrialParameters(), unknown):
        raise full


def test_a_pool_that_is_too_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    virsh_stub.install(tmp_path, monkeypatch).set(free=3 << 30)
    with pytest.raises(HostUnfit, match=r"up to 9,\d+ MiB of data, and the storage of virtual machines has 3,072 MiB"):
        calibrate_instrument("vagrant")
    assert FULL.data_bytes(is_virtual=True) > 10 * QUICK.data_bytes(is_virtual=True)
    assert FULL.data_bytes(is_virtual=False) < 300 * MIB, "the folders of a server are emptied before the next"


def test_too_small_a_disk_of_the_machine_is_refused() -> None:
    room.check_machine(300 * MIB, 128 * MIB)
    with pytest.raises(HostUnfit, match="needs 282 MiB on disk, and the machine has 200 MiB free; use --quick"):
        room.check_machine(200 * MIB, 128 * MIB)


def test_the_complete_rounds_are_kept_when_it_runs_full(small: Small) -> None:
    place = small(80)
    said: list[str] = []

    def report(line: str) -> None:
        said.append(line)
        if line.startswith("round 2"):
            fill(place)

    with pytest.raises(HostUnfit) as caught:
        calibrate_instrument(quick=True, report=report)
    sentence = str(caught.value)
    assert str(place) in sentence and "full" in sentence and "resume" not in sentence
    assert sentence.endswith("1 of 2 rounds were complete and are stored, with a caveat")
    found = store.load()
    assert found is not None and found.noise.n == found.upload_ceiling_mib_s.n == 1
    assert found.errors["transfer"].n == 2 and found.errors["peak_memory"].n == 1
    assert [caveat.value for caveat in found.caveats if caveat.code == "calibration_incomplete"] == [1]
    assert registry.existing() == [] and [path.name for path in place.iterdir()] == ["filler"]


def fail_in_round(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sink fail in a round, as a machine that is lost then would."""
    ceilings, calls = measure._Bench._ceilings, []

    def broken(bench: measure._Bench) -> None:
        calls.append(bench)
        if len(calls) == number:
            raise MachineError("the machine was lost")
        ceilings(bench)

    monkeypatch.setattr(measure._Bench, "_ceilings", broken)


def test_a_failure_in_the_first_round_stores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_in_round(1, monkeypatch)
    with pytest.raises(MachineError, match="the machine was lost; no round was complete, so nothing is stored"):
        calibrate_instrument(quick=True)
    assert store.load() is None


def test_a_complete_calibration_is_not_replaced_by_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = calibrate_instrument(quick=True)
    assert complete is not None
    store.save(complete.model_copy(update={"quick": False}))
    before = json.loads(store.instrument_file().read_text())
    fail_in_round(2, monkeypatch)
    with pytest.raises(MachineError, match="1 of 2 rounds were complete, and the complete calibration from before is"):
        calibrate_instrument(quick=True)
    assert json.loads(store.instrument_file().read_text()) == before


def test_errors_name_the_file_or_the_fullest_place(scratch: Path) -> None:
    where = room.places(scratch, state_dir())
    parameters = TrialParameters.model_validate({})
    with (
        pytest.raises(FileNotWritten, match=f"{scratch}/a could not be written, because the file system mounted at"),
        room.named_when_full(parameters, where),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", f"{scratch}/a")
    with (
        pytest.raises(FileNotWritten, match=r"could not be written, because .* is full .*, or "),
        room.named_when_full(parameters, where),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), room.named_when_full(parameters, where):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_calibration_outlives_a_machine_that_cannot_be_taken_down(monkeypatch: pytest.MonkeyPatch) -> None:
    release = LocalMachine.release

    def fail(machine: LocalMachine) -> None:
        release(machine)
        raise MachineError("the daemon does not answer")

    monkeypatch.setattr(LocalMachine, "release", fail)
    said: list[str] = []
    with measure._machine(MachineWish(measure.MACHINE_NAME, 64, "none", ""), said.append) as machine:
        assert machine.describe().kind == "local"
    assert said[-1].startswith("The machine calibrate could not be taken down: the daemon does not answer; do it with:")
