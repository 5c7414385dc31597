"""A comparison of builds in plain words and tables: what its notebook shows besides charts."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from picolab.analysis.comparison.compare import Comparison, Metric, MetricComparison, OneBuild, OutcomeComparison
from picolab.charts.comparison import (
    VERDICT_STYLES,
    change_words,
    interval_words,
    pair_metrics,
    short_scenarios,
    shown,
    verdict_kind,
)
from picolab.charts.style import OUTCOME_LABELS, mib, outcome_words
from picolab.config.project import in_command
from picolab.exit_codes import ExitCode
from picolab.record.record import Caveat
from picolab.report import campaign_page
from picolab.report.markup import Column, Html, boxed, commands, definitions, escape, folding, joined, paragraph, table
from picolab.results.load import CampaignData

_FEW_COMBINATIONS = 3
_GATE_CLASSES = {ExitCode.OK: "good", ExitCode.TRIALS_FAILED: "bad"}
_OUTCOME_KINDS = {"more failures": "worse", "fewer failures": "better", "no difference seen": "undecided"}


def heading(data: CampaignData, comparison: Comparison) -> Html:
    """Name the campaign, and who is compared with whom."""
    name, description = data.plan.get("campaign", data.folder.name), data.plan.get("description", "")
    lead = f'<p class="lead">{escape(description)}</p>' if description else ""
    kinds = {label for label, record in _records_by_build(data).items() if record.kind == "calibration"}
    candidates = _listed(_named(label, kinds) for label in comparison.candidates)
    begun = str(data.plan.get("created_at") or "at an unknown time").replace("T", " ")[:16]
    return Html(
        f'<p class="kicker">picolab comparison of builds</p><h1 id="campaign">{escape(name)}</h1>{lead}'
        f'<p class="byline">{escape(candidates)} against the baseline {escape(_named(comparison.baseline, kinds))} · '
        f"{_count(len(comparison.scenarios), 'scenario')} · begun {escape(begun)} UTC</p>",
        str(name),
    )


def _records_by_build(data: CampaignData) -> dict[str, Any]:
    builds = [record.build for record in data.records.values() if record.build is not None]
    return {build.label: build for build in builds}


def _named(label: str, calibration: set[str]) -> str:
    return f"{label} (calibration server, not PicoShare)" if label in calibration else label


def gate(data: CampaignData, comparison: Comparison) -> Html:
    """Say what the gate says, first; then loudly what forbids a verdict, and what an A/A comparison found."""
    # A regression is one, also while other trials have no result.
    look = "bad" if comparison.gate is ExitCode.REGRESSION else _GATE_CLASSES.get(comparison.exit_code, "unsure")
    parts = [
        f'<div class="gate {look}"><p class="headline">{escape(_sentence(comparison.exit_reason))}</p>'
        f'<p class="small">{_counts(comparison)} Exit code {int(comparison.exit_code)}.</p></div>'
    ]
    if not comparison.comparable:
        reason = comparison.not_comparable_reason or "the order in which the trials ran supports no comparison."
        parts.append(
            '<div class="caveat loud"><p><strong>Not comparable in time.</strong></p>'
            f"<p>{escape(_sentence(reason))}</p><p>The numbers below may be looked at. No verdict follows from them: "
            "what changed on the host meanwhile and what differs between the builds cannot be told apart.</p></div>"
        )
    if comparison.self_comparison:
        parts.append(_self_comparison(comparison))
    return Html("".join(parts) + campaign_page.notices(data), comparison.gate_reason)


def _counts(comparison: Comparison) -> str:
    """Return how often each verdict was given where it decides the gate."""
    gating = [row for row in comparison.metrics if row.gates]
    counts = Counter(row.verdict or "no verdict" for row in gating)
    failures = Counter(row.verdict for row in comparison.outcomes if row.verdict in ("more failures", "fewer failures"))
    outcomes_too = "".join(f" Outcomes: {count} {escape(verdict)}." for verdict, count in failures.items())
    words = ", ".join(f"{count} {escape(verdict)}" for verdict, count in counts.most_common())
    verb = "decides" if len(gating) == 1 else "decide"
    if not gating:
        return f"No metric decides the gate.{outcomes_too}"
    return f"{_count(len(gating), 'comparison')} {verb} the gate: {words}.{outcomes_too}"


def _self_comparison(comparison: Comparison) -> str:
    judged = [(verdict_kind(row), row) for row in comparison.metrics]
    found = [
        f"{row.metric.title} in {row.scenario} ({row.verdict}, {change_words(row.ratio)})"
        for kind, row in judged
        if kind in ("better", "worse")
    ]
    found += [
        f"outcomes in {row.scenario}{row.of_step} ({row.verdict})"
        for row in comparison.outcomes
        if _OUTCOME_KINDS.get(row.verdict or "") in ("better", "worse")
    ]
    decided = sum(kind != "no verdict" for kind, _ in judged)
    rule = "This is the same build under two labels: it must find nothing, and it found"
    if not found:
        result = f"{rule} nothing in {_count(decided, 'comparison')}."
        if not decided:
            result = f"{rule} nothing, but no comparison had enough pairs for a verdict."
        return f'<div class="caveat"><p><strong>{escape(result)}</strong></p></div>'
    where = "; ".join(found)
    return (
        f'<div class="caveat loud"><p><strong>{escape(rule)} {_count(len(found), "difference")} in '
        f"{_count(decided, 'comparison')}.</strong></p><p>{escape(where)}.</p><p>Such a difference comes from chance, "
        "the host or the instrument. With a family-wise error of 5 % it should be rare: repeat the comparison, "
        "and trust no difference of this size on this host until it finds nothing.</p></div>"
    )


def verdicts(comparison: Comparison) -> Html:
    """Show the verdict of every scenario and metric, with all that it rests on; in short first when there are many."""
    rows = shown(comparison)
    if not rows:
        return paragraph("There is no pair of trials, so there is nothing to compare yet.", "empty")
    if len(comparison.scenarios) * len(comparison.candidates) <= _FEW_COMBINATIONS:
        return _verdict_table(comparison, rows)
    return joined([_verdict_matrix(comparison, rows), _verdict_table(comparison, rows)])


def _verdict_matrix(comparison: Comparison, rows: Sequence[MetricComparison]) -> Html:
    """Return the verdicts with a row for every scenario and candidate, and a column for every metric."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    failures: dict[tuple[str, str], list[str]] = {}
    for outcome in comparison.outcomes:
        if {*outcome.baseline_outcomes, *outcome.candidate_outcomes} - {"ok"}:
            badges = failures.setdefault((outcome.scenario, outcome.candidate), [])
            badges.append(f"{_outcome_badge(outcome)}{outcome.of_step}")
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _by_scenario(rows, comparison):
        line = lines.setdefault((row.scenario, row.candidate), _where(row))
        badges = failures.get((row.scenario, row.candidate), [])
        line["outcomes"] = Html("<br>".join(badges)) if badges else "all ok"
        line[row.metric.name] = Html(f'{verdict_badge(row)}<br><span class="small">{change_words(row.ratio)}</span>')
    columns = [Column(one.title, one.name) for one in metrics]
    if failures:
        columns.insert(0, Column("outcome", "outcomes"))
    return _table_of_scenarios(list(lines.values()), columns, comparison)


def _verdict_table(comparison: Comparison, rows: Sequence[MetricComparison]) -> Html:
    # What forbids every verdict stands in a box above.
    why = '<br><span class="why">{}</span>' if comparison.comparable else ""
    medians = {(one.scenario, one.build, one.metric.name): one.median for one in comparison.builds}
    shown_rows = [
        {
            "group": _pairing(row),
            "metric": Html(f"<strong>{escape(_titled(row.metric))}</strong>")
            if row.gates
            else Html(f'<span class="quiet">{escape(_titled(row.metric))}</span>'),
            "verdict": Html(f"{verdict_badge(row)}{why.format(escape(_sentence(row.reason)))}"),
            "change": _change(row),
            "baseline": _in_unit(medians.get((row.scenario, row.baseline, row.metric.name)), row.metric),
            "of_candidate": _in_unit(medians.get((row.scenario, row.candidate, row.metric.name)), row.metric),
            "pairs": len(row.pairs),
            "p": p_words(row.adjusted_p_value),
            "excluded": None if row.verdict is None else "yes" if row.no_regression else "no",
        }
        for row in _by_scenario(rows, comparison)
    ]
    shown_rows = _with_outcomes(shown_rows, comparison, why)
    columns = [
        Column("metric", "metric"),
        Column("verdict, and why", "verdict"),
        Column("change and its 95 % interval", "change", 0),
        Column("baseline's median", "baseline", 1),
        Column("candidate's median", "of_candidate", 1),
        Column("pairs", "pairs", 0),
        Column("adjusted p", "p", 0),
        Column(f"loss over {100 * comparison.margin:g} % excluded", "excluded", 0),
    ]
    return boxed(table(shown_rows, columns, group="group"), len(shown_rows))


def _pairing(row: MetricComparison | OutcomeComparison) -> str:
    return f"{row.scenario}: {row.candidate} against {row.baseline}"


def _with_outcomes(rows: list[dict[str, Any]], comparison: Comparison, why: str) -> list[dict[str, Any]]:
    """Return rows with one more for each scenario and candidate where any trial failed."""
    failed: dict[str, list[dict[str, Any]]] = {}
    for outcome in comparison.outcomes:
        if {*outcome.baseline_outcomes, *outcome.candidate_outcomes} - {"ok"}:
            line = {
                "group": _pairing(outcome),
                "metric": Html(f"<strong>outcome{outcome.of_step}</strong>"),
                "verdict": Html(f"{_outcome_badge(outcome)}{why.format(escape(_sentence(outcome.reason)))}"),
                "p": p_words(outcome.adjusted_p_value),
            }
            failed.setdefault(_pairing(outcome), []).append(line)
    with_outcomes: list[dict[str, Any]] = []
    for row in rows:
        with_outcomes += failed.pop(row["group"], [])
        with_outcomes.append(row)
    return with_outcomes


def _outcome_badge(row: OutcomeComparison) -> str:
    return _badge(_OUTCOME_KINDS.get(row.verdict or "", "no verdict"), row.verdict or "no verdict")


def _change(row: MetricComparison) -> Html | None:
    """Return the change with its interval below it; None without pairs."""
    if row.ratio is None:
        return None
    interval = interval_words(row).replace(" (", "<br>(")
    return Html(f'<strong>{change_words(row.ratio)}</strong><br><span class="small">{interval}</span>')


def _by_scenario(rows: Iterable[MetricComparison], comparison: Comparison) -> list[MetricComparison]:
    """Return rows with those of one scenario and candidate together; inside of that the order stays."""
    order = {scenario: place for place, scenario in enumerate(comparison.scenarios)}
    builds = {label: place for place, label in enumerate(comparison.candidates)}
    return sorted(rows, key=lambda row: (order[row.scenario], builds[row.candidate]))


def _where(row: MetricComparison | OutcomeComparison) -> dict[str, Any]:
    """Return the scenario and the candidate of a row; long names may break."""
    return {"group": row.scenario, "scenario": folding(row.scenario), "candidate": folding(row.candidate)}


def _table_of_scenarios(rows: list[dict[str, Any]], columns: Sequence[Column], comparison: Comparison) -> Html:
    """Return a table with a row for each scenario and candidate; with several of both, scenarios are headings."""
    if len(comparison.candidates) > 1:
        shown_table = table(rows, [Column("candidate", "candidate"), *columns], group="group")
    else:
        shown_table = table(rows, [Column("scenario", "scenario"), *columns])
    return boxed(shown_table, len(rows))


def _titled(metric: Metric) -> str:
    return f"{metric.title}, {'MiB' if metric.unit == 'bytes' else metric.unit}"


def _in_unit(value: float | None, metric: Metric) -> float | None:
    return mib(value) if metric.unit == "bytes" else value


def verdict_badge(row: MetricComparison) -> str:
    """Return the verdict as a word with its sign on its colour."""
    return _badge(verdict_kind(row), row.verdict or "no verdict")


def _badge(kind: str, words: str) -> str:
    style = VERDICT_STYLES[kind]
    return (
        f'<span class="badge" style="background-color:{style.badge_colour};color:#ffffff">'
        f'<span aria-hidden="true">{style.sign}</span> {escape(words)}</span>'
    )


def p_words(p_value: float | None) -> str | None:
    """Return a p-value with as many digits as mean something; None for none."""
    if p_value is None:
        return None
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def words_of_verdicts(comparison: Comparison) -> Html:
    """Explain the words that a verdict may be."""
    margin = f"{100 * comparison.margin:g} %"
    words = [
        (_badge("better", "faster") + " " + _badge("better", "less memory"), "the adjusted test excludes no change"),
        (_badge("worse", "slower") + " " + _badge("worse", "more memory"), "the same, for the worse"),
        (_badge("equivalent", "equivalent"), f"the whole interval lies within the margin of {margin}"),
        (_badge("undecided", "undecided"), "the pairs cannot tell: more of them could"),
        (_badge("unstable", "unstable"), "the ratios spread too much: find out why before measuring more"),
        (_badge("no verdict", "no verdict"), "too few pairs, or not comparable in time"),
    ]
    items = "".join(f"<li>{badge} {escape(meaning)}</li>" for badge, meaning in words)
    notes = (
        "Metrics in bold decide the gate. The p-values are adjusted by "
        "Holm's method across the scenarios and candidates of a metric; the intervals are not."
    )
    return Html(
        f'<details class="words"><summary>What the words mean</summary><ul>{items}</ul>'
        f"<p>{escape(notes)}</p></details>",
        "what the words mean",
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
    """Say how to read the forest plot."""
    _, common = short_scenarios(comparison.scenarios)
    words = (
        f"Each mark is the ratio to {comparison.baseline}, the line through it its interval (95 % unless the table "
        f"says less), and the shaded band the margin of {100 * comparison.margin:g} %: an interval wholly inside is "
        "equivalent. An arrow marks an interval that goes on. Hover over a mark for its numbers."
    )
    return f"{words} All scenarios have in common: {common}." if common else words


def pairs_caption(comparison: Comparison) -> str:
    """Say how to read the pairs in time, and which metrics are left out."""
    taken, left = pair_metrics(comparison)
    words = (
        "Each line in the first panel joins the trials of one block, so that what moves all of them is drift; its axis "
        "need not begin at zero. In the second panel are the ratio of each pair, the estimate (dashed), its interval "
        f"and the margin (grey); a mark is filled where {comparison.baseline} ran first."
    )
    if left:
        names = _listed(metric.title for metric in left)
        words += f" Only {_listed(metric.title for metric in taken)}: panels of {names} would be too many to read."
    return words


def power(comparison: Comparison) -> Html:
    """Say which change this campaign could have seen, for every scenario and metric."""
    rows = [row for row in shown(comparison) if row.minimum_detectable is not None]
    if not rows:
        return paragraph("There are too few pairs to say which change this campaign could have seen.", "empty")
    sentences = []
    for metric in dict.fromkeys(row.metric for row in rows if row.gates):
        changes = sorted(
            row.minimum_detectable for row in rows if row.metric == metric and row.minimum_detectable is not None
        )
        best, worst = _percent(changes[0]), _percent(changes[-1])
        span = worst if best == worst else f"{best} (best scenario) to {worst} (worst)"
        sentences.append(f"{metric.title}: this campaign could have seen a change of {span} or more.")
    metrics = list(dict.fromkeys(row.metric for row in rows))
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _by_scenario(rows, comparison):
        line = lines.setdefault((row.scenario, row.candidate), {**_where(row), "pairs": 0})
        line[row.metric.name] = _percent(row.minimum_detectable)
        line["pairs"] = max(line["pairs"], len(row.pairs))
    columns = [*(Column(metric.title, metric.name, 0) for metric in metrics), Column("pairs", "pairs", 0)]
    said = [paragraph(_sentence(sentence), "finding") for sentence in sentences]
    return joined([*said, _table_of_scenarios(list(lines.values()), columns, comparison)])


def _percent(share: float | None) -> str | None:
    if share is None:
        return None
    return f"{100 * share:.{0 if abs(share) >= 0.1 else 1}f} %"


def outcomes(comparison: Comparison) -> Html:
    """Show how often each build failed in each scenario, and whether that differs."""
    rows = [
        {
            **_where(row),
            "step": row.step or "",
            "baseline": outcome_words(row.baseline_outcomes) or "no trial",
            "of_candidate": outcome_words(row.candidate_outcomes) or "no trial",
            "verdict": Html(_outcome_badge(row)),
            "p": p_words(row.adjusted_p_value),
            "reason": _sentence(row.reason),
        }
        for row in comparison.outcomes
    ]
    if not rows:
        return paragraph("No trial has a result, so there are no outcomes to compare.", "empty")
    several = len(comparison.candidates) > 1
    columns = [
        *([Column("step", "step")] if any(row["step"] for row in rows) else []),
        Column(comparison.baseline, "baseline"),
        Column("the candidate" if several else comparison.candidates[0], "of_candidate"),
        Column("verdict", "verdict"),
        Column("adjusted p", "p", 0),
        Column("why", "reason"),
    ]
    return _table_of_scenarios(rows, columns, comparison)


def each_build(comparison: Comparison) -> Html:
    """Show every build by itself: medians with their intervals, spread, drift, and a first trial unlike the rest."""
    names = {row.metric.name for row in shown(comparison)}
    builds = [one for one in comparison.builds if one.metric.name in names]
    if not any(one.n for one in builds):
        return paragraph("No trial ended ok, so there are no medians to show.", "empty")
    order = {scenario: place for place, scenario in enumerate(comparison.scenarios)}
    rows = [
        {
            "scenario": one.scenario,
            "build": folding(one.build),
            "metric": _titled(one.metric),
            "n": one.n,
            "median": _in_unit(one.median, one.metric),
            "interval": _median_interval(one),
            "coverage": f"{one.coverage:.1%}" if one.coverage is not None else None,
            "spread": _percent(one.spread),
            "drift": _drift(one),
            "first": change_words(1 + one.first_effect) if one.first_effect is not None else None,
        }
        for one in sorted(builds, key=lambda one: order.get(one.scenario, len(order)))
    ]
    columns = [
        Column("metric", "metric"),
        Column("build", "build"),
        Column("ok trials", "n", 0),
        Column("median", "median", 1),
        Column("interval", "interval", 0),
        Column("coverage", "coverage", 0),
        Column("spread", "spread", 0),
        Column("drift over the campaign", "drift", 0),
        Column("first trial unlike the rest", "first", 0),
    ]
    return boxed(table(rows, columns, group="scenario"), len(rows))


def _median_interval(one: OneBuild) -> str | None:
    low, high = _in_unit(one.low, one.metric), _in_unit(one.high, one.metric)
    return None if low is None or high is None else f"{low:,.1f} to {high:,.1f}"


def _drift(one: OneBuild) -> str | None:
    if one.drift is None:
        return None
    return f"{change_words(1 + one.drift)} (p {p_words(one.drift_p_value) or 'unknown'})"


def incomplete_pairs(comparison: Comparison) -> Html:
    """Show every block that gave no pair, and why; a block that did so in several metrics once."""
    seen: dict[tuple[str, str, str], list[str]] = {}
    for row in shown(comparison):
        for sentence in row.incomplete:
            seen.setdefault((row.scenario, row.candidate, sentence), []).append(row.metric.title)
    if not seen:
        return paragraph("Every block gave a pair in every metric.")
    rows = [
        {"scenario": folding(scenario), "candidate": candidate, "metrics": ", ".join(metrics), "why": _plain(sentence)}
        for (scenario, candidate, sentence), metrics in seen.items()
    ]
    columns = (
        Column("scenario", "scenario"),
        Column("candidate", "candidate"),
        Column("no pair in", "metrics"),
        Column("why", "why"),
    )
    return boxed(table(rows, columns), len(rows))


def design(data: CampaignData, comparison: Comparison) -> Html:
    """Say what the comparison rests on: what was drawn at random, what is independent, and how much was asked."""
    blocks = {pair.block for row in comparison.metrics for pair in row.pairs}
    return definitions(
        [
            ("Randomised", comparison.randomised),
            ("Independent unit", comparison.independence),
            ("Baseline", comparison.baseline),
            ("Candidates", _listed(comparison.candidates)),
            ("Margin that does not matter", f"{100 * comparison.margin:g} %"),
            ("Blocks with a pair", str(len(blocks))),
            ("Comparisons", f"{len(comparison.metrics)} of metrics, {len(comparison.outcomes)} of outcomes"),
        ]
    )


def how_to_repeat(data: CampaignData, comparison: Comparison) -> Html:
    """Give the command that makes this page again, and those that repeat the campaign."""
    name = in_command(data.folder)
    again = f"picolab verdict {name} --margin {100 * comparison.margin:g} --baseline {shlex.quote(comparison.baseline)}"
    repeat = campaign_page.how_to_repeat(data)
    return commands(["# the verdicts again", again, *repeat.text.splitlines()])


def _listed(names: Iterable[str]) -> str:
    """Return names as in a sentence: `a`, `a and b`, `a, b and c`."""
    every = list(names)
    return " and ".join(part for part in (", ".join(every[:-1]), every[-1]) if part) if every else ""


def _sentence(text: str) -> str:
    """Return words as a sentence, with a capital and a full stop, and outcomes as they are called elsewhere."""
    words = _plain(text)
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('.', '!', '?')) else '.'}"


def _plain(text: str) -> str:
    for outcome, label in OUTCOME_LABELS.items():
        if "_" in outcome:
            text = re.sub(rf"\b{outcome}\b", label, text)
    return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
