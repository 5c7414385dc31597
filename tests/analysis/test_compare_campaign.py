"""Comparisons from the command to the verdict: real campaigns of calibration servers whose differences are known."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MIB, eventually

from picolab.config.project import outputs_dir
from picolab.exit_codes import ExitCode

PACED = {"transfer_mib_s": 40, "commit_mib_s": 40}
NAME = "known"
PATIENCE_S = 800.0

StartCommand = Callable[..., subprocess.Popen[str]]
Burn = Callable[[], list[subprocess.Popen[bytes]]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[StartCommand]:
    """Start `picolab WORDS`; what still runs at the end of the test is ended by its pid."""
    monkeypatch.setenv("COLUMNS", "300")
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "picolab", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def burn() -> Iterator[Burn]:
    """Keep about half of the processors busy with something that is not picolab, or one when there is only one."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> list[subprocess.Popen[bytes]]:
        count = max(1, len(os.sched_getaffinity(0)) // 2)
        burning = [subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) for _ in range(count)]
        started.extend(burning)
        return burning

    yield start
    end(started)


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait()


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, output, errors


def parameters_file(folder: Path, builds: dict[str, dict[str, Any]], **rest: Any) -> str:
    """Write a parameter file of calibration servers and return its path; `builds` has the knobs by label."""
    path = folder / f"{NAME}.yaml"
    content = {
        "matrix": {"ram_mb": [128], "file_size": ["8M"]},
        "builds": {label: {"build": "calibration", "calibration": knobs} for label, knobs in builds.items()},
        "idle_limit_s": 0,
    }
    path.write_text(json.dumps(content | rest))
    return str(path)


def ledger_lines() -> int:
    ledger = outputs_dir() / NAME / "ledger.jsonl"
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def found_in(verdict: dict[str, Any], candidate: str, metric: str) -> dict[str, Any]:
    (found,) = [m for m in verdict["metrics"] if (m["candidate"], m["metric"]) == (candidate, metric)]
    return dict(found)


def median_of(verdict: dict[str, Any], build: str, metric: str) -> float:
    (found,) = [b for b in verdict["builds"] if (b["build"], b["metric"]) == (build, metric)]
    return float(found["median"])


@pytest.mark.alone
@pytest.mark.timeout(900)
def test_known_differences_get_the_right_verdicts(command: StartCommand, tmp_path: Path) -> None:
    builds = {
        "base": PACED,
        "plus5": {"transfer_mib_s": 42, "commit_mib_s": 42},
        "plus20": {"transfer_mib_s": 48, "commit_mib_s": 48},
        "equal": PACED,
        "memory": {**PACED, "ballast_mib": 20},
    }
    file = parameters_file(tmp_path, builds, repeats=8)
    code, output, errors = finished(command("compare", file, "--campaign", NAME))

    assert code == ExitCode.REGRESSION, output + errors
    assert ledger_lines() == 40
    assert "faster" in output and "more memory" in output, output + errors
    page = outputs_dir() / NAME / "compare.html"
    assert str(page) in output
    html = page.read_text()
    assert all(label in html for label in builds)
    assert not re.search(r"<(script|img|link|iframe)\b[^>]*\b(src|href)\s*=\s*[\"']?(https?:|//)", html)
    assert not re.search(r"@import|url\(\s*[\"']?(https?:|//)", html)

    code, output, errors = finished(command("verdict", NAME, "--json"))
    verdict = json.loads(output)
    assert (code, errors) == (ExitCode.REGRESSION, "")
    assert verdict["gate"]["exit_code"] == 1 and "memory" in verdict["gate"]["reason"]
    assert verdict["comparable"] is True and verdict["self_comparison"] is False
    assert verdict["baseline"] == "base" and verdict["candidates"] == ["plus5", "plus20", "equal", "memory"]

    plus20 = found_in(verdict, "plus20", "throughput_mib_s")
    assert plus20["verdict"] == "faster", plus20
    assert plus20["low"] - 0.01 <= 1.2 <= plus20["high"] + 0.01
    assert len(plus20["pairs"]) == 8 and plus20["incomplete"] == []
    assert sum(pair["baseline_first"] for pair in plus20["pairs"]) not in (0, 8), "the order of builds is balanced"
    for phase in ("transfer_mib_s", "commit_mib_s"):
        assert found_in(verdict, "plus20", phase)["verdict"] == "faster"

    for candidate in ("equal", "memory"):
        assert found_in(verdict, candidate, "throughput_mib_s")["verdict"] == "equivalent", candidate
    for candidate in ("plus5", "plus20", "equal"):
        assert found_in(verdict, candidate, "peak_anon_bytes")["verdict"] == "equivalent", candidate

    more = found_in(verdict, "memory", "peak_anon_bytes")
    assert more["verdict"] == "more memory" and more["gates"] and not more["no_regression"]
    added = median_of(verdict, "memory", "peak_anon_bytes") - median_of(verdict, "base", "peak_anon_bytes")
    assert added == pytest.approx(20 * MIB, rel=0.03)

    code, output, _ = finished(command("verdict", NAME, "--json", "--margin", "2"))
    strict = json.loads(output)
    plus5 = found_in(strict, "plus5", "throughput_mib_s")
    assert strict["margin"] == pytest.approx(0.02)
    assert plus5["verdict"] == "faster", plus5
    assert plus5["low"] - 0.01 <= 1.05 <= plus5["high"] + 0.01

    code, output, _ = finished(command("verdict", NAME, "--markdown"))
    assert code == ExitCode.REGRESSION
    table = [line for line in output.splitlines() if line.startswith("|")]
    assert any(re.match(r"\|[\s:|-]+\|$", line) for line in table), output
    assert any("plus20" in line and "faster" in line for line in table)
    assert any("memory" in line and "more memory" in line for line in table)


@pytest.mark.alone
@pytest.mark.timeout(900)
def test_drift_and_a_busy_host_are_told_and_flip_no_verdict(command: StartCommand, burn: Burn, tmp_path: Path) -> None:
    slower_and_slower = {**PACED, "drift_per_minute": 0.6, "drift_since": time.time()}
    builds = {"base": slower_and_slower, "base-again": slower_and_slower}
    # An upload of 0.6 s: the host's load is counted in ticks, and a step below 0.5 s is too short for a share of them.
    matrix = {"ram_mb": [128], "file_size": ["12M"]}
    running = command("compare", parameters_file(tmp_path, builds, repeats=8, matrix=matrix), "--campaign", NAME)
    eventually(lambda: ledger_lines() >= 6 or running.poll() is not None, "three blocks ran", PATIENCE_S)
    burning = burn()
    eventually(lambda: ledger_lines() >= 11 or running.poll() is not None, "two more blocks ran", PATIENCE_S)
    end(burning)
    code, output, errors = finished(running)

    assert code in (ExitCode.OK, ExitCode.UNDECIDED), output + errors
    verdict = json.loads(finished(command("verdict", NAME, "--json"))[1])
    assert verdict["self_comparison"] is True and verdict["comparable"] is True
    for metric in ("throughput_mib_s", "peak_anon_bytes"):
        found = found_in(verdict, "base-again", metric)
        assert found["gates"] and len(found["pairs"]) == 8
        assert found["verdict"] in ("equivalent", "undecided"), found
        assert found["low"] <= 1.0 <= found["high"] or found["verdict"] == "equivalent", found
    caveats = {caveat["code"]: caveat for caveat in verdict["caveats"]}
    assert caveats["drift"]["value"] < -0.1, "the rates fell"
    assert "host_busy_during_trial" in caveats, sorted(caveats)
    assert not {"differs_from_itself", "not_comparable_in_time", "unfinished"} & set(caveats)


def test_a_host_that_is_never_idle_is_refused(command: StartCommand, burn: Burn, tmp_path: Path) -> None:
    file = parameters_file(tmp_path, {"base": PACED, "again": PACED}, repeats=6, idle_limit_s=3, busy_host="refuse")
    burn()
    code, output, errors = finished(command("compare", file, "--campaign", NAME))

    assert code == ExitCode.HOST_UNFIT, output + errors
    (sentence,) = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert "the host was not idle" in sentence and "busy_host is refuse" in sentence
    assert f"picolab resume {NAME}" in sentence and "Traceback" not in errors
    folder = outputs_dir() / NAME
    (start,) = [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]
    assert start["idle"] is False and start["busy_share"] > 0.1
    assert ledger_lines() == 0 and not (folder / "trials").exists() and not (folder / "compare.html").exists()
