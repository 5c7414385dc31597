"""Each measured step has its own outcome, and a step that is not measured decides nothing but `corrupted`.

Real servers under real memory limits.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from trial_steps import begin, codes, finish, measure, server_process

from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.campaign.single_trial import FinishedTrial
from picolab.cli import trial_view
from picolab.cli.outcome_table import outcome_table
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import make_plan
from picolab.config.sizes import MIB
from picolab.errors import MachineError, MemoryLimitUnavailable, RecordError
from picolab.exit_codes import ExitCode
from picolab.machines import registry
from picolab.machines.folders import KEEPER
from picolab.machines.local import machine as local
from picolab.machines.local.cgroup import MemoryCgroup, find_method
from picolab.record.outcomes import Outcome
from picolab.record.record import Record, step_outcome
from picolab.record.validation import validate_record
from picolab.results.load import read_campaign
from picolab.results.rows import plain_rows, record_row
from picolab.trial import verify
from picolab.trial.state import RECORD_FILE
from picolab.trial.trial import Trial

HUNGRY_DOWNLOAD: dict[str, Any] = {"ram_mb": 64, "file_size": "20M", "calibration": {"download_ballast_mib": 200}}
"""The upload needs little memory, and giving the file back more than the limit."""
UNLIMITED = 1 << 40


@pytest.fixture(autouse=True)
def no_machine_is_left() -> Iterator[None]:
    yield
    registry.release_by_name("local")


def find_method_or_none() -> str | None:
    try:
        return find_method()
    except MemoryLimitUnavailable:
        return None


def limit_now(machine: local.LocalMachine) -> int | None:
    return machine.describe().memory_limit.limit_bytes


def steps(record: Record) -> tuple[Outcome | None, Outcome | None]:
    return step_outcome(record, "upload"), step_outcome(record, "download")


def test_an_unmeasured_download_does_not_decide_the_upload() -> None:
    record = measure(**HUNGRY_DOWNLOAD)

    assert record.outcome is Outcome.OK, record.outcome_detail
    assert record.upload and (record.upload.outcome, record.upload.memory_limit) == (Outcome.OK, "kept")
    assert record.verify and record.verify.matched and record.verify.memory_limit == "lifted"
    assert "not_verified" not in codes(record)
    assert steps(record) == (Outcome.OK, None)
    # The numbers are those of the upload, under the limit.
    assert record.memory and (record.memory.vm_hwm_bytes or 0) < 64 * MIB
    assert record.server and record.server.oom_kills == record.memory.oom_kills == 0
    row = record_row(record)
    assert (row["upload_outcome"], row["download_outcome"], row["verify_memory_limit"]) == ("ok", None, "lifted")


@pytest.mark.parametrize("direction", ["both", "download"])
def test_a_measured_download_has_the_limit_and_an_outcome(direction: str) -> None:
    record = measure(**HUNGRY_DOWNLOAD, direction=direction)

    assert (record.outcome, record.outcome_stage) == (Outcome.OOM_KILLED, "verify"), record.outcome_detail
    assert record.upload and record.upload.outcome is Outcome.OK and record.upload.throughput_mib_s
    assert record.download and record.download.outcome is Outcome.OOM_KILLED
    assert record.download.outcome_detail == record.outcome_detail
    assert record.verify and (record.verify.matched, record.verify.memory_limit) == (None, "kept")
    assert record.download.memory.oom_kills == 1 and record.memory and record.memory.oom_kills == 0
    assert steps(record) == (Outcome.OK if direction == "both" else None, Outcome.OOM_KILLED)


@pytest.mark.parametrize(
    ("direction", "under"), [("upload", "kept"), ("both", "kept"), ("download", "lifted")], ids=lambda word: word
)
def test_an_upload_runs_under_the_limit_when_it_is_measured(direction: str, under: str) -> None:
    record = measure(
        ram_mb=64, file_size="20M", direction=direction, calibration={"ballast_mib_per_mib": 6, "download_mib_s": 200}
    )

    killed = direction != "download"
    assert record.outcome is (Outcome.OOM_KILLED if killed else Outcome.OK), record.outcome_detail
    assert record.upload and record.upload.memory_limit == under
    assert steps(record) == ((Outcome.OOM_KILLED, None) if killed else (None, Outcome.OK)), (
        "a step that was not reached has found nothing"
    )
    if not killed:
        assert record.download and record.download.memory.peak_anon_bytes
        assert record.download.memory.peak_anon_bytes < 64 * MIB
        assert record.download.memory.vm_hwm_bytes is None, "the upload's without the limit is none of a trial's"
        assert "without the memory limit" in record.missing["download.memory.vm_hwm_bytes"]


def test_a_server_keeping_more_than_the_limit_is_judged_by_it() -> None:
    """What it holds for good cannot be taken away: the upload is done again, by a new server under the limit."""
    record = measure(ram_mb=64, file_size="4M", direction="download", calibration={"ballast_mib": 150})

    assert (record.outcome, record.outcome_stage) == (Outcome.OOM_KILLED, "upload"), record.outcome_detail
    assert record.upload and (record.upload.outcome, record.upload.memory_limit) == (Outcome.OOM_KILLED, "kept")
    assert record.server and record.server.oom_kills == 1
    assert steps(record) == (None, Outcome.OOM_KILLED), "the upload left nothing to download"


@pytest.mark.parametrize(
    ("direction", "calibration", "trial", "upload", "download"),
    [
        ("upload", {"corrupt_byte": 5}, "corrupted", "ok", None),
        ("both", {"corrupt_byte": -1}, "corrupted", "ok", "corrupted"),
        ("download", {"corrupt_byte": 5}, "corrupted", None, "corrupted"),
        ("upload", {"status": 500, "status_message": "no"}, "http_error", "http_error", None),
        ("both", {"status": 500, "status_message": "no"}, "http_error", "http_error", None),
        ("download", {"status": 500, "status_message": "no"}, "http_error", None, "http_error"),
        ("both", {"disk_quota_mib": 1}, "disk_full", "disk_full", None),
        ("both", {"exit_after_mib": 1}, "server_died", "server_died", None),
        ("both", {}, "ok", "ok", "ok"),
        ("download", {}, "ok", None, "ok"),
    ],
)
def test_the_trials_outcome_is_that_of_its_first_failed_step(
    direction: str, calibration: dict[str, Any], trial: str, upload: str | None, download: str | None
) -> None:
    record = measure(direction=direction, calibration=calibration)

    assert record.outcome == trial, record.outcome_detail
    assert steps(record) == (upload, download)
    again = validate_record(json.loads(record.model_dump_json()), "a place")
    assert again == record


OLD = Path(__file__).parents[1] / "records" / "before-virtual-machines.json"


@pytest.mark.parametrize(
    ("direction", "outcome", "stage", "upload", "download"),
    [
        ("upload", "ok", None, "ok", None),
        ("upload", "oom_killed", "upload", "oom_killed", None),
        ("upload", "timeout", "start", "timeout", None),
        ("upload", "oom_killed", "verify", "ok", None),
        ("both", "oom_killed", "upload", "oom_killed", None),
        ("both", "oom_killed", "verify", "ok", "oom_killed"),
        ("both", "ok", None, "ok", "ok"),
        ("download", "oom_killed", "verify", None, "oom_killed"),
        ("download", "http_error", "upload", None, "http_error"),
        ("download", "timeout", "start", None, "timeout"),
        ("both", "timeout", "start", "timeout", None),
        ("both", "interrupted", "verify", "interrupted", "interrupted"),
    ],
)
def test_an_old_record_is_judged_by_outcome_and_stage(
    direction: str, outcome: str, stage: str | None, upload: str | None, download: str | None
) -> None:
    data = json.loads(OLD.read_text()) | {"outcome": outcome, "outcome_stage": stage}
    data["parameters"]["direction"] = direction
    record = Record.model_validate(data)

    assert record.upload and record.upload.outcome is None and record.verify and record.verify.memory_limit is None
    assert steps(record) == (upload, download)


def test_an_old_record_is_valid_and_its_row_is_filled() -> None:
    row = record_row(validate_record(json.loads(OLD.read_text()), "a place"))

    assert (row["outcome"], row["upload_outcome"], row["download_outcome"]) == ("ok", "ok", None)
    assert (row["upload_memory_limit"], row["verify_memory_limit"]) == (None, None)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"upload": {"outcome": "oom_killed"}}, "outcome is ok, and upload.outcome is oom_killed"),
        ({"verify": {"matched": None}}, "outcome is ok, and verify.matched is not true"),
        ({"verify": {"memory_limit": "bent"}}, "memory_limit"),
        ({"upload": {"outcome": "fine"}}, "outcome"),
    ],
)
def test_a_record_that_contradicts_itself_does_not_count(spoil: dict[str, dict[str, Any]], words: str) -> None:
    data = json.loads(OLD.read_text())
    for part, changes in spoil.items():
        data[part] |= changes
        data["missing"] |= {f"{part}.{name}": "lost" for name, value in changes.items() if value is None}

    with pytest.raises(RecordError, match=words):
        validate_record(data, "a place")


# ---- what is shown ---------------------------------------------------------------------------------


def test_a_campaign_shows_each_step_with_its_peak() -> None:
    wanted = {
        "matrix": {"ram_mb": [256, 64], "file_size": ["4M"], "direction": ["both"]},
        "repeats": 1,
        "idle_limit_s": 0,
        # The download takes half a second, so that samples see all of its memory.
        "parameters": {"calibration": {"download_ballast_mib": 100, "ballast_mib": 20, "download_mib_s": 8}},
    }
    campaign = Campaign.create(make_plan(CampaignParameters.model_validate(wanted), "test", "test.yaml"), Watcher())
    code = campaign.run()
    data = read_campaign(campaign.folder)
    table = outcome_table(campaign, plain_rows(data.trials))
    headings = [str(column.header) for column in table.columns]
    cells = list(zip(*(column.cells for column in table.columns), strict=True))

    assert code is ExitCode.TRIALS_FAILED
    assert headings[2:] == [
        "upload\nMiB/s\nmedian",
        "transfer\nMiB/s\nmedian",
        "commit\nMiB/s\nmedian",
        "download\nMiB/s\nmedian",
        "peak memory\nMiB\nmaximum",
        "peak memory\nof the\ndownload\nMiB\nmaximum",
    ]
    of = {("256mb" in str(row[0])): [str(cell) for cell in row] for row in cells}
    assert of[True][1] == "1 ok" and of[False][1] == "1 upload ok but download oom_killed"
    assert float(of[True][7]) > 120 > float(of[True][6]) > 20, "the download's peak is not the upload's"
    assert float(of[False][2].replace(",", "")) > 0 and of[False][5] == "-"


@pytest.mark.parametrize(
    ("direction", "there", "absent"),
    [
        ("both", ["upload    ok, ", "download  oom_killed", "memory    upload: peak", "memory    download: peak"], []),
        (
            "download",
            ["(not measured, only done)", "download  oom_killed", "memory    download: peak"],
            ["memory    up"],
        ),
        ("upload", ["upload    ok, ", "(not measured, only done)", "memory    upload: peak"], ["memory    down"]),
    ],
)
def test_a_single_trial_shows_each_step_with_its_peak(
    direction: str, there: list[str], absent: list[str], tmp_path: Path
) -> None:
    record = measure(**HUNGRY_DOWNLOAD, direction=direction)
    with trial_view.console.capture() as shown:
        trial_view.print_trial(FinishedTrial(tmp_path, record, "", None, None))
    text = shown.get()

    assert [words for words in there if words not in text] == [], text
    assert [words for words in absent if words in text] == [], text


# ---- what a verification that nobody measures cannot find out --------------------------------------


def test_a_kill_in_the_verification_leaves_the_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a virtual machine, whose limit cannot be lifted: the refusal is a fake, the OOM kill is the kernel's."""
    monkeypatch.setattr(local.LocalMachine, "lift_memory_limit", lambda _: "the limit is the RAM")
    record = measure(**HUNGRY_DOWNLOAD)

    assert record.outcome is Outcome.OK and steps(record) == (Outcome.OK, None)
    assert record.verify and (record.verify.matched, record.verify.memory_limit) == (None, "kept")
    assert record.missing["verify.matched"] == "the download did not get to its end"
    caveat = next(caveat for caveat in record.caveats if caveat.code == "not_verified")
    assert "the kernel killed the server at the limit of 64 MiB, in the download" in caveat.message
    assert "could not be lifted here" in caveat.message and caveat.value == "oom_killed"
    assert record.upload and record.upload.throughput_mib_s
    assert record.server and (record.server.oom_kills, record.server.exit_signal) == (0, "SIGKILL")
    assert validate_record(json.loads(record.model_dump_json()), "a place") == record


@pytest.mark.skipif(find_method_or_none() != "cgroup_v1", reason="the file that is written is that of cgroup v1")
@pytest.mark.parametrize("direction", ["upload", "download"])
def test_a_kill_while_the_limit_is_lifted_is_not_of_the_limit(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the host's own memory, or that of its container, is used up; here the test limits it by itself."""
    lift = local.LocalMachine.lift_memory_limit

    def lift_but(machine: local.LocalMachine) -> str | None:
        why_not = lift(machine)
        (Path(local.ask(machine.folder, {"do": "status"})["cgroup"]) / "memory.limit_in_bytes").write_text(
            str(64 * MIB)
        )
        return why_not

    monkeypatch.setattr(local.LocalMachine, "lift_memory_limit", lift_but)
    hungry = (
        HUNGRY_DOWNLOAD if direction == "upload" else {"file_size": "20M", "calibration": {"ballast_mib_per_mib": 6}}
    )
    record = measure(**hungry | {"ram_mb": 96, "direction": direction})

    said = (
        record.outcome_detail
        if direction == "download"
        else next(c.message for c in record.caveats if c.code == "not_verified")
    )
    assert "because this host ran out of memory while the server's limit was lifted" in said and "96 MiB" not in said


def kill_server() -> None:
    machine, pid = server_process()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not machine.process_status().running, "the keeper knows that the server has ended")


def test_a_server_ended_before_verification_leaves_the_upload() -> None:
    trial = begin()
    trial.upload()
    kill_server()
    trial.verify()
    record = finish(trial)

    assert record.outcome is Outcome.OK and record.verify
    assert (record.verify.matched, record.verify.received_bytes, record.verify.memory_limit) == (None, 0, "kept")
    assert "after the upload was answered" in next(c.message for c in record.caveats if c.code == "not_verified")


@pytest.mark.parametrize("direction", ["upload", "both", "download"])
def test_a_server_that_ends_before_the_download(direction: str) -> None:
    trial = begin(direction=direction)
    trial.upload()
    kill_server()
    trial.verify()
    record = finish(trial)

    ended = Outcome.OK if direction == "upload" else Outcome.SERVER_DIED
    assert record.outcome is ended
    assert steps(record) == (
        None if direction == "download" else Outcome.OK,
        None if direction == "upload" else Outcome.SERVER_DIED,
    )


def test_a_late_verification_is_no_result_of_the_upload() -> None:
    record = measure(file_size="8M", calibration={"download_mib_s": 2}, total_limit_s=1.5)

    assert record.outcome is Outcome.OK and "not_verified" in codes(record), record.outcome_detail
    assert record.verify and record.verify.matched is None


def test_a_file_that_cannot_be_had_is_not_verified() -> None:
    trial = begin()
    trial.upload()
    trial.state.entry_ids = ["nobodyhas2"]
    trial.verify()
    record = finish(trial)

    assert record.outcome is Outcome.OK and record.verify and record.verify.matched is None
    assert "answered with 404" in next(c.message for c in record.caveats if c.code == "not_verified")


def test_of_several_files_one_that_differs_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second file is lost and the first one differs."""
    trial = begin(parallel_uploads=2, calibration={"corrupt_byte": 3})
    trial.upload()
    trial.state.entry_ids[1] = "nobodyhas2"
    trial.verify()
    record = finish(trial)

    assert (record.outcome, record.outcome_stage) == (Outcome.CORRUPTED, "verify")
    assert record.outcome_detail.startswith("file 1 of 2")
    assert record.verify and record.verify.matched is False and record.upload and record.upload.outcome is Outcome.OK


# ---- the limit is put back -------------------------------------------------------------------------


def big_page_cache() -> dict[str, Any]:
    """An upload whose files are many times the limit: lifted, all of them stay in the page cache."""
    return {"ram_mb": 32, "file_size": "150M", "keep_machine": "always"}


def charged(machine: local.LocalMachine) -> int:
    status = local.ask(machine.folder, {"do": "status"})
    return int((Path(status["cgroup"]) / "memory.usage_in_bytes").read_text())


def test_the_limit_put_back_below_the_page_cache_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = begin(**big_page_cache())
    machine, pid = server_process()
    trial.upload()
    lifted: list[int | None] = []
    used: list[int] = []
    real = verify.downloads_of

    def look(run: Any, client: Any) -> Any:
        downloads = real(run, client)
        lifted.append(limit_now(machine))
        # The cgroup pays for what its own processes bring into the cache.
        used.append(charged(machine))
        return downloads

    monkeypatch.setattr(verify, "downloads_of", look)
    trial.verify()

    assert (lifted[0] or 0) > UNLIMITED and limit_now(machine) == 32 * MIB
    assert used[0] > 40 * MIB and charged(machine) <= 32 * MIB
    status = machine.process_status()
    assert status.running and status.pid == pid and status.oom_kills == 0
    record = finish(trial)
    assert record.outcome is Outcome.OK and record.verify and record.verify.memory_limit == "lifted"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MachineError])
def test_a_failed_cell_puts_the_limit_back_and_can_run_again(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = begin()
    machine, _ = server_process()
    trial.upload()
    seen: list[int | None] = []

    def fail(*_: object) -> None:
        seen.append(limit_now(machine))
        raise error("stop")

    with monkeypatch.context() as patched:
        patched.setattr(verify, "downloads_of", fail)
        with pytest.raises(error):
            trial.verify()
    assert (seen[0] or 0) > UNLIMITED and limit_now(machine) == 256 * MIB
    fault = validate_record(json.loads((trial.folder / RECORD_FILE).read_text()), "the trial's folder")
    assert fault.outcome.is_fault and fault.upload and fault.upload.outcome is Outcome.OK
    trial.verify()
    assert finish(trial).outcome is Outcome.OK


def test_a_corrupted_file_leaves_the_limit_in_its_place() -> None:
    trial = begin(keep_machine="always", calibration={"corrupt_byte": 0})
    machine, _ = server_process()
    trial.upload()
    trial.verify()

    assert trial.state.outcome is Outcome.CORRUPTED and limit_now(machine) == 256 * MIB
    trial.collect()


IN_ANOTHER_KERNEL = """
import sys
from picolab.config.trial_parameters import TrialParameters
from picolab.machines import registry
from picolab.trial import verify
from picolab.trial.trial import Trial
trial = Trial.open(TrialParameters.model_validate_json(sys.argv[1]))
def killed(run, client):
    print("lifted", flush=True)
    sys.stdin.read()
verify.downloads_of = killed
for stage in (trial.provision, trial.start, trial.authenticate, trial.upload, trial.verify):
    stage()
"""


def test_the_keeper_puts_the_limit_back_for_a_killed_kernel() -> None:
    wanted = begin(keep_machine="always", file_size="8M")
    parameters = wanted.state.parameters
    machine, _ = server_process()
    machine.release()
    kernel = subprocess.Popen(
        [sys.executable, "-c", IN_ANOTHER_KERNEL, parameters.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert kernel.stdout is not None
        while "lifted" not in (line := kernel.stdout.readline()):
            assert line, "it ended"
        machine, pid = server_process()
        limit = Path(local.ask(machine.folder, {"do": "status"})["cgroup"]) / "memory.limit_in_bytes"
        assert int(limit.read_text()) > UNLIMITED
    finally:
        kernel.kill()
        kernel.communicate()
    eventually(lambda: int(limit.read_text()) == 256 * MIB, "the keeper puts the limit back")
    trial = Trial.open(parameters)
    for stage in (trial.provision, trial.start, trial.authenticate, trial.upload, trial.verify):
        stage()
    assert server_process()[1] == pid, "the server of before goes on"
    record = finish(trial)

    assert record.outcome is Outcome.OK and record.verify and record.verify.memory_limit == "lifted"


def test_no_step_is_measured_without_the_limit_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = begin()
    monkeypatch.setattr(local.LocalMachine, "restore_memory_limit", lambda _: "the server holds 900 MiB")

    with pytest.raises(MachineError, match=r"holds 900 MiB; run the notebook again from its first cell"):
        trial.upload()
    assert trial.state.outcome is Outcome.MACHINE_FAILED and trial.state.upload is None


def test_a_machine_without_a_limit_has_none_to_lift() -> None:
    record = measure(**HUNGRY_DOWNLOAD, memory_limit="none")

    assert record.outcome is Outcome.OK and record.verify and record.upload
    assert (record.upload.memory_limit, record.verify.memory_limit) == ("none", "none")


def test_the_keeper_of_an_older_picolab_keeps_the_limit() -> None:
    """A machine that was kept over an update has a keeper that knows no such request."""
    trial = begin(keep_machine="always")
    machine, _ = server_process()
    real = local.ask

    def older(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "lift_limit":
            raise MachineError("the keeper knows no request 'lift_limit'")
        return real(folder, request)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(local, "ask", older)
        assert machine.lift_memory_limit() == "the keeper knows no request 'lift_limit'"
    assert machine.restore_memory_limit() is None
    trial.release()


def test_a_keeper_of_an_older_picolab_is_no_dead_end() -> None:
    trial = begin(keep_machine="always")
    machine, _ = server_process()
    state = machine.folder / KEEPER
    state.write_text(
        json.dumps({name: value for name, value in json.loads(state.read_text()).items() if name != "network"})
    )

    with pytest.raises(MachineError, match=r"an older picolab made it; .*picolab machines remove local"):
        Trial.open(trial.state.parameters)
    assert registry.release_by_name("local") and registry.attach("local") is None


def test_v2_lifts_the_limit_and_never_lowers_it_below_use(tmp_path: Path) -> None:
    """The hierarchy is a plain folder: what is written, and when nothing is."""
    group = MemoryCgroup("cgroup_v2", tmp_path)

    def write(name: str, text: str) -> None:
        (tmp_path / name).write_text(text)

    def read(name: str) -> str:
        return (tmp_path / name).read_text().strip()

    write("memory.max", str(64 * MIB))
    group.lift()
    assert read("memory.max") == "max" and group.limit_bytes is None
    write("memory.current", str(65 * MIB))
    assert not group.limit_again(64 * MIB) and (read("memory.max"), read("memory.high")) == ("max", "max")
    write("memory.current", str(64 * MIB))
    assert group.limit_again(64 * MIB) and (read("memory.max"), read("memory.high")) == (str(64 * MIB), "max")


def test_v2_that_refuses_leaves_no_lower_bound_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = MemoryCgroup("cgroup_v2_systemd_user", tmp_path)
    written: list[tuple[str, int | str]] = []

    def write(_: MemoryCgroup, name: str, value: int | str) -> None:
        written.append((name, value))
        if name == "memory.max":
            raise OSError("no")

    monkeypatch.setattr(MemoryCgroup, "_write", write)
    with contextlib.suppress(OSError):
        group.lift()
    assert not group.limit_again(MIB)
    assert written[-1] == ("memory.high", "max")
