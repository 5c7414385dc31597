"""The benchmark of plan and statistics: it shows the disaster of the old suite, and notices a plan that repeats it."""

import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from picolab.config.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "power.py"


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = spec_from_file_location("power_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def one_build_after_the_other(make_plan: Callable[..., Plan]) -> Callable[..., Plan]:
    """A planner as the old suite was one."""

    def planned(*args: object) -> Plan:
        plan = make_plan(*args)
        plan.trials.sort(key=lambda trial: trial.parameters.build_label)
        return plan

    return planned


def test_a_quick_run_meets_its_targets_and_prints_the_table() -> None:
    run = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True, cwd=ROOT)

    assert run.returncode == 0, run.stdout + run.stderr
    printed = cells(run.stdout)
    documented = cells(
        (ROOT / "docs" / "statistics.md").read_text().partition("<!-- begin:")[2].partition("<!-- end")[0]
    )
    assert printed[0] == documented[0]
    assert len(printed) > 40
    assert [(*row[:3], row[5]) for row in printed] == [(*row[:3], row[5]) for row in documented]
    assert {row[6] for row in documented[2:]} == {"yes", ""}
    sequential = [row for row in printed[2:] if row[1].startswith("A..AB..B")]
    assert len(sequential) == 3
    assert all(row[4].startswith("100.0 %") for row in sequential)


def test_the_host_slows_down_as_much_as_the_old_suites(power: ModuleType) -> None:
    order = power.planned_order(power.campaign(20, 20, 1))
    silent = lambda random, trials: np.zeros(trials)  # noqa: E731

    scenarios = power.measured(order, silent, 0.0, np.random.default_rng(1))

    times = [time for builds in scenarios.values() for values in builds.values() for time in values]
    assert len(times) == 800
    assert max(times) / min(times) == pytest.approx(3.4, rel=0.01)
    assert np.std(times) / np.mean(times) == pytest.approx(0.28, abs=0.005)


def test_noise_is_what_its_name_says(power: ModuleType) -> None:
    random = np.random.default_rng(2)
    for reading, known in ((power.PAIR_5, 0.05), (power.HEAVY, 0.05), (power.TRIAL_5, 0.05 * 2**0.5)):
        differences = reading.draw(random, 100_000) - reading.draw(random, 100_000)
        assert np.std(differences) == pytest.approx(known, rel=0.03), reading.name


def test_a_planner_that_runs_builds_one_by_one_is_noticed(
    power: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(power, "make_plan", one_build_after_the_other(power.make_plan))
    monkeypatch.setattr(power, "lines", lambda quick: [(power.false_positives(power.PAIR_5, 1), 20)])
    monkeypatch.setattr(sys, "argv", ["power.py", "--quick"])

    with pytest.raises(SystemExit) as end:
        power.main()

    assert end.value.code == 1
    assert "100.0 % should be at most 6 %" in capsys.readouterr().out


def test_a_statistic_that_ignores_pairs_is_noticed(power: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    paired_ratio = power.paired_ratio
    monkeypatch.setattr(power, "paired_ratio", lambda ours, theirs: paired_ratio(sorted(ours), sorted(theirs)[::-1]))

    row = power.power(power.PAIR_5, 1, 0.10, 0.99)(40, 1)

    assert row.met(rough=True) is False


def test_targets_are_strict_but_for_chance_in_a_quick_run(power: ModuleType) -> None:
    def row(share: float, **bounds: float) -> object:
        return power.Row("what", "campaign", "noise", 100, share, **bounds)

    assert row(0.06, most=0.06).met() is True
    assert row(0.061, most=0.06).met() is False
    assert row(0.061, most=0.06).met(rough=True) is True
    assert row(0.20, most=0.06).met(rough=True) is False
    assert row(0.92, least=0.93, most=0.97).met() is False
    assert row(0.98, least=0.93, most=0.97).met() is False
    assert row(0.5).met() is None
    assert row(0.05, most=0.0).met(rough=True) is False


def test_the_table_is_put_between_its_marks(power: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    document = tmp_path / "statistics.md"
    document.write_text(f"before\n{power.BEGIN}\nold\n{power.END}\nafter\n")
    monkeypatch.setattr(power, "DOCUMENT", document)

    power.update_document("| new |")

    assert document.read_text() == f"before\n{power.BEGIN}\n| new |\n{power.END}\nafter\n"
    document.write_text("no marks\n")
    with pytest.raises(SystemExit, match="marks of the table are missing"):
        power.update_document("| new |")
