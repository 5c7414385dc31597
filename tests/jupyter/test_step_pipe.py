"""The steps of a boot, from a trial's process to the one that waits for it."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import eventually

from picolab.config.project import outputs_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.host.processes import this_process
from picolab.jupyter import kernel_folders
from picolab.jupyter.kernel_folders import KernelFolder
from picolab.jupyter.notebook_process import TrialProcess
from picolab.jupyter.step_pipe import STEPS, StepPipe, report_step
from picolab.jupyter.trial_context import CONTEXT_VARIABLE, TrialContext
from picolab.machines import registry
from picolab.machines.base import Holder, Machine, MachineWish
from picolab.trial.run import TrialRun
from picolab.trial.state import TrialState


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[StepPipe, list[str]]]:
    heard: list[str] = []
    made = StepPipe(tmp_path, heard.append)
    yield made, heard
    made.close()


def test_steps_arrive_in_order(pipe: tuple[StepPipe, list[str]]) -> None:
    made, heard = pipe
    report_step(made.path, "Creating domain")
    report_step(made.path, "Waiting for\na lock \x1b[31m")
    made.deliver()

    assert heard[0] == "Creating domain" and len(heard) == 2
    assert "\n" not in heard[1] and "\x1b" not in heard[1]
    made.deliver()
    assert len(heard) == 2


def test_steps_that_nobody_wants_are_dropped(tmp_path: Path, pipe: tuple[StepPipe, list[str]]) -> None:
    made, heard = pipe
    report_step(None, "a")
    report_step(tmp_path / "nowhere", "b")
    os.mkfifo(tmp_path / "unread")
    report_step(tmp_path / "unread", "c")
    for number in range(2000):
        report_step(made.path, f"{number} " + "x" * 600)
    made.deliver()

    assert 0 < len(heard) < 2000, "the writer never waits for the reader"
    assert all(len(line) <= 500 and line.endswith("x") for line in heard), "each line is whole"


def test_a_dead_folder_with_a_pipe_is_removed(scratch: Path) -> None:
    folder = KernelFolder()
    StepPipe(folder.path, print).close()

    assert (folder.path / STEPS).exists()
    assert kernel_folders.remove(folder.path)
    folder.remove()


def test_a_stage_reports_the_steps_of_its_machine(
    scratch: Path, pipe: tuple[StepPipe, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, heard = pipe
    monkeypatch.setenv(CONTEXT_VARIABLE, "{}")

    def obtain(wish: MachineWish, _holder: Holder) -> Machine:
        wish.report("Starting domain.")
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "obtain", obtain)
    context = TrialContext(folder=scratch, trial_id="t", owner=this_process().to_json(), steps=made.path)
    run = TrialRun(TrialState.begin(TrialParameters(machine="vagrant"), context), scratch, context)
    with pytest.raises(KeyboardInterrupt):
        run.reach()
    made.deliver()

    assert heard == ["Starting domain."]
    for file in scratch.glob("progress*"):
        file.unlink()


def test_a_waiting_process_hears_each_step(scratch: Path) -> None:
    """While it sleeps: the wait lasts as long as without steps."""
    heard: list[str] = []
    context = TrialContext(folder=outputs_dir() / "trial", trial_id="trial", owner=this_process().to_json())
    parameters = TrialParameters(file_size="1M", ram_mb=128, keep_machine="never", calibration={"transfer_mib_s": 0.5})
    process = TrialProcess(parameters, context, on_step=heard.append)
    try:
        assert process._steps is not None
        place = process._steps.path

        def report() -> None:
            for step in ("one", "two"):
                report_step(place, step)
                eventually(lambda step=step: step in heard, "it was heard at once")  # type: ignore[misc]

        during = threading.Thread(target=report)
        during.start()
        eventually(lambda: process.wait(60), "the process ends")
        during.join()
        assert heard == ["one", "two"]
    finally:
        process.kill()
        registry.release_by_name("local")
    assert list((scratch / "tmp").iterdir()) == []
