"""The result of a comparison as data, named and ordered as in its JSON (`picolab.report.comparison_json`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from picolab.exit_codes import ExitCode

if TYPE_CHECKING:
    from picolab.record.metric import Metric
    from picolab.record.outcomes import Step
    from picolab.record.record import Caveat

EQUIVALENT = "equivalent"
UNDECIDED = "undecided"
UNSTABLE = "unstable"
MORE_FAILURES = "more failures"
FEWER_FAILURES = "fewer failures"
NO_DIFFERENCE_SEEN = "no difference seen"
NO_VERDICT = "no verdict"
"""In place of a verdict that is None."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The baseline's and the candidate's ok trial of one scenario in one block."""

    block: int
    hours: float
    """From the start of the campaign's first trial to the start of the pair's first."""
    baseline_first: bool
    """True when the baseline's trial ran before the candidate's."""
    baseline_trial: str
    """Its trial_id."""
    candidate_trial: str
    baseline_value: float
    candidate_value: float
    ratio: float
    """Candidate over baseline."""


@dataclass(frozen=True, kw_only=True)
class MetricComparison:
    """Two builds in one scenario and one metric."""

    scenario: str
    metric: Metric
    baseline: str
    """Label of the build."""
    candidate: str
    verdict: str | None
    """`metric.better`, `metric.worse`, `equivalent`, `undecided`, `unstable`, or None: no verdict."""
    reason: str
    """Why this verdict or none, one sentence."""
    gates: bool
    """True when the gate depends on it."""
    no_regression: bool
    """True when the interval excludes a change for the worse beyond the margin."""
    ratio: float | None
    """Candidate over baseline; None without pairs, as are the numbers below."""
    low: float | None
    high: float | None
    coverage: float | None
    """Probability with which the interval from `low` to `high` contains the true ratio."""
    p_value: float | None
    adjusted_p_value: float | None
    """After Holm, across all scenarios and candidates of this metric."""
    spread: float | None
    """Of the ratios, relative and robust."""
    minimum_detectable: float | None
    """Relative change that a comparison of this size and spread finds four times in five."""
    pairs: tuple[Pair, ...]
    """In order of time."""
    incomplete: tuple[str, ...]
    """One sentence for each block without a pair."""

    @property
    def regressed(self) -> bool:
        """True when the candidate is significantly worse."""
        return self.verdict == self.metric.worse

    @property
    def differs(self) -> bool:
        """True when the candidate is significantly better or worse."""
        return self.verdict in (self.metric.better, self.metric.worse)


@dataclass(frozen=True, kw_only=True)
class OutcomeComparison:
    """How often two builds failed in one scenario."""

    scenario: str
    baseline: str
    candidate: str
    verdict: str | None
    """`more failures`, `fewer failures`, `no difference seen`, or None: no verdict."""
    reason: str
    baseline_outcomes: dict[str, int]
    """Outcome -> number of trials."""
    candidate_outcomes: dict[str, int]
    p_value: float | None
    adjusted_p_value: float | None
    step: Step | None = None
    """The measured step, where a scenario has two that fail independently; None when there is only one."""

    @property
    def of_step(self) -> str:
        """The step for a text, such as ` (download)`; empty when there is only one."""
        return f" ({self.step})" if self.step else ""

    @property
    def any_failed(self) -> bool:
        return bool({*self.baseline_outcomes, *self.candidate_outcomes} - {"ok"})


@dataclass(frozen=True, kw_only=True)
class OneBuild:
    """One build by itself, in one scenario and one metric."""

    scenario: str
    build: str
    metric: Metric
    n: int
    """Ok trials that have this metric."""
    median: float | None
    low: float | None
    high: float | None
    coverage: float | None
    spread: float | None
    """Relative and robust, of the single trials: unlike the spread of ratios, it contains drift."""
    drift: float | None
    """Relative change over the whole campaign by a robust line, whether or not it is significant."""
    drift_p_value: float | None
    first_effect: float | None
    """How far the first trial lies outside the others, relative to their median; None when it does not."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that a campaign shows about its builds against each other."""

    campaign: str
    baseline: str
    """Label of the build."""
    candidates: tuple[str, ...]
    scenarios: tuple[str, ...]
    margin: float
    """Relative change that does not matter."""
    gate: ExitCode
    """The decision from the trials that have a result."""
    gate_reason: str
    plan_is_known: bool = True
    """False when the plan cannot be read: then it may name another baseline and margin."""
    unmeasured: int = 0
    """Trials of the plan that have no result."""
    comparable: bool
    """False: not comparable in time, so that no verdict is given."""
    not_comparable_reason: str | None
    self_comparison: bool
    """True for one executable, started in one way, under two labels: no difference should be found."""
    independence: str
    """The independent unit, one sentence."""
    randomised: str
    """What was randomised and what was not, from the plan."""
    metrics: tuple[MetricComparison, ...]
    outcomes: tuple[OutcomeComparison, ...]
    builds: tuple[OneBuild, ...]
    caveats: tuple[Caveat, ...]

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a command that shows this comparison: the one value that is printed and returned."""
        if not self.plan_is_known:
            return ExitCode.BAD_PARAMETERS
        return ExitCode.INSTRUMENT_FAULT if self.unmeasured else self.gate

    @property
    def exit_reason(self) -> str:
        """Why, one sentence."""
        if not self.plan_is_known:
            return (
                f"the plan cannot be read, so the missing trials and the planned baseline and margin are unknown; with "
                f"{self.baseline} as baseline: {self.gate_reason}"
            )
        if not self.unmeasured:
            return self.gate_reason
        have = "1 planned trial has" if self.unmeasured == 1 else f"{self.unmeasured} planned trials have"
        return f"{have} no result; of the others: {self.gate_reason}"
