"""The page of a comparison: everything that its notebook shows besides charts, in the order of the page."""

import shlex
from collections import Counter
from typing import Any

from picolab.analysis.comparison.models import FEWER_FAILURES, MORE_FAILURES, NO_VERDICT, Comparison
from picolab.charts.comparison import pair_metrics
from picolab.charts.verdicts import short_scenarios
from picolab.config.project import in_command
from picolab.exit_codes import ExitCode
from picolab.record.record import Caveat
from picolab.report import campaign_page
from picolab.report.comparison_tables import (
    as_sentence,
    each_build,
    incomplete_pairs,
    outcomes,
    power,
    verdicts,
    words_of_verdicts,
)
from picolab.report.markup import commands, definitions, joined, paragraph
from picolab.results.load import CampaignData
from picolab.text.markup import Html, escape
from picolab.text.wording import change, counted, listed, moment, percent

__all__ = [
    "caveats",
    "design",
    "each_build",
    "forest_caption",
    "gate",
    "heading",
    "how_to_repeat",
    "incomplete_pairs",
    "outcomes",
    "pairs_caption",
    "power",
    "verdicts",
    "words_of_verdicts",
]


def heading(data: CampaignData, comparison: Comparison) -> Html:
    """Name the campaign and its builds."""
    name, description = data.plan.get("campaign", data.folder.name), data.plan.get("description", "")
    lead = f'<p class="lead">{escape(description)}</p>' if description else ""
    kinds = {label for label, record in _records_by_build(data).items() if record.kind == "calibration"}
    candidates = listed(_named(label, kinds) for label in comparison.candidates)
    return Html(
        f'<p class="kicker">picolab comparison of builds</p><h1 id="campaign">{escape(name)}</h1>{lead}'
        f'<p class="byline">{escape(candidates)} against the baseline {escape(_named(comparison.baseline, kinds))} · '
        f"{counted(len(comparison.scenarios), 'scenario')} · begun {escape(moment(data.plan.get('created_at')))}</p>",
        str(name),
    )


def _records_by_build(data: CampaignData) -> dict[str, Any]:
    builds = [record.build for record in data.records.values() if record.build is not None]
    return {build.label: build for build in builds}


def _named(label: str, calibration: set[str]) -> str:
    return f"{label} (calibration server, not PicoShare)" if label in calibration else label


def gate(data: CampaignData, comparison: Comparison) -> Html:
    """Show the gate, then in boxes why there can be no verdict, and the result of an A/A comparison."""
    # A regression is one even while other trials have no result.
    look = "good" if comparison.exit_code is ExitCode.OK else "unsure"
    look = "bad" if comparison.gate is ExitCode.REGRESSION else look
    parts = [
        f'<div class="gate {look}"><p class="headline">{escape(as_sentence(comparison.exit_reason))}</p>'
        f'<p class="small">{_counts(comparison)} Exit code {int(comparison.exit_code)}.</p></div>'
    ]
    if not comparison.comparable:
        reason = comparison.not_comparable_reason or "the trials ran in an order that supports no comparison."
        parts.append(
            '<div class="caveat loud"><p><strong>Not comparable in time.</strong></p>'
            f"<p>{escape(as_sentence(reason))}</p><p>The numbers below are for orientation only. No verdict "
            "follows from them: changes on the host cannot be separated from differences between the builds.</p></div>"
        )
    if comparison.self_comparison:
        parts.append(_self_comparison(comparison))
    return Html("".join(parts) + campaign_page.notices(data), comparison.gate_reason)


def _counts(comparison: Comparison) -> str:
    """Return how often each verdict was given where it decides the gate."""
    gating = [row for row in comparison.metrics if row.gates]
    counts = Counter(row.verdict or NO_VERDICT for row in gating)
    failures = Counter(row.verdict for row in comparison.outcomes if row.verdict in (MORE_FAILURES, FEWER_FAILURES))
    outcomes_too = "".join(f" Outcomes: {count} {escape(verdict)}." for verdict, count in failures.items())
    words = ", ".join(f"{count} {escape(verdict)}" for verdict, count in counts.most_common())
    verb = "decides" if len(gating) == 1 else "decide"
    if not gating:
        return f"No metric decides the gate.{outcomes_too}"
    return f"{counted(len(gating), 'comparison')} {verb} the gate: {words}.{outcomes_too}"


def _self_comparison(comparison: Comparison) -> str:
    found = [
        f"{row.metric.title} in {row.scenario} ({row.verdict}, {change(row.ratio)})"
        for row in comparison.metrics
        if row.differs
    ]
    found += [
        f"outcomes in {row.scenario}{row.of_step} ({row.verdict})"
        for row in comparison.outcomes
        if row.verdict in (MORE_FAILURES, FEWER_FAILURES)
    ]
    decided = sum(row.verdict is not None for row in comparison.metrics)
    rule = "This compares a build with itself under two labels. It should find no difference, and it found"
    if not found:
        result = f"{rule} none in {counted(decided, 'comparison')}."
        if not decided:
            result = f"{rule} none, but no comparison had enough pairs for a verdict."
        return f'<div class="caveat"><p><strong>{escape(result)}</strong></p></div>'
    where = "; ".join(found)
    return (
        f'<div class="caveat loud"><p><strong>{escape(rule)} {counted(len(found), "difference")} in '
        f"{counted(decided, 'comparison')}.</strong></p><p>{escape(where)}.</p><p>Such a difference comes from chance, "
        "the host or the instrument. With a family-wise error of 5 % it should be rare. Repeat the comparison, and do "
        "not trust differences of this size on this host until it finds none.</p></div>"
    )


def caveats(data: CampaignData, comparison: Comparison) -> Html:
    """Show the caveats of the comparison as a whole, then those of its trials."""
    in_records = {caveat.code for record in data.records.values() for caveat in record.caveats}
    own = [caveat for caveat in comparison.caveats if caveat.code not in in_records]
    boxes = [_caveat_box(caveat) for caveat in own]
    if own and not in_records and not any(record.caveats for record in data.records.values()):
        return joined([*boxes, paragraph("No trial has a caveat of its own.")])
    return joined([*boxes, campaign_page.caveats(data)])


def _caveat_box(caveat: Caveat) -> Html:
    value = f" · value {caveat.value:.4g}" if isinstance(caveat.value, int | float) else ""
    return Html(
        f'<div class="caveat"><p><strong>{escape(caveat.message)}</strong></p><p>{escape(caveat.advice)}</p>'
        f'<p class="small"><code>{escape(caveat.code)}</code> · the comparison{value}</p></div>',
        caveat.code,
    )


def forest_caption(comparison: Comparison) -> str:
    """Explain the forest plot."""
    _, common = short_scenarios(comparison.scenarios)
    words = (
        f"Each mark is the change against {comparison.baseline}; the line through it is its interval (95 %, unless "
        f"the table gives less). The shaded band is the margin of {percent(comparison.margin)}: an interval inside it "
        "means equivalent. An arrow marks an interval that continues outside. Hover over a mark for its numbers."
    )
    return f"{words} Common to all scenarios: {common}." if common else words


def pairs_caption(comparison: Comparison) -> str:
    """Explain the pairs in time, and name the metrics that are left out."""
    taken, left = pair_metrics(comparison)
    words = (
        "The first panel of each row joins the trials of one block with a line: what moves all of them is drift. Its "
        "axis may begin above zero. The second panel shows the ratio of each pair, the estimate (dashed) with its "
        f"interval, and the margin (grey). Filled marks are pairs in which {comparison.baseline} ran first."
    )
    if left:
        names = listed(metric.title for metric in left)
        words += f" Shown for {listed(metric.title for metric in taken)} only; {names} would be too many panels."
    return words


def design(data: CampaignData, comparison: Comparison) -> Html:
    """Show the design of the comparison: randomisation, independent unit, baseline, margin, number of comparisons."""
    blocks = {pair.block for row in comparison.metrics for pair in row.pairs}
    return definitions(
        [
            ("Randomised", comparison.randomised),
            ("Independent unit", comparison.independence),
            ("Baseline", comparison.baseline),
            ("Candidates", listed(comparison.candidates)),
            ("Margin that does not matter", percent(comparison.margin)),
            ("Blocks with a pair", str(len(blocks))),
            ("Comparisons", f"{len(comparison.metrics)} of metrics, {len(comparison.outcomes)} of outcomes"),
        ]
    )


def how_to_repeat(data: CampaignData, comparison: Comparison) -> Html:
    """Show the command that makes this page again, and those that repeat the campaign."""
    name = in_command(data.folder)
    again = f"picolab verdict {name} --margin {100 * comparison.margin:g} --baseline {shlex.quote(comparison.baseline)}"
    repeat = campaign_page.how_to_repeat(data)
    return commands(["# this page again", again, *repeat.text.splitlines()])
