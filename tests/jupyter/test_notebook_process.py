"""A trial's process: waiting for it without work, what it says about its end, and what it leaves behind."""

import json
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import eventually

from picolab.config.project import outputs_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.host.processes import this_process
from picolab.jupyter.notebook_process import TrialProcess, interrupt, last_words
from picolab.jupyter.trial_context import TrialContext
from picolab.machines import registry
from picolab.record.outcomes import Outcome
from picolab.trial.state import PROGRESS_FILE, RECORD_FILE

SLOW = {"transfer_mib_s": 1}


@pytest.fixture
def trial_process() -> Iterator[Callable[[], TrialProcess]]:
    """Start a trial whose upload takes eight seconds, and return when it is in that."""
    started: list[TrialProcess] = []

    def start() -> TrialProcess:
        folder = outputs_dir() / "trial"
        context = TrialContext(folder=folder, trial_id="trial", owner=this_process().to_json())
        parameters = TrialParameters(file_size="8M", ram_mb=128, keep_machine="never", calibration=SLOW)
        process = TrialProcess(parameters, context)
        started.append(process)
        eventually(lambda: (folder / PROGRESS_FILE).exists() or process.wait(0), "the upload runs")
        return process

    yield start
    for process in started:
        process.kill()
    registry.release_by_name("local")


def wait_for(process: TrialProcess) -> None:
    eventually(lambda: process.wait(60), "the process ends")


@pytest.mark.parametrize(
    ("victim", "number", "said"),
    [
        ("papermill", signal.SIGKILL, "papermill was killed by SIGKILL"),
        ("papermill", signal.SIGTERM, "papermill was ended by SIGTERM"),
        ("papermill", signal.SIGSEGV, "papermill was killed by SIGSEGV"),
        ("papermill", signal.SIGRTMIN + 3, f"papermill was killed by signal {signal.SIGRTMIN + 3}"),
        ("kernel", signal.SIGKILL, "the kernel was killed by SIGKILL"),
        ("kernel", signal.SIGABRT, "the kernel was killed by SIGABRT"),
        ("kernel", signal.SIGTERM, "the kernel was killed by SIGTERM"),
    ],
)
def test_a_trial_ended_by_a_signal_says_so(
    trial_process: Callable[[], TrialProcess], victim: str, number: int, said: str, scratch: Path
) -> None:
    process = trial_process()
    assert process.ended_by() == ""
    (kernel,) = process._find_kernels()
    os.kill(kernel.pid if victim == "kernel" else process.pid, number)
    wait_for(process)

    assert process.ended_by() == said
    if victim == "kernel":
        assert last_words(process.folder) == said
    process.kill()
    assert not kernel.alive
    assert list((scratch / "tmp").iterdir()) == []


def test_a_trial_is_interrupted_also_before_its_first_cell(tmp_path: Path) -> None:
    context = TrialContext(folder=tmp_path / "trial", trial_id="trial", owner=this_process().to_json())
    process = TrialProcess(TrialParameters(file_size="64K", ram_mb=128, keep_machine="never"), context)
    try:
        interrupt([process])
        assert process.ended
        record = process.folder / RECORD_FILE
        assert not record.exists() or json.loads(record.read_text())["outcome"] == Outcome.INTERRUPTED
    finally:
        process.kill()
        registry.release_by_name("local")


def test_a_trial_that_ends_by_itself_names_no_signal(trial_process: Callable[[], TrialProcess], scratch: Path) -> None:
    process = trial_process()
    wait_for(process)

    assert process.ended_by() == ""
    assert list((scratch / "tmp").iterdir()) == []


def test_waiting_for_a_trial_takes_no_work(trial_process: Callable[[], TrialProcess]) -> None:
    process = trial_process()
    before = resource.getrusage(resource.RUSAGE_SELF)
    assert not process.wait(2.0)
    after = resource.getrusage(resource.RUSAGE_SELF)

    assert after.ru_nvcsw - before.ru_nvcsw <= 5, "the process slept through: a polling one wakes many times"


class _Noted(Exception):
    pass


def test_a_signal_ends_a_wait_early(trial_process: Callable[[], TrialProcess]) -> None:
    process = trial_process()
    noted: list[int] = []
    old = signal.signal(signal.SIGUSR1, lambda number, _: noted.append(number))
    try:
        during = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
        during.start()
        assert not process.wait(600)
        during.join()
        assert noted == [signal.SIGUSR1]

        os.kill(os.getpid(), signal.SIGUSR1)
        assert len(noted) == 2, "this one came before the wait"
        assert not process.wait(600)
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_after_a_trial_the_wakeup_of_others_is_as_before(trial_process: Callable[[], TrialProcess]) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    before = signal.set_wakeup_fd(writer)
    try:
        process = trial_process()
        process.kill()
        assert signal.set_wakeup_fd(-1) == writer
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def test_a_wait_in_another_thread_sees_the_end(trial_process: Callable[[], TrialProcess]) -> None:
    process = trial_process()
    ended: list[bool] = []
    waiter = threading.Thread(target=lambda: ended.append(process.wait(600)))
    waiter.start()
    os.kill(process.pid, signal.SIGKILL)
    waiter.join()

    assert ended == [True]


def test_a_trial_may_be_waited_for_as_long_as_its_limits_allow(trial_process: Callable[[], TrialProcess]) -> None:
    longest = TrialParameters(total_limit_s=30 * 86400).upload_limit_s
    process = trial_process()
    os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: process.wait(3 * longest), "the process ends")
