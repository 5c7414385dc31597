"""Comparisons made by hand, and campaigns of known truth, for tests of what is shown; nothing in them was measured."""

import dataclasses
import json
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from campaign_factory import FakeTrial, write_campaign

from picolab.analysis.comparison.models import Comparison, MetricComparison, OneBuild, OutcomeComparison, Pair
from picolab.config.sizes import MIB
from picolab.exit_codes import ExitCode
from picolab.record.metric import Metric
from picolab.record.metrics import METRICS
from picolab.record.record import Caveat

SCENARIO = "local-512mb-100M"
USUAL = ("throughput_mib_s", "transfer_mib_s", "commit_mib_s", "download_mib_s", "peak_anon_bytes")
_LEVEL = {
    "throughput_mib_s": 96.0,
    "transfer_mib_s": 180.0,
    "commit_mib_s": 210.0,
    "durable_mib_s": 60.0,
    "download_mib_s": 420.0,
    "peak_anon_bytes": 24.0 * MIB,
    "download_peak_anon_bytes": 18.0 * MIB,
}
_NORMAL_975 = 1.96
_DETECTABLE = 2.8
"""Standard errors that a change must have to be found four times in five: 1.96 + 0.84."""

Effects = Mapping[tuple[str, str, str], float]
"""Ratios by (scenario, candidate, metric); `*` stands for any; what is not there is 1."""


def make_comparison(
    scenarios: Sequence[str] = (SCENARIO,),
    candidates: Sequence[str] = ("new",),
    metrics: Sequence[str] = USUAL,
    pairs: int = 10,
    effects: Effects | None = None,
    noise: float = 0.02,
    drift: float = 1.5,
    seed: int = 1,
) -> Comparison:
    """Return what a campaign with these effects would say.

    Args:
        noise: standard deviation of a pair's log ratio.
        drift: by which factor both builds slow down over the campaign.
    """
    chance = random.Random(seed)
    compared, builds = [], []
    for name in metrics:
        for scenario in scenarios:
            level = _LEVEL[name] * chance.uniform(0.6, 1.4)
            baseline = [
                level * math.exp(-math.log(drift) * place / max(pairs - 1, 1) + chance.gauss(0, 0.03))
                for place in range(pairs)
            ]
            builds.append(_one_build(scenario, "old", METRICS[name], baseline))
            for candidate in candidates:
                effect = _effect(effects or {}, scenario, candidate, name)
                values = [value * effect * math.exp(chance.gauss(0, noise)) for value in baseline]
                builds.append(_one_build(scenario, candidate, METRICS[name], values))
                compared.append(compare_metric(METRICS[name], baseline, values, scenario, candidate))
    outcomes = [
        OutcomeComparison(
            scenario=scenario,
            baseline="old",
            candidate=candidate,
            verdict="no difference seen",
            reason="Both always ok.",
            baseline_outcomes={"ok": pairs},
            candidate_outcomes={"ok": pairs},
            p_value=1.0,
            adjusted_p_value=1.0,
        )
        for scenario in scenarios
        for candidate in candidates
    ]
    worse = [row for row in compared if row.gates and row.verdict == row.metric.worse]
    return Comparison(
        campaign="demo",
        baseline="old",
        candidates=tuple(candidates),
        scenarios=tuple(scenarios),
        margin=0.05,
        metrics=tuple(compared),
        outcomes=tuple(outcomes),
        builds=tuple(builds),
        comparable=True,
        not_comparable_reason=None,
        self_comparison=False,
        independence="The independent unit is a pair of trials, each on a fresh server and a fresh data folder.",
        randomised="Builds of a scenario ran back to back in random, balanced order.",
        caveats=(),
        gate=ExitCode.TRIALS_FAILED if worse else ExitCode.OK,
        gate_reason=f"Regression: {worse[0].candidate} is {worse[0].verdict} in {worse[0].scenario}."
        if worse
        else "No regression beyond the margin of 5 %.",
    )


def compare_metric(
    metric: Metric,
    baseline: Sequence[float],
    candidate: Sequence[float],
    scenario: str = SCENARIO,
    label: str = "new",
    incomplete: Sequence[str] = (),
) -> MetricComparison:
    """Return pairs of two series and a rough judgement of them: enough to draw, not to conclude from."""
    pairs = tuple(
        Pair(
            block=block,
            baseline_value=first,
            candidate_value=second,
            ratio=second / first,
            baseline_trial=f"{2 * block - 1:03d}-{scenario}-old",
            candidate_trial=f"{2 * block:03d}-{scenario}-{label}",
            baseline_first=block % 2 == 1,
            hours=0.21 * (block - 1),
        )
        for block, (first, second) in enumerate(zip(baseline, candidate, strict=True), start=1)
    )
    numbers = _numbers(metric, [pair.ratio for pair in pairs])
    return MetricComparison(
        scenario=scenario,
        metric=metric,
        baseline="old",
        candidate=label,
        pairs=pairs,
        incomplete=tuple(incomplete),
        gates="upload" in metric.gates,
        **numbers,  # type: ignore[arg-type]
    )


def _numbers(metric: Metric, ratios: list[float]) -> dict[str, object]:
    nothing = ("ratio", "low", "high", "coverage", "p_value", "adjusted_p_value", "spread", "minimum_detectable")
    if len(ratios) < 6:
        known = {"ratio": statistics.median(ratios)} if ratios else {}
        why = f"{len(ratios)} pairs are too few: a verdict needs at least 6."
        return dict.fromkeys(nothing) | known | {"verdict": None, "reason": why, "no_regression": False}
    logs = [math.log(ratio) for ratio in ratios]
    middle, spread = statistics.mean(logs), statistics.stdev(logs)
    error = spread / math.sqrt(len(logs))
    low, high = math.exp(middle - _NORMAL_975 * error), math.exp(middle + _NORMAL_975 * error)
    p_value = 2 * statistics.NormalDist().cdf(-abs(middle) / error)
    within = low > 1 / 1.05 and high < 1.05
    if within:
        verdict, reason = "equivalent", "The whole interval lies within the margin."
    elif p_value < 0.05:
        verdict = metric.better if (middle > 0) == metric.higher_is_better else metric.worse
        reason = "The interval excludes no change."
    elif spread > 0.2:
        verdict, reason = "unstable", f"The ratios of pairs spread by {spread:.0%}: too much to tell."
    else:
        verdict, reason = "undecided", "The interval reaches beyond the margin and does not exclude no change."
    return {
        "ratio": math.exp(middle),
        "low": low,
        "high": high,
        "coverage": 0.95,
        "p_value": p_value,
        "adjusted_p_value": min(1.0, 2 * p_value),
        "spread": spread,
        "minimum_detectable": math.exp(_DETECTABLE * error) - 1,
        "verdict": verdict,
        "reason": reason,
        "no_regression": (low > 1 / 1.05) if metric.higher_is_better else (high < 1.05),
    }


def _effect(effects: Effects, scenario: str, candidate: str, metric: str) -> float:
    keys = [(a, b, metric) for a in (scenario, "*") for b in (candidate, "*")]
    return next((effects[key] for key in keys if key in effects), 1.0)


def _one_build(scenario: str, build: str, metric: Metric, values: Sequence[float]) -> OneBuild:
    n, several = len(values), len(values) > 1
    return OneBuild(
        scenario=scenario,
        build=build,
        metric=metric,
        n=n,
        median=statistics.median(values) if values else None,
        low=min(values) if several else None,
        high=max(values) if several else None,
        coverage=1 - 2 * 0.5**n if several else None,
        spread=statistics.stdev(values) / statistics.mean(values) if several else None,
        drift=values[-1] / values[0] - 1 if several else None,
        drift_p_value=0.001 if several else None,
        first_effect=None,
    )


def not_comparable(comparison: Comparison, reason: str) -> Comparison:
    """Return the same numbers of a campaign whose order supports no comparison: no verdict anywhere."""
    metrics = tuple(dataclasses.replace(row, verdict=None, reason=reason) for row in comparison.metrics)
    outcomes = tuple(dataclasses.replace(row, verdict=None, reason=reason) for row in comparison.outcomes)
    return dataclasses.replace(
        comparison,
        comparable=False,
        not_comparable_reason=reason,
        metrics=metrics,
        outcomes=outcomes,
        gate=ExitCode.UNDECIDED,
        gate_reason="No verdict: not comparable in time.",
    )


def all_killed(comparison: Comparison) -> Comparison:
    """Return a campaign of the same scenarios in which every trial of the candidates was OOM-killed."""
    metrics = tuple(
        dataclasses.replace(
            compare_metric(row.metric, [], [], row.scenario, row.candidate),
            incomplete=tuple(f"Block {pair.block}: {pair.candidate_trial} ended oom_killed." for pair in row.pairs),
        )
        for row in comparison.metrics
    )
    outcomes = tuple(
        dataclasses.replace(
            row,
            candidate_outcomes={"oom_killed": sum(row.candidate_outcomes.values())},
            p_value=0.00001,
            adjusted_p_value=0.00002,
            verdict="more failures",
            reason="The candidate failed in 10 of 10 trials, the baseline in none of 10.",
        )
        for row in comparison.outcomes
    )
    nothing = dict.fromkeys(
        ("median", "low", "high", "coverage", "spread", "drift", "drift_p_value", "first_effect"), None
    )
    builds = tuple(
        row if row.build == comparison.baseline else dataclasses.replace(row, n=0, **nothing)  # type: ignore[arg-type]
        for row in comparison.builds
    )
    return dataclasses.replace(
        comparison,
        metrics=metrics,
        outcomes=outcomes,
        builds=builds,
        gate=ExitCode.TRIALS_FAILED,
        gate_reason="Regression: new failed more often than old.",
    )


DRIFT_CAVEAT = Caveat(
    code="drift",
    value=-0.33,
    message="The baseline became 33 % slower over the campaign.",
    advice="Pairs cancel it; look for what changed on the host before you quote a rate of one build.",
)


def paired_trials(
    scenarios: Sequence[tuple[int, str]] = ((512, "100M"),),
    candidates: Mapping[str, float] | None = None,
    blocks: int = 10,
    drift: float = 2.0,
    same_build: bool = False,
    **special: Any,
) -> list[FakeTrial]:
    """Return trials of a campaign whose blocks run all builds of a scenario back to back.

    Args:
        scenarios: RAM in MiB and file size.
        candidates: label -> ratio of its speed to the baseline's, which is called `old`.
        drift: by which factor all builds slow down over the campaign.
        same_build: every label has the same executable.
    """
    chance = random.Random(7)
    ratios = {"old": 1.0} | dict(candidates or {"new": 1.2})
    trials = []
    for block in range(1, blocks + 1):
        for ram_mb, file_size in scenarios:
            speed = drift ** (-block / blocks)
            together = [
                FakeTrial(
                    ram_mb=ram_mb,
                    file_size=file_size,
                    build="1.5.4",
                    label=label,
                    build_sha256=("a" if same_build else "abcdef"[place]) * 64,
                    block=block,
                    speed=speed * ratio * math.exp(chance.gauss(0, 0.01)),
                    more_anon_mib=chance.uniform(0, 0.3),
                    **special,
                )
                for place, (label, ratio) in enumerate(ratios.items())
            ]
            turn = block % len(together)
            trials += together[turn:] + together[:turn]
    return trials


def write_comparison(
    folder: Path, trials: list[FakeTrial], planned: list[FakeTrial] | None = None, **plan: Any
) -> Path:
    """Write a campaign whose plan names its baseline."""
    write_campaign(folder, trials, planned)
    path = folder / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"baseline": "old", "margin_percent": 5.0} | plan))
    return folder
