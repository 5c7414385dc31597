"""The kernel of a trial: forked from a process that has already imported everything, and watched for its end.

jupyter_client starts a kernel through a provisioner; this one takes a process that waits for it.
"""

import ctypes
import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any, NoReturn

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from setproctitle import setproctitle

from picolab.jupyter.notebook_process import name_of_signal

_LAUNCHER = "ipykernel_launcher"
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.005
_REPLY_LIMIT_S, _MESSAGE_LIMIT_S = 1.0, 0.2
"""Then a kernel that starts is asked once more."""


class SpareKernel:
    """A process that becomes the kernel when it is given a command. It ends by itself when this process ends.

    It is forked at once, so make it before this process has threads or open connections. What `jupyter_client` uses
    of a `subprocess.Popen` is here too.

    Args:
        name: says in a list of processes whose kernel it will be.
    """

    stdin = stdout = stderr = None

    def __init__(self, name: str) -> None:
        read_end, self._write_end = os.pipe()
        self.returncode: int | None = None
        parent = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._write_end)
            _end_with(parent)
            _wait_and_run(read_end, name)
        os.close(read_end)

    def start(self, command: list[str], cwd: str, environment: dict[str, str]) -> None:
        """Run `ipykernel_launcher` in it, with the arguments that `command` has after its name."""
        words = {"command": command, "cwd": cwd, "environment": environment}
        with os.fdopen(self._write_end, "wb") as pipe:
            pipe.write(json.dumps(words).encode())

    def poll(self) -> int | None:
        if self.returncode is None:
            try:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                return None
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(_POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends.

    ipykernel's own watch misses a parent that ends before it begins to look, unless process 1 is the next parent.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _wait_and_run(read_end: int, name: str) -> NoReturn:
    setproctitle(f"picolab: becomes the kernel of {name}")
    with os.fdopen(read_end, "rb") as pipe:
        text = pipe.read()
    if not text:
        os._exit(0)
    words = json.loads(text)
    os.setsid()
    os.environ.clear()
    os.environ.update(words["environment"])
    os.chdir(words["cwd"])
    command = words["command"]
    setproctitle(" ".join(command))
    # ipykernel reads the variable when it is imported, and without it would not end with its parent.
    parent = f"--IPKernelApp.parent_handle={os.environ['JPY_PARENT_PID']}"
    sys.argv = [*command[command.index(_LAUNCHER) :], parent]
    runpy.run_module(_LAUNCHER, run_name="__main__", alter_sys=True)
    sys.exit(0)


class _Provisioner(LocalProvisioner):
    """Gives the spare process to the first kernel, if that is a kernel of this Python."""

    spare: SpareKernel | None = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        spare, self.spare = self.spare, None
        if spare is None or cmd[:3] != [sys.executable, "-m", _LAUNCHER]:
            return await super().launch_kernel(cmd, **kwargs)
        # As `jupyter_client.launcher.launch_kernel` does; a kernel is known by it.
        environment = {**kwargs["env"], "JPY_PARENT_PID": str(os.getpid())}
        spare.start(cmd, str(kwargs.get("cwd") or Path.cwd()), environment)
        self.process = spare  # type: ignore[assignment]
        self.pid = self.pgid = spare.pid
        return self.connection_info


class _Client(AsyncKernelClient):
    """Knows that a kernel is ready as soon as it is.

    `jupyter_client` does the same and then waits until the kernel has been silent for 0.2 s.
    """

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """Return when the kernel has answered a request, and its messages about that request have arrived here.

        Raises:
            RuntimeError: it has ended, or `timeout` seconds are over.
        """
        limit_s = float("inf") if timeout is None else timeout
        deadline = time.monotonic() + limit_s
        while not await self._answers():
            if not await self._async_is_alive():
                raise RuntimeError("Kernel died before replying to kernel_info")
            if time.monotonic() > deadline:
                raise RuntimeError(f"Kernel didn't respond in {limit_s:.0f} seconds")

    async def _answers(self) -> bool:
        request = self.kernel_info()
        try:
            reply = await self.shell_channel.get_msg(timeout=_REPLY_LIMIT_S)
            if reply["msg_type"] != "kernel_info_reply":
                return False
            # Messages to all are lost until this end has subscribed to them: then a new request is made.
            while not _is_end_of(request, await self.iopub_channel.get_msg(timeout=_MESSAGE_LIMIT_S)):
                pass
        except Empty:
            return False
        self._handle_kernel_info_reply(reply)
        return True


def _is_end_of(request: str, message: dict[str, Any]) -> bool:
    """Return whether this is a kernel's last message about a request."""
    if message["parent_header"].get("msg_id") != request or message["msg_type"] != "status":
        return False
    return bool(message["content"]["execution_state"] == "idle")


class KernelWatch:
    """The state of a notebook's kernel, as `nbclient` reports it: it decides how the kernel is ended.

    Attributes:
        ends: the exit codes of those kernels that ended without being asked to.
        is_busy: a cell runs, or has not been able to say that it has ended.
    """

    def __init__(self) -> None:
        self.ends: list[int] = []
        self.is_busy = False

    @property
    def end_in_words(self) -> str:
        """How the last of `ends` came about, as the end of a sentence."""
        code = self.ends[-1]
        if code < 0:
            return f"was killed by {name_of_signal(-code)}"
        return f"ended by itself with exit code {code}"

    def hooks(self) -> dict[str, Callable[..., None]]:
        """Return the arguments of `nbclient` that let it report when a cell begins and has ended."""
        return {"on_cell_execute": self._begins, "on_cell_executed": self._has_ended}

    def _begins(self, **_: Any) -> None:
        self.is_busy = True

    def _has_ended(self, **_: Any) -> None:
        self.is_busy = False


def watched_manager(watch: KernelWatch) -> type[AsyncKernelManager]:
    """Return a kernel manager that notes in a watch how a kernel has ended that nobody asked to."""

    class Watched(AsyncKernelManager):
        async def cleanup_resources(self, restart: bool = False) -> None:  # type: ignore[override]
            process = getattr(self.provisioner, "process", None)
            if process is not None and process.poll() is not None:
                watch.ends.append(process.returncode)
            await super().cleanup_resources(restart)

    return Watched


def kernel_manager(spare: SpareKernel) -> tuple[type, KernelWatch]:
    """Return a kernel manager whose first kernel is `spare`, and the watch of its kernels.

    A kernel that runs no cell is killed at the end: what it has written is written, and everything it said has come.
    Interrupted and asked to end, as `jupyter_client` does, it now and then overlooks the request, and is waited for.
    """
    watch = KernelWatch()

    class Manager(watched_manager(watch)):  # type: ignore[misc]
        client_class = f"{__name__}.{_Client.__name__}"

        async def start_kernel(self, **kwargs: Any) -> None:
            self.provisioner = _Provisioner(kernel_id="", kernel_spec=self.kernel_spec, parent=self)
            self.provisioner.spare = spare
            await super().start_kernel(**kwargs)

        async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
            await self._async_shutdown_kernel(now or not watch.is_busy, restart)

        async def _async_wait(self, pollinterval: float = _POLL_S) -> None:
            await super()._async_wait(min(pollinterval, _POLL_S))

    return Manager, watch
