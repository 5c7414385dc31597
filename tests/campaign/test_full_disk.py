"""A file system that fills up, or is read-only, where results go: for real, in a file system of the test's own."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from campaign_factory import FakeTrial, write_campaign
from click.testing import CliRunner
from conftest import GIVE_UP_S, eventually
from small_mounts import Mount
from trial_steps import begin, finish

from picolab.agent import bundle
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.campaign.single_trial import run_single_trial
from picolab.cli.main import main
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import make_plan
from picolab.config.sizes import MIB
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import FileNotWritten, HostUnfit
from picolab.exit_codes import ExitCode
from picolab.files import reserve
from picolab.files.writing import not_written, write_atomically
from picolab.jupyter.live_line import LiveLine, last_line
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.record.samples import read_samples
from picolab.record.validation import validate_record
from picolab.results.export import export_campaign
from picolab.results.load import read_campaign
from picolab.trial.state import RECORD_FILE, SAMPLES_FILE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


class Filler:
    """Takes every free byte of a file system from the moment something is there, and whatever becomes free later."""

    def __init__(self, place: Path, begin_when: Callable[[], bool]) -> None:
        self._file = place / "filler"
        self._begin_when = begin_when
        self._enough = threading.Event()
        self.full = threading.Event()
        self._thread = threading.Thread(target=self._fill)

    def _fill(self) -> None:
        while not self._begin_when() and not self._enough.wait(0.002):
            pass
        size = MIB
        with self._file.open("ab", buffering=0) as file:
            while not self._enough.is_set():
                try:
                    file.write(b"x" * size)
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    if size > 512:
                        size //= 2
                        continue
                    self.full.set()
                    size = 4096
                    self._enough.wait(0.002)

    def __enter__(self) -> Filler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()
        self._file.unlink(missing_ok=True)


def sampled(outputs: Path) -> Callable[[], bool]:
    """Return a condition: some trial's probe has written a few samples."""

    def some() -> bool:
        return any(path.read_bytes().count(b"\n") > 5 for path in outputs.rglob(SAMPLES_FILE))

    return some


PACED = {"ram_mb": 128, "file_size": "8M", "calibration": {"transfer_mib_s": 8}, "keep_machine": "never"}


def read(path: Path) -> Record:
    return validate_record(json.loads(path.read_text()), str(path))


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_single_trial_survives_a_disk_full_in_its_upload(
    mount: Mount, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = mount(kind, 48)
    monkeypatch.setenv("PICOLAB_OUTPUTS_DIR", str(outputs))
    with Filler(outputs, sampled(outputs)) as filler:
        finished = run_single_trial(TrialParameters.model_validate(PACED), lambda: False, lambda _: None)
        assert filler.full.is_set()

        assert finished.record is not None, finished.reason
        record = read(finished.folder / RECORD_FILE)
    assert record.outcome is Outcome.OK and record.verify and record.verify.matched
    assert record.memory and record.memory.peak_anon_bytes and record.memory.samples >= 10
    assert finished.exit_code is ExitCode.OK
    assert not list(finished.folder.glob(".reserved*")), "what was not needed is given back"


def plan_of_two() -> dict[str, object]:
    return {
        "matrix": {"ram_mb": [128], "file_size": ["8M"]},
        "repeats": 2,
        "idle_limit_s": 0,
        "fault_retries": 0,
        "parameters": {"calibration": {"transfer_mib_s": 8}},
    }


def test_a_campaign_resumes_after_its_disk_was_full(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = mount("ext4", 48)
    monkeypatch.setenv("PICOLAB_OUTPUTS_DIR", str(outputs))
    plan = make_plan(CampaignParameters.model_validate(plan_of_two()), "test", "test.yaml")
    campaign = Campaign.create(plan, Watcher())
    with Filler(outputs, sampled(outputs)) as filler:
        with contextlib.suppress(OSError, HostUnfit):
            campaign.run()
        assert filler.full.is_set()
    (measured,) = [read(path) for path in outputs.rglob("*record.json")]
    assert measured.outcome is Outcome.OK and measured.upload and measured.upload.throughput_mib_s

    again = Campaign.load(campaign.folder)
    assert again.run() is ExitCode.OK
    data = read_campaign(campaign.folder)
    assert len(data.trials) == 2 and data.problems.empty
    assert data.records[measured.identity.trial_id] == measured, "it was not measured again"


def test_without_room_for_the_result_the_upload_does_not_begin(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = mount("tmpfs", 4)
    monkeypatch.setenv("PICOLAB_OUTPUTS_DIR", str(outputs))
    trial = begin()
    (outputs / "rest").write_bytes(b"x" * (3 * MIB))

    with pytest.raises(HostUnfit) as refused:
        trial.upload()
    text = str(refused.value)
    assert "the upload was not begun" in text and f"file system mounted at {outputs} is full" in text
    assert "free some space there" in text and "PICOLAB_OUTPUTS_DIR" in text
    assert trial.state.stages["upload"].attempts == 0 and trial.state.outcome is None
    (outputs / "rest").unlink()
    trial.upload()
    trial.verify()
    assert finish(trial).outcome is Outcome.OK


@pytest.mark.parametrize("missing", ["room for the result", "room for the samples"])
def test_an_upload_survives_a_disk_too_full_for_the_download(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    outputs = mount("tmpfs", 48)
    monkeypatch.setenv("PICOLAB_OUTPUTS_DIR", str(outputs))
    trial = begin(direction="both")
    trial.upload()
    if missing == "room for the samples":
        # The one reserved slot that the upload has used finds its room again.
        reserve.take(trial.folder, 1 << 20, 1 << 20)
    with Filler(outputs, lambda: True) as filler:
        eventually(filler.full.is_set, "the disk is full")
        with pytest.raises(HostUnfit, match="the download was not begun, because its") as refused:
            trial.verify()
    assert missing.rpartition(" ")[2] in str(refused.value)

    kept = read(trial.folder / RECORD_FILE)
    assert (kept.outcome, kept.outcome_stage) == (Outcome.MACHINE_FAILED, "verify")
    assert kept.upload and kept.upload.outcome is Outcome.OK and kept.upload.throughput_mib_s
    assert kept.memory and kept.memory.peak_anon_bytes
    trial.verify()
    assert finish(trial).outcome is Outcome.OK, "with room again the cell goes on"


def test_outputs_that_are_read_only_are_named(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = mount("tmpfs", 4)
    monkeypatch.setenv("PICOLAB_OUTPUTS_DIR", str(outputs))
    subprocess.run(["mount", "-o", "remount,ro", str(outputs)], check=True, timeout=GIVE_UP_S)

    done = CliRunner().invoke(main, ["trial", "--ram", "128", "--file-size", "1M"])

    assert done.exit_code == ExitCode.HOST_UNFIT
    assert f"mounted at {outputs} is mounted read-only" in done.output and "Traceback" not in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_full_state_folder_is_named_before_measuring(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    state = mount("tmpfs", 1)
    monkeypatch.setenv("PICOLAB_STATE_DIR", str(state))
    (state / "rest").write_bytes(b"x" * MIB)

    with pytest.raises(FileNotWritten) as refused:
        begin()
    assert f"mounted at {state} is full (0.0 MiB free)" in str(refused.value)


def test_a_servers_full_disk_is_a_result_on_the_results_disk_too(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server itself fills the disk; the record has its room on it."""
    small = mount("ext4", 32)
    monkeypatch.setenv("PICOLAB_OUTPUTS_DIR", str(small / "outputs"))
    trial = begin(work_dir=str(small / "work"), file_size="40M")
    trial.upload()
    record = finish(trial)

    assert record.outcome is Outcome.DISK_FULL and record.upload, record.outcome_detail
    assert record.upload.outcome is Outcome.DISK_FULL
    assert record.memory and record.memory.peak_anon_bytes
    assert read(trial.folder / RECORD_FILE) == record


def test_where_a_file_system_cannot_reserve_the_room_is_filled(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    place = mount("tmpfs", 1)

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    reserve.take(place, 100_000, 50_000)
    assert sum(path.stat().st_blocks * 512 for path in place.iterdir()) >= 650_000
    reserve.free(place)
    with pytest.raises(HostUnfit, match="is full"):
        reserve.take(place, MIB, 1)
    assert not list(place.iterdir()), "what was taken before it was found out is given back"


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("size", [0, 1, 100, 4096, 50_000])
def test_what_is_reserved_can_be_written_on_a_full_disk(mount: Mount, kind: str, size: int) -> None:
    place = mount(kind, 16)
    reserve.take(place, 65536, 65536)
    growing = place / "growing"
    reserve.hold_back(growing, 100_000)
    assert growing.stat().st_size == 0
    with Filler(place, lambda: True) as filler:
        eventually(filler.full.is_set, "the disk is full")
        with pytest.raises(FileNotWritten, match=f"mounted at {place} is full"):
            write_atomically(place / "other", "x" * 8192)
        assert not list(place.glob(".other*")), "no half file is left"
        for number in range(reserve.SLOTS):
            reserve.write(place / "record.json", f"{number}" + "x" * size)
            assert (place / "record.json").read_text() == f"{number}" + "x" * size
        with growing.open("ab") as file:
            for _ in range(10):
                file.write(b"y" * 10_000)
                file.flush()
        assert growing.stat().st_size == 100_000
    reserve.give_back(growing)
    reserve.free(place)
    assert sorted(path.name for path in place.iterdir() if path.name != "lost+found") == ["growing", "record.json"]


def test_blocks_that_a_file_did_not_need_are_given_back(mount: Mount) -> None:
    place = mount("ext4", 16)
    before = os.statvfs(place).f_bavail
    growing = place / "growing"
    reserve.hold_back(growing, 4 * MIB)
    assert os.statvfs(place).f_bavail < before - 900
    growing.write_bytes(b"")
    with growing.open("ab") as file:
        file.write(b"a sample\n")
    reserve.give_back(growing)
    assert os.statvfs(place).f_bavail >= before - 2 and growing.read_bytes() == b"a sample\n"


def test_the_probe_outlives_a_disk_that_is_full_for_a_while(mount: Mount) -> None:
    """Where a file system cannot hold back blocks for a file."""
    place = mount("tmpfs", 1)
    output = place / SAMPLES_FILE
    command = [sys.executable, *bundle.words("memory_probe"), "--pid", str(os.getpid()), "--interval", "0.002"]
    with output.open("ab") as file:
        probe = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.PIPE)
    try:
        assert probe.stdin is not None and probe.stderr is not None
        with Filler(place, lambda: output.read_bytes().count(b"\n") > 5) as filler:
            eventually(filler.full.is_set, "the disk is full")
            full_at = output.stat().st_size
            # A page of the file may have had room for some more.
            eventually(lambda: output.stat().st_size % 4096 == 0 or output.stat().st_size > full_at, "nothing fits")
            before = _writes(probe.pid)
            eventually(lambda: _writes(probe.pid) > before + 20, "the probe goes on")
        eventually(lambda: output.stat().st_size > full_at + 4096, "what was kept is written")
        _, said = probe.communicate(timeout=GIVE_UP_S)
    finally:
        probe.kill()
        probe.communicate()
    samples = read_samples(output)
    assert probe.returncode == 0 and not said and samples.end
    assert len(samples.rows) == samples.end["samples"], "none is lost"
    times = [float(row[0] or 0) for row in samples.rows]
    assert times == sorted(times)


def _writes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/io").read_text().split("syscw: ")[1].split()[0])


def test_a_full_state_folder_loses_no_measured_upload(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    state = mount("tmpfs", 4)
    monkeypatch.setenv("PICOLAB_STATE_DIR", str(state))
    (scratch / "work").mkdir()
    trial = begin(work_dir=str(scratch / "work"))
    trial.upload()
    with Filler(state, lambda: True) as filler:
        eventually(filler.full.is_set, "the disk is full")
        trial.verify()
        record = finish(trial)

    assert record.outcome is Outcome.OK and record.verify and record.verify.matched


def test_a_line_of_progress_that_finds_no_room_leaves_no_file(mount: Mount) -> None:
    place = mount("tmpfs", 1)
    (place / "rest").write_bytes(b"x" * MIB)
    LiveLine("upload", place / "progress.json").show("1 %")
    assert [path.name for path in place.iterdir()] == ["rest"]

    (place / "rest").unlink()
    LiveLine("upload", place / "progress.json").show("2 %")
    assert last_line(place / "progress.json") == "upload 2 %"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_export_to_a_full_disk_names_the_file(mount: Mount, scratch: Path, kind: str) -> None:
    campaign = write_campaign(scratch / "c", [FakeTrial()])
    place = mount("tmpfs", 1)
    (place / "rest").write_bytes(b"x" * MIB)

    with pytest.raises(FileNotWritten, match=f"{place}/trials.{kind} could not be written, .* is full"):
        export_campaign(campaign, place, [kind])
    assert [path.name for path in place.iterdir()] == ["rest"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "free some space there"),
        (errno.EDQUOT, "whose quota is used up"),
        (errno.EROFS, "is mounted read-only"),
        (errno.EACCES, "look at its permissions"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_why_a_file_was_not_written(tmp_path: Path, number: int, words: str) -> None:
    error = not_written(tmp_path / "not" / "there" / "file", OSError(number, os.strerror(number)))

    assert words in str(error) and str(tmp_path / "not" / "there" / "file") in str(error) and "MiB free" in str(error)
    assert isinstance(error, OSError) and error.errno == number and error.exit_code is ExitCode.HOST_UNFIT
