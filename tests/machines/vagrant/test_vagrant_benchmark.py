"""The benchmark of virtual machines: what it refuses, and trials that failed; it makes no machine here."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from picolab.record.outcomes import Outcome
from picolab.results.ledger import LedgerEntry

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "vagrant_machine.py"


@pytest.fixture
def benchmark_of_machines(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = spec_from_file_location("vagrant_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("words", "least"), [(["--ram", "95"], 95), (["--ram", "190", "--matrix"], 95)])
def test_a_machine_that_cannot_boot_is_refused_before_all_else(
    benchmark_of_machines: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    least: int,
) -> None:
    monkeypatch.setattr(sys, "argv", ["vagrant_machine.py", *words])
    monkeypatch.setattr(benchmark_of_machines, "prepare_network", lambda: pytest.fail("it has begun"))
    with pytest.raises(SystemExit):
        benchmark_of_machines.main()
    assert f"--ram {words[1]} needs a machine of {least} MiB, and the least is 96" in capsys.readouterr().err


def test_a_trial_that_failed_does_not_lose_the_others(
    benchmark_of_machines: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def entry(outcome: Outcome, **known: Any) -> LedgerEntry:
        unknown = {"duration_s": None, "notebook": None, "record": None, "started_at": None}
        fixed = {"trial_id": "001", "attempt": 1, "outcome_detail": "", "ended_at": "2026-01-01T00:00:00+00:00"}
        return LedgerEntry(**{**fixed, **unknown, **known, "outcome": outcome})

    entries = [entry(Outcome.MACHINE_FAILED), entry(Outcome.OK, duration_s=10.0, notebook="trials/001.ipynb")]
    stages = [SimpleNamespace(stage=name, duration_s=3.0) for name in ("machine", "upload", "verify")]
    monkeypatch.setattr(benchmark_of_machines, "read_record", lambda _: SimpleNamespace(stages=stages))
    campaign = SimpleNamespace(folder=Path("campaign"), ledger=SimpleNamespace(entries=lambda: entries))
    (trial,) = benchmark_of_machines.trials_of(campaign)
    assert trial.besides_s == 4.0
    assert "1 of 2 attempts were faults, which are left out below" in capsys.readouterr().out
