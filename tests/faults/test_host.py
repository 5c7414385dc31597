"""The host: its disks, its clock, its environment, and the signals that picolab and its processes get."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from command_line import picolab_here
from conftest import eventually

from picolab.exit_codes import ExitCode
from picolab.machines import registry
from picolab.record.outcomes import Outcome
from picolab.results.load import read_campaign, read_record

from .catalogue import fault, proved_by
from .conftest import Proof, RunningPicolab, StartPicolab

RESUME = "`picolab resume CAMPAIGN` continues, without repeating or losing anything."
SLOW = {"transfer_mib_s": 2}
"""Slow enough to catch an upload of 4 MiB in the act."""


def ended_well(run: RunningPicolab, results: int = 1) -> None:
    """Check that every trial has one result, by a resume where that is needed, and that nothing is left."""
    done = picolab_here("resume", run.campaign)
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    found = [entry for entry in run.entries if not entry.outcome.is_fault]
    assert [entry.outcome for entry in found] == [Outcome.OK] * results
    assert sorted(entry.trial_id for entry in found) == sorted(trial.trial_id for trial in run.load.plan.trials)
    assert len(read_campaign(run.folder).trials) == results
    assert not registry.existing()


# Disks


Mount = Callable[..., Path]


@pytest.fixture
def file_system(scratch: Path) -> Iterator[Mount]:
    """Mount a file system in memory over a folder, as small as wanted: `file_system("outputs", "size=1m")`."""
    mounted: list[Path] = []

    def mount(name: str, options: str) -> Path:
        folder = scratch / name
        folder.mkdir(exist_ok=True)
        if os.geteuid() != 0:
            pytest.skip("mounting a file system needs root")
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@fault(
    "outputs on a full disk",
    group="host",
    outcome="refused",
    see="`could not be written, because the file system mounted at ... name another folder by PICOLAB_OUTPUTS_DIR`",
    do="Free some space, or set PICOLAB_OUTPUTS_DIR to a folder on another disk.",
)
def test_outputs_on_a_full_disk(picolab: StartPicolab, proof: Proof, file_system: Mount) -> None:
    folder = file_system("outputs", "size=64k")
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    code, output = picolab().end()
    assert code not in (0, 1), output
    assert "Traceback" not in output
    proof.text(output)


@fault(
    "outputs on a read-only file system",
    group="host",
    outcome="refused",
    see="`Read-only file system`; exit code not 0, no traceback.",
    do="Mount it writable, or set PICOLAB_OUTPUTS_DIR to another folder.",
)
def test_outputs_on_a_read_only_file_system(picolab: StartPicolab, proof: Proof, file_system: Mount) -> None:
    file_system("outputs", "ro")
    code, output = picolab().end()
    assert code not in (0, 1), output
    assert "Traceback" not in output
    proof.text(output)


@fault(
    "state folder on a read-only file system",
    group="host",
    outcome="refused",
    see="`could not be written ... is mounted read-only ... PICOLAB_STATE_DIR`",
    do="Mount it writable, or set PICOLAB_STATE_DIR to another folder. `picolab doctor` checks it.",
)
def test_state_folder_on_a_read_only_file_system(picolab: StartPicolab, proof: Proof, file_system: Mount) -> None:
    file_system("state", "ro")
    code, output = picolab(retries=0).end()
    assert code not in (0, 1), output
    assert "Traceback" not in output
    proof.text(output)


# Environment and clock


@fault(
    "no HOME",
    group="host",
    outcome="ok",
    see="None.",
    do="None: picolab keeps no files in the home folder.",
)
def test_no_home(picolab: StartPicolab) -> None:
    run = picolab(environment={"HOME": "/no/such/home"})
    code, output = run.end()
    assert code == ExitCode.OK, output


@fault(
    "no TMPDIR",
    group="host",
    outcome="ok",
    see="None.",
    do="None: Python uses another folder for temporary files.",
)
def test_no_tmpdir(picolab: StartPicolab) -> None:
    run = picolab(environment={"TMPDIR": "/no/such/folder"})
    code, output = run.end()
    assert code == ExitCode.OK, output


Clock = Callable[[str], dict[str, str]]


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Clock]:
    """Give picolab a wall clock that the test sets: `clock("+0")` returns the environment; call it again to jump."""
    libraries = [*Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), Path("/usr/lib/faketime/libfaketimeMT.so.1")]
    library = next((path for path in libraries if path.exists()), None)
    if library is None:
        pytest.skip("libfaketime is not installed (Debian's package faketime)")
    file = tmp_path / "clock"
    # libfaketime 0.9.10 lets sleeps on a monotonic clock that it does not fake fail: sleep in another way.
    shim = tmp_path / "shim" / "sitecustomize.py"
    shim.parent.mkdir()
    shim.write_text("import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds) and None\n")

    def set_to(offset: str) -> dict[str, str]:
        new = file.with_suffix(".new")
        new.write_text(offset + "\n")
        new.replace(file)
        return {
            "LD_PRELOAD": str(library),
            "PYTHONPATH": str(shim.parent),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            # Nobody can set the monotonic clock of a real host either.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    yield set_to


@fault(
    "wall clock jumps in the upload",
    group="host",
    outcome="ok",
    see="`started_at` and `ended_at` do not match the durations.",
    do="None: durations use the monotonic clock, which cannot be set.",
)
def test_wall_clock_jumps_in_the_upload(picolab: StartPicolab, clock: Callable[[str], dict[str, str]]) -> None:
    run = picolab(environment=clock("+0"), **SLOW)
    samples = run.wait_for("progress.json").with_name("samples.jsonl")
    clock("+400d")
    taken = len(samples.read_bytes().splitlines()) if samples.exists() else 0
    # Each is taken, and each limit checked, with the clock of another year.
    eventually(
        lambda: not samples.exists() or len(samples.read_bytes().splitlines()) >= taken + 8, "more samples are taken"
    )
    clock("-2d")
    code, output = run.end()

    assert code == ExitCode.OK, output
    (entry,) = run.entries
    record = read_record(run.folder / str(entry.notebook))
    assert record.outcome is Outcome.OK and record.upload
    began, ended = (datetime.fromisoformat(str(moment)) for moment in (entry.started_at, entry.ended_at))
    assert abs(ended - began) > timedelta(days=1), "the clock has jumped"
    # A jump that counted would be days.
    assert 1.9 < (record.upload.duration_s or 0) < 60 and 0 < (entry.duration_s or 0) < 120


# Signals to the campaign


proved_by(
    "campaign/test_campaign.py::test_ctrl_c_stops_in_order_and_resume_goes_on",
    "SIGINT once",
    group="host",
    outcome="interrupted",
    see="`Resume with: picolab resume CAMPAIGN`; exit code 130",
    do=RESUME,
)


@fault(
    "SIGINT twice",
    group="host",
    outcome="interrupted",
    see="The command exits at once with code 130.",
    do=RESUME,
)
def test_sigint_twice(picolab: StartPicolab) -> None:
    run = picolab(**SLOW)
    run.wait_for("progress.json")
    run.process.send_signal(signal.SIGINT)
    assert run.process.stdout is not None
    while "again: at once" not in (line := run.process.stdout.readline()):
        assert line, "picolab ended without a word about the signal"
    run.process.send_signal(signal.SIGINT)
    code, output = run.end()
    assert code == ExitCode.INTERRUPTED, output
    ended_well(run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@fault(
    "SIGTERM or SIGHUP",
    group="host",
    outcome="interrupted",
    see="`Resume with: picolab resume`; exit code 130",
    do=RESUME,
)
def test_sigterm_or_sighup(picolab: StartPicolab, proof: Proof, number: signal.Signals) -> None:
    run = picolab(**SLOW)
    run.wait_for("progress.json")
    run.process.send_signal(number)
    code, output = run.end()
    assert code == ExitCode.INTERRUPTED, output
    proof.text(output)
    assert [entry.outcome for entry in run.entries] == [Outcome.INTERRUPTED]
    ended_well(run)


proved_by(
    "campaign/test_campaign.py::test_hang_up_does_not_stop_what_nohup_started",
    "SIGHUP under nohup",
    group="host",
    outcome="ok",
    see="None.",
    do="None.",
)
proved_by(
    "campaign/test_campaign.py::test_a_reader_that_goes_away_does_not_stop_a_campaign",
    "terminal or pipe of the output closes",
    group="host",
    outcome="ok",
    see="No more output; `picolab status CAMPAIGN` shows the progress.",
    do="None: the campaign continues.",
)


@fault(
    "campaign suspended and continued",
    group="host",
    outcome="ok",
    see="A trial listed with a longer duration.",
    do="None: the trial runs in its own process, and its numbers are valid.",
)
def test_campaign_suspended_and_continued(picolab: StartPicolab) -> None:
    run = picolab(**SLOW)
    run.wait_for("progress.json")
    run.process.send_signal(signal.SIGSTOP)
    eventually(lambda: list(run.folder.glob("running/*/record.json")), "the trial ends without its campaign")
    run.process.send_signal(signal.SIGCONT)
    code, output = run.end()
    assert code == ExitCode.OK, output
    ended_well(run)


# SIGKILL of each process at each stage


proved_by(
    "campaign/test_campaign.py::test_a_killed_campaign_leaves_nothing_and_resumes",
    "campaign killed in the upload",
    group="host",
    outcome="interrupted",
    see="The shell prints `Killed`; every process ends by itself.",
    do=RESUME,
)
proved_by(
    "campaign/test_campaign.py::test_a_campaign_killed_at_a_trials_start_resumes",
    "campaign killed while a trial starts",
    group="host",
    outcome="interrupted",
    see="The shell prints `Killed`; every process ends by itself.",
    do=RESUME,
)
proved_by(
    "campaign/test_campaign.py::test_a_measured_trial_survives_a_kill_at_the_worst_moment",
    "campaign killed while it files a trial",
    group="host",
    outcome="ok",
    see="None: the next start files the trial without running it again.",
    do=RESUME,
)
proved_by(
    "campaign/test_campaign.py::test_a_killed_part_costs_one_attempt",
    "kernel, papermill or keeper killed in the upload",
    group="host",
    outcome="ok",
    see="`picolab status` lists a fault and the trial's second attempt.",
    do="None: instrument faults are retried `fault_retries` times.",
)
proved_by(
    "campaign/test_campaign.py::test_a_killed_server_is_a_result",
    "server killed in a campaign",
    group="host",
    outcome="server_died",
    see="`server_died` among the results.",
    do="None: a result, which counts.",
)
proved_by(
    "trial/test_trial_outcomes.py::test_a_killed_probe_is_invalid",
    "probe killed in the upload",
    group="host",
    outcome="invalid",
    see="`the memory probe ended too early`",
    do="None: the campaign retries. Without the probe's last line the peak is unknown.",
)
proved_by(
    "trial/test_trial_phases.py::test_a_probe_killed_in_the_download_is_a_fault",
    "probe killed in the measured download",
    group="host",
    outcome="invalid",
    see="`the memory probe ended too early`",
    do="None: the campaign retries. By hand, run the cell again.",
)

_MOMENTS = {
    "before the first cell": "request.json",
    "when the machine is made": "state.json",
    "when the server starts": "server.log",
    "when the record is written": "record.json",
}
_ONE_ATTEMPT = "`picolab status` lists a fault (unless the record was complete) and a second attempt."


def killed_at_each_moment(picolab: StartPicolab, victim: str, moment: str) -> None:
    """Kill one process of a trial at a moment; the campaign ends well by itself, and nothing is lost."""
    run = picolab(transfer_mib_s=8)
    run.wait_for(_MOMENTS[moment])
    with contextlib.suppress(AssertionError):
        # The process may be over by then: that is an end like any other.
        run.find(victim).signal(signal.SIGKILL)
    code, output = run.end()
    assert code == ExitCode.OK, output
    assert len(run.entries) <= 2, output
    ended_well(run)


@pytest.mark.parametrize("moment", _MOMENTS)
@fault(
    "papermill killed at any stage",
    group="host",
    outcome="ok",
    see=_ONE_ATTEMPT,
    do="None: the attempt is repeated, or filed if its measurement was complete.",
)
def test_papermill_killed_at_any_stage(picolab: StartPicolab, moment: str) -> None:
    killed_at_each_moment(picolab, "picolab.jupyter.papermill_process", moment)


@pytest.mark.parametrize("moment", list(_MOMENTS)[1:])
@fault(
    "kernel killed at any stage",
    group="host",
    outcome="ok",
    see=_ONE_ATTEMPT,
    do="None: the attempt is repeated, or filed if its measurement was complete.",
)
def test_kernel_killed_at_any_stage(picolab: StartPicolab, moment: str) -> None:
    killed_at_each_moment(picolab, "ipykernel_launcher", moment)


@pytest.mark.parametrize("moment", list(_MOMENTS)[2:])
@fault(
    "keeper killed at any stage",
    group="host",
    outcome="ok",
    see=_ONE_ATTEMPT,
    do="None: the server dies with its keeper, and the attempt is repeated.",
)
def test_keeper_killed_at_any_stage(picolab: StartPicolab, moment: str) -> None:
    killed_at_each_moment(picolab, "picolab.machines.local.keeper", moment)


# Missing resources of the host


proved_by(
    "campaign/test_campaign.py::test_a_file_that_does_not_fit_on_the_disk",
    "too little disk for an upload",
    group="host",
    outcome="refused",
    see="`an upload of 1T needs 2.2 times its size on disk`",
    do="Free disk space, choose smaller files, or set `work_dir` to a folder on a larger disk.",
)
proved_by(
    "campaign/test_campaign.py::test_more_ram_than_the_host_has",
    "less RAM than the limit",
    group="host",
    outcome="refused",
    see="`ram_mb = 1048576 is more than this host's`",
    do="Choose smaller levels.",
)
proved_by(
    "campaign/test_campaign.py::test_no_memory_limit_is_refused_with_remedies",
    "no way to limit memory",
    group="host",
    outcome="refused",
    see="`this host offers no way to limit a process's memory`",
    do="Run as root or in a systemd user session; or request an unlimited run, labelled as such.",
)
