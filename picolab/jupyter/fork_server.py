"""A process with the slow imports done, which forks the process of each trial.

Python, papermill, scrapbook, the kernel and picolab take two seconds to import, more than everything else that a small
trial needs. A campaign imports them once. Each trial still has a papermill process and a kernel of its own, which share
nothing with those of other trials: both are forked from a process that has imported modules and has done nothing else.
Between two requests it sleeps.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import setproctitle

from picolab.slow_imports import decline_slow_imports

_PR_SET_PDEATHSIG = 1
_LOST = "the process that starts the trials has ended"


class ForkServerLost(Exception):
    """The fork server has ended; whoever needs a trial starts another one."""


class ForkServer:
    """Runs `python -m picolab.jupyter.fork_server` and asks it for processes. Close it at the end.

    It starts when it is first needed, and again if it has been killed meanwhile.

    Args:
        runs: the module whose `prepare` the server calls once, and whose `execute` a forked process calls with the
            path of its request.
        imports: further modules to import once.
    """

    def __init__(self, runs: str, imports: tuple[str, ...] = ()) -> None:
        self._modules = (runs, *imports)
        self._process: subprocess.Popen[bytes] | None = None
        self._forked: set[int] = set()

    def _start(self, log: Path) -> None:
        ours, theirs = socket.socketpair()
        with theirs, log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), str(log), *self._modules],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                # Ctrl-C in a terminal must reach the parent alone: it ends trials in an orderly way.
                start_new_session=True,
            )
        self._socket, self._lines = ours, ours.makefile("rb")
        self._forked.clear()

    def fork(self, request: Path, log: Path, cwd: Path, environment: dict[str, str]) -> int:
        """Start the process of a trial, in a session of its own, and return its pid.

        Args:
            request: file that says which notebook it executes, as the module that runs it wants.
            log: file to which its output is appended, and the server's own if it cannot start.

        Raises:
            ForkServerLost: there is no process, because the server has ended.
        """
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start(log)
        words = {"request": str(request), "log": str(log), "cwd": str(cwd), "environment": environment}
        pid = int(self._ask(words)["pid"])
        self._forked.add(pid)
        return pid

    def exit_code(self, pid: int) -> int | None:
        """Wait for a process that was forked here and return its exit code, which is negative if a signal ended it.

        Returns None if the server that forked it has ended meanwhile.
        """
        if pid not in self._forked:
            # Only its parent can wait for it; the server that runs now is another one.
            return None
        self._forked.remove(pid)
        try:
            return int(self._ask({"wait": pid})["code"])
        except ForkServerLost:
            return None

    def _ask(self, words: dict[str, Any]) -> dict[str, Any]:
        try:
            self._socket.sendall(json.dumps(words).encode() + b"\n")
            line = self._lines.readline()
        except OSError:
            line = b""
        if not line:
            raise ForkServerLost(_LOST)
        return dict(json.loads(line))

    def close(self) -> None:
        """End it; return when it is gone."""
        if self._process is None:
            return
        self._lines.close()
        self._socket.close()
        self._process.kill()
        self._process.wait()
        self._process = None


def _become(words: dict[str, Any], server_pid: int) -> None:
    """Make this forked process what a fresh one would be."""
    # If the campaign is killed, the server ends, and nobody waits for this trial any more.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != server_pid:
        # It was killed before the prctl above: no signal will come. The trial's process looks at its parent too.
        os._exit(128 + signal.SIGTERM)
    os.setsid()
    output = os.open(words["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(words["environment"])
    os.chdir(words["cwd"])
    time.tzset()
    tempfile.tempdir = None
    sys.path[0] = words["cwd"]
    if "numpy" in sys.modules:
        # Python seeds its own generator after a fork; two trials shall not share this one either.
        sys.modules["numpy"].random.seed()


def main() -> None:
    """Answer requests until the other end of the socket is closed.

    The arguments are the socket's number, the log of the first process, which says in a list of processes whose server
    this is, the module whose `prepare` runs here and `execute` in the forked processes, and other modules.
    """
    # Now, because the place of the title is found only before the environment changes, as in each forked process.
    setproctitle.setproctitle(f"{sys.executable} -m picolab.jupyter.fork_server {sys.argv[2]}")
    connection = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(connection.fileno(), False)
    decline_slow_imports()
    runs, *_ = [importlib.import_module(name) for name in sys.argv[3:]]
    runs.prepare()
    gc.freeze()
    server_pid = os.getpid()
    lines = connection.makefile("rb")
    while line := lines.readline():
        words = json.loads(line)
        if "wait" in words:
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(words["wait"], 0)[1])}
        else:
            pid = os.fork()
            if not pid:
                lines.close()
                connection.close()
                _become(words, server_pid)
                runs.execute(Path(words["request"]))
                return
            answer = {"pid": pid}
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
