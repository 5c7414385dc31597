"""A trial in a process of its own: papermill runs the trial notebook, and can be interrupted or ended from outside.

papermill cannot run two notebooks with folders of their own in one process, and a kernel that hangs must not
hang the campaign: so every trial is one papermill process.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from picolab.config.project import working_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.files.writing import not_written, write_atomically
from picolab.host.processes import ProcessIdentity, kill_and_wait
from picolab.jupyter import kernel_folders
from picolab.jupyter.kernel_folders import CONNECTION_FILE, SOCKETS, KernelFolder
from picolab.jupyter.trial_context import CONTEXT_VARIABLE, TrialContext
from picolab.jupyter.trial_template import trial_notebook
from picolab.slow_imports import decline_slow_imports

NOTEBOOK_FILE = "trial.ipynb"
PROCESS_LOG_FILE = "papermill.log"
INTERRUPT_PATIENCE_S = 60.0
_REQUEST_FILE = "request.json"
_KERNEL_WORD = b"ipykernel_launcher"
_KERNEL_SIGNALLED = 64
"""The exit code of papermill's process when a signal has ended the kernel: this and the signal's number."""
_LONGEST_POLL_MS = (1 << 31) - 1
"""That poll(2) takes: 24 days."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _ipc_settings(folder: Path) -> Any:
    from traitlets.config import Config

    places = {"connection_file": str(folder / CONNECTION_FILE), "ip": str(folder / SOCKETS)}
    return Config({"KernelManager": {"transport": "ipc", **places}})


@contextlib.contextmanager
def ipc_kernel() -> Iterator[Any]:
    """Yield kernel settings with sockets in a folder that only this user can enter, instead of open TCP ports."""
    kernel_folders.sweep()
    folder = KernelFolder()
    try:
        yield _ipc_settings(folder.path)
    finally:
        folder.remove()


class _Signals:
    """Makes a wait end when a signal handler of this process has run, also when that was just before the wait.

    Without it Python continues to wait after the handler. In other threads than the main one, which get no signals,
    nothing happens.
    """

    _pipe: tuple[int, int] | None = None
    """One for the whole process and never closed: the kernel would write into whatever gets its number next."""

    def __init__(self) -> None:
        if _Signals._pipe is None:
            _Signals._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.descriptor, write_end = _Signals._pipe
        self._before: int | None = None
        with contextlib.suppress(ValueError):
            self._before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def forget(self) -> None:
        """Forget the signals that came until now."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, 4096):
                pass

    def close(self) -> None:
        if self._before is not None:
            with contextlib.suppress(ValueError, OSError):
                signal.set_wakeup_fd(self._before)


class TrialProcess:
    """A running papermill process with its kernel.

    Args:
        parameters: of the trial.
        context: where the trial's files go, and who answers for its machine.
    """

    def __init__(self, parameters: TrialParameters, context: TrialContext) -> None:
        self.folder = context.folder
        # Made and removed here too: papermill may be killed before it can.
        self._kernel_folder = KernelFolder()
        self._watch = -1
        self._killed_here = False
        self._signals: _Signals | None = _Signals()
        try:
            self._process = self._launch(parameters, context)
            self._watch = os.pidfd_open(self._process.pid)
        except BaseException:
            self._tidy()
            raise

    def _launch(self, parameters: TrialParameters, context: TrialContext) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        request = {
            "notebook": str(trial_notebook()),
            "output": str(self.folder / NOTEBOOK_FILE),
            "parameters": parameters.model_dump(),
            "kernel_folder": str(self._kernel_folder.path),
            "parent": os.getpid(),
        }
        write_atomically(self.folder / _REQUEST_FILE, json.dumps(request))
        with (self.folder / PROCESS_LOG_FILE).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "picolab.jupyter.notebook_process", str(self.folder / _REQUEST_FILE)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=working_dir(),
                env={**os.environ, CONTEXT_VARIABLE: context.model_dump_json()},
                # Ctrl-C in a terminal must reach the parent alone: it ends trials in an orderly way.
                start_new_session=True,
            )

    def wait(self, limit_s: float) -> bool:
        """Sleep until the process has ended, at most `limit_s` seconds; return whether it has ended.

        Returns early, with False, when a signal handler of this process has run (the caller looks whether it was asked
        to stop), and after 24 days. Nothing is done while it waits.
        """
        if self._process.returncode is None:
            waiting = select.poll()
            waiting.register(self._watch, select.POLLIN)
            if self._signals is not None:
                waiting.register(self._signals.descriptor, select.POLLIN)
            ready = {descriptor for descriptor, _ in waiting.poll(min(max(0.0, limit_s) * 1000, _LONGEST_POLL_MS))}
            if self._watch not in ready:
                if self._signals is not None:
                    self._signals.forget()
                return False
            self._process.wait()
        self._tidy()
        return True

    def ended_by(self) -> str:
        """Return which signal has ended papermill or the kernel, in words; empty when none did but ours."""
        code = self._process.returncode
        if code is None or self._killed_here:
            return ""
        if code < 0:
            return f"papermill was killed by {_name_of(-code)}"
        if code == 128 + signal.SIGTERM:
            return f"papermill was ended by {_name_of(signal.SIGTERM)}"
        if _KERNEL_SIGNALLED < code <= 128:
            return f"the kernel was killed by {_name_of(code - _KERNEL_SIGNALLED)}"
        return ""

    def _tidy(self) -> None:
        (self.folder / _REQUEST_FILE).unlink(missing_ok=True)
        self._kernel_folder.remove()
        if self._watch >= 0:
            os.close(self._watch)
            self._watch = -1
        if self._signals is not None:
            self._signals.close()
            self._signals = None

    def interrupt(self) -> None:
        """Interrupt the running cell, as the stop button does, and give the trial time to publish what it has."""
        for kernel in self._find_kernels():
            kernel.signal(signal.SIGINT)
        deadline = time.monotonic() + INTERRUPT_PATIENCE_S
        while not self.wait(deadline - time.monotonic()):
            if time.monotonic() > deadline:
                return

    def kill(self) -> None:
        """End papermill and its kernel at once; return when both are gone."""
        if self._process.poll() is None:
            self._killed_here = True
            self._process.kill()
        self._process.wait()
        kill_and_wait(self._find_kernels())
        self._tidy()

    def _find_kernels(self) -> list[ProcessIdentity]:
        """Return the kernel: the process that was given this connection file, whoever is its parent by now."""
        file = os.fsencode(self._kernel_folder.path / CONNECTION_FILE)
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                identity = ProcessIdentity.of(int(entry.name))
                if identity is not None and file in words and _KERNEL_WORD in words:
                    found.append(identity)
        return found


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_words(folder: Path) -> str:
    """Return the last line that a trial's process has printed, such as what it died of; empty when it said nothing."""
    try:
        lines = (folder / PROCESS_LOG_FILE).read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""


def _kernel_manager() -> tuple[type, list[int]]:
    """Return a kernel manager, and the exit codes of those of its kernels that ended without being asked to."""
    from jupyter_client.manager import AsyncKernelManager

    ends: list[int] = []

    class Manager(AsyncKernelManager):
        async def cleanup_resources(self, restart: bool = False) -> None:  # type: ignore[override]
            process = getattr(self.provisioner, "process", None)
            if process is not None and process.poll() is not None:
                ends.append(process.returncode)
            await super().cleanup_resources(restart)

    return Manager, ends


def _write_notebooks_patiently() -> None:
    """Let papermill continue when it cannot save the notebook: the trial writes its record itself.

    What was saved before stays as it is.
    """
    from papermill.iorw import LocalHandler, papermill_io

    class Patient(LocalHandler):  # type: ignore[misc]
        def write(self, buf: str, path: str) -> None:
            temporary = Path(path).with_suffix(".new")
            try:
                # Not synced: papermill saves while an upload is measured, and the disk shall have no more to do.
                temporary.write_text(buf, encoding="utf-8")
                temporary.replace(path)
            except OSError as error:
                # Not even the log may have room: it may lie on the same full disk.
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                    print(not_written(Path(path), error), file=sys.stderr, flush=True)

    papermill_io.register("/", Patient())


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
        kernel_folders.remove(kernel_folder)
        sys.exit(128 + signal.SIGTERM)
    # A keeper whose kernel is gone comes to this process, which reaps it below.
    prctl(_PR_SET_CHILD_SUBREAPER, 1)

    decline_slow_imports()
    import papermill

    _write_notebooks_patiently()
    manager, kernel_ends = _kernel_manager()
    try:
        papermill.execute_notebook(
            request["notebook"],
            request["output"],
            parameters=request["parameters"],
            kernel_name="python3",
            progress_bar=False,
            kernel_manager_class=manager,
            config=_ipc_settings(kernel_folder),
        )
    except papermill.PapermillExecutionError as error:
        print(f"cell {error.exec_count}: {error.ename}: {error.evalue}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError:
        # So do nbclient's errors about a kernel that has died begin.
        if not kernel_ends:
            raise
        code = kernel_ends[-1]
        end = f"was killed by {_name_of(-code)}" if code < 0 else f"ended by itself with exit code {code}"
        print(f"the kernel {end}", file=sys.stderr)
        sys.exit(_KERNEL_SIGNALLED - code if code < 0 else 1)
    finally:
        kernel_folders.remove(kernel_folder)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


if __name__ == "__main__":
    main()
