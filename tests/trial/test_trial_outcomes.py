"""Every outcome word, provoked for real: a real server process in a real memory limit."""

import json
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner
from conftest import Delays, eventually
from trial_steps import begin

from picolab.cli.main import main
from picolab.config.sizes import MIB, in_mib
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import MachineError, MachineSilent, ParameterError, ProbeError, StageError
from picolab.machines import folders, registry
from picolab.machines.base import Stream
from picolab.machines.folders import KEEPER
from picolab.machines.local import machine as local
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.record.validation import validate_record
from picolab.servers.measurements import UploadMeasurement, UploadsMeasurement
from picolab.text.wording import in_seconds
from picolab.trial.measured_step import memory_of
from picolab.trial.state import RECORD_FILE, repeat_command
from picolab.trial.trial import Trial
from picolab.trial.upload_record import upload_record


@pytest.fixture
def run_trial() -> Iterator[Callable[..., Record]]:
    """Run all stages in this process, as the notebook does, and take the machine down in any case."""

    def run(before_upload: Callable[[Trial], None] | None = None, **parameters: object) -> Record:
        defaults = {"ram_mb": 128, "file_size": "20M", "keep_machine": "never"}
        trial = Trial.open(TrialParameters.model_validate(defaults | parameters))
        trial.provision()
        trial.start()
        trial.authenticate()
        if before_upload is not None:
            before_upload(trial)
        trial.upload()
        trial.verify()
        record = trial.collect()
        trial.release()
        on_disk = json.loads((trial.folder / RECORD_FILE).read_text())
        assert validate_record(on_disk, "the trial's folder") == record
        return record

    yield run
    registry.release_by_name("local")


def test_ok_has_every_measurement(run_trial: Callable[..., Record]) -> None:
    record = run_trial()

    assert record.outcome is Outcome.OK and record.outcome_stage is None
    assert record.upload and record.verify and record.memory and record.server and record.machine
    assert record.upload.delivered_bytes == 20 * MIB
    assert record.upload.duration_s == pytest.approx(
        (record.upload.transfer_s or 0) + (record.upload.commit_s or 0), abs=1e-9
    )
    assert record.upload.progress.delivered_bytes[-1] == 20 * MIB
    assert record.verify.matched and record.verify.sent_sha256 == record.verify.received_sha256
    assert record.machine.memory_limit.limit_bytes == 128 * MIB
    assert record.memory.samples >= 2
    assert record.server.exit_code == 0 and record.server.stop_s is not None
    of_the_host = ("conditions.", "instrument")
    missing = {path for path in record.missing if not path.startswith(of_the_host)}
    assert missing == {"upload.sync_s", "upload.durable_mib_s"}, "they were not asked for"
    assert record.caveats[0].code == "calibration_server"


def _peak_anon(record: Record) -> int:
    assert record.outcome is Outcome.OK and record.memory and record.memory.peak_anon_bytes
    return record.memory.peak_anon_bytes


@pytest.mark.paced
def test_the_truth_of_the_calibration_server_is_found(run_trial: Callable[..., Record]) -> None:
    paced = {"transfer_mib_s": 30, "commit_mib_s": 20}
    case = {"file_size": "60M", "ram_mb": 512}

    without = run_trial(**case, calibration=paced)
    constant = run_trial(**case, calibration=paced | {"ballast_mib": 150})
    with Delays() as delays:
        growing = run_trial(**case, calibration=paced | {"ballast_mib_per_mib": 2})

    # Two per cent: the edges of a phase are a few milliseconds wide, and the shorter one takes 2 s.
    assert growing.upload
    delays.check(growing.upload.transfer_s, 2, 0.02)
    delays.check(growing.upload.commit_s, 3, 0.02)
    assert growing.upload.transfer_mib_s == pytest.approx(60 / (growing.upload.transfer_s or 0))
    assert growing.upload.commit_mib_s == pytest.approx(60 / (growing.upload.commit_s or 0))
    # The server needs some memory of its own for an upload: the truth is what the knob adds to it.
    assert _peak_anon(constant) - _peak_anon(without) == pytest.approx(150 * MIB, rel=0.03)
    assert _peak_anon(growing) - _peak_anon(without) == pytest.approx(120 * MIB, rel=0.03)


@pytest.mark.parametrize(
    ("outcome", "stage", "detail", "parameters"),
    [
        ("oom_killed", "upload", "64 MiB", {"ram_mb": 64, "calibration": {"oom_after_mib": 4}}),
        ("server_died", "upload", "exit code 7", {"calibration": {"exit_after_mib": 4, "exit_code": 7}}),
        (
            "http_error",
            "upload",
            "500: it broke",
            {"calibration": {"status": 500, "status_message": "it broke"}},
        ),
        (
            "stalled",
            "upload",
            "stall_limit_s = 1 s",
            # Soon: the kernel gives a server that has read much a buffer of up to 32 MiB, which would hold the rest.
            {"stall_limit_s": 1, "calibration": {"stall_after_mib": 0.25}},
        ),
        ("timeout", "upload", "limit of 1 s", {"total_limit_s": 1, "calibration": {"transfer_mib_s": 5}}),
        ("timeout", "upload", "limit of 1 s", {"total_limit_s": 1, "calibration": {"stall_in_commit": True}}),
        (
            "timeout",
            "start",
            "ready_limit_s = 0.5",
            {"ready_limit_s": 0.5, "calibration": {"startup_delay_s": 60}},
        ),
        ("corrupted", "verify", "from byte 12345 on", {"calibration": {"corrupt_byte": 12345}}),
        ("disk_full", "upload", "database or disk is full", {"calibration": {"disk_quota_mib": 8}}),
    ],
)
def test_results(
    run_trial: Callable[..., Record], outcome: str, stage: str, detail: str, parameters: dict[str, object]
) -> None:
    record = run_trial(**parameters)

    assert (record.outcome, record.outcome_stage) == (outcome, stage), record.outcome_detail
    assert detail in record.outcome_detail
    assert not record.outcome.is_fault


def test_oom_killed_means_that_the_kernel_killed_the_server(run_trial: Callable[..., Record]) -> None:
    def kill_server(trial: Trial) -> None:
        machine = registry.attach("local")
        assert machine is not None
        pid = machine.process_status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not machine.process_status().running, "the keeper knows that the server has ended")

    record = run_trial(before_upload=kill_server)

    assert (record.outcome, record.outcome_stage) == (Outcome.SERVER_DIED, "upload")
    assert "signal SIGKILL, before the upload" in record.outcome_detail
    assert record.server and record.server.oom_kills == 0


def test_a_really_full_disk_is_disk_full(run_trial: Callable[..., Record], tmp_path: Path) -> None:
    full = tmp_path / "small-disk"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(full)], check=True)
    try:
        record = run_trial(work_dir=str(full))
        registry.release_by_name("local")
    finally:
        subprocess.run(["umount", str(full)], check=True)

    assert record.outcome is Outcome.DISK_FULL, record.outcome_detail
    assert "work_dir_in_memory" in [caveat.code for caveat in record.caveats]


def _record_after_fault(trial: Trial) -> Record:
    return validate_record(json.loads((trial.folder / RECORD_FILE).read_text()), "the trial's folder")


def test_a_server_without_its_port_is_machine_failed() -> None:
    trial = Trial.open(
        TrialParameters(file_size="1M", keep_machine="never", calibration={"occupy_port_without_listening": True})
    )
    try:
        trial.provision()
        with pytest.raises(MachineError, match="without a listener"):
            trial.start()
        record = _record_after_fault(trial)
    finally:
        registry.release_by_name("local")

    assert (record.outcome, record.outcome_stage) == (Outcome.MACHINE_FAILED, "start")
    assert record.outcome.is_fault
    assert record.missing["upload"].startswith("not reached: machine_failed")


def test_a_killed_keeper_is_machine_failed() -> None:
    trial = Trial.open(
        TrialParameters(ram_mb=128, file_size="20M", keep_machine="never", calibration={"transfer_mib_s": 10})
    )
    trial.provision()
    trial.start()
    trial.authenticate()
    keeper = json.loads((folders.machines_dir() / "local" / KEEPER).read_text())["process"]["pid"]
    killer = threading.Timer(0.3, os.kill, (keeper, signal.SIGKILL))
    killer.start()
    try:
        with pytest.raises(MachineError):
            trial.upload()
        record = _record_after_fault(trial)
    finally:
        killer.join()
        registry.release_by_name("local")

    assert (record.outcome, record.outcome_stage) == (Outcome.MACHINE_FAILED, "upload")
    assert record.upload is not None and record.memory is not None, "what was measured is kept"


def test_a_killed_probe_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial.open(
        TrialParameters(ram_mb=128, file_size="20M", keep_machine="never", calibration={"transfer_mib_s": 20})
    )
    started = local.LocalMachine.probe

    def probe_that_is_killed(machine: local.LocalMachine, interval_s: float, output: Path) -> object:
        stream = started(machine, interval_s, output)
        threading.Timer(0.4, os.kill, (stream._process.pid, signal.SIGKILL)).start()
        return stream

    monkeypatch.setattr(local.LocalMachine, "probe", probe_that_is_killed)
    try:
        for stage in (trial.provision, trial.start, trial.authenticate):
            stage()
        with pytest.raises(ProbeError, match="ended too early"):
            trial.upload()
        record = _record_after_fault(trial)
    finally:
        registry.release_by_name("local")

    assert (record.outcome, record.outcome_stage) == (Outcome.INVALID, "upload")
    assert record.upload is not None and record.upload.duration_s is not None


def test_an_unlimited_run_is_labelled(run_trial: Callable[..., Record]) -> None:
    record = run_trial(memory_limit="none", file_size="2M")

    assert record.outcome is Outcome.OK and record.machine
    assert record.machine.memory_limit.method == "none"
    assert record.machine.memory_limit.limit_bytes is None
    assert "memory_limit_none" in [caveat.code for caveat in record.caveats]
    assert record.memory and record.memory.oom_kills is None
    assert record.missing["memory.oom_kills"] == "the server runs in no memory cgroup"


def test_a_stage_out_of_order_says_which_cell_to_run_first() -> None:
    trial = Trial.open(TrialParameters(file_size="1M", keep_machine="never"))

    with pytest.raises(StageError, match="stage authenticate has not been done yet; run its cell first"):
        trial.upload()
    with pytest.raises(StageError, match="nothing to collect yet; run the provision cell first"):
        trial.collect()
    assert not (trial.folder / RECORD_FILE).exists()


def test_the_secret_is_nowhere(run_trial: Callable[..., Record]) -> None:
    seen: dict[str, str] = {}

    def look(trial: Trial) -> None:
        machine = registry.attach("local")
        assert machine is not None
        seen["secret"] = (machine.folder / "secret").read_text()
        seen["cookie"] = (machine.folder / "cookie").read_text()
        seen["argv"] = Path(f"/proc/{machine.process_status().pid}/cmdline").read_text()
        seen["folder"] = str(trial.folder)

    run_trial(before_upload=look)

    texts = [path.read_text(errors="replace") for path in Path(seen["folder"]).iterdir()] + [seen["argv"]]
    assert len(seen["secret"]) >= 24 and seen["cookie"]
    assert not [text for text in texts if seen["secret"] in text or seen["cookie"] in text]


@pytest.mark.parametrize(
    "parameters",
    [
        {"build": "/builds/1.10", "label": "1.10"},
        {"build": "/builds/null", "label": "null", "work_dir": "/~"},
        {"build": "1.5.4", "label": "007"},
        {"work_dir": "/a folder/with 'quotes'", "calibration": {"status": 500, "status_message": "a: b"}},
        {"total_limit_s": 12.5, "memory_limit": "none", "seed": 7},
        {"label": "small", "parallel_uploads": 4, "direction": "both", "cache": "cold", "sync": "measure"},
        {"environment": {"GOMEMLIMIT": "100MiB", "QUOTES": "a  'b' \"c\" $HOME `d` \\ ü", "NOTHING": ""}},
    ],
)
def test_the_repeat_command_means_the_same_trial(
    parameters: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = TrialParameters.model_validate({"ram_mb": 64, "file_size": "3M"} | parameters)
    given: list[TrialParameters] = []

    def note(read: TrialParameters, *_: object) -> None:
        given.append(read)
        raise ParameterError("noted")

    monkeypatch.setattr("picolab.campaign.single_trial.run_single_trial", note)
    program, *words = shlex.split(repeat_command(wanted))
    CliRunner().invoke(main, words)

    assert program == "picolab" and given == [wanted]


def test_an_early_answer_leaves_the_phases_unknown() -> None:
    """The moment is too short to provoke: the measurement is a fake at the boundary."""
    trial = Trial.open(TrialParameters(file_size="1M"))
    measured = UploadMeasurement(
        ending="response", http_status=200, entry_id="x", first_byte_s=1.0, response_s=2.0, delivered_bytes=MIB - 1
    )

    record = upload_record(trial._run, UploadsMeasurement([measured]))

    assert (record.duration_s, record.transfer_s, record.commit_s) == (1.0, None, None)
    for phase in ("transfer_s", "commit_s", "transfer_mib_s", "commit_mib_s"):
        assert trial.state.missing[f"upload.{phase}"] == "the answer came before the last byte was acknowledged"
    assert (in_seconds(record.transfer_s), in_mib(None)) == ("not known", "not known")


def test_a_machine_that_falls_silent_in_a_stalled_upload_is_a_result() -> None:
    """As a guest does that has no memory left, not even for its probe."""
    trial = begin(calibration={"stall_after_mib": 1}, stall_limit_s=0.5, file_size="16M")
    machine = trial._run.machine
    assert machine is not None
    start_probe = machine.probe

    def silent(*_: object) -> NoReturn:
        raise MachineSilent("machine 'local': status: no answer within 60 s")

    def probe_that_falls_silent(interval_s: float, output: Path) -> Stream:
        stream = start_probe(interval_s, output)
        finish = stream.finish

        def cut_off(patience_s: float = 10.0) -> None:
            finish(patience_s)
            output.write_bytes(b"".join(output.read_bytes().splitlines(keepends=True)[:-1]))

        patch.setattr(stream, "finish", cut_off)
        patch.setattr(machine, "process_status", silent)
        patch.setattr(machine, "stop_process", silent)
        return stream

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "probe", probe_that_falls_silent)
        trial.upload()
        trial.verify()
        record = trial.collect()
    trial.release()
    assert (record.outcome, record.outcome_stage) == ("stalled", "upload")
    assert "the machine did not answer either, so it is not known whether the server still ran" in record.outcome_detail
    assert "no answer within 60 s" in record.missing["server.stop_s"] == record.missing["server.oom_kills"]
    assert record.upload is not None and record.upload.outcome == "stalled"
    assert record.memory is not None and record.memory.samples > 0


def test_a_machine_that_is_gone_is_why_there_are_no_samples() -> None:
    trial = begin()
    machine = trial._run.machine
    assert machine is not None
    found: list[MachineError] = [MachineError("it is suspended"), MachineSilent("no answer within 60 s")]

    def fail() -> NoReturn:
        raise found.pop(0)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine, "process_status", fail)
            with pytest.raises(MachineError, match="it is suspended"):
                memory_of(trial._run, "no-samples.jsonl", 0.0)
            with pytest.raises(ProbeError, match="the memory probe wrote nothing"):
                memory_of(trial._run, "no-samples.jsonl", 0.0)
    finally:
        registry.release_by_name(machine.name)
