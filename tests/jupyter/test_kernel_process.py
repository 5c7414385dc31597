"""The kernel of a trial, forked before it is needed: it ends with the process that it belongs to."""

import subprocess
import sys
from pathlib import Path

import pytest

# The outer process is the next parent of the kernel, as in a container whose first process reaps nothing.
PROGRAM = """
import ctypes, os, signal, sys

from picolab.jupyter.kernel_process import SpareKernel

PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
owner = os.fork()
if not owner:
    spare = SpareKernel("a test")
    if sys.argv[1] == "started":
        environment = {**os.environ, "JPY_PARENT_PID": str(os.getpid())}
        spare.start([sys.executable, "-m", "ipykernel_launcher", "-f", sys.argv[2]], os.getcwd(), environment)
    os.kill(os.getpid(), signal.SIGKILL)
ended = set()
while True:
    try:
        ended.add(os.wait()[0])
    except ChildProcessError:
        break
print(len(ended))
"""


@pytest.mark.parametrize("stage", ["waiting", "started"])
def test_it_ends_though_its_owner_died_before_it_looked(stage: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, stage, str(tmp_path / "kernel.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "2\n"
