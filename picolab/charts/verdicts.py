"""How verdicts look and read in charts and tables: colours and signs, intervals, short scenarios, order of rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from picolab.analysis.comparison.models import EQUIVALENT, NO_VERDICT, UNDECIDED, UNSTABLE, Comparison, MetricComparison
from picolab.text.wording import change, percent

FEW_COMBINATIONS = 3
"""Of scenarios and candidates: up to these each has a panel and a table of its own."""


@dataclass(frozen=True)
class VerdictStyle:
    """How a kind of verdict looks: never by colour alone."""

    sign: str
    """Stands before the word in a table; the same form as `shape`."""
    shape: str
    """Of Vega-Lite."""
    colour: str
    """Clear on white and on near-black."""
    badge_colour: str
    """White text has a contrast of at least 4.5 on it."""


VERDICT_STYLES = {
    "better": VerdictStyle("▲", "triangle-up", "#00976e", "#00795a"),
    "worse": VerdictStyle("▼", "triangle-down", "#d06000", "#b84a00"),
    EQUIVALENT: VerdictStyle("■", "square", "#0079bd", "#0a6ca8"),
    UNDECIDED: VerdictStyle("●", "circle", "#8d9aa5", "#5f6973"),
    UNSTABLE: VerdictStyle("◆", "diamond", "#c2699a", "#a0406f"),
    NO_VERDICT: VerdictStyle("✚", "cross", "#8d9aa5", "#4a4a4a"),
}
"""By kind of verdict: every metric has its own words for better and worse."""


def verdict_kind(row: MetricComparison) -> str:
    """Return the kind of a verdict, a key of `VERDICT_STYLES`."""
    kinds = {row.metric.better: "better", row.metric.worse: "worse", None: NO_VERDICT}
    return kinds.get(row.verdict, row.verdict or NO_VERDICT)


def interval_words(row: MetricComparison) -> str:
    """Return the interval of a ratio in percent, with its coverage where that is not 95 %."""
    if row.low is None or row.high is None:
        return "none"
    words = f"{change(row.low).removesuffix(' %')} to {change(row.high)}"
    if row.coverage is not None and not 0.945 <= row.coverage < 0.995:
        words += f" (covers {percent(row.coverage, 0)})"
    return words


def short_scenarios(scenarios: Sequence[str]) -> tuple[dict[str, str], str]:
    """Return a short name for each scenario without the words that all have, and those words."""
    words = [scenario.split("-") for scenario in scenarios]
    common = [word for word in words[0] if all(word in others for others in words)] if len(words) > 1 else []
    short = ["-".join(word for word in parts if word not in common) for parts in words]
    if not all(short) or len(set(short)) < len(short):
        return {scenario: scenario for scenario in scenarios}, ""
    return dict(zip(scenarios, short, strict=True)), ", ".join(common)


def shown_rows(comparison: Comparison) -> list[MetricComparison]:
    """Return the rows of all metrics that gate, then of the others that any pair has."""
    names = {row.metric.name for row in comparison.metrics if row.pairs or row.gates}
    having = [row for row in comparison.metrics if row.metric.name in names]
    gating = {row.metric.name for row in having if row.gates}
    return sorted(having, key=lambda row: row.metric.name not in gating)
