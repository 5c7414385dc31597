"""Papermill in the process of a trial: it executes the notebook, and says by its exit code how that ended.

papermill cannot run two notebooks with folders of their own in one process, and a kernel that hangs must not
hang the campaign: so every trial is one papermill process.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import nbformat.validator
from setproctitle import setproctitle

from picolab.files.writing import not_written
from picolab.host import facts
from picolab.jupyter import kernel_folders
from picolab.jupyter.kernel_process import SpareKernel, kernel_manager
from picolab.jupyter.notebook_process import KERNEL_SIGNALLED
from picolab.slow_imports import import_kernel, import_papermill, import_scrapbook

papermill = import_papermill()

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class _Patient(papermill.iorw.LocalHandler):  # type: ignore[misc, name-defined]
    """Lets papermill continue when it cannot save the notebook: the trial writes its record itself.

    What was saved before stays as it is.
    """

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


class _Manager(papermill.engines.NotebookExecutionManager):  # type: ignore[misc, name-defined]
    """Saves the notebook when a cell with code begins, and at the end, instead of twice a cell.

    What it saves when a cell begins has the outputs of all cells before it.
    """

    _saves = True

    def cell_start(self, cell: Any, cell_index: int | None = None, **kwargs: Any) -> None:
        self._saves = cell.cell_type == "code"
        super().cell_start(cell, cell_index, **kwargs)
        self._saves = True

    def cell_complete(self, cell: Any, cell_index: int | None = None, **kwargs: Any) -> None:
        self._saves = False
        super().cell_complete(cell, cell_index, **kwargs)
        self._saves = True

    def save(self, **kwargs: Any) -> None:
        if self._saves:
            super().save(**kwargs)


def prepare() -> None:
    """Do in the fork server, once, the work that every trial would do before and after its upload."""
    import_kernel()
    import_scrapbook()
    facts.read_software()
    # Compiled once for each version of the format; trials have that of their template.
    nbformat.validator.get_validator(4, 5)
    papermill.engines.NotebookExecutionManager = _Manager


def execute(request_file: Path) -> None:
    """Execute the notebook that a request names, in a process that the fork server has just forked.

    Raises:
        SystemExit: 1 when a cell failed, another code when a signal ended it or the kernel.
    """
    server = os.getppid()
    # Before this process has threads.
    spare = SpareKernel(str(request_file))
    setproctitle(f"{sys.executable} -m {__name__} {request_file}")
    prctl = ctypes.CDLL(None).prctl
    # If the campaign is killed, nobody waits for this trial any more: end in an orderly way, kernel and all.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    request = json.loads(request_file.read_text())
    kernel_folder = Path(request["kernel_folder"])
    if os.getppid() != server:
        # It was killed before the prctl above: no signal will come.
        kernel_folders.remove(kernel_folder)
        sys.exit(128 + signal.SIGTERM)
    # A keeper whose kernel is gone comes to this process, which reaps it below.
    prctl(_PR_SET_CHILD_SUBREAPER, 1)

    papermill.iorw.papermill_io.register("/", _Patient())
    manager, watch = kernel_manager(spare)
    try:
        papermill.execute_notebook(
            request["notebook"],
            request["output"],
            parameters=request["parameters"],
            kernel_name="python3",
            progress_bar=False,
            kernel_manager_class=manager,
            config=kernel_folders.ipc_settings(kernel_folder),
            **watch.hooks(),
        )
    except papermill.PapermillExecutionError as error:
        print(f"cell {error.exec_count}: {error.ename}: {error.evalue}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError:
        # So do nbclient's errors about a kernel that has died begin.
        if not watch.ends:
            raise
        code = watch.ends[-1]
        print(f"the kernel {watch.end_in_words}", file=sys.stderr)
        sys.exit(KERNEL_SIGNALLED - code if code < 0 else 1)
    finally:
        kernel_folders.remove(kernel_folder)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
