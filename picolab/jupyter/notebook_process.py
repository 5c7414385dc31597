"""A trial in processes of its own, seen from outside: it can be waited for, interrupted and ended."""

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from picolab.config.project import working_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.files.writing import write_atomically
from picolab.host.processes import ProcessIdentity, kill_and_wait
from picolab.jupyter.fork_server import ForkServer, ForkServerLost
from picolab.jupyter.kernel_folders import CONNECTION_FILE, KernelFolder
from picolab.jupyter.step_pipe import StepPipe
from picolab.jupyter.trial_context import CONTEXT_VARIABLE, TrialContext
from picolab.jupyter.trial_template import trial_notebook
from picolab.machines.kinds import kind_of

NOTEBOOK_FILE = "trial.ipynb"
PROCESS_LOG_FILE = "papermill.log"
INTERRUPT_PATIENCE_S = 60.0
_REQUEST_FILE = "request.json"
_KERNEL_WORD = b"ipykernel_launcher"
KERNEL_SIGNALLED = 64
"""The exit code of papermill's process when a signal has ended the kernel: this and the signal's number."""
_IMPORTED_ONCE = ("picolab.api.trials", "picolab.trial.trial", "httpcore")
"""By a trial's notebook and its kernel, besides papermill."""
_INTERRUPT_AGAIN_S = 0.5
"""Between two looks at a trial whose kernel runs no cell yet."""
_LONGEST_POLL_MS = (1 << 31) - 1
"""That poll(2) takes: 24 days."""


def trial_fork_server(kinds: Iterable[str]) -> ForkServer:
    """Return a fork server for trials on these kinds of machines; it starts with the first trial."""
    imports = [module for kind in sorted(set(kinds)) for module in kind_of(kind).imports]
    return ForkServer("picolab.jupyter.papermill_process", (*_IMPORTED_ONCE, *imports))


class Signals:
    """Makes a wait end when a signal handler of this process has run, also when that was just before the wait.

    Without it Python continues to wait after the handler. In other threads than the main one, which get no signals,
    nothing happens. Several may be open at the same time, and be closed in any order.
    """

    _pipe: tuple[int, int] | None = None
    """One for the whole process and never closed: the kernel would write into whatever gets its number next."""
    _open = 0
    _before: int | None = None

    def __init__(self) -> None:
        if Signals._pipe is None:
            Signals._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.descriptor, write_end = Signals._pipe
        Signals._open += 1
        with contextlib.suppress(ValueError):
            before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
            if before != write_end:
                Signals._before = before

    def forget(self) -> None:
        """Forget the signals that came until now."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, 4096):
                pass

    def close(self) -> None:
        Signals._open -= 1
        if not Signals._open and Signals._before is not None:
            with contextlib.suppress(ValueError, OSError):
                signal.set_wakeup_fd(Signals._before)
                Signals._before = None


class TrialProcess:
    """A running papermill process with its kernel.

    Args:
        parameters: of the trial.
        context: where the trial's files go, and who answers for its machine.
        fork_server: the one of a campaign; None: one of its own.
        on_step: is called with each step of a boot while somebody waits; None: nobody wants them.

    Attributes:
        pid: of papermill.
        lost_fork_server: the fork server was killed, so papermill got a SIGTERM and its exit code is unknown.
    """

    def __init__(
        self,
        parameters: TrialParameters,
        context: TrialContext,
        fork_server: ForkServer | None = None,
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = context.folder
        # Made and removed here too: papermill may be killed before it can.
        self._kernel_folder = KernelFolder()
        self._server_is_own = fork_server is None
        self._server = fork_server or trial_fork_server([parameters.machine])
        self._watch = -1
        self._exit_code: int | None = None
        self.lost_fork_server = False
        self._killed_here = False
        self._signals: Signals | None = Signals()
        self._steps: StepPipe | None = None
        try:
            if on_step is not None:
                self._steps = StepPipe(self._kernel_folder.path, on_step)
                context = context.model_copy(update={"steps": self._steps.path})
            self.pid = self._launch(parameters, context)
            self._watch = os.pidfd_open(self.pid)
        except ForkServerLost:
            # Its reason is in the log, as that of a papermill process that cannot start would be.
            self._exit_code = 1
        except BaseException:
            self._tidy()
            raise

    def _launch(self, parameters: TrialParameters, context: TrialContext) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        request = {
            "notebook": str(trial_notebook()),
            "output": str(self.folder / NOTEBOOK_FILE),
            "parameters": parameters.model_dump(),
            "kernel_folder": str(self._kernel_folder.path),
        }
        write_atomically(self.folder / _REQUEST_FILE, json.dumps(request))
        return self._server.fork(
            request=self.folder / _REQUEST_FILE,
            log=self.folder / PROCESS_LOG_FILE,
            cwd=working_dir(),
            environment={**os.environ, CONTEXT_VARIABLE: context.model_dump_json()},
        )

    def wait(self, limit_s: float) -> bool:
        """Sleep until the process has ended, at most `limit_s` seconds; return whether it has ended.

        Returns early, with False, as `wait_for_one` does.
        """
        return bool(wait_for_one([self], limit_s))

    def register(self, waiting: select.poll) -> None:
        """Add to a poll everything that this process can be woken by."""
        waiting.register(self._watch, select.POLLIN)
        if self._signals is not None:
            waiting.register(self._signals.descriptor, select.POLLIN)
        if self._steps is not None:
            waiting.register(self._steps.descriptor, select.POLLIN)

    def take(self, ready: set[int]) -> bool:
        """Look at what woke a wait; return whether the process has ended.

        Args:
            ready: descriptors. Those of steps of a boot are removed: they concern nobody else.
        """
        if self._exit_code is not None:
            self._tidy()
            return True
        if self._steps is not None:
            self._steps.deliver()
            ready.discard(self._steps.descriptor)
        if self._watch not in ready:
            return False
        self._reap()
        self._tidy()
        return True

    def forget_signals(self) -> None:
        """Forget the signals that came until now, after a wait that they ended."""
        if self._signals is not None:
            self._signals.forget()

    @property
    def ended(self) -> bool:
        """Whether it has ended, as far as a wait has seen it."""
        return self._exit_code is not None

    def _reap(self) -> None:
        """Wait for the process and note how it ended."""
        select.select([self._watch], [], [])
        self._exit_code = self._server.exit_code(self.pid)
        if self._exit_code is None:
            self.lost_fork_server = True
            self._exit_code = 128 + signal.SIGTERM

    def ended_by(self) -> str:
        """Return which signal has ended papermill or the kernel, in words; empty when none did but ours."""
        code = self._exit_code
        if code is None or self._killed_here:
            return ""
        if code < 0:
            return f"papermill was killed by {name_of_signal(-code)}"
        if code == 128 + signal.SIGTERM:
            return f"papermill was ended by {name_of_signal(signal.SIGTERM)}"
        if KERNEL_SIGNALLED < code <= 128:
            return f"the kernel was killed by {name_of_signal(code - KERNEL_SIGNALLED)}"
        return ""

    def _tidy(self) -> None:
        (self.folder / _REQUEST_FILE).unlink(missing_ok=True)
        if self._steps is not None:
            self._steps.close()
            self._steps = None
        self._kernel_folder.remove()
        if self._server_is_own:
            self._server.close()
        if self._watch >= 0:
            os.close(self._watch)
            self._watch = -1
        if self._signals is not None:
            self._signals.close()
            self._signals = None

    def interrupt_cell(self) -> bool:
        """Interrupt the running cell, as the stop button does; return whether there is one."""
        # A kernel ignores the signal between two cells, and before the first one.
        kernels = [kernel for kernel in self._find_kernels() if not _ignores(kernel, signal.SIGINT)]
        for kernel in kernels:
            kernel.signal(signal.SIGINT)
        return bool(kernels)

    def kill(self) -> None:
        """End papermill and its kernel at once; return when both are gone."""
        if self._exit_code is None:
            if not select.select([self._watch], [], [], 0)[0]:
                self._killed_here = True
                signal.pidfd_send_signal(self._watch, signal.SIGKILL)
            self._reap()
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
                command = (entry / "cmdline").read_bytes()
                identity = ProcessIdentity.of(int(entry.name))
                if identity is not None and file in command and _KERNEL_WORD in command:
                    found.append(identity)
        return found


def _ignores(process: ProcessIdentity, number: int) -> bool:
    """Return whether a process ignores a signal now; False when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            name, _, mask = line.partition(":")
            if name == "SigIgn":
                return bool(int(mask, 16) >> (number - 1) & 1)
    return False


def interrupt(processes: Sequence[TrialProcess]) -> None:
    """Interrupt the running cell of each trial, or its next one, and give the trials time to publish what they have.

    Returns when all have ended, and after `INTERRUPT_PATIENCE_S` seconds.
    """
    deadline = time.monotonic() + INTERRUPT_PATIENCE_S
    missed = list(processes)
    while left := [process for process in processes if not process.ended]:
        missed = [process for process in missed if not process.ended and not process.interrupt_cell()]
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return
        wait_for_one(left, min(left_s, _INTERRUPT_AGAIN_S) if missed else left_s)


def wait_for_one(processes: Sequence[TrialProcess], limit_s: float) -> list[TrialProcess]:
    """Sleep until at least one process has ended, at most `limit_s` seconds; return those that have ended.

    Returns early, with an empty list, when a signal handler of this process has run (the caller looks whether it was
    asked to stop), and after 24 days. Nothing is done while it waits, besides passing on the steps of a boot.
    """
    over = [process for process in processes if process.ended and process.take(set())]
    deadline = time.monotonic() + limit_s
    while not over:
        waiting = select.poll()
        for process in processes:
            process.register(waiting)
        left_s = max(0.0, deadline - time.monotonic())
        ready = {descriptor for descriptor, _ in waiting.poll(min(left_s * 1000, _LONGEST_POLL_MS))}
        is_over = not ready
        over = [process for process in processes if process.take(ready)]
        if is_over or ready:
            break
    if not over:
        for process in processes:
            process.forget_signals()
    return over


def name_of_signal(number: int) -> str:
    """Return the name of a signal, also of one that has none."""
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
