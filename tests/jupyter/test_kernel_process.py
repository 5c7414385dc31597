"""The kernel of a trial, forked before it is needed: it ends with the process that it belongs to."""

import signal
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


NOTEBOOK_PROGRAM = """
import os, sys

from picolab.jupyter.kernel_folders import KernelFolder, ipc_settings
from picolab.jupyter.kernel_process import SpareKernel, kernel_manager

spare = SpareKernel("a test")
import nbformat.v4
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError
from traitlets.config import Config

folder = KernelFolder()
cells = [nbformat.v4.new_code_cell(source) for source in sys.argv[1:]]
notebook = nbformat.v4.new_notebook(cells=cells)
manager, watch = kernel_manager(spare)
settings = Config(ipc_settings(folder.path))
client = NotebookClient(
    notebook, kernel_name="python3", kernel_manager_class=manager, timeout=1, config=settings, **watch.hooks()
)
try:
    client.execute()
except CellTimeoutError:
    print("out of time")
finally:
    folder.remove()
print("".join(output.get("text", "") for cell in cells for output in cell.outputs), end="")
print(spare.returncode, watch.ends)
"""
SAYS_HOW_IT_ENDS = "import atexit, pathlib\natexit.register(pathlib.Path('asked').touch)"


def executed(tmp_path: Path, *cells: str) -> list[str]:
    """Execute cells in a notebook's kernel; return the lines of their outputs and of the program's words on the end."""
    command = [sys.executable, "-c", NOTEBOOK_PROGRAM, *cells]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_idle_kernel_is_killed_when_all_is_said(tmp_path: Path) -> None:
    said = executed(tmp_path, "print('first')", SAYS_HOW_IT_ENDS, "print('last')")

    assert said == ["first", "last", f"{-signal.SIGKILL} []"]
    assert not (tmp_path / "asked").exists()


def test_a_busy_kernel_is_interrupted_and_ends_in_order(tmp_path: Path) -> None:
    busy = "import time\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    pathlib.Path('interrupted').touch()"
    said = executed(tmp_path, SAYS_HOW_IT_ENDS, busy)

    assert said == ["out of time", "0 []"]
    assert (tmp_path / "interrupted").exists()
    assert (tmp_path / "asked").exists()
