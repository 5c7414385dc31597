"""A short run of benchmarks/chaos.py: every role gets signals, and nothing is lost or left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from picolab.machines.local.cgroup import find_method

CHAOS = Path(__file__).resolve().parents[2] / "benchmarks" / "chaos.py"


@pytest.mark.timeout(900)
def test_nothing_is_lost_or_left_whoever_gets_a_signal(scratch: Path) -> None:
    find_method()
    words = [sys.executable, str(CHAOS), "--trials", "12", "--signals", "14", "--seed", "7"]
    done = subprocess.run([*words, "--folder", str(scratch / "chaos")], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 signals" in done.stdout and "lost 0, leaked 0, other problems 0" in done.stdout
