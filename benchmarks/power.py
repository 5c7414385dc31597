"""What picolab's plan and statistics find on a host that slows down while they measure, and what they make up.

    python benchmarks/power.py [--quick] [--update-docs]

The host of these simulations is that of an old suite: it ran seven builds one after the other for 26 hours and became
3.4 times slower meanwhile (coefficient of variation 28 %), while two trials right after each other agreed within 5 %.
`picolab.config.plan.make_plan` plans each simulated campaign with a seed of its own. Its times are invented (the
host's slow-down at the trial's place in the plan, the build's own speed, noise), and `picolab.analysis.statistics`
judges them.

Prints a Markdown table with a line for each property, the number of simulations behind it and its target, and ends
with 1 when a target is missed. All is seeded: the same version gives the same table. Takes ten minutes. `--quick`
takes seconds; its numbers are rough, so there a target is missed only when chance cannot explain it (three standard
errors). `--update-docs` writes the table into docs/statistics.md.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from picolab.analysis.decisions import enough_pairs, judge, narrow_enough
from picolab.analysis.statistics import SIGNIFICANCE, PairedRatio, holm, median_interval, paired_ratio, trend
from picolab.config.campaign_parameters import CampaignParameters, Stopping
from picolab.config.plan import Plan, make_plan
from picolab.files.writing import write_atomically

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "statistics.md"
BEGIN = "<!-- begin: written by benchmarks/power.py --update-docs -->"
END = "<!-- end: written by benchmarks/power.py --update-docs -->"
COLUMNS = ("what", "campaign", "noise", "simulations", "result", "target", "met")

BASELINE, CANDIDATE = "baseline", "candidate"
SLOW_DOWN = 2.4
"""By how much a trial at the end takes longer than one at the beginning, relative: 2.4 is 3.4 times as long."""
SLOW_DOWN_POWER = 0.77
"""How the slow-down sets in; with 0.77 the times of a campaign have a coefficient of variation of 28 %."""
MARGIN = 0.05
PAIRS = 20
SCENARIOS = 20
OUTLIERS = 0.05
OUTLIER_FACTOR = 1.5

Noise = Callable[[np.random.Generator, int], NDArray[np.float64]]
Times = dict[str, list[float]]
"""Of both builds in one scenario, each in the order of blocks."""
Order = list[tuple[str, int, str]]
"""Scenario, block and build of each trial, in the order in which they run."""
Arrange = Callable[[Plan], Order]
Enough = Callable[[list[float], list[float], float], bool]
"""Tells from the values of the pairs so far and a target whether a scenario has enough pairs."""


@dataclass(frozen=True)
class Reading:
    """What "5 % noise" is taken to mean."""

    name: str
    draw: Noise
    """Logarithms of what each of a number of trials takes more or less than it should."""


def normal(deviation: float) -> Noise:
    return lambda random, trials: deviation * random.standard_normal(trials)


def heavy_tailed(deviation: float) -> Noise:
    """Student's t with 4 degrees of freedom, whose own standard deviation is the root of 2."""
    return lambda random, trials: deviation / np.sqrt(2.0) * random.standard_t(4, trials)


def with_outliers(deviation: float) -> Noise:
    """One trial in twenty takes half as long again."""

    def draw(random: np.random.Generator, trials: int) -> NDArray[np.float64]:
        slow = random.random(trials) < OUTLIERS
        values: NDArray[np.float64] = deviation * random.standard_normal(trials) + slow * np.log(OUTLIER_FACTOR)
        return values

    return draw


# The ratio of two trials varies by the root of 2 more than one trial.
WITHIN_PAIR = 0.05 / np.sqrt(2.0)
PAIR_5 = Reading("ratio of a pair 5 %", normal(WITHIN_PAIR))
TRIAL_5 = Reading("each trial 5 %", normal(0.05))
HEAVY = Reading("ratio of a pair 5 %, heavy tails (t, 4 df)", heavy_tailed(WITHIN_PAIR))
WILD = Reading("ratio of a pair 5 %, and 1 trial in 20 takes 1.5 times as long", with_outliers(WITHIN_PAIR))
HEAVY_TRIAL = Reading("each trial 5 %, heavy tails (t, 4 df)", heavy_tailed(0.05))
READINGS = (PAIR_5, TRIAL_5, HEAVY, WILD)


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    campaign: str
    noise: str
    simulations: int
    share: float
    """Of the simulations in which it happened."""
    least: float = 0.0
    most: float = 1.0
    """The target: the share lies between them. From 0 to 1: there is none, it is told."""
    note: str = ""

    @property
    def target(self) -> str:
        if self.least > 0.0 and self.most < 1.0:
            return f"{self.least:.0%} to {self.most:.0%}"
        if self.least > 0.0:
            return f"at least {self.least:.0%}"
        return f"at most {self.most:.0%}" if self.most < 1.0 else ""

    def met(self, rough: bool = False) -> bool | None:
        """Tell whether the target is met; None without one.

        Args:
            rough: few simulations: allow three standard errors of the share.
        """
        if not self.target:
            return None
        bound = self.least if self.share < self.least else self.most
        slack = 3.0 * np.sqrt(bound * (1.0 - bound) / self.simulations) if rough else 0.0
        return bool(self.least - slack <= self.share <= self.most + slack)

    def cells(self, rough: bool = False) -> tuple[str, ...]:
        met = {True: "yes", False: "**no**", None: ""}[self.met(rough)]
        result = f"{self.share:.1%}{self.note}"
        cells = (self.what, self.campaign, self.noise, f"{self.simulations:,}", result, self.target, met)
        return tuple(cell.replace("%", " %") if index in (4, 5) else cell for index, cell in enumerate(cells))


Maker = Callable[[int, int], Row]
"""Makes a line from its number of simulations and the number of its stream of random numbers."""


# Campaigns


def campaign(scenarios: int, blocks: int, seed: int) -> Plan:
    """Plan a campaign of two builds with picolab's own planner."""
    wanted = CampaignParameters.model_validate(
        {
            "matrix": {"file_size": [f"{size}M" for size in range(1, scenarios + 1)]},
            "builds": {BASELINE: {"build": "calibration"}, CANDIDATE: {"build": "calibration"}},
            "repeats": blocks,
            "seed": seed,
        }
    )
    return make_plan(wanted, "power", "benchmarks/power.py")


def planned_order(plan: Plan) -> Order:
    """Return scenario, block and build of each trial, in the order of the plan."""
    return [(trial.scenario, trial.block, trial.parameters.build_label) for trial in plan.trials]


def sequential_order(plan: Plan) -> Order:
    """Return the same trials as the old suite ran them: all of one build, then all of the other."""
    return sorted(planned_order(plan), key=lambda trial: trial[2])


def measured(order: Order, noise: Noise, effect: float, random: np.random.Generator) -> dict[str, Times]:
    """Invent the times of a campaign.

    Args:
        effect: by how much the candidate takes longer, relative.

    Returns:
        Of each scenario the times of both builds, each in the order of blocks.
    """
    trials = len(order)
    progress = np.arange(trials) / (trials - 1)
    host = np.log1p(SLOW_DOWN * progress**SLOW_DOWN_POWER)
    builds = np.array([np.log1p(effect) * (build == CANDIDATE) for _, _, build in order])
    times = np.exp(host + builds + noise(random, trials)).tolist()
    found: dict[str, Times] = {}
    for (scenario, _, build), time in sorted(zip(order, times, strict=True), key=lambda trial: trial[0][1]):
        found.setdefault(scenario, {BASELINE: [], CANDIDATE: []})[build].append(time)
    return found


def compared(times: Times) -> PairedRatio:
    paired = paired_ratio(times[BASELINE], times[CANDIDATE])
    assert paired is not None
    return paired


def campaigns(
    simulations: int, scenarios: int, blocks: int, reading: Reading, effect: float, stream: int, arrange: Arrange
) -> Iterator[list[Times]]:
    """Yield the times of each scenario, campaign by campaign, until there were as many scenarios as simulations.

    Each campaign has a plan of its own. The host slows down as much in a long campaign as in a short one.
    """
    for number in range(max(1, simulations // scenarios)):
        random = np.random.default_rng((stream, number))
        order = arrange(campaign(scenarios, blocks, number))
        yield list(measured(order, reading.draw, effect, random).values())


# The lines of the table


def place(scenarios: int, arrange: Arrange = planned_order) -> str:
    order = "picolab's order" if arrange is planned_order else "A..AB..B"
    return f"{order}, {scenarios} scenario{'s' if scenarios > 1 else ''}"


def significant(paired: PairedRatio) -> bool:
    return paired.p_value < SIGNIFICANCE


def comparisons(
    what: str,
    happens: Callable[[PairedRatio], bool],
    reading: Reading,
    *,
    effect: float = 0.0,
    scenarios: int = 1,
    pairs: int = PAIRS,
    arrange: Arrange = planned_order,
    least: float = 0.0,
    most: float = 1.0,
) -> Maker:
    """Return what makes the line about something that happens in single comparisons."""

    def make(simulations: int, stream: int) -> Row:
        families = campaigns(simulations, scenarios, pairs, reading, effect, stream, arrange)
        found = [happens(compared(times)) for family in families for times in family]
        share = sum(found) / len(found)
        return Row(f"{what}, {pairs} pairs", place(scenarios, arrange), reading.name, len(found), share, least, most)

    return make


def false_positives(reading: Reading, scenarios: int) -> Maker:
    return comparisons("false positive", significant, reading, scenarios=scenarios, most=0.06)


def false_positives_of_sequence(reading: Reading) -> Maker:
    """The disaster itself; when this line is not near 100 %, the simulation simulates nothing."""
    return comparisons("false positive", significant, reading, arrange=sequential_order, least=0.95)


def power(reading: Reading, scenarios: int, effect: float, least: float) -> Maker:
    def found(paired: PairedRatio) -> bool:
        return significant(paired) and paired.ratio > 1.0

    what = f"change of {100 * effect:.0f} % found"
    # What is promised is promised for the noise that was measured; what worse noise leaves of it is told.
    promised = least if reading is PAIR_5 else 0.0
    return comparisons(what, found, reading, effect=effect, scenarios=scenarios, least=promised)


def equivalence(reading: Reading, effect: float, most: float = 1.0) -> Maker:
    def equivalent(paired: PairedRatio) -> bool:
        return judge(paired, paired.p_value, MARGIN)[0] == "equivalent"

    builds = f"change of {100 * effect:.0f} %" if effect else "equal builds"
    what = f"{builds} called equivalent (margin {100 * MARGIN:.0f} %)"
    return comparisons(what, equivalent, reading, effect=effect, scenarios=SCENARIOS, most=most)


def coverage_of_ratio(reading: Reading, pairs: int) -> Maker:
    effect = 0.05

    def covers(paired: PairedRatio) -> bool:
        return paired.low <= 1.0 + effect <= paired.high

    what = "interval of the ratio covers it"
    return comparisons(what, covers, reading, effect=effect, scenarios=SCENARIOS, pairs=pairs, least=0.93, most=0.97)


def coverage_of_median(reading: Reading, n: int) -> Maker:
    def make(simulations: int, stream: int) -> Row:
        random = np.random.default_rng(stream)
        covered = 0
        for _ in range(simulations):
            interval = median_interval(np.exp(reading.draw(random, n)).tolist())
            assert interval is not None
            covered += interval.low <= 1.0 <= interval.high
        what = f"interval of one build's median covers it, {n} trials"
        return Row(what, "steady host", reading.name, simulations, covered / simulations, 0.93, 0.97)

    return make


def family_errors(reading: Reading) -> Maker:
    def make(simulations: int, stream: int) -> Row:
        wrong = sum(
            min(holm([compared(times).p_value for times in family])) < SIGNIFICANCE
            for family in campaigns(simulations * SCENARIOS, SCENARIOS, PAIRS, reading, 0.0, stream, planned_order)
        )
        what = f"any false positive among {SCENARIOS} scenarios (Holm), {PAIRS} pairs"
        return Row(what, place(SCENARIOS), reading.name, simulations, wrong / simulations, most=0.06)

    return make


# repeats: auto


def narrow_looks(looks: int) -> Enough:
    """Return a rule that picolab does not use: stop after fewer narrow looks in a row."""

    def enough(baseline: list[float], candidate: list[float], target: float) -> bool:
        n = len(baseline)
        return all(
            narrow_enough(compared({BASELINE: baseline[:pairs], CANDIDATE: candidate[:pairs]}), target)
            for pairs in range(n, n - looks, -1)
        )

    return enough


def stopped(
    what: str,
    reading: Reading,
    *,
    effect: float = 0.0,
    scenarios: int = SCENARIOS,
    least: float = 0.0,
    most: float = 1.0,
    enough: Enough = enough_pairs,
) -> Maker:
    """Return what makes a line about `repeats: auto` with its defaults.

    Each scenario is stopped by itself: a campaign goes on until the last one is narrow, and what one scenario gains
    from being stopped at a lucky moment is largest when it alone decides. All rules see the same campaigns, so that
    their lines differ by the rule and not by chance.
    """
    rule = Stopping.model_validate({})

    def blocks_of(times: Times) -> int:
        for blocks in range(rule.least_blocks, rule.most_blocks):
            if enough(times[BASELINE][:blocks], times[CANDIDATE][:blocks], rule.target_percent / 100.0):
                return blocks
        return rule.most_blocks

    def make(simulations: int, stream: int) -> Row:
        found, taken = [], []
        for family in campaigns(simulations, scenarios, rule.most_blocks, reading, effect, 0, planned_order):
            for times in family:
                blocks = blocks_of(times)
                paired = compared({build: values[:blocks] for build, values in times.items()})
                found.append(significant(paired) and (not effect or paired.ratio > 1.0))
                taken.append(blocks)
        note = f" (on average {sum(taken) / len(taken):.1f} pairs)"
        share = sum(found) / len(found)
        return Row(f"`repeats: auto`: {what}", place(scenarios), reading.name, len(found), share, least, most, note)

    return make


# One campaign to look at


def one_campaign(arrange: Arrange, least: float, most: float) -> Maker:
    """One A/A campaign as a user would see it: verdicts of all scenarios, and the drift of the host."""

    def make(simulations: int, stream: int) -> Row:
        (scenarios,) = campaigns(1, SCENARIOS, PAIRS, PAIR_5, 0.0, stream, arrange)
        family = [compared(times) for times in scenarios]
        adjusted = holm([paired.p_value for paired in family])
        verdicts = Counter(judge(paired, p, MARGIN)[0] for paired, p in zip(family, adjusted, strict=True))
        drift = trend(scenarios[0][BASELINE])
        assert drift is not None
        told = ", ".join(f"{count} {word}" for word, count in verdicts.most_common())
        note = f" ({told}; drift of the baseline {drift.change:+.0%}, p = {drift.p_value:.1g})"
        wrong = (verdicts["higher"] + verdicts["lower"]) / SCENARIOS
        what = f"one A/A campaign: scenarios called higher or lower, {PAIRS} pairs"
        return Row(what, place(SCENARIOS, arrange), PAIR_5.name, SCENARIOS, wrong, least, most, note)

    return make


def lines(quick: bool) -> list[tuple[Maker, int]]:
    """Return what makes the lines of the table, each with its number of simulations."""
    few, many, families, coverings, stops = (20, 100, 5, 200, 50) if quick else (500, 4000, 2000, 10_000, 10_000)
    both = (PAIR_5, TRIAL_5)
    places = [*((reading, 1) for reading in READINGS), *((reading, SCENARIOS) for reading in both)]
    wanted = [(false_positives_of_sequence(reading), few) for reading in both]
    wanted += [(false_positives(reading, scenarios), many) for reading, scenarios in places]
    for effect, least in ((0.05, 0.75), (0.10, 0.99)):
        wanted += [(power(reading, scenarios, effect, least), many) for reading, scenarios in places]
    wanted += [(equivalence(reading, 0.0), many) for reading in both]
    wanted += [(equivalence(reading, MARGIN, most=0.05), many) for reading in both]
    wanted += [(family_errors(reading), families) for reading in (PAIR_5, HEAVY)]
    wanted += [(coverage_of_ratio(reading, n), coverings) for reading in (PAIR_5, HEAVY) for n in (5, 10, 20)]
    wanted += [(coverage_of_median(reading, n), coverings) for reading in (TRIAL_5, HEAVY_TRIAL) for n in (5, 10, 20)]
    wanted += [(stopped("false positive", reading, most=0.06), stops) for reading in READINGS]
    wanted += [(stopped("false positive", PAIR_5, scenarios=1, most=0.06), stops)]
    for looks, words in ((2, "two narrow looks in a row"), (1, "one narrow look")):
        what = f"false positive if {words} sufficed"
        wanted += [(stopped(what, reading, enough=narrow_looks(looks)), stops) for reading in both]
    for effect, least in ((0.05, 0.75), (0.10, 0.99)):
        what = f"change of {100 * effect:.0f} % found"
        wanted += [(stopped(what, reading, effect=effect, least=least), stops) for reading in both]
    wanted += [(one_campaign(planned_order, 0.0, 0.0), 1), (one_campaign(sequential_order, 0.95, 1.0), 1)]
    return wanted


def table(rows: list[Row], rough: bool = False) -> str:
    written = [COLUMNS, tuple("---" for _ in COLUMNS), *(row.cells(rough) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in written)


def update_document(text: str) -> None:
    """Put the table between the two marks of the document."""
    before, begin, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{DOCUMENT}: the marks of the table are missing; put back {BEGIN} and {END}")
    write_atomically(DOCUMENT, f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    """Simulate, print the table, and exit with 1 when a target is missed."""
    parser = argparse.ArgumentParser(description="Simulate comparisons on a host that slows down 3.4 times.")
    parser.add_argument("--quick", action="store_true", help="few simulations: seconds, and rough numbers")
    parser.add_argument("--update-docs", action="store_true", help=f"write the table into {DOCUMENT.name}")
    wanted = parser.parse_args()
    if wanted.quick and wanted.update_docs:
        parser.error("--update-docs writes the whole table; leave --quick away")
    makers = lines(wanted.quick)
    rows = []
    for stream, (make, simulations) in enumerate(makers, start=1):
        rows.append(make(simulations, stream))
        if sys.stderr.isatty():
            print(f"\r{stream} of {len(makers)} lines ", end="", file=sys.stderr, flush=True)
    text = table(rows, wanted.quick)
    print(text)
    if wanted.update_docs:
        update_document(text)
    missed = [row for row in rows if row.met(wanted.quick) is False]
    for row in missed:
        cells = row.cells(wanted.quick)
        print(f"missed: {', '.join(cells[:3])}: {cells[4]} should be {cells[5]}")
    print(f"{sum(row.met(wanted.quick) is True for row in rows)} targets met, {len(missed)} missed")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
