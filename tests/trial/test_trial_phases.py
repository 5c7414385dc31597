"""Several uploads at once, measured downloads, cold caches and the sync, in whole trials against known truth."""

import contextlib
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Delays, eventually, loaded_server
from throttled_disk import throttled
from trial_steps import begin, codes, finish, measure, server_process

from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import make_plan
from picolab.config.sizes import MIB
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import MachineError, ProbeError
from picolab.exit_codes import ExitCode
from picolab.machines import registry
from picolab.machines.local import machine as local
from picolab.record.outcomes import Outcome
from picolab.record.samples import read_samples
from picolab.record.steps import UploadRecord
from picolab.record.validation import validate_record
from picolab.results.load import read_campaign
from picolab.results.rows import record_row
from picolab.servers.calibration.multipart import BUFFER_BYTES
from picolab.trial.state import DOWNLOAD_SAMPLES_FILE, SAMPLES_FILE
from picolab.trial.trial import Trial

TOLERANCE = 0.02
"""Of a phase's time: its edges are a few milliseconds wide, and each phase here takes 1.5 s."""


@pytest.fixture(autouse=True)
def no_machine_is_left() -> Iterator[None]:
    yield
    registry.release_by_name("local")


@pytest.fixture
def special_server(tmp_path: Path) -> Callable[[str], str]:
    """Make a build: the calibration server (without knobs) after some lines that change it."""

    def make(change: str) -> str:
        program = tmp_path / "special-server"
        program.write_text(f"#!{sys.executable} -BIS\n{loaded_server()}\nimport os\n{change}\nserver.main()\n")
        program.chmod(0o755)
        return str(program)

    return make


REFUSES = """
real = server.Handler._commit
def commit(self, form, *rest):
    with open(os.environ["REFUSED"]) as refused:
        if form.filename in refused.read().split():
            raise server.Refusal(500, f"no room for {form.filename}")
    return real(self, form, *rest)
server.Handler._commit = commit
"""
"""Refuse what a file names at this moment."""


# ---- the server's environment --------------------------------------------------------------------


def environment_of_the_server() -> dict[str, str]:
    words = Path(f"/proc/{server_process()[1]}/environ").read_bytes().rstrip(b"\0").split(b"\0")
    return dict(word.decode().split("=", 1) for word in words)


def test_the_server_sees_its_environment() -> None:
    given = {"GOMEMLIMIT": "100MiB", "GOGC": "50", "WORDS": "a  'b' \"c\" $HOME `d` \\ = ü", "NOTHING": ""}
    trial = begin(environment=given)
    seen = environment_of_the_server()
    trial.upload()
    trial.verify()
    record = finish(trial)

    own = {"PATH", "HOME", "PORT", "TMPDIR", "PS_SHARED_SECRET", "PICOLAB_CALIBRATION", "PICOLAB_CALIBRATION_HOST"}
    assert {name: seen[name] for name in given} == given
    assert set(seen) - set(given) <= own | {"LC_CTYPE"}
    assert record.parameters.environment == given
    assert record_row(record)["environment"] == "GOGC=50 GOMEMLIMIT=100MiB NOTHING= " + shlex.quote(
        "WORDS=" + given["WORDS"]
    )


def test_the_environment_never_replaces_picolabs_own() -> None:
    # Such names are refused as parameters: this is the second line of defence.
    wanted = {"PORT": "1", "HOME": "/nowhere", "PS_SHARED_SECRET": "known", "PICOLAB_CALIBRATION": "nonsense"}
    trial = Trial.open(TrialParameters(file_size="1M").model_copy(update={"environment": wanted}))
    trial.provision()
    trial.start()
    seen = environment_of_the_server()
    trial.release()

    assert not set(seen.items()) & set(wanted.items())


# ---- several uploads at the same time ------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.paced
def test_uploads_at_once_are_as_fast_as_each_is_allowed_to_be(count: int) -> None:
    with Delays() as delays:
        record = measure(
            parallel_uploads=count,
            file_size="12M",
            calibration={"transfer_mib_s": 8, "commit_mib_s": 8},
            direction="both",
        )
    assert record.outcome is Outcome.OK and record.verify and record.download
    upload = record.upload
    assert upload and upload.transfer_s and upload.commit_s and upload.parallel_uploads == count == len(upload.files)

    # Each has a schedule of its own: together they take the time of one.
    delays.check(upload.transfer_s, 1.5, TOLERANCE)
    delays.check(upload.commit_s, 1.5, TOLERANCE)
    assert upload.transfer_mib_s == pytest.approx(count * 12 / upload.transfer_s)
    assert upload.throughput_mib_s == pytest.approx(count * 12 / (upload.duration_s or 0))
    assert upload.duration_s == pytest.approx(upload.transfer_s + upload.commit_s, abs=1e-9)
    for file in upload.files:
        delays.check(file.transfer_s, 1.5, TOLERANCE)
        delays.check(file.commit_s, 1.5, TOLERANCE)
        assert file.throughput_mib_s == pytest.approx(12 / ((file.transfer_s or 0) + (file.commit_s or 0)))
        assert (file.http_status, file.ending, file.ending_detail) == (200, "response", "")
        assert file.delivered_bytes == 12 * MIB and file.first_byte_s is not None
        assert 0 <= file.first_byte_s < 0.1 * upload.transfer_s + delays.seconds
    assert min(file.first_byte_s or 0 for file in upload.files) == 0
    assert upload.delivered_bytes == upload.progress.delivered_bytes[-1] == count * 12 * MIB
    assert upload.progress.t_s[-1] == pytest.approx(upload.transfer_s, abs=1e-3)
    assert record.verify.received_bytes == record.download.received_bytes == count * 12 * MIB
    # Temp files and database lie on the disk together until the end of the commit.
    assert upload.stored_disk_bytes and record.memory and record.memory.peak_disk_bytes
    assert count * 12 * MIB < upload.stored_disk_bytes < 1.5 * count * 12 * MIB
    assert 1.7 * count * 12 * MIB < record.memory.peak_disk_bytes < 2.5 * count * 12 * MIB
    assert len({file.seed for file in upload.files}) == count and upload.files[0].seed == record.parameters.seed


@pytest.mark.paced
def test_the_memory_of_all_uploads_at_once_is_seen() -> None:
    case: dict[str, Any] = {"parallel_uploads": 4, "file_size": "20M", "ram_mb": 512}
    paced = {"transfer_mib_s": 20, "commit_mib_s": 40}
    without = measure(**case, calibration=paced).memory
    growing = measure(**case, calibration=paced | {"ballast_mib_per_mib": 1}).memory

    assert without and growing and without.peak_anon_bytes and growing.peak_anon_bytes
    # Each upload has a buffer, which one peak may hold and the other not.
    tolerance_bytes = 0.03 * 80 * MIB + 4 * BUFFER_BYTES
    assert growing.peak_anon_bytes - without.peak_anon_bytes == pytest.approx(80 * MIB, abs=tolerance_bytes)


def test_four_uploads_at_once_kill_a_server_that_survives_one() -> None:
    case: dict[str, Any] = {"ram_mb": 72, "file_size": "20M"}
    # The commit is slow enough for all uploads to have arrived before the first one gives its memory back.
    knobs = {"ballast_mib_per_mib": 1, "commit_mib_s": 20}

    assert measure(**case, calibration=knobs).outcome is Outcome.OK
    record = measure(**case, calibration=knobs, parallel_uploads=4)

    assert (record.outcome, record.outcome_stage) == (Outcome.OOM_KILLED, "upload"), record.outcome_detail
    assert record.outcome_detail.startswith("4 of 4 uploads failed, the first of them so: the kernel killed the server")
    assert record.upload and record.memory and record.upload.duration_s is None and record.memory.oom_kills == 1
    assert 0 < record.upload.delivered_bytes == sum(file.delivered_bytes for file in record.upload.files)
    for index, file in enumerate(record.upload.files):
        assert (file.ending, file.http_status, file.duration_s) == ("connection_lost", None, None)
        assert file.ending_detail
        assert record.missing[f"upload.files.{index}.http_status"] == "the server gave no answer"


def stored_entries() -> list[str]:
    machine, _ = server_process()
    with contextlib.closing(sqlite3.connect(f"{machine._work}/data/store.db")) as db:
        return sorted(name for (name,) in db.execute("SELECT filename FROM entries"))


def test_one_failed_upload_hides_no_other(special_server: Callable[[str], str], tmp_path: Path) -> None:
    refused = tmp_path / "refused"
    refused.write_text("payload-3.bin")
    trial = begin(build=special_server(REFUSES), environment={"REFUSED": str(refused)}, parallel_uploads=4)
    trial.upload()
    trial.verify()
    record = trial.collect() if trial.state.outcome is None else trial.state.record()

    assert (record.outcome, record.outcome_stage) == (Outcome.HTTP_ERROR, "upload")
    sentence = "1 of 4 uploads failed, the first of them so: the server answered 500: no room for payload-3.bin"
    assert record.outcome_detail == sentence
    upload = record.upload
    assert upload and (upload.http_status, upload.server_message) == (500, "no room for payload-3.bin")
    assert (upload.duration_s, upload.throughput_mib_s) == (None, None) and upload.transfer_mib_s is not None
    assert upload.delivered_bytes == 16 * MIB
    assert [file.http_status for file in upload.files] == [200, 200, 500, 200]
    assert [file.duration_s is None for file in upload.files] == [False, False, True, False]
    assert [file.ending_detail for file in upload.files] == ["", "", "no room for payload-3.bin", ""]
    assert record.missing["upload.files.2.duration_s"] == "the upload was not answered with success"
    assert record.verify is None
    assert stored_entries() == ["payload-2.bin", "payload-4.bin", "payload.bin"]

    refused.write_text("payload.bin payload-2.bin")
    trial.upload()
    assert trial.state.outcome_detail.startswith("2 of 4 uploads failed, the first of them so: the server answered 500")
    refused.write_text("")
    trial.upload()
    # What the earlier attempts had stored is gone.
    assert stored_entries() == ["payload-2.bin", "payload-3.bin", "payload-4.bin", "payload.bin"]
    trial.verify()
    record = finish(trial)

    assert record.outcome is Outcome.OK and record.verify and record.verify.received_bytes == 16 * MIB
    assert not [path for path in record.missing if path.startswith("upload.files")]
    assert {path.name for path in trial.folder.glob("samples*")} == {
        "samples.jsonl",
        "samples.attempt1.jsonl",
        "samples.attempt2.jsonl",
    }


@pytest.mark.parametrize(
    ("outcome", "detail", "parameters"),
    [
        ("server_died", "the server ended with exit code 7", {"calibration": {"exit_after_mib": 2, "exit_code": 7}}),
        ("stalled", "stall_limit_s = 1 s", {"stall_limit_s": 1, "calibration": {"stall_after_mib": 0.25}}),
        ("timeout", "limit of 1 s, after", {"total_limit_s": 1, "calibration": {"transfer_mib_s": 5}}),
        ("http_error", "418: short and stout", {"calibration": {"status": 418, "status_message": "short and stout"}}),
    ],
)
def test_limits_and_ends_hold_for_all_uploads(outcome: str, detail: str, parameters: dict[str, object]) -> None:
    # More than the kernel takes for a server that does not read.
    record = measure(parallel_uploads=3, file_size="20M", **parameters)

    assert (record.outcome, record.outcome_stage) == (outcome, "upload"), record.outcome_detail
    assert record.outcome_detail.startswith("3 of 3 uploads failed, the first of them so: ")
    assert detail in record.outcome_detail
    assert record.upload and len(record.upload.files) == 3


def test_a_corrupted_download_still_has_its_memory(special_server: Callable[[str], str]) -> None:
    change = """
real = server.Handler._commit
def commit(self, form, spool, *rest):
    if form.filename == "payload-2.bin":
        self.server.knobs = server.Knobs(corrupt_byte=77)
    return real(self, form, spool, *rest)
server.Handler._commit = commit
"""
    # The knobs are the server's, so what is committed after the second file may be corrupted too.
    record = measure(build=special_server(change), parallel_uploads=2, direction="download")

    assert (record.outcome, record.outcome_stage) == (Outcome.CORRUPTED, "verify")
    assert "of 2 downloads failed): the download differs from byte 77 on" in record.outcome_detail
    assert record.verify and record.verify.matched is False and record.verify.first_difference_byte == 77
    assert record.verify.sent_sha256 != record.verify.received_sha256
    assert record.download and record.download.received_bytes == 8 * MIB and record.download.memory.samples >= 2


def test_a_commit_beside_a_transfer_has_no_rate_of_its_own(special_server: Callable[[str], str]) -> None:
    slow_second = """
class Body(server.UploadBody):
    def _read_some(self, view):
        while self.received_bytes >= server.MIB and not first_is_answered.is_set() and self.is_later:
            first_is_answered.wait()
        return super()._read_some(view)
    def __enter__(self):
        self.is_later = bool(seen)
        seen.append(self)
        return super().__enter__()
    def __exit__(self, *error):
        first_is_answered.set()
        return super().__exit__(*error)
import threading
seen, first_is_answered = [], threading.Event()
server.UploadBody = Body
"""
    # What the server does not read must not fit into its kernel's buffers.
    record = measure(build=special_server(slow_second), parallel_uploads=2, file_size="20M")
    upload = record.upload

    assert record.outcome is Outcome.OK and upload and upload.commit_s is not None and upload.commit_mib_s is None
    assert record.missing["upload.commit_mib_s"] == "a file was answered while another one was still transferred"
    assert all(file.commit_s is not None for file in upload.files)


# ---- the measured download -----------------------------------------------------------------------


@pytest.mark.paced
def test_the_download_is_measured_with_its_memory() -> None:
    case: dict[str, Any] = {"file_size": "45M", "direction": "download"}
    paced = {"download_mib_s": 30}
    with Delays() as delays:
        without = measure(**case, calibration=paced)
        ballast = measure(**case, calibration=paced | {"download_ballast_mib": 100})

    for record in (without, ballast):
        assert record.outcome is Outcome.OK and record.verify and record.upload
        assert record.download and record.download.duration_s
        assert record.download.received_bytes == 45 * MIB
        assert record.download.first_byte_wait_s
        # The pace is from the first byte on: what the server does before it (here: taking memory) is the wait.
        delays.check(record.download.duration_s - record.download.first_byte_wait_s, 1.5, TOLERANCE)
        assert record.download.throughput_mib_s == pytest.approx(45 / record.download.duration_s)
        assert (record.verify.download_s, record.verify.download_mib_s) == (
            record.download.duration_s,
            record.download.throughput_mib_s,
        )
        assert (record.upload.cache, record.download.cache) == ("warm", "warm")
    assert without.download and ballast.download and without.memory and ballast.memory
    peaks = [record.download.memory.peak_anon_bytes or 0 for record in (without, ballast)]
    assert peaks[1] - peaks[0] == pytest.approx(100 * MIB, rel=0.03)
    # The upload's memory is that of the upload alone.
    assert abs((ballast.memory.peak_anon_bytes or 0) - (without.memory.peak_anon_bytes or 0)) < 5 * MIB
    row = record_row(ballast)
    assert row["download_peak_anon_bytes"] == peaks[1] and row["direction"] == "download"
    assert row["first_byte_wait_s"] == ballast.download.first_byte_wait_s
    assert row["scenario"] == ballast.parameters.scenario


@pytest.mark.paced
def test_several_files_are_downloaded_one_after_another() -> None:
    with Delays() as delays:
        record = measure(parallel_uploads=3, file_size="10M", direction="both", calibration={"download_mib_s": 20})

    assert record.outcome is Outcome.OK and record.download and record.download.duration_s
    delays.check(record.download.duration_s, 1.5, TOLERANCE)
    assert record.download.throughput_mib_s == pytest.approx(30 / record.download.duration_s)


def test_without_the_direction_there_is_no_measured_download() -> None:
    trial = begin()
    trial.upload()
    trial.verify()
    record = finish(trial)

    assert record.download is None and "download" not in record.missing
    assert not (trial.folder / DOWNLOAD_SAMPLES_FILE).exists()
    assert record_row(record)["download_peak_anon_bytes"] is None


def test_a_campaign_files_the_samples_of_its_downloads() -> None:
    wanted = {
        "matrix": {"ram_mb": [128], "file_size": ["4M"], "direction": ["both"]},
        "repeats": 1,
        "idle_limit_s": 0,
        "parameters": {"parallel_uploads": 2, "sync": "measure"},
    }
    campaign = Campaign.create(make_plan(CampaignParameters.model_validate(wanted), "test", "test.yaml"), Watcher())

    assert campaign.run() is ExitCode.OK
    data = read_campaign(campaign.folder)
    assert len(data.trials) == 1 and data.problems.empty
    row = data.trials.iloc[0]
    samples = read_samples(campaign.folder / "trials" / f"{row['trial_id']}.download-samples.jsonl")
    assert len(samples.rows) == row["download_samples"] >= 2
    assert samples.peak("anon_bytes") == row["download_peak_anon_bytes"]
    assert (row["parallel_uploads"], row["direction"]) == (2, "both")
    assert row["durable_mib_s"] < row["throughput_mib_s"]


def test_a_server_that_dies_in_the_measured_download() -> None:
    trial = begin(file_size="20M", direction="download", calibration={"download_mib_s": 10})
    trial.upload()
    pid = server_process()[1]
    samples = trial.folder / DOWNLOAD_SAMPLES_FILE

    def kill() -> None:
        eventually(lambda: samples.exists() and samples.read_bytes().count(b"\n") > 10, "the download is measured")
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    trial.verify()
    killer.join()
    record = finish(trial)

    assert (record.outcome, record.outcome_stage) == (Outcome.SERVER_DIED, "verify")
    assert record.outcome_detail.startswith("the server ended with signal SIGKILL, in the download")
    assert record.download and (record.download.duration_s, record.download.throughput_mib_s) == (None, None)
    assert record.missing["download.duration_s"] == "the download did not get to its end"
    assert record.download.memory.peak_anon_bytes


def test_a_probe_killed_in_the_download_is_a_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trial = begin(file_size="10M", direction="download", calibration={"download_mib_s": 10})
    trial.upload()
    started = local.LocalMachine.probe

    def probe_that_is_killed(machine: local.LocalMachine, interval_s: float, output: Path) -> object:
        stream = started(machine, interval_s, output)
        stream._process.kill()
        return stream

    with monkeypatch.context() as patched:
        patched.setattr(local.LocalMachine, "probe", probe_that_is_killed)
        with pytest.raises(ProbeError, match="ended too early"):
            trial.verify()
    assert trial.state.outcome is Outcome.INVALID and trial.state.upload is not None
    trial.verify()
    record = finish(trial)

    assert record.outcome is Outcome.OK and record.download and record.download.throughput_mib_s
    assert (trial.folder / "download-samples.attempt1.jsonl").exists()


# ---- the page cache ------------------------------------------------------------------------------


def read_from_disk(samples: Path) -> int:
    return read_samples(samples).growth("disk_read_bytes") or 0


@pytest.mark.alone
def test_only_a_cold_download_reads_from_the_disk() -> None:
    read = {}
    for cache in ("cold", "warm"):
        trial = begin(file_size="64M", direction="download", cache=cache, ram_mb=512)
        trial.upload()
        trial.verify()
        record = finish(trial)
        if "cache_not_dropped" in codes(record):
            pytest.skip("this host does not let its page cache be dropped")
        assert record.outcome is Outcome.OK and record.upload and record.download
        assert (record.upload.cache, record.download.cache) == ("warm", "dropped" if cache == "cold" else "warm")
        assert record_row(record)["cache"] == cache
        read[cache] = read_from_disk(trial.folder / DOWNLOAD_SAMPLES_FILE)
    assert read["cold"] >= 60 * MIB
    assert read["warm"] < 32 * MIB


@pytest.mark.parametrize(
    ("direction", "caches"),
    [("upload", ("unknown", None)), ("both", ("unknown", "unknown")), ("download", ("warm", "unknown"))],
)
def test_a_cache_that_could_not_be_dropped_is_unknown(
    monkeypatch: pytest.MonkeyPatch, direction: str, caches: tuple[str, str | None]
) -> None:
    """The machine is root's here: the refusal is a fake at the boundary."""
    monkeypatch.setattr(local.LocalMachine, "drop_page_cache", lambda _: "only root may do that")
    record = measure(cache="cold", direction=direction)

    assert record.outcome is Outcome.OK and record.upload
    assert (record.upload.cache, record.download.cache if record.download else None) == caches
    found = [caveat for caveat in record.caveats if caveat.code == "cache_not_dropped"]
    assert [caveat.value for caveat in found] == ["only root may do that"]


def test_the_cache_is_left_alone_unless_it_shall_be_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    def drop(_: local.LocalMachine) -> str:
        raise AssertionError("nobody asked for that")

    monkeypatch.setattr(local.LocalMachine, "drop_page_cache", drop)
    record = measure(direction="both")

    assert record.outcome is Outcome.OK and "cache_not_dropped" not in codes(record)


# ---- the sync ------------------------------------------------------------------------------------

WRITES_MORE = """
real = server.Handler._commit
def commit(self, *rest):
    entry = real(self, *rest)
    with open(os.path.join(os.environ["HOME"], "more"), "wb") as more:
        more.write(os.urandom(int(os.environ["MORE_MIB"]) << 20))
    return entry
server.Handler._commit = commit
"""
"""Leave so much of unwritten data behind that what the database leaves does not matter."""


def check_the_sync(build: str) -> None:
    trial = begin(build=build, file_size="64K", sync="measure", environment={"MORE_MIB": "48"})
    begun_s = time.monotonic()
    with throttled(trial.folder, 16 * MIB, os.getpid()):
        trial.upload()
    elapsed_s = time.monotonic() - begun_s
    trial.verify()
    record = finish(trial)
    upload = record.upload

    assert record.outcome is Outcome.OK and upload and upload.sync_s and upload.duration_s
    # A busy host makes it longer and never shorter; the kernel's throttle lets 0.1 s of its rate pass at once.
    assert 0.94 * 48 / 16 <= upload.sync_s <= elapsed_s
    assert upload.durable_mib_s == pytest.approx(1 / 16 / (upload.duration_s + upload.sync_s))
    row = record_row(record)
    assert (row["sync_s"], row["durable_mib_s"], row["sync"]) == (upload.sync_s, upload.durable_mib_s, "measure")


@pytest.mark.alone
def test_the_sync_takes_what_the_disk_takes(special_server: Callable[[str], str]) -> None:
    check_the_sync(special_server(WRITES_MORE))


def test_samples_continue_during_the_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = begin(sync="measure", parallel_uploads=2)
    samples = trial.folder / SAMPLES_FILE
    lines: list[int] = []
    begun_s: list[float] = []
    real = local.LocalMachine.sync_data

    def sync(machine: local.LocalMachine) -> float:
        assert len(stored_entries()) == 2, "both were answered"
        lines.append(samples.read_bytes().count(b"\n"))
        eventually(lambda: samples.read_bytes().count(b"\n") >= lines[0] + 5, "the probe goes on")
        begun_s.append(real(machine))
        return begun_s[0]

    monkeypatch.setattr(local.LocalMachine, "sync_data", sync)
    trial.upload()
    trial.verify()
    record = finish(trial)

    assert record.upload and record.upload.sync_s == begun_s[0] and record.upload.durable_mib_s
    assert record.memory and record.memory.samples >= lines[0] + 5 - 1


def test_no_sync_after_a_failed_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(_: local.LocalMachine) -> float:
        raise MachineError("nothing was stored")

    monkeypatch.setattr(local.LocalMachine, "sync_data", sync)
    record = measure(sync="measure", calibration={"status": 500})

    assert record.outcome is Outcome.HTTP_ERROR and record.upload and record.upload.sync_s is None
    assert record.missing["upload.sync_s"] == "the upload was not answered with success"


def test_data_in_memory_are_never_on_a_disk(tmp_path: Path) -> None:
    folder = tmp_path / "in-memory"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    try:
        record = measure(work_dir=str(folder), sync="measure")
        registry.release_by_name("local")
    finally:
        subprocess.run(["umount", str(folder)], check=True)

    assert record.outcome is Outcome.OK and record.upload and record.upload.sync_s is None
    assert record.missing["upload.durable_mib_s"].startswith("the data folder lies in memory (tmpfs)")


def test_an_old_record_lacks_fields_and_keeps_its_meaning() -> None:
    path = Path(__file__).parents[1] / "records" / "before-virtual-machines.json"
    record = validate_record(json.loads(path.read_text()), "a place")
    again = validate_record(json.loads(record.model_dump_json()), "a place")

    assert again == record and record.download is None
    upload = record.upload
    assert isinstance(upload, UploadRecord)
    assert (upload.parallel_uploads, upload.files, upload.cache, upload.sync_s) == (1, [], "warm", None)
    row = record_row(record)
    assert (row["parallel_uploads"], row["direction"], row["cache"], row["durable_mib_s"]) == (
        1,
        "upload",
        "warm",
        None,
    )
