"""The trial notebook in real kernels: by papermill, by hand, half in one kernel and half in another."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import scrapbook
from jupyter_client.manager import KernelManager

from picolab.config.project import project_root
from picolab.host.processes import ProcessIdentity
from picolab.jupyter.kernel_folders import ipc_kernel
from picolab.machines import registry
from picolab.record.outcomes import Outcome
from picolab.record.validation import validate_record
from picolab.results.load import read_scraps

NOTEBOOK = project_root() / "notebooks" / "trial.ipynb"


@pytest.fixture(autouse=True)
def _no_machine_left() -> Iterator[None]:
    yield
    registry.release_by_name("local")


def papermill(output: Path, *parameters: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "papermill", str(NOTEBOOK), str(output), "--no-progress-bar", *parameters],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=output.parent,
        check=False,
    )


def test_papermill_by_hand(tmp_path: Path) -> None:
    done = papermill(tmp_path / "out.ipynb", "-p", "ram_mb", "128", "-p", "file_size", "10M", "-p", "seed", "3")

    assert done.returncode == 0, done.stderr
    scraps = read_scraps(tmp_path / "out.ipynb")
    record = validate_record(scraps["record"], "out.ipynb")
    assert record.outcome is Outcome.OK
    assert record.parameters.ram_mb == 128 and record.parameters.seed == 3
    assert record.identity.campaign is None
    assert record.identity.repeat_command == "picolab trial --ram 128 --file-size 10M -p seed 3"
    assert len(scraps["samples"]["columns"]["t_s"]) == record.memory.samples  # type: ignore[union-attr]
    assert not registry.existing(), "an ok trial keeps no machine"
    # scrapbook itself can read what was glued.
    assert scrapbook.read_notebook(str(tmp_path / "out.ipynb")).scraps["record"].data["outcome"] == "ok"
    charts = [o for c in json.loads((tmp_path / "out.ipynb").read_text())["cells"] for o in c.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in charts)


def test_a_misspelt_value_is_one_sentence_in_the_notebook(tmp_path: Path) -> None:
    done = papermill(tmp_path / "out.ipynb", "-p", "file_size", "10MB")

    assert done.returncode != 0
    assert "write a number and K, M, G or T, binary" in done.stderr
    assert not registry.existing()


class CellFailed(Exception):
    """A cell raised; the text is what a person would see."""


class Kernel:
    """A kernel in which cells of the trial notebook are run, as a person does in JupyterLab."""

    def __init__(self, folder: Path, **parameters: Any) -> None:
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        self._cells = {self._name(cell.source): cell.source for cell in notebook.cells if cell.cell_type == "code"}
        self._cells["parameters"] += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
        self._ipc = ipc_kernel()
        self._manager = KernelManager(kernel_name="python3", config=self._ipc.__enter__())
        self._manager.start_kernel(cwd=str(folder))
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)

    @staticmethod
    def _name(source: str) -> str:
        words = {"machine = ": "parameters", "import picolab": "open", "record = ": "collect"}
        named = (name for start, name in words.items() if source.startswith(start))
        return next(named, source.partition("trial.")[2].partition("(")[0])

    @property
    def pid(self) -> int:
        return int(self._manager.provisioner.pid)  # type: ignore[union-attr, attr-defined]

    def run(self, *names: str) -> str:
        """Run cells and return what they printed."""
        printed: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            printed.append(message["content"].get("text", ""))

        for name in names:
            reply = self._client.execute_interactive(self._cells[name], timeout=60, output_hook=hear)
            if reply["content"]["status"] == "error":
                raise CellFailed(f"{reply['content']['ename']}: {reply['content']['evalue']}")
        return "".join(printed)

    def kill(self) -> None:
        """End the kernel without a chance to clean up."""
        if self._manager.has_kernel:
            self._client.stop_channels()
            self._manager.shutdown_kernel(now=True)
            self._ipc.__exit__(None, None, None)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Callable[..., Kernel]]:
    kernels: list[Kernel] = []

    def start(**parameters: Any) -> Kernel:
        kernels.append(Kernel(tmp_path, **{"file_size": "20M", "ram_mb": 128} | parameters))
        return kernels[-1]

    yield start
    for each in kernels:
        each.kill()


def _server() -> ProcessIdentity:
    machine = registry.attach("local")
    assert machine is not None
    status = machine.process_status()
    assert status.running and status.pid is not None
    identity = ProcessIdentity.of(status.pid)
    assert identity is not None
    return identity


def test_half_in_one_kernel_and_half_in_another(kernel: Callable[..., Kernel]) -> None:
    first = kernel()
    first.run("parameters", "open", "provision", "start", "authenticate")
    server = _server()
    first.kill()
    assert server.alive, "the server outlives the kernel"

    second = kernel()
    printed = second.run("parameters", "open", "provision", "start", "authenticate")
    assert "Re-attached to trial" in printed
    assert printed.count("already done") == 3
    assert _server() == server, "finished stages changed nothing"
    second.run("upload", "verify", "collect", "release")

    assert not registry.existing()
    (folder,) = (project_root_outputs() / "single-trials").iterdir()
    record = validate_record(json.loads((folder / "record.json").read_text()), "record.json")
    assert record.outcome is Outcome.OK
    assert {stage.stage: stage.attempts for stage in record.stages}["start"] == 1


def project_root_outputs() -> Path:
    return Path(os.environ["PICOLAB_OUTPUTS_DIR"])


def test_mend_the_cause_and_go_on_from_the_failing_cell(kernel: Callable[..., Kernel]) -> None:
    first = kernel(stall_limit_s=1.0)
    first.run("parameters", "open", "provision", "start", "authenticate")
    server = _server()
    os.kill(server.pid, signal.SIGSTOP)
    printed = first.run("upload", "verify", "collect", "release")
    assert "upload: stalled: no byte was delivered" in printed
    assert "verify: nothing to do, because upload found stalled" in printed
    assert "is kept (keep_machine: on_failure)" in printed
    first.kill()
    assert server.alive

    os.kill(server.pid, signal.SIGCONT)
    second = kernel(stall_limit_s=1.0)
    assert "upload found stalled" in second.run("parameters", "open")
    printed = second.run("upload", "verify", "collect", "release")

    assert "collect: ok" in printed
    (folder,) = (project_root_outputs() / "single-trials").iterdir()
    record = validate_record(json.loads((folder / "record.json").read_text()), "record.json")
    assert record.outcome is Outcome.OK
    assert {stage.stage: stage.attempts for stage in record.stages}["upload"] == 2
    assert (folder / "samples.attempt1.jsonl").exists(), "the samples of the failed attempt are kept"
    assert not registry.existing()


def test_a_server_that_is_gone_is_started_again(kernel: Callable[..., Kernel]) -> None:
    first = kernel()
    first.run("parameters", "open", "provision", "start", "authenticate", "upload")
    server = _server()
    os.kill(server.pid, signal.SIGKILL)

    printed = first.run("verify")
    assert "verify: not completed: the server ended with signal SIGKILL" in printed
    printed = first.run("start", "authenticate", "upload", "verify", "collect", "release")

    assert "start: the server answers" in printed and "collect: ok: every byte was stored and came back" in printed
    (folder,) = (project_root_outputs() / "single-trials").iterdir()
    record = validate_record(json.loads((folder / "record.json").read_text()), "record.json")
    assert "not_verified" not in {caveat.code for caveat in record.caveats}, "that was the first server"


def test_running_everything_twice_is_harmless(kernel: Callable[..., Kernel]) -> None:
    stages = ("provision", "start", "authenticate", "upload", "verify", "collect", "release")
    only = kernel()
    only.run("parameters", "open", *stages)
    printed = only.run(*stages)

    assert printed.count("already done") == 7
    (folder,) = (project_root_outputs() / "single-trials").iterdir()
    assert not list(folder.glob("*.attempt*"))


def test_a_second_kernel_may_not_take_a_machine_that_is_in_use(kernel: Callable[..., Kernel]) -> None:
    first, second = kernel(), kernel()
    first.run("parameters", "open", "provision")

    with pytest.raises(CellFailed, match="is held by process"):
        second.run("parameters", "open", "provision")


def test_interrupting_the_upload_keeps_what_is_known(kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    slow = {"transfer_mib_s": 1}
    running = kernel(calibration=slow, keep_machine="never")
    running.run("parameters", "open", "provision", "start", "authenticate")
    (folder,) = (project_root_outputs() / "single-trials").iterdir()
    pid = running.pid
    interrupter = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import os, signal, sys, time\n"
            "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
            "os.kill(int(sys.argv[2]), signal.SIGINT)",
            *(str(folder / "progress.json"), str(pid)),
        ]
    )
    try:
        with pytest.raises(CellFailed, match="KeyboardInterrupt"):
            running.run("upload")
    finally:
        interrupter.kill()
        interrupter.wait()

    record = validate_record(json.loads((folder / "record.json").read_text()), "record.json")
    assert (record.outcome, record.outcome_stage) == (Outcome.INTERRUPTED, "upload")
