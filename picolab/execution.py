"""A trial in a process of its own: papermill runs the trial notebook, and can be interrupted or ended from outside.

papermill cannot run two notebooks with folders of their own in one process, and a kernel that hangs must not
hang the campaign: so every trial is one papermill process.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from picolab.parameters import TrialParameters
from picolab.paths import project_root, write_atomically
from picolab.processes import ProcessIdentity, descendants, kill_and_wait
from picolab.slow_imports import decline_slow_imports
from picolab.trial_state import CONTEXT_VARIABLE, TrialContext

NOTEBOOK_FILE = "trial.ipynb"
PROCESS_LOG_FILE = "papermill.log"
POLL_S = 0.2
INTERRUPT_PATIENCE_S = 60.0
_REQUEST_FILE = "request.json"
_KERNEL_WORD = "ipykernel_launcher"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _new_kernel_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="picolab-kernel-"))


def _ipc_settings(folder: Path) -> Any:
    from traitlets.config import Config

    return Config({"KernelManager": {"transport": "ipc", "ip": str(folder / "kernel")}})


@contextlib.contextmanager
def ipc_kernel() -> Iterator[Any]:
    """Yield kernel settings with sockets in a folder that only this user can enter, instead of open TCP ports."""
    folder = _new_kernel_folder()
    try:
        yield _ipc_settings(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class TrialProcess:
    """A running papermill process with its kernel.

    Args:
        parameters: of the trial.
        context: says where the trial's files go and who answers for its machine.
    """

    def __init__(self, parameters: TrialParameters, context: TrialContext) -> None:
        self.folder = context.folder
        self._kernels: list[ProcessIdentity] = []
        # Made and removed here too: papermill may be killed before it can.
        self._kernel_folder = _new_kernel_folder()
        try:
            self._process = self._launch(parameters, context)
        except BaseException:
            self._tidy()
            raise

    def _launch(self, parameters: TrialParameters, context: TrialContext) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        request = {
            "notebook": str(project_root() / "notebooks" / "trial.ipynb"),
            "output": str(self.folder / NOTEBOOK_FILE),
            "parameters": parameters.model_dump(),
            "kernel_folder": str(self._kernel_folder),
            "parent": os.getpid(),
        }
        write_atomically(self.folder / _REQUEST_FILE, json.dumps(request))
        with (self.folder / PROCESS_LOG_FILE).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "picolab.execution", str(self.folder / _REQUEST_FILE)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=project_root(),
                env={**os.environ, CONTEXT_VARIABLE: context.model_dump_json()},
                # Ctrl-C in a terminal must reach the parent alone: it ends trials in an orderly way.
                start_new_session=True,
            )

    def wait(self, limit_s: float) -> bool:
        """Wait at most `limit_s` seconds; tell whether the process has ended."""
        if not self._kernels:
            # Remembered, because a kernel whose papermill was killed is nobody's descendant any more.
            self._kernels = self._find_kernels()
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        self._tidy()
        return True

    def _tidy(self) -> None:
        (self.folder / _REQUEST_FILE).unlink(missing_ok=True)
        shutil.rmtree(self._kernel_folder, ignore_errors=True)

    def interrupt(self) -> None:
        """Interrupt the running cell, as the stop button does, and give the trial time to publish what it has."""
        for kernel in self._kernels or self._find_kernels():
            kernel.signal(signal.SIGINT)
        self.wait(INTERRUPT_PATIENCE_S)

    def kill(self) -> None:
        """End papermill and its kernel at once; return when both are gone."""
        doomed = {*self._kernels, *self._find_kernels()}
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        kill_and_wait(doomed)
        self._tidy()

    def _find_kernels(self) -> list[ProcessIdentity]:
        identities = (ProcessIdentity.of(pid) for pid in descendants(self._process.pid))
        return [identity for identity in identities if identity is not None and _KERNEL_WORD in identity.command]


def last_words(folder: Path) -> str:
    """Return the last line that a trial's process has printed, such as what it died of; empty when it said nothing."""
    try:
        lines = (folder / PROCESS_LOG_FILE).read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""


def main() -> None:
    """Execute the notebook that the request file (the first argument) names; exit 1 when a cell failed."""
    prctl = ctypes.CDLL(None).prctl
    # If the campaign is killed, nobody waits for this trial any more: end in an orderly way, kernel and all.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    request = json.loads(Path(sys.argv[1]).read_text())
    kernel_folder = Path(request["kernel_folder"])
    if os.getppid() != request["parent"]:
        # It was killed before the prctl above: no signal will come.
        shutil.rmtree(kernel_folder, ignore_errors=True)
        sys.exit(128 + signal.SIGTERM)
    # A keeper whose kernel is gone comes to this process, which reaps it below.
    prctl(_PR_SET_CHILD_SUBREAPER, 1)

    decline_slow_imports()
    import papermill

    try:
        papermill.execute_notebook(
            request["notebook"],
            request["output"],
            parameters=request["parameters"],
            kernel_name="python3",
            progress_bar=False,
            config=_ipc_settings(kernel_folder),
        )
    except papermill.PapermillExecutionError as error:
        print(f"cell {error.exec_count}: {error.ename}: {error.evalue}", file=sys.stderr)
        sys.exit(1)
    finally:
        shutil.rmtree(kernel_folder, ignore_errors=True)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


if __name__ == "__main__":
    main()
