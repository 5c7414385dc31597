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
from pathlib import Path
from typing import Any, NoReturn

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from setproctitle import setproctitle

_LAUNCHER = "ipykernel_launcher"
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.02


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


def kernel_manager(spare: SpareKernel) -> tuple[type, list[int]]:
    """Return a kernel manager, and the exit codes of those of its kernels that ended without being asked to."""
    ends: list[int] = []

    class Manager(AsyncKernelManager):
        async def start_kernel(self, **kwargs: Any) -> None:  # type: ignore[override]
            self.provisioner = _Provisioner(kernel_id="", kernel_spec=self.kernel_spec, parent=self)
            self.provisioner.spare = spare
            await super().start_kernel(**kwargs)

        async def cleanup_resources(self, restart: bool = False) -> None:  # type: ignore[override]
            process = getattr(self.provisioner, "process", None)
            if process is not None and process.poll() is not None:
                ends.append(process.returncode)
            await super().cleanup_resources(restart)

    return Manager, ends
