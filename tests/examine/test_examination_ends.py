"""An examination that is ended in the middle leaves nothing behind and keeps its results.

What is left behind is found by the fixture `scratch`: a process, a cgroup, a mount, a folder of the machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import eventually

from picolab.exit_codes import ExitCode


def server_on_small_disk(scratch: Path) -> bool:
    """Return whether a process runs whose mount namespace has a file system in the scratch folder."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f" {scratch}/state/" in (entry / "mounts").read_text():
                    return True
            except OSError:
                continue
    return False


@pytest.mark.skipif(os.geteuid() != 0, reason="the check with a mount needs root")
@pytest.mark.parametrize(
    ("signals", "code", "made"),
    [
        ((signal.SIGINT,), ExitCode.INTERRUPTED, ["health-endpoint", "disk-full-space"]),
        ((signal.SIGINT, signal.SIGINT), ExitCode.INTERRUPTED, ["health-endpoint"]),
        ((signal.SIGKILL,), -signal.SIGKILL, ["health-endpoint"]),
    ],
    ids=["first-sigint", "second-sigint", "sigkill"],
)
def test_results_so_far_are_kept(
    scratch: Path, signals: tuple[signal.Signals, ...], code: int, made: list[str]
) -> None:
    log = scratch / "log"
    only = [word for name in ("health-endpoint", "disk-full-space", "head") for word in ("--only", name)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "picolab", "examine", "calibration", *only], stdout=file, stderr=file
        )
    try:
        eventually(lambda: server_on_small_disk(scratch), "the server runs on a small disk")
        for number in signals:
            process.send_signal(number)
            if number is signal.SIGINT:
                eventually(lambda: b"Stopping after cleaning up" in log.read_bytes(), "the signal is noted")
        assert process.wait(60) == code, log.read_text()
    finally:
        process.kill()
        process.wait()

    (path,) = (scratch / "outputs" / "examinations").iterdir()
    kept = json.loads(path.read_text())
    assert kept["stopped"] is True
    assert [result["id"] for result in kept["results"]] == made
    if code == ExitCode.INTERRUPTED:
        assert "stopped before the end." in log.read_text() and f"Kept in {path}" in log.read_text().replace("\n", "")
