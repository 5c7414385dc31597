"""A real scheduler of Dask and real workers, each a process on loopback, for tests of campaigns on many hosts."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from conftest import eventually

from picolab.agent.procfs import descendants

PRELOAD = """
from picolab.distributed import host_lock, worker

host_lock.NAME = {name!r}
worker.facts = lambda facts=worker.facts: facts() | {{'boot_id': {boot_id!r}}}
"""
"""Runs in a worker before it begins, perhaps twice: each worker stands for a host with its own lock and kernel."""

NAMED = ["unshare", "--uts", "sh", "-c", 'printf %s "$0" > /proc/sys/kernel/hostname && exec "$@"']
"""Starts a program, given after the name, on a host with another name."""


@dataclass
class TestCluster:
    """Processes of a cluster; each has a folder of its own for the state of picolab.

    Attributes:
        environment: variables that all processes get besides those of the test.
    """

    folder: Path
    address: str = ""
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    __test__ = False

    def start_scheduler(self) -> None:
        """Start a scheduler: at a free port, or at the port of the one before."""
        port = self.address.rpartition(":")[2] or "0"
        log = self.folder / f"scheduler-{port}.log"
        words = ["scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", "--no-show"]
        words += ["--protocol", "tls"] if self.environment else []
        self.scheduler = self._start(words, log, self.folder)
        found = eventually(
            lambda: re.search(r"Scheduler at:\s+(t[cl][ps]://\S+)", log.read_text()), "the scheduler listens"
        )
        self.address = found[1]

    def start_worker(
        self, resources: str = "machine=1", hostname: str = "", has_nanny: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a worker that passes for one on a host of its own, and wait until the scheduler knows it.

        Args:
            hostname: another name for its host, which only root may give; empty: the host's own.
            has_nanny: whether a nanny starts it again, as Dask does by default; its process is the nanny's then.
        """
        folder = self.folder / f"worker-{len(self.workers)}"
        folder.mkdir()
        words = ["worker", self.address, "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
        words += [] if has_nanny else ["--no-nanny"]
        words += ["--host", "127.0.0.1", "--resources", resources, "--local-directory", str(folder / "dask")]
        preload = folder / "preload.py"
        preload.write_text(PRELOAD.format(name=f"\0{folder}", boot_id=folder.name))
        words += ["--preload", str(preload)]
        worker = self._start(words, folder / "log", folder, [*NAMED, hostname] if hostname else [])
        self.workers.append(worker)
        eventually(lambda: "Starting established connection" in (folder / "log").read_text(), "the worker is known")
        return worker

    def state_of(self, worker: subprocess.Popen[bytes]) -> Path:
        """Return the folder of a worker's machines and orders."""
        return self.folder / f"worker-{self.workers.index(worker)}" / "state"

    def _start(self, words: list[str], log: Path, folder: Path, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        with log.open("wb") as file:
            return subprocess.Popen(
                [*before, sys.executable, "-m", "dask", *words],
                env={**os.environ, "PICOLAB_STATE_DIR": str(folder / "state"), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    def stop(self) -> None:
        """End everything, workers first, and wait until what they had started is gone too."""
        for process in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            if process.poll() is None:
                started = descendants(process.pid)
                process.send_signal(signal.SIGKILL)
                process.wait()
                for pid in started:
                    eventually(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "what a worker has started ends")


@contextmanager
def cluster_in(folder: Path, workers: int, environment: dict[str, str] | None = None) -> Iterator[TestCluster]:
    """Start a scheduler and workers; end them."""
    folder.mkdir()
    cluster = TestCluster(folder, environment=environment or {})
    try:
        cluster.start_scheduler()
        for _ in range(workers):
            cluster.start_worker()
        yield cluster
    finally:
        cluster.stop()
