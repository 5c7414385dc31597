"""Each check on the calibration server: found with a knob, absent without it, and nothing else is found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from picolab.config.trial_parameters import TrialParameters
from picolab.examine.bench import Bench
from picolab.examine.check import NotExamined
from picolab.examine.registry import CHECKS
from picolab.examine.run import Examination, examine

FOUND_WITH: Mapping[str, dict[str, Any]] = {
    "ready-time": {"startup_delay_s": 3},
    "sigterm-idle": {"ignore_sigterm": True},
    "sigterm-upload": {"sigterm_cuts_uploads": True},
    "kill-transfer-files": {"restart_loses_files": True},
    "kill-transfer-database": {"restart_damages_database": True},
    "kill-commit-files": {"restart_loses_files": True},
    "kill-commit-database": {"restart_damages_database": True},
    "kill-restart": {"startup_delay_s": 6},
    "missing-secret": {"accepts_no_secret": True},
    "unwritable-data": {"starts_without_data": True},
    "all-interfaces": {"listens_everywhere": True},
    "disk-full-sentence": {"hides_full_disk": True},
    "disk-full-space": {"keeps_temp_files": True},
    "cut-space": {"keeps_temp_files": True},
    "login-before-body": {"reads_body_before_login": True},
    "range": {"ignores_range": True},
    "file-names": {"refuses_odd_names": True},
    "parallel-uploads": {"refuses_parallel_uploads": True},
    "memory-leak": {"leak_mib_per_upload": 0.25},
    "latency-transfer": {"one_request_at_a_time": True},
    "latency-commit": {"one_request_at_a_time": True, "commit_mib_s": 20},
}
"""What PicoShare does well: the knob makes the weakness."""
ABSENT_WITH: Mapping[str, dict[str, Any]] = {
    "health-endpoint": {"health_endpoint": True},
    "metrics-endpoint": {"metrics_endpoint": True},
    "sigterm-stalled": {"clean_stop": True},
    "kill-transfer-leak": {"restart_sweeps": True},
    "kill-commit-leak": {"restart_sweeps": True},
    "port-taken": {"exits_without_listener": True},
    "bad-port": {"exits_without_listener": True},
    "disk-full-status": {"answers_507": True},
    "head": {"answers_head": True},
    "dot-names": {"accepts_dot_names": True},
    "empty-file": {"accepts_empty_files": True},
}
"""What PicoShare lacks: the knob takes the weakness away."""


def run(knobs: dict[str, Any], *ids: str) -> Examination:
    return examine(TrialParameters.model_validate({"calibration": knobs}), [CHECKS[name] for name in ids])


def test_each_check_has_a_knob() -> None:
    assert set(FOUND_WITH) | set(ABSENT_WITH) == set(CHECKS) and not set(FOUND_WITH) & set(ABSENT_WITH)


@pytest.mark.parametrize("name", CHECKS)
def test_a_knob_changes_the_result(name: str) -> None:
    expected, knobs = ("found", FOUND_WITH[name]) if name in FOUND_WITH else ("absent", ABSENT_WITH[name])
    (result,) = run(knobs, name).results

    assert result.state == expected, result.seen


def test_without_knobs_the_weaknesses_of_picoshare_are_found() -> None:
    results = run({}, *CHECKS).results

    wrong = [f"{result.check.id}: {result.seen}" for result in results if result.state == "not_examined"]
    assert wrong == []
    assert {result.check.id for result in results if result.state == "found"} == set(ABSENT_WITH)


def test_a_full_disk_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a user namespace, as for every other user."""
    monkeypatch.setattr("picolab.examine.disk.os", SimpleNamespace(geteuid=lambda: 1000, statvfs=os.statvfs))
    (result,) = run({}, "disk-full-sentence").results

    assert (result.state, "database or disk is full" in result.seen) == ("absent", True), result.seen


def test_a_kernel_without_namespaces_is_the_reason(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = scratch / "unshare"
    refusing.write_text("#!/bin/sh\necho no namespaces here >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scratch}:{os.environ['PATH']}")
    (result,) = run({}, "disk-full-sentence").results

    assert result.state == "not_examined"
    assert "a kernel that lets every user have namespaces (no namespaces here)" in result.seen


def test_another_server_is_examined_in_the_same_way() -> None:
    checks = [CHECKS[name] for name in ("port-taken", "disk-full-status", "login-before-body", "head", "range")]
    examination = examine(TrialParameters.model_validate({"server": "copyparty", "build": "copyparty"}), checks)

    assert [(result.check.id, result.state) for result in examination.results] == [
        (check.id, "absent") for check in checks
    ]


ON_THIS_HOST = (
    *("kill-transfer-database", "kill-transfer-leak", "kill-commit-database", "kill-commit-leak", "port-taken"),
    *("all-interfaces", "disk-full-status", "disk-full-sentence", "disk-full-space", "cut-space"),
)
TIMED = ("ready-time", "kill-restart", "latency-transfer", "latency-commit")


@pytest.mark.parametrize("name", [*ON_THIS_HOST, *TIMED])
def test_a_check_that_a_guest_cannot_answer_begins_nothing(name: str, scratch: Path) -> None:
    """On a machine that does nothing: using it for more than its description would fail."""
    virtual = SimpleNamespace(acceleration="emulation", route="direct")
    machine = SimpleNamespace(
        kind="vagrant",
        work_folder=None,
        describe=lambda: SimpleNamespace(virtual_machine=virtual),
        install=lambda path: str(path),
    )
    build = SimpleNamespace(path=scratch / "build")
    bench = Bench(machine, SimpleNamespace(), build, {}, scratch)  # type: ignore[arg-type]

    with pytest.raises(NotExamined, match="runs in a virtual machine" if name in ON_THIS_HOST else "emulated"):
        CHECKS[name].examine(bench)
