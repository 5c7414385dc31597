"""Comparisons of builds: verdicts, what may not be concluded, caveats, and the gate; from campaigns of known truth."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from campaign_factory import BUSY_CAVEAT, CALIBRATION_CAVEAT, UNLIMITED_CAVEAT, FakeTrial, write_campaign
from comparison_campaigns import SHA, around, killed, paired_trials, read

from picolab.analysis.comparison.compare import compare, compare_campaigns
from picolab.analysis.comparison.models import Comparison, MetricComparison
from picolab.charts.verdicts import shown_rows
from picolab.config.sizes import MIB
from picolab.errors import ParameterError
from picolab.exit_codes import ExitCode
from picolab.record.metrics import METRICS
from picolab.record.outcomes import Outcome
from picolab.report import comparison_page, comparison_tables
from picolab.report.comparison_json import as_json
from picolab.report.comparison_lines import as_lines
from picolab.report.comparison_words import gate_line
from picolab.results.load import read_campaign

SCENARIO = "local-512mb-100M"


def one(comparison: Comparison, metric: str = "throughput_mib_s", candidate: str = "new") -> MetricComparison:
    (found,) = [c for c in comparison.metrics if (c.metric.name, c.candidate) == (metric, candidate)]
    return found


def codes(comparison: Comparison) -> list[str]:
    return [caveat.code for caveat in comparison.caveats]


@pytest.mark.parametrize(
    ("ratios", "verdict", "gate"),
    [
        (around(1.2), "faster", ExitCode.OK),
        (around(0.8), "slower", ExitCode.REGRESSION),
        (around(1.0), "equivalent", ExitCode.OK),
        (around(1.01, noise=0.02), "equivalent", ExitCode.OK),
        (around(1.0, noise=0.2), "undecided", ExitCode.UNDECIDED),
        (around(1.0, noise=0.9), "unstable", ExitCode.UNDECIDED),
        (around(0.8, n=5), None, ExitCode.UNDECIDED),
    ],
    ids=["faster", "slower", "equivalent", "nearly equivalent", "undecided", "unstable", "too few"],
)
def test_each_verdict_and_its_exit_code(
    tmp_path: Path, ratios: list[float], verdict: str | None, gate: ExitCode
) -> None:
    comparison = compare(read(tmp_path / "c", paired_trials(ratios)))
    found = one(comparison)

    assert found.verdict == verdict, found.reason
    assert comparison.gate is gate, comparison.gate_reason
    assert found.gates and found.scenario == SCENARIO in comparison.gate_reason
    assert (comparison.baseline, comparison.candidates) == ("old", ("new",))
    assert found.low is not None and found.ratio is not None and found.high is not None
    assert found.low <= found.ratio <= found.high
    assert [pair.ratio for pair in found.pairs] == pytest.approx(ratios)
    assert one(comparison, "peak_anon_bytes").verdict == ("equivalent" if verdict else None)


def test_the_ratio_is_the_true_one(tmp_path: Path) -> None:
    found = one(compare(read(tmp_path / "c", paired_trials(around(1.052, n=20)))))

    assert found.ratio == pytest.approx(1.052, rel=0.004)
    assert found.coverage is not None and found.coverage >= 0.95


def test_the_users_margin_and_baseline_count(tmp_path: Path) -> None:
    data = read(tmp_path / "c", paired_trials(around(1.08)))

    assert one(compare(data)).verdict == "faster"
    assert one(compare(data, margin=0.15)).verdict == "equivalent"
    reverse = compare(data, baseline="new")
    assert (reverse.baseline, one(reverse, candidate="old").verdict) == ("new", "slower")
    assert reverse.gate is ExitCode.REGRESSION


def test_the_margin_of_the_plan_counts(tmp_path: Path) -> None:
    comparison = compare(read(tmp_path / "c", paired_trials(around(1.08)), margin_percent=15))
    assert (comparison.margin, one(comparison).verdict) == (0.15, "equivalent")


def test_same_speed_and_more_memory_is_seen(tmp_path: Path) -> None:
    comparison = compare(read(tmp_path / "c", paired_trials(around(1.0), more_anon_mib=20)))
    memory = one(comparison, "peak_anon_bytes")

    assert one(comparison).verdict == "equivalent"
    assert memory.verdict == "more memory" and memory.ratio == pytest.approx(44 / 24, rel=0.01)
    assert memory.pairs[0].candidate_value - memory.pairs[0].baseline_value == pytest.approx(20 * MIB, rel=0.01)
    assert comparison.gate is ExitCode.REGRESSION and "peak memory of new" in comparison.gate_reason


def test_less_memory_is_better(tmp_path: Path) -> None:
    comparison = compare(read(tmp_path / "c", paired_trials(around(1.0), more_anon_mib=-10)))
    assert one(comparison, "peak_anon_bytes").verdict == "less memory"
    assert comparison.gate is ExitCode.OK


def test_failures_are_compared_and_nothing_is_dropped(tmp_path: Path) -> None:
    comparison = compare(read(tmp_path / "c", killed(paired_trials(around(1.0)), "new", range(1, 8))))
    (outcome,) = comparison.outcomes

    assert outcome.verdict == "more failures"
    assert "oom_killed 7 of 10 against 0 of 10" in outcome.reason
    assert outcome.p_value == pytest.approx(0.00310, abs=1e-5)  # Fisher's exact test, two-sided
    assert (outcome.baseline_outcomes, outcome.candidate_outcomes) == ({"ok": 10}, {"oom_killed": 7, "ok": 3})
    found = one(comparison)
    assert found.verdict is None and "3 pairs (7 blocks without one)" in found.reason
    assert len(found.pairs) + len(found.incomplete) == 10
    assert found.incomplete[0] == "block 1: new ended oom_killed"
    assert comparison.gate is ExitCode.REGRESSION and "oom_killed 7 of 10" in comparison.gate_reason


def test_fewer_failures_are_no_regression(tmp_path: Path) -> None:
    comparison = compare(read(tmp_path / "c", killed(paired_trials(around(1.0, n=20)), "old", range(1, 11))))
    assert comparison.outcomes[0].verdict == "fewer failures"
    assert comparison.gate is ExitCode.OK, comparison.gate_reason


def test_a_few_failures_more_are_not_let_pass(tmp_path: Path) -> None:
    comparison = compare(read(tmp_path / "c", killed(paired_trials(around(1.0)), "new", [2, 5])))

    assert comparison.outcomes[0].verdict == "no difference seen"
    assert one(comparison).verdict == "equivalent" and one(comparison).no_regression
    assert comparison.gate is ExitCode.UNDECIDED
    assert "oom_killed 2 of 10 against 0 of 10" in comparison.gate_reason


def test_nothing_gets_worse_where_the_baseline_always_fails(tmp_path: Path) -> None:
    hopeless = paired_trials(around(1.0), ram_mb=64)
    for trial in hopeless:
        trial.outcome = Outcome.OOM_KILLED
    fine = paired_trials(around(1.0))
    trials = [trial for block in range(1, 11) for trial in (*hopeless, *fine) if trial.block == block]
    comparison = compare(read(tmp_path / "c", trials))

    assert comparison.scenarios == (SCENARIO, "local-64mb-100M")
    assert comparison.gate is ExitCode.OK, comparison.gate_reason
    assert [outcome.verdict for outcome in comparison.outcomes] == ["no difference seen"] * 2


def test_a_scenario_without_any_result_is_not_let_pass(tmp_path: Path) -> None:
    lost = paired_trials(around(1.0), ram_mb=64)
    for trial in lost:
        trial.outcome = Outcome.MACHINE_FAILED
    trials = [trial for block in range(1, 11) for trial in (*paired_trials(around(1.0)), *lost) if trial.block == block]
    comparison = compare(read(tmp_path / "c", trials))

    assert comparison.gate is ExitCode.UNDECIDED
    assert "local-64mb-100M: no verdict, 0 pairs (10 blocks without one)" in comparison.gate_reason


def test_one_after_the_other_is_not_comparable(tmp_path: Path) -> None:
    trials = paired_trials(around(0.8))
    for trial in trials:
        trial.block += 10 if trial.label == "new" else 0
    comparison = compare(read(tmp_path / "c", sorted(trials, key=lambda trial: trial.block)))
    found = one(comparison)

    assert not comparison.comparable and codes(comparison)[0] == "not_comparable_in_time"
    assert "old is in blocks 1 to 10, new in blocks 11 to 20" in (comparison.not_comparable_reason or "")
    assert {c.verdict for c in (*comparison.metrics, *comparison.outcomes)} == {None}
    assert found.reason.startswith("not comparable in time")
    assert found.ratio == pytest.approx(0.8, rel=0.01) and found.low is None and found.p_value is None
    assert comparison.gate is ExitCode.UNDECIDED


def test_all_of_one_build_first_in_a_block_is_not_comparable(tmp_path: Path) -> None:
    # Old suites did this: the block says little when the other scenarios of a build run in between.
    sizes = ("25M", "50M", "100M", "200M")
    trials = []
    for block in range(1, 9):
        for label in ("old", "new"):
            trials += [
                FakeTrial(build="1.5.4", label=label, build_sha256=SHA[label], block=block, file_size=size, speed=1.0)
                for size in sizes
            ]
    comparison = compare(read(tmp_path / "c", trials))

    assert not comparison.comparable
    assert "in 8 of 8 blocks the plan puts other trials between" in (comparison.not_comparable_reason or "")


def test_real_times_count_more_than_the_plan(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0))
    for position, trial in enumerate(trials):
        trial.started_min = position + (1000 if trial.label == "new" else 1)
    comparison = compare(read(tmp_path / "c", trials))

    assert not comparison.comparable
    assert "in 10 of 10 blocks old and new did not run close together" in (comparison.not_comparable_reason or "")


def test_a_pair_that_was_torn_apart_is_no_pair(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0))
    trials[-1].started_min = 1000  # The campaign was interrupted in its last pair, and went on the next day.
    found = one(compare(read(tmp_path / "c", trials)))

    assert len(found.pairs) == 9 and found.verdict == "equivalent"
    assert found.incomplete == (
        "block 10: old and new began 16 h 21 min apart with 0 trials between them: they are no pair",
    )


def test_separate_campaigns_are_never_comparable(tmp_path: Path) -> None:
    both = paired_trials(around(0.5))
    data = [
        read(tmp_path / label, [trial for trial in both if trial.label == label], baseline=None)
        for label in ("old", "new")
    ]
    comparison = compare_campaigns(data)

    assert not comparison.comparable and "separate campaigns (old, new)" in (comparison.not_comparable_reason or "")
    assert (comparison.baseline, comparison.candidates) == ("old", ("new",))
    assert one(comparison).ratio == pytest.approx(0.5, rel=0.01) and one(comparison).verdict is None
    assert comparison.gate is ExitCode.UNDECIDED


def test_one_build_in_two_campaigns_has_two_names(tmp_path: Path) -> None:
    data = [read(tmp_path / day, paired_trials(around(1.0), labels=("old",)), baseline=None) for day in ("mon", "tue")]
    comparison = compare_campaigns(data)

    assert (comparison.baseline, comparison.candidates) == ("old (mon)", ("old (tue)",))
    with pytest.raises(ParameterError, match="name two"):
        compare_campaigns(data[:1])


def test_drift_of_both_builds_is_a_caveat_and_flips_no_verdict(tmp_path: Path) -> None:
    slowing = paired_trials(around(1.0, n=20), speed=lambda block: 3.4 ** (-block / 20))
    comparison = compare(read(tmp_path / "c", slowing))

    assert one(comparison).verdict == "equivalent" and comparison.gate is ExitCode.OK
    (caveat,) = [caveat for caveat in comparison.caveats if caveat.code == "drift"]
    assert "upload of old −69 %" in caveat.message and "upload of new" in caveat.message
    assert "ratio_drifts" not in codes(comparison)
    (old,) = [b for b in comparison.builds if (b.build, b.metric.name) == ("old", "throughput_mib_s")]
    assert old.drift == pytest.approx(1 / 3.4 - 1, abs=0.03)
    assert old.drift_p_value is not None and old.drift_p_value < 0.001


def test_a_ratio_that_drifts_is_a_caveat(tmp_path: Path) -> None:
    ratios = [1.0 - 0.02 * index for index in range(12)]
    comparison = compare(read(tmp_path / "c", paired_trials(ratios)))
    (caveat,) = [caveat for caveat in comparison.caveats if caveat.code == "ratio_drifts"]
    assert caveat.value == pytest.approx(-0.22, abs=0.02)


def test_a_slow_first_trial_is_a_caveat_and_counts(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0, n=12))
    assert trials[0].speed is not None
    trials[0].speed *= 0.4
    comparison = compare(read(tmp_path / "c", trials))
    (caveat,) = [caveat for caveat in comparison.caveats if caveat.code == "first_trial_slow"]

    assert isinstance(caveat.value, float) and caveat.value == pytest.approx(-0.6, abs=0.05)
    assert len(one(comparison).pairs) == 12


def test_a_quiet_campaign_has_no_caveat(tmp_path: Path) -> None:
    assert codes(compare(read(tmp_path / "c", paired_trials(around(1.0))))) == []


def test_self_comparison_finds_nothing_and_says_so(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0), labels=("a", "b"))
    comparison = compare(read(tmp_path / "c", trials, baseline="a"))

    assert comparison.self_comparison
    assert {c.verdict for c in comparison.metrics} == {"equivalent"}
    assert "differs_from_itself" not in codes(comparison)


def test_a_build_that_differs_from_itself_is_a_caveat(tmp_path: Path) -> None:
    trials = paired_trials(around(1.2), labels=("a", "b"))
    comparison = compare(read(tmp_path / "c", trials, baseline="a"))
    assert comparison.self_comparison and "differs_from_itself" in codes(comparison)
    # Also when the second seems faster: it is the instrument that fails.
    assert comparison.gate is ExitCode.REGRESSION and "the instrument fails" in comparison.gate_reason


@pytest.mark.parametrize("special", [{"environment": {"GOGC": "50"}}, {"build_sha256": "e" * 64}])
def test_another_environment_or_executable_is_no_self_comparison(tmp_path: Path, special: dict[str, Any]) -> None:
    trials = paired_trials(around(1.0), labels=("a", "b"))
    for trial in trials:
        if trial.label == "b":
            for name, value in special.items():
                setattr(trial, name, value)
    assert not compare(read(tmp_path / "c", trials, baseline="a")).self_comparison


def test_builds_without_a_label_differ_by_how_they_start(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0), labels=("old", "new"))
    for trial in trials:
        trial.environment = {"GOGC": "50"} if trial.label == "new" else {}
        trial.label, trial.build_sha256 = "", None
    comparison = compare(read(tmp_path / "c", trials, baseline=None))

    assert {comparison.baseline, *comparison.candidates} == {"1.5.4 as it is", "1.5.4 GOGC_50"}
    assert len(comparison.metrics[0].pairs) == 10


def test_two_executables_with_one_label_are_two_builds(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0, n=12))
    for trial in trials:
        if trial.label == "new" and trial.block > 6:
            trial.build_sha256 = "e" * 64
    comparison = compare(read(tmp_path / "c", trials))

    assert (comparison.baseline, set(comparison.candidates)) == ("old", {"new bbbbbbbb", "new eeeeeeee"})
    assert [len(one(comparison, candidate=name).pairs) for name in comparison.candidates] == [6, 6]


def test_three_builds_are_one_family(tmp_path: Path) -> None:
    trials = paired_trials(around(0.8, n=6), labels=("old", "new", "newer"))
    comparison = compare(read(tmp_path / "c", trials))
    found = [one(comparison, candidate=name) for name in ("new", "newer")]

    assert comparison.candidates == ("new", "newer")
    for each in found:
        # Six pairs reach p = 2/64, which is not enough for two comparisons.
        assert each.p_value == pytest.approx(2 / 64) and each.adjusted_p_value == pytest.approx(4 / 64)
        assert each.verdict == "undecided"
        assert "with 6 pairs and 2 comparisons of this metric no difference could have become" in each.reason
        assert "7 pairs are needed" in each.reason
    enough = paired_trials(around(0.8, n=7), labels=("old", "new", "newer"))
    assert one(compare(read(tmp_path / "d", enough)), candidate="newer").verdict == "slower"


def test_scenarios_are_one_family_and_metrics_are_not(tmp_path: Path) -> None:
    small, large = paired_trials(around(1.2, n=8)), paired_trials(around(1.2, n=8), file_size="200M")
    trials = [trial for block in range(1, 9) for trial in (*small, *large) if trial.block == block]
    comparison = compare(read(tmp_path / "c", trials))

    assert comparison.scenarios == (SCENARIO, "local-512mb-200M")
    found = [c for c in comparison.metrics if c.metric.name == "throughput_mib_s"]
    assert [c.p_value for c in found] == pytest.approx([2 / 256] * 2)
    assert [c.adjusted_p_value for c in found] == pytest.approx([4 / 256] * 2)


def test_missing_partners_are_named(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0, n=9))
    trials[2].outcome = Outcome.MACHINE_FAILED
    later = paired_trials(around(1.0, n=12))[18:]
    comparison = compare(read(tmp_path / "c", trials, [trial for trial in later if trial.block > 9]))
    found = one(comparison)
    lost = trials[2].label

    assert len(found.pairs) == 8
    assert found.incomplete == (f"block 2: {lost} has no result (machine_failed)",)
    (caveat,) = [caveat for caveat in comparison.caveats if caveat.code == "unfinished"]
    assert caveat.message == "7 of 24 planned trials have no result: 6 not run yet and 1 machine_failed."


def test_what_the_stopping_rule_left_out_is_not_unfinished(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0, n=12))
    read(
        tmp_path / "c", trials[:20], trials[20:], stopping={"target_percent": 3, "least_blocks": 10, "most_blocks": 12}
    )
    (tmp_path / "c" / "stopped.json").write_text('{"after_block": 10, "reason": "narrow enough"}')
    assert "unfinished" not in codes(compare(read_campaign(tmp_path / "c"), baseline="old"))


def test_caveats_of_trials_are_counted_for_each_build(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0))
    for trial in trials:
        trial.caveats = [CALIBRATION_CAVEAT] + ([BUSY_CAVEAT] if trial.label == "new" else [])
    caveats = {caveat.code: caveat for caveat in compare(read(tmp_path / "c", trials)).caveats}

    assert caveats["host_busy"].value == "0 of 10 of old and 10 of 10 of new"
    assert "not measured under the same conditions" in caveats["host_busy"].message
    assert caveats["calibration_server"].value == "10 of 10 of old and 10 of 10 of new"
    assert "not measured under the same conditions" not in caveats["calibration_server"].message


def test_unlimited_trials_keep_their_caveat(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0), memory_limit="none", caveats=[UNLIMITED_CAVEAT])
    assert "memory_limit_none" in codes(compare(read(tmp_path / "c", trials)))


def test_two_kernels_are_a_caveat(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0))
    for trial in trials[10:]:
        trial.kernel = "6.9.9"
    assert codes(compare(read(tmp_path / "c", trials))) == ["mixed_hosts"]


def test_pairs_are_made_on_one_host_only(tmp_path: Path) -> None:
    # Two hosts at the same time: trials of a host run back to back, and those of the other lie in between.
    trials = paired_trials(around(1.2, n=24))
    for trial in trials:
        trial.facts["provenance.host.hostname"] = "one" if trial.block % 2 else "two"
        trial.started_min = 2.0 * ((trial.block + 1) // 2) + trials.index(trial) % 2
    comparison = compare(read(tmp_path / "c", trials))
    assert one(comparison).verdict == "faster" and len(one(comparison).pairs) == 24
    assert codes(comparison) == ["mixed_hosts"]

    torn = [trial for trial in trials if trial.block <= 2]
    torn[0].facts["provenance.host.hostname"] = "three"
    found = one(compare(read(tmp_path / "torn", trials)))
    assert len(found.pairs) == 23
    assert any("three" in sentence and "they are no pair" in sentence for sentence in found.incomplete), found


def test_a_renamed_host_keeps_the_pair_of_its_block(tmp_path: Path) -> None:
    trials = paired_trials(around(1.2, n=24))
    for trial in trials:
        trial.facts |= {"provenance.host.host_id": "this", "provenance.host.boot_id": "boot"}
    for trial in trials[7:]:
        trial.facts["provenance.host.hostname"] = "renamed"
    comparison = compare(read(tmp_path / "c", trials))
    assert len(one(comparison).pairs) == 24 and codes(comparison) == []

    trials[7].facts["provenance.host.boot_id"] = "another"
    trials[7].facts["provenance.host.hostname"] = "clone"
    comparison = compare(read(tmp_path / "clone", trials))
    assert len(one(comparison).pairs) == 23 and codes(comparison) == ["mixed_hosts"]


def test_a_build_that_always_runs_first_is_a_caveat(tmp_path: Path) -> None:
    trials = sorted(paired_trials(around(1.0)), key=lambda trial: (trial.block, trial.label))
    assert codes(compare(read(tmp_path / "c", trials))) == ["same_order"]


def test_a_scenario_of_one_build_is_named(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0))
    trials += [FakeTrial(build="1.5.4", label="old", build_sha256=SHA["old"], file_size="200M", block=10)]
    comparison = compare(read(tmp_path / "c", trials))

    (caveat,) = [caveat for caveat in comparison.caveats if caveat.code == "build_missing"]
    assert "local-512mb-200M (old only)" in caveat.message
    assert comparison.comparable and comparison.gate is ExitCode.OK


@pytest.mark.parametrize(
    ("fresh", "reached_by", "words", "found"),
    [
        ("per_campaign", None, "20 trials in virtual machines ran in 1 boot (fresh_machine: per_campaign)", True),
        ("per_trial", "booted", "ran in 20 boots (fresh_machine: per_trial)", False),
        ("per_campaign", "restored", "ran in 1 boot", True),
    ],
)
def test_boots_are_a_level_of_their_own(
    tmp_path: Path, fresh: str, reached_by: str | None, words: str, found: bool
) -> None:
    trials = paired_trials(
        around(1.0), machine="vagrant", acceleration="kvm", fresh_machine=fresh, reached_by=reached_by
    )
    comparison = compare(read(tmp_path / "c", trials))

    assert words in comparison.independence
    assert ("one_boot" in codes(comparison)) is found


def test_a_restored_machine_is_in_the_boot_of_its_ram_again(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0), machine="vagrant", acceleration="kvm", ram_mb=256)
    trials += paired_trials(around(1.0), machine="vagrant", acceleration="kvm", ram_mb=512)
    trials.sort(key=lambda trial: trial.block)
    seen: set[int] = set()
    for before, trial in itertools.pairwise([None, *trials]):
        if trial.ram_mb not in seen:
            trial.reached_by = "reloaded" if seen else "created"
            seen.add(trial.ram_mb)
        else:
            trial.reached_by = "reset" if before and before.ram_mb == trial.ram_mb else "restored"
    comparison = compare(read(tmp_path / "c", trials))

    assert "40 trials in virtual machines ran in 2 boots" in comparison.independence
    assert "one_boot" in codes(comparison)


def test_local_trials_are_independent_by_themselves(tmp_path: Path) -> None:
    comparison = compare(read(tmp_path / "c", paired_trials(around(1.0))))
    assert comparison.independence == "The independent unit is a trial on a fresh server and a fresh data folder."
    assert comparison.randomised.startswith("Blocks one after the other") and "Seed 42." in comparison.randomised


def test_the_direction_decides_what_gates(tmp_path: Path) -> None:
    for direction, gating in (
        ("upload", {"throughput_mib_s", "peak_anon_bytes"}),
        ("download", {"download_mib_s", "download_peak_anon_bytes"}),
        ("both", {"throughput_mib_s", "peak_anon_bytes", "download_mib_s", "download_peak_anon_bytes"}),
    ):
        trials = paired_trials(around(1.0), direction=direction)
        comparison = compare(read(tmp_path / direction, trials))
        assert {c.metric.name for c in comparison.metrics if c.gates} == gating
        assert comparison.scenarios == (SCENARIO + ("" if direction == "upload" else f"-direction_{direction}"),)


def test_metrics_that_no_trial_has_are_left_out(tmp_path: Path) -> None:
    comparison = compare(read(tmp_path / "c", paired_trials(around(1.0))))
    shown = [c.metric.name for c in comparison.metrics]
    assert shown == [name for name in METRICS if name in shown]
    assert "transfer_mib_s" in shown and "download_peak_anon_bytes" not in shown


@pytest.mark.parametrize(
    ("labels", "arguments", "words"),
    [
        (("old",), {}, "has only one build, old, and a comparison needs two"),
        (("old", "new"), {"baseline": "odl"}, "did you mean old"),
        (("old", "new"), {"margin": 5.0}, "margin = 5.0 should be above 0 and at most 1"),
        (("old", "new"), {"margin": 0.0}, "should be above 0"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    tmp_path: Path, labels: Sequence[str], arguments: dict[str, Any], words: str
) -> None:
    data = read(tmp_path / "c", paired_trials(around(1.0), labels=labels))
    with pytest.raises(ParameterError, match=words):
        compare(data, **arguments)


def test_a_campaign_that_has_just_begun_has_no_verdict(tmp_path: Path) -> None:
    trials = paired_trials(around(1.0))
    comparison = compare(read(tmp_path / "c", trials[:1], trials[1:]))

    assert comparison.comparable and comparison.gate is ExitCode.UNDECIDED
    assert one(comparison).pairs == () and one(comparison).ratio is None
    assert "too_few_pairs" in codes(comparison) and "unfinished" in codes(comparison)


def test_a_campaign_without_its_plan_is_compared_by_its_records(tmp_path: Path) -> None:
    write_campaign(tmp_path / "c", paired_trials(around(0.8)))
    (tmp_path / "c" / "plan.json").write_text("{")
    comparison = compare(read_campaign(tmp_path / "c"), baseline="old")

    assert one(comparison).verdict == "slower"
    assert comparison.randomised == "Randomisation is unknown: the plan cannot be read."


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.2])
def test_without_its_plan_no_campaign_passes(tmp_path: Path, ratio: float) -> None:
    write_campaign(tmp_path / "c", paired_trials(around(ratio)))
    (tmp_path / "c" / "plan.json").write_text("{")
    comparison = compare(read_campaign(tmp_path / "c"))

    assert comparison.exit_code is ExitCode.BAD_PARAMETERS
    assert comparison.exit_reason.startswith("the plan cannot be read, so the missing trials")
    assert f"with {comparison.baseline} as baseline" in gate_line(comparison)


@pytest.mark.parametrize("value", [1e308, 5e-324, -1.0, 0.0])
def test_a_rate_that_nobody_measured_gives_no_pair(tmp_path: Path, value: float) -> None:
    trials = paired_trials(around(1.0))
    write_campaign(tmp_path / "c", trials)
    for path in (tmp_path / "c" / "trials").glob("*-new*.ipynb"):
        notebook = json.loads(path.read_text())
        for output in notebook["cells"][1]["outputs"]:
            for scrap in output["data"].values():
                if scrap["name"] == "record":
                    scrap["data"]["upload"]["throughput_mib_s"] = value
        path.write_text(json.dumps(notebook))
    comparison = compare(read_campaign(tmp_path / "c"), baseline="old")

    assert one(comparison).pairs == () and one(comparison, "peak_anon_bytes").pairs


def test_each_measured_step_fails_by_itself(tmp_path: Path) -> None:
    """The baseline is killed in the upload and the candidate in the download: as trials, both always fail."""
    trials = paired_trials(around(1.0), direction="both")
    for trial in trials:
        trial.outcome, trial.fails_in = Outcome.OOM_KILLED, "verify" if trial.label == "new" else "upload"
    comparison = compare(read(tmp_path / "c", trials))

    by_step = {found.step: found for found in comparison.outcomes}
    assert list(by_step) == ["upload", "download"]
    assert by_step["upload"].verdict == "fewer failures"
    assert (by_step["upload"].baseline_outcomes, by_step["upload"].candidate_outcomes) == (
        {"oom_killed": 10},
        {"ok": 10},
    )
    assert (by_step["download"].baseline_outcomes, by_step["download"].candidate_outcomes) == ({}, {"oom_killed": 10})
    assert by_step["download"].verdict is None and "old reached no download" in by_step["download"].reason


def test_the_upload_counts_where_the_download_fails(tmp_path: Path) -> None:
    trials = paired_trials(around(1.2), direction="both")
    for trial in trials:
        if trial.label == "new":
            trial.outcome, trial.fails_in = Outcome.OOM_KILLED, "verify"
    comparison = compare(read(tmp_path / "c", trials))

    assert one(comparison).verdict == "faster" and len(one(comparison).pairs) == 10
    assert one(comparison, "peak_anon_bytes").pairs
    download = next(c for c in comparison.metrics if c.metric.name == "download_mib_s")
    assert not download.pairs and "new ended oom_killed" in download.incomplete[0]
    (failed,) = [found for found in comparison.outcomes if found.verdict == "more failures"]
    assert failed.step == "download" and comparison.gate is ExitCode.REGRESSION
    assert "(download) fails more often than old" in comparison.gate_reason
    lines = "\n".join(as_lines(comparison))
    assert "new against old in local-512mb-100M-direction_both (download): more failures" in lines
    assert [entry["step"] for entry in as_json(comparison)["outcomes"]] == ["upload", "download"]
    page = comparison_page.outcomes(comparison).markup + comparison_page.verdicts(comparison).markup
    matrix = comparison_tables._verdict_matrix(comparison, shown_rows(comparison)).markup
    assert "more failures</span> (download)" in matrix
    assert "<strong>outcome (download)</strong>" in page and "<strong>outcome (upload)</strong>" not in page


def test_numbers_of_an_unmeasured_step_are_not_compared(tmp_path: Path) -> None:
    """Before the measured download the files are brought there without the memory limit."""
    comparison = compare(read(tmp_path / "c", paired_trials(around(1.0), direction="download")))

    assert {c.metric.name for c in comparison.metrics} == {"download_mib_s", "download_peak_anon_bytes"}
